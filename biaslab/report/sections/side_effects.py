"""The section of side effects: one dimension's neurons suppressed, all dimensions measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biaslab.evaluation.findings_old import BASE, Estimate
from biaslab.report.parts import (
    Cell,
    Draw,
    Missing,
    Section,
    Table,
    domain_table,
    domains_of,
    figure_cell,
    perplexity_cell,
)
from biaslab.report.plots.stereoset import effects_matrix
from biaslab.report.runs import Figures, Run, figures, interval
from biaslab.report.words import change_text, excludes_zero, listed, number, signed


def effects_section(run: Run, key: str, draw: Draw) -> Section:
    """Return what suppressing one dimension's neurons does to the others, or which command measures it.

    Args:
        run: with the part "side-effects", or without.
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    title, content = "Side effects", run.parts.get("side-effects")
    if content is None:
        command = f"biaslab side-effects {run.folder / 'neurons.json'}"
        return Section(f"{key}-effects", title, missing=Missing("What one dimension's neurons do to others", command))
    rows = {row["name"]: row for row in content["rows"]}
    found = figures({name: row["stereoset"] for name, row in rows.items()})
    names = {name: name if name == BASE else f"{name} ({row['neurons']})" for name, row in rows.items()}
    treated, domains = [name for name in rows if name != BASE], domains_of(found, BASE)
    values = [[found[row][domain]["ICAT"].change.value for domain in domains] for row in treated]
    told = [[excludes_zero(found[row][domain]["ICAT"].change) for domain in domains] for row in treated]
    own = [[domain == content["own"].get(row, {}).get("stereoset") for domain in domains] for row in treated]
    text = [sentence(told, own), *_measured(content)]
    caption = "Change of ICAT by domain (columns) when a row's neurons are switched off"
    gist = _gist(found, treated, domains)
    drawings = [draw("effects", caption, gist, effects_matrix, treated, domains, values, told, own)]
    return Section(
        f"{key}-effects",
        title,
        text,
        drawings,
        [domain_table(f"{key}-effects-icat", "ICAT", found, BASE, names), _crows_pairs(rows, names, key)],
        [_gaps(rows, names, key), _perplexity(rows, names, key)],
    )


def _measured(content: Mapping[str, Any]) -> list[str]:
    """Return how much was measured, where the file tells."""
    words = {
        "clusters": "clusters of StereoSet",
        "pairs": "pairs of CrowS-Pairs",
        "prompts": "prompts",
        "sentences": "sentences",
    }
    told = [f"{number(count, 0)} {words[name]}" for name, count in content.get("counts", {}).items() if name in words]
    return [f"Measured on {listed(told)}. The number beside a name is how many neurons it has."] if told else []


def sentence(told: Sequence[Sequence[bool]], own: Sequence[Sequence[bool]]) -> str:
    """Say how often a change of ICAT can be told from none, in a row's own domain and in others.

    >>> sentence([[True, False], [False, False]], [[True, False], [False, True]])
    'A change of ICAT can be told from none in 1 of 2 own domains, and in 0 of 2 others.'
    """
    pairs = [
        (change, is_own)
        for changes, owns in zip(told, own, strict=True)
        if any(owns)
        for change, is_own in zip(changes, owns, strict=True)
    ]
    own_told, others_told = ([change for change, is_own in pairs if is_own is wanted] for wanted in (True, False))
    return (
        f"A change of ICAT can be told from none in {sum(own_told)} of {len(own_told)} own domains, and in "
        f"{sum(others_told)} of {len(others_told)} others."
    )


def _gist(found: Figures, rows: Sequence[str], domains: Sequence[str]) -> str:
    return " ".join(
        f"{row}: "
        + ", ".join(f"{domain} {signed(found[row][domain]['ICAT'].change.value)}" for domain in domains)
        + "."
        for row in rows
    )


def _crows_pairs(rows: Mapping[str, Any], names: Mapping[str, str], key: str) -> Table:
    scopes = list(rows[BASE]["crows_pairs"])
    cells = [
        (names[name], [figure_cell("CrowS-Pairs", Estimate.read(row["crows_pairs"][s]), name != BASE) for s in scopes])
        for name, row in rows.items()
    ]
    return Table(
        f"{key}-crows", "CrowS-Pairs score (ideal 50) by category, in percent, and its change", ["", *scopes], cells
    )


def _gaps(rows: Mapping[str, Any], names: Mapping[str, str], key: str) -> Table:
    dimensions = list(rows[BASE]["gaps"])
    cells = [
        (names[name], [_gap_cell(row["gaps"][d]) for d in dimensions]) for name, row in rows.items() if name != BASE
    ]
    caption = "Change of the gap on held-out prompts by dimension, in percent; below it, that of the log-odds gap"
    return Table(f"{key}-effects-gaps", caption, ["", *dimensions], cells)


def _gap_cell(gap: Mapping[str, Any]) -> Cell:
    probability, odds = (interval(gap[key]["change_percent"]) for key in ("probability", "log_probability"))
    return Cell(change_text(probability, digits=0), (change_text(odds, digits=0),))


def _perplexity(rows: Mapping[str, Any], names: Mapping[str, str], key: str) -> Table:
    cells = [(names[name], [perplexity_cell(row["perplexity"], name != BASE)]) for name, row in rows.items()]
    return Table(f"{key}-effects-text", "Perplexity, and its change", ["", "perplexity"], cells)


def effects_answer(content: Mapping[str, Any]) -> list[str]:
    """Return what the rows did overall, in a sentence each."""
    found = figures({row["name"]: row["stereoset"] for row in content["rows"]})
    return [
        f"{name}: ICAT {number(of['overall']['ICAT'].figure.value)} ({signed(of['overall']['ICAT'].change.value)})."
        for name, of in found.items()
        if name != BASE
    ]
