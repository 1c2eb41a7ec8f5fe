"""The model card of a baked checkpoint: method, settings, figures, fingerprints, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from biaslab import __version__
from biaslab.evaluation.findings import FILES, OVERALL, Findings, Row
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.tables import cell, markdown, signed

_CARD = """---
library_name: transformers
pipeline_tag: {kind}
tags: [bias]
---
# {name}, {what}

Made with biaslab {version}.

{method}

It loads without biaslab:

```python
from transformers import {auto}, AutoTokenizer

model, tokenizer = {auto}.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
```

A fingerprint stands for the values of all weights. That of this model is `{fingerprint}`.

## What it did

{figures}

## What it was made from

```json
{facts}
```
"""
NOT_MEASURED = (
    "Nothing was measured of this checkpoint. To measure it: `biaslab test -c stereoset --model.model_name FOLDER`."
)
_AT_THE_SLOT = "{} for suppression at the slot alone, but a checkpoint's weights act on every token."
_GAPS = {"gap": "|P(d1) − P(d2)|", "log gap": "|log P(d1) − log P(d2)|"}
_LEGEND = "SS is the stereotype score (ideal 50), LMS language modelling (ideal 100), ICAT both together (ideal 100)."


def model_card(facts: Mapping[str, Any], masked: bool, fingerprint: str, figures: str = NOT_MEASURED) -> str:
    """Return the card.

    Args:
        facts: where it comes from: its "model", its "training" or "neurons", and "versions".
        masked: whether it is a masked language model.
        fingerprint: of the weights as they are written.
        figures: what was measured, as Markdown; see :func:`measured`.
    """
    facts = published(facts)
    trained, neurons = facts.get("training"), facts.get("neurons")
    method = []
    if trained:
        method.append(f"It was trained by the task {trained['task']}, for {trained['steps']} steps.")
    if neurons:
        method.append(
            f"Of its feed-forward neurons, {neurons['count']} are multiplied by {neurons['factor']:g}, by way of their "
            "columns of the down-projections' weights ([Bias Neuron Suppression](https://arxiv.org/abs/2406.10130))."
        )
    what = [word for word, fact in (("trained", trained), ("with neurons suppressed", neurons)) if fact]
    return _CARD.format(
        kind="fill-mask" if masked else "text-generation",
        name=facts["model"]["name"],
        what=", ".join(what) or "unchanged",
        version=__version__,
        method=" ".join(method) or "Its weights are unchanged.",
        auto="AutoModelForMaskedLM" if masked else "AutoModelForCausalLM",
        fingerprint=fingerprint,
        figures=figures,
        facts=json.dumps(facts, indent=1, ensure_ascii=False, default=str),
    )


def published(value: Any) -> Any:
    """Return facts as they may be published: of a path on a disk only its last part.

    >>> published({"file": "/home/me/runs/neurons.json", "name": "facebook/FairBERTa", "steps": 3})
    {'file': 'neurons.json', 'name': 'facebook/FairBERTa', 'steps': 3}
    """
    if isinstance(value, Mapping):
        return {key: published(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [published(part) for part in value]
    if isinstance(value, str | Path) and is_local(str(value)):
        return Path(value).name
    return value


def is_local(text: str) -> bool:
    r"""Return whether a text names a place on a disk rather than a hub id or anything else.

    >>> [is_local(text) for text in ("/a/b", "~/b", "./b", "C:\\b", "org/model", "a sentence / with a slash")]
    [True, True, True, True, False, False]
    """
    return text.startswith(("/", "~/", "./", "../")) or text[1:3] == ":\\" or (" " not in text and text.count("/") > 1)


class Figures(NamedTuple):
    """What a checkpoint's treatment did, as far as it was measured.

    Attributes:
        table: with what it needs to be read, as Markdown; empty where nothing was measured.
        why_not: why what lies beside the neuron file tells nothing of the checkpoint.
    """

    table: str = ""
    why_not: str = ""

    def markdown(self) -> str:
        """Return the card's section: the table, or that there is none, and how to measure."""
        return self.table or f"{self.why_not} {NOT_MEASURED}".lstrip()


def measured(path: Path, neurons: NeuronSet, factor: float) -> Figures:
    """Return what the run that found the neurons measured of this very treatment, at all positions.

    Args:
        path: of the neuron file. ``biaslab debias`` and ``biaslab sweep`` leave their findings beside it.
        neurons: of the file.
        factor: what they are multiplied by.

    Raises:
        InputError: if the findings beside it can't be read.
    """
    if how := neurons.provenance.get("suppression"):
        if how["positions"] != "all":
            return Figures(why_not=_AT_THE_SLOT.format("The neurons were chosen"))
        if how["factor"] != factor:
            return Figures(
                why_not=f"The neurons were chosen to be multiplied by {how['factor']:g}, but are by {factor:g}."
            )
    for command in ("debias", "sweep"):
        file = path.parent / FILES[command]
        if file.is_file():
            return _figures(Findings.load(file), neurons, factor)
    return Figures()


def _figures(findings: Findings, neurons: NeuronSet, factor: float) -> Figures:
    """Return the figures of the row that has these neurons and this factor."""
    name, file = neurons.fingerprint, FILES[findings.command]
    rows = [row for row in findings.rows if [each.get("neurons") for each in row.treatments] == [name]]
    if not rows or neurons.provenance.get("model", {}).get("name") != findings.model:
        return Figures(why_not=f"{file} beside the neuron file is of other neurons.")
    if any(each["positions"] != "all" for row in rows for each in row.treatments):
        return Figures(why_not=_AT_THE_SLOT.format(f"{file} beside the neuron file was measured"))
    row = next((row for row in rows if row.treatments[0]["factor"] == factor and findings.get(row.name, "ICAT")), None)
    if row is None:
        return Figures(why_not=f"{file} beside the neuron file has no figures of them multiplied by {factor:g}.")
    gaps = [_gaps(findings, row)] if findings.get(row.name, "gap") else []
    return Figures("\n".join([*_table(findings, row), *(line for gap in gaps for line in ("", gap))]))


def _of(findings: Findings) -> tuple[str, str, str]:
    """Return which command measured which model, what StereoSet's figures are of, and what the perplexity is of."""
    settings, facts, model = findings.settings, findings.facts, published(findings.model)
    text = f"{facts['sentences']} sentences of {Path(settings['text']).name}"
    if findings.command == "debias":
        data = _data(settings["stereoset"], "dev")
        return f"`biaslab debias` measured {model}", f"{data}, {facts['clusters']} clusters", text
    chosen = f"`biaslab sweep` chose neurons and factor on {_data(settings['choose_on'], 'test')} and other sentences"
    data = f"{_data(settings['report_on'], 'dev')}, {facts['clusters']} clusters"
    return f"{chosen}, and measured {model}", data, text


def _data(file: str | None, split: str) -> str:
    return f"StereoSet's {split} split" if file is None else f"{Path(file).name}, a file of StereoSet's form"


def _table(findings: Findings, row: Row) -> Iterator[str]:
    """Yield the lines of the table and, first, what it is of: StereoSet overall and by domain, and perplexity."""
    control = findings.control(row.name)
    command, data, text = _of(findings)
    yield (
        f"{command} before and, with hooks that do what this checkpoint's weights do, after: on {data}. Values and "
        f"changes have 95 % intervals. {_LEGEND}"
    )
    yield _control(findings, control)
    yield ""
    treated = [row, *([] if control is None else [control])]
    header = ["", "before", "after", "change", "random neurons' change"][: 3 + len(treated)]
    lines = []
    for scope in findings.scopes("ICAT"):
        for metric in ("SS", "LMS", "ICAT"):
            before, *after = (findings.estimates[each.name, metric, scope] for each in (findings.base, *treated))
            changes = [signed(each.change) + _deviation(each.spread) for each in after]
            label = metric if scope == OVERALL else f"{metric}, {scope}"
            lines.append([label, cell(before), cell(after[0]), *changes])
    before, *after = (findings.estimates[each.name, "perplexity", OVERALL] for each in (findings.base, *treated))
    values = [f"{each.figure.value:.2f}" for each in (before, after[0])]
    lines.append([f"perplexity, {text}", *values, *(f"{signed(each.change)} %" for each in after)])
    yield markdown(header, lines)


def _control(findings: Findings, control: Row | None) -> str:
    """Return what the last column is of, where there is one for random neurons."""
    if control is None:
        return "There is no random control of this very treatment."
    several = findings.estimates[control.name, "ICAT", OVERALL].spread is not None
    one = several and findings.estimates[control.name, "perplexity", OVERALL].spread is None
    return (
        f"In the last column as many random neurons of each layer are treated alike: {control.title}"
        f"{', of the perplexity one seed' if one else ''}{'; ± is the deviation over seeds' if several else ''}."
    )


def _deviation(spread: float | None, digits: int = 1) -> str:
    return "" if spread is None else f" ± {spread:.{digits}f}"


def _gaps(findings: Findings, row: Row) -> str:
    """Return what the treatment does to the demographic gap."""
    control, changes = findings.control(row.name), []
    for metric, gap in _GAPS.items():
        random = ""
        if control is not None:
            estimate = findings.estimates[control.name, metric, OVERALL]
            random = f" (random neurons {estimate.change.value:+.0f}{_deviation(estimate.spread, 0)} %)"
        changes.append(f"{gap} by {signed(findings.estimates[row.name, metric, OVERALL].change, 0)} %{random}")
    return (
        f"On {findings.facts['held_out_prompts']} held-out prompts, on which no neuron was chosen, the gap between "
        "two demographics changes, on average over the pairs, with 95 % intervals over words and wordings: "
        f"{', '.join(changes)}."
    )
