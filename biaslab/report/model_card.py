"""The model card of a baked checkpoint: method, settings, results, fingerprints and origin."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from biaslab.errors import InputError
from biaslab.evaluation.findings import FILES, METRICS, OVERALL, SS_LOG_RATIO, Findings, Row
from biaslab.models.hub import hub_file
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.tables import LOG_RATIO_DIGITS, cell, digits_of, markdown, signed, stereoset_metrics
from biaslab.report.words import template

NOT_MEASURED = (
    "This checkpoint was not evaluated. To evaluate it, run `biaslab test -c stereoset --model.model_name FOLDER`."
)
_AT_THE_SLOT = "{} for suppression at the slot alone, but the weights of a checkpoint act on every token."


def model_card(facts: Mapping[str, Any], masked: bool, fingerprint: str, figures: str = NOT_MEASURED) -> str:
    """Return the card.

    Args:
        facts: its origin: "model", "training" or "neurons", and "versions".
        masked: whether the model is a masked language model.
        fingerprint: fingerprint of the written weights.
        figures: the results, as Markdown; see :func:`measured`.
    """
    name = str(facts["model"]["name"])
    base = name if hub_file(name, "") is not None else ""  # the hub links it; no path on this machine
    facts = published(facts)
    text = json.dumps(facts, indent=1, ensure_ascii=False, default=str)
    card = template("model_card.md").render(
        facts=facts, base=base, masked=masked, fingerprint=fingerprint, figures=figures, json=text
    )
    return f"{card}\n"


def published(value: Any) -> Any:
    r"""Return facts for publication: local paths are cut to their last part.

    >>> published({"file": "/home/me/runs/neurons.json", "name": "facebook/FairBERTa", "steps": 3})
    {'file': 'neurons.json', 'name': 'facebook/FairBERTa', 'steps': 3}
    >>> published(["~/b", "./b", "C:\\me\\b", "a/b/c", "a sentence / with two / slashes"])
    ['b', 'b', 'b', 'c', 'a sentence / with two / slashes']
    """
    if isinstance(value, Mapping):
        return {published(key): published(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [published(part) for part in value]
    text = str(value) if isinstance(value, str | Path) else ""
    anchored = text.startswith(("/", "~", "./", "../")) or text[1:3] in (":\\", ":/")
    if anchored or os.path.exists(text) or (" " not in text and text.count("/") > 1):
        return PureWindowsPath(text).name or text  # it knows both kinds of separators
    return value


def published_neurons(neurons: NeuronSet) -> NeuronSet:
    """Return neurons as they may be published: their provenance names no path of this machine."""
    provenance = dict(neurons.provenance)
    if "model" in provenance:
        provenance["model"] = {key: value for key, value in provenance["model"].items() if key != "folder"}
    return neurons.with_details(neurons.subsets, published(provenance))


class Figures(NamedTuple):
    """The measured effect of a checkpoint's treatment."""

    table: str = ""  # Markdown with its explanation; empty if nothing was measured
    why_not: str = ""  # why the results next to the neuron file do not apply to the checkpoint

    def markdown(self) -> str:
        """Return the card's section: the table, or why there is none and how to evaluate."""
        return self.table or f"{self.why_not} {NOT_MEASURED}".lstrip()


def measured(path: Path, neurons: NeuronSet, factor: float) -> Figures:
    """Return the results that the run which found the neurons measured for a factor, at all positions.

    ``path`` is the neuron file; ``biaslab debias`` and ``biaslab sweep`` write their findings next to it.
    """
    how = neurons.provenance.get("suppression") or {"positions": "all", "factor": factor}
    if how["positions"] != "all":
        return Figures(why_not=_AT_THE_SLOT.format("The neurons were chosen"))
    if how["factor"] != factor:
        chosen = f"The neurons were chosen for the factor {how['factor']:g}"
        return Figures(why_not=f"{chosen}, but the factor here is {factor:g}.")
    files = (path.parent / FILES[command] for command in ("debias", "sweep"))
    beside = next((file for file in files if file.is_file()), None)
    if beside is None:
        return Figures()
    file = f"{beside.name} next to the neuron file"
    try:
        findings = Findings.load(beside)
    except InputError:
        return Figures(why_not=f"{file} was not written by this version of biaslab.")
    rows = [row for row in findings.rows if [each.get("neurons") for each in row.treatments] == [neurons.fingerprint]]
    if not rows or neurons.provenance.get("model", {}).get("name") != findings.model:
        return Figures(why_not=f"{file} is about other neurons.")
    if any(each["positions"] != "all" for row in rows for each in row.treatments):
        return Figures(why_not=_AT_THE_SLOT.format(f"{file} was measured"))
    for row in rows:
        if row.treatments[0]["factor"] == factor and findings.get(row.name, "ICAT"):
            return Figures(_measured_by(findings) + _table(findings, row) + _gaps(findings, row))
    return Figures(why_not=f"{file} has no results for the factor {factor:g}.")


def _measured_by(findings: Findings) -> str:
    """Return which command measured which model, on which data."""

    def data(setting: str, split: str) -> str:
        file = findings.settings[setting]
        return f"StereoSet's {split} split" if file is None else f"{Path(file).name}, a file in StereoSet's format"

    if findings.command == "debias":
        start, clusters = "`biaslab debias`", data("stereoset", "dev")
    else:
        start = f"`biaslab sweep` chose neurons and factor on {data('choose_on', 'test')} and other sentences, and"
        clusters = data("report_on", "dev")
    ratio = ", its log-ratio the mean preference for stereotypes in nats (ideal 0)"
    ratio = ratio if findings.rows_of(SS_LOG_RATIO) else ""
    return (
        f"{start} evaluated {published(findings.model)} before and after suppression, with hooks equivalent to this "
        f"checkpoint's weights, on {clusters} ({findings.facts['clusters']} clusters). Values and changes have "
        f"95 % confidence intervals. SS is the stereotype score (ideal 50){ratio}, LMS the language modelling score "
        "(ideal 100), ICAT combines both (ideal 100).\n"
    )


def _table(findings: Findings, row: Row) -> str:
    """Return StereoSet overall and by domain, perplexity and knowledge, with the random control if there is one."""
    control, text = findings.control(row.name), Path(findings.settings["text"]).name
    names = [findings.base.name, row.name, *([] if control is None else [control.name])]
    rows = []
    for scope in findings.scopes("ICAT"):
        for metric in stereoset_metrics(findings):
            digits = LOG_RATIO_DIGITS if metric == SS_LOG_RATIO else 1
            before, *after = (findings.estimates[name, metric, scope] for name in names)
            changes = [signed(each.change, digits) + _deviation(each.spread, digits) for each in after]
            label = metric if scope == OVERALL else f"{metric}, {scope}"
            rows.append([label, cell(before, digits=digits), cell(after[0], digits=digits), *changes])
    before, *after = (findings.estimates[name, "perplexity", OVERALL] for name in names)
    values = [f"{each.figure.value:.2f}" for each in (before, after[0])]
    changes = [f"{signed(each.change)} %" for each in after]
    rows.append([f"perplexity, {findings.facts['sentences']} sentences of {text}", *values, *changes])
    if findings.get(row.name, "knowledge"):
        base, *treated = (findings.estimates[name, "knowledge", OVERALL] for name in names)
        label = f"knowledge, % right of {findings.facts['knowledge_sentences']} sentences"
        random = [signed(each.change) + _deviation(each.spread) for each in treated]
        rows.append([label, cell(base), cell(treated[0]), *random])
    rows += _benchmarks(findings, names)
    header = ["", "before", "after", "change", "change with random neurons"][: 2 + len(names)]
    legend = "There is no random control for this treatment."
    if control is not None:
        legend = f"The last column is the control, as many random neurons in each layer: {control.title}"
        if findings.estimates[control.name, "ICAT", OVERALL].spread is not None:
            legend += ", for perplexity one seed" if after[-1].spread is None else ""
            legend += "; ± is the standard deviation over seeds"
        legend += "."
    return f"{legend}\n\n{markdown(header, rows)}"


def _benchmarks(findings: Findings, names: Sequence[str]) -> list[list[str]]:
    """Return a line per metric of the other benchmarks, for the named rows, the untouched one first."""
    rows = []
    for metric in (metric for metrics in findings.by_benchmark().values() for metric in metrics):
        before, *after = (findings.estimates[name, metric, OVERALL] for name in names)
        digits = digits_of(metric)
        changes = [signed(each.change, digits) + _deviation(each.spread, digits) for each in after]
        values = [cell(each, digits=digits) for each in (before, after[0])]
        rows.append([f"{metric}: {METRICS[metric].text}", *values, *changes])
    return rows


def _gaps(findings: Findings, row: Row) -> str:
    """Return the effect of the treatment on the demographic gap, if it was measured."""
    if not findings.get(row.name, "gap"):
        return ""
    control, changes = findings.control(row.name), []
    for metric in ("gap", "log gap"):
        change = signed(findings.estimates[row.name, metric, OVERALL].change, 0)
        changes.append(f"{METRICS[metric].text.removesuffix(', nats')} by {change} %")
        if control is not None:
            estimate = findings.estimates[control.name, metric, OVERALL]
            changes[-1] += f" (random neurons {estimate.change.value:+.0f}{_deviation(estimate.spread, 0)} %)"
    return (
        f"\n\nOn {findings.facts['held_out_prompts']} held-out prompts, which were not used to choose neurons, the gap "
        "between two demographics changes on average over the pairs (with 95 % intervals over words and wordings): "
        f"{', '.join(changes)}."
    )


def _deviation(spread: float | None, digits: int = 1) -> str:
    return "" if spread is None else f" ± {spread:.{digits}f}"
