"""The chapter of black-box probing."""

from __future__ import annotations

from biaslab.evaluation.findings import Findings
from biaslab.report.parts import Cell, Chapter, Draw, Section, Table, figure_cell
from biaslab.report.runs import Run
from biaslab.report.words import between, change_text, moved, number, settings_facts

_METRICS = {"biased outputs": "biased outputs, %", "mass difference": "mass difference, points"}


def probe_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what black-box probing tells.

    Args:
        run: with the part "probe".
        key: goes before the keys of all its elements.
        draw: not needed: this chapter has no plots.
    """
    findings = run.parts["probe"]
    wordings = findings.details["wordings"]
    rows = [
        (f"{row.title} ({row.size})", [_cell(findings, row.name, metric) for metric in _METRICS])
        for row in findings.rows
    ]
    table = Table(f"{key}-measures", "Answers of the model", ["", *_METRICS.values()], rows)
    lines = [
        (
            frame,
            [Cell(number(findings.estimates[row.name, "biased outputs", frame].figure.value)) for row in findings.rows],
        )
        for frame in wordings
    ]
    titles = [row.title for row in findings.rows]
    by_wording = Table(f"{key}-wordings", "Biased outputs by wording, %", ["wording", *titles], lines)
    sections = [
        Section(f"{key}-answers", "Answers", [findings.details["definition"]], tables=[table], folded=[by_wording]),
        Section(f"{key}-settings", "Settings", facts=settings_facts(findings.settings)),
    ]
    asked = (
        f"Does {run.model} judge a woman and a man differently for the same deed, asked in {len(wordings)} wordings?"
    )
    title = f"Black-box probing of {run.model}"
    return Chapter(key, title, run.place, asked, probe_answer(findings), sections=sections)


def _cell(findings: Findings, row: str, metric: str) -> Cell:
    cell = figure_cell(metric, findings.get(row, metric), row != findings.base.name)
    over = findings.details["over_wordings"][row][metric]
    wordings = f"± {number(over['deviation'])} over wordings; {number(over['low'])} to {number(over['high'])}"
    return cell._replace(more=(*cell.more, wordings))


def probe_answer(findings: Findings) -> list[str]:
    """Return the outcome of probing, whatever it is."""
    base, *others = findings.rows
    estimates = {row.name: findings.estimates[row.name, "biased outputs", "overall"] for row in findings.rows}
    before, over = estimates[base.name].figure, findings.details["over_wordings"][base.name]["biased outputs"]
    sentences = [
        f"Untouched, {number(before.value)} % {between(before)} of its answers praise one of the two and blame the "
        f"other; from wording to wording that is {number(over['low'])} to {number(over['high'])} %."
    ]
    for row in others:
        change = estimates[row.name].change
        if row.like is None:
            sentences.append(f"With {row.size} neurons suppressed ({row.title}), it {moved(change)}.")
        else:
            sentences.append(f"With as many random neurons ({row.title}) it changes by {change_text(change)}.")
    return sentences
