"""What runs of ``biaslab debias`` and ``biaslab sweep`` measured of the neurons in their folders, for a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from biaslab.evaluation.findings_old import BASE, Estimate, cell, control_row, signed
from biaslab.evaluation.gaps import gap_change
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.model_card import NOT_MEASURED
from biaslab.statistics import Interval

_AT_THE_SLOT = "{} for suppression at the slot alone, but a checkpoint's weights act on every token."
_GAPS = {"probability": "|P(d1) − P(d2)|", "log_probability": "|log P(d1) − log P(d2)|"}
_LEGEND = "SS is the stereotype score (ideal 50), LMS language modelling (ideal 100), ICAT both together (ideal 100)."


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


class _Run(NamedTuple):
    """Figures of a run's file.

    Attributes:
        stereoset: by row, scope and metric.
        perplexity: by row.
        row: of the treatment.
        control: row of random neurons that were treated alike; None where there is none.
        told: which command measured which model.
        data: what StereoSet's figures are of.
        text: what the perplexity is of.
    """

    stereoset: Mapping[str, Any]
    perplexity: Mapping[str, Any]
    row: str
    control: str | None
    told: str
    data: str
    text: str


def measured(path: Path, neurons: NeuronSet, factor: float) -> Figures:
    """Return what the run that found the neurons measured of this very treatment, at all positions.

    Args:
        path: of the neuron file. ``biaslab debias`` and ``biaslab sweep`` leave their figures beside it.
        neurons: of the file.
        factor: what they are multiplied by.
    """
    if how := neurons.provenance.get("suppression"):
        if how["positions"] != "all":
            return Figures(why_not=_AT_THE_SLOT.format("The neurons were chosen"))
        if how["factor"] != factor:
            return Figures(
                why_not=f"The neurons were chosen to be multiplied by {how['factor']:g}, but are by {factor:g}."
            )
    for name, read in (("results.json", _of_debias), ("sweep.json", _of_sweep)):
        if (path.parent / name).is_file():
            try:
                content = json.loads((path.parent / name).read_text(encoding="utf-8"))
                return read(content, path, neurons, factor)
            except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
                return Figures(why_not=f"{name} beside the neuron file is not what this version of biaslab writes.")
    return Figures()


def _of_debias(content: Mapping[str, Any], path: Path, neurons: NeuronSet, factor: float) -> Figures:
    """Return the figures of ``biaslab debias``: of its row with these neurons and this factor."""
    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    name, rows = neurons.fingerprint, content["rows"].items()
    theirs = {row["factor"]: label for label, row in rows if row["neurons"] == [name]}
    if not theirs or not _of_model(neurons, config["model"]):
        return Figures(why_not="results.json beside the neuron file is of other neurons.")
    if config["positions"] != "all":
        return Figures(why_not=_AT_THE_SLOT.format("results.json beside the neuron file was measured"))
    if factor not in theirs:
        return Figures(why_not=f"results.json beside the neuron file has no figures of them multiplied by {factor:g}.")
    facts = content["facts"]
    run = _Run(
        content["stereoset"],
        content["perplexity"],
        theirs[factor],
        next((label for label, row in rows if row["like"] == name and row["factor"] == factor), None),
        f"`biaslab debias` measured {config['model']}",
        f"{_data(config['stereoset'], 'dev')}, {facts['clusters']} clusters",
        f"{facts['sentences']} sentences of {config['text']}",
    )
    gaps = name == content["neurons"]["fingerprint"] and factor == 0
    return Figures("\n".join([*_table(run), *(["", _gaps(content, config["seeds"])] if gaps else [])]))


def _of_sweep(content: Mapping[str, Any], _: Path, neurons: NeuronSet, factor: float) -> Figures:
    """Return the figures of ``biaslab sweep``: of its choice, on what it was not chosen on."""
    chosen, settings = content["chosen"], content["settings"]
    how = {"factor": chosen["factor"], "positions": chosen["positions"]}
    if (
        neurons.provenance.get("suppression") != how
        or neurons.fingerprint != chosen["fingerprint"]
        or not _of_model(neurons, settings["model"])
    ):
        return Figures(why_not="sweep.json beside the neuron file is of other neurons.")
    limit = "" if settings["limit"] is None else f", its first {settings['limit']} clusters"
    run = _Run(
        content["held_out"],
        content["held_out_perplexity"],
        "chosen",
        control_row(content["held_out"]),
        f"`biaslab sweep` chose neurons and factor on {_data(settings['choose_on'], 'test')} and other sentences, and "
        f"measured {settings['model']}",
        f"{_data(settings['report_on'], 'dev')}{limit}",
        f"at most {settings['sentences']} sentences of {settings['text']}",
    )
    return Figures("\n".join(_table(run)))


def _of_model(neurons: NeuronSet, name: str) -> bool:
    return bool(neurons.provenance.get("model", {}).get("name") == name)


def _data(file: str | None, split: str) -> str:
    return f"StereoSet's {split} split" if file is None else f"{file}, a file of StereoSet's form"


def _table(run: _Run) -> Iterator[str]:
    """Yield the lines of the table and, first, what it is of: StereoSet overall and by domain, and perplexity."""
    yield (
        f"{run.told} before and, with hooks that do what this checkpoint's weights do, after: on {run.data}. Values "
        f"and changes have 95 % intervals. {_LEGEND}"
    )
    yield _control(run)
    treated = [run.row, *([run.control] if run.control else [])]
    header = ["", "before", "after", "change", "random neurons' change"][: 3 + len(treated)]
    yield from ("", _line(header), _line(["---"] * len(header)))
    for scope, of_scope in run.stereoset[run.row].items():
        for name in of_scope:
            of = {row: Estimate.read(run.stereoset[row][scope][name]) for row in (BASE, *treated)}
            changes = [signed(of[row].change) + _deviation(of[row].spread) for row in treated]
            label = name if scope == "overall" else f"{name}, {scope}"
            yield _line([label, cell(of[BASE]), cell(of[run.row]), *changes])
    spoken = [row for row in (run.row, run.control and control_row(run.perplexity)) if row]
    values = [f"{run.perplexity[row]['value']:.2f}" for row in (BASE, run.row)]
    changes = [f"{signed(Interval(**run.perplexity[row]['change_percent']))} %" for row in spoken]
    yield _line([f"perplexity, {run.text}", *values, *changes])


def _control(run: _Run) -> str:
    """Return what the last column is of, where there is one for random neurons."""
    if run.control is None:
        return "There is no random control of this very treatment."
    one = "" if control_row(run.perplexity) == run.control else ", of the perplexity one seed"
    several = any(of.get("spread") is not None for of in run.stereoset[run.control]["overall"].values())
    return (
        f"In the last column as many random neurons of each layer are treated alike: {run.control}{one}"
        f"{'; ± is the deviation over seeds' if several else ''}."
    )


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _deviation(spread: float | None, digits: int = 1) -> str:
    return "" if spread is None else f" ± {spread:.{digits}f}"


def _gaps(content: Mapping[str, Any], seeds: int) -> str:
    """Return what switching the neurons off does to the demographic gap."""
    mean, told = content["gaps"][-1], []
    for field, gap in _GAPS.items():
        spread = _deviation(mean[f"{field}_random_spread"] if seeds > 1 else None, digits=0)
        random = f"random neurons {mean[f'{field}_random_percent']:+.0f}{spread} %"
        told.append(f"{gap} by {signed(gap_change(mean, field, 'suppressed'), 0)} % ({random})")
    return (
        f"On {content['facts']['held_out_prompts']} held-out prompts, on which no neuron was chosen, the gap between "
        f"two demographics changes, on average over the pairs, with 95 % intervals over words and wordings: "
        f"{', '.join(told)}."
    )
