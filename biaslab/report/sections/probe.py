"""The chapter of black-box probing: answers to plain questions, before and after."""

from __future__ import annotations

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.report.parts import Cell, Chapter, Draw, Section, Table, estimate_cell, title_and_size, title_of
from biaslab.report.runs import Run
from biaslab.report.words import control_sentence, figure_interval, figure_text, moved, number

_METRICS = {"biased outputs": "biased outputs, %", "mass difference": "mass difference, points"}


def chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what black-box probing found."""
    findings = run.findings["probe"]
    details, biased = findings.details, "biased outputs"
    rows = []
    for row in findings.rows:
        cells = []
        for metric in _METRICS:
            over = details["over_wordings"][row.name][metric]
            more = f"± {number(over['deviation'])} over wordings; {number(over['low'])} to {number(over['high'])}"
            estimate = findings.get(row.name, metric)
            cells.append(estimate_cell(metric, estimate, row is not findings.base, [more]))
        rows.append((title_and_size(row), cells))
    table = Table(f"{key}-measures", "Answers of the model", ["", *_METRICS.values()], rows)
    lines = [
        (text, [Cell(figure_text(biased, findings.estimates[row.name, biased, text])) for row in findings.rows])
        for text in details["wordings"]
    ]
    titles = [title_of(row) for row in findings.rows]
    by_wording = Table(f"{key}-wordings", "Biased outputs by wording, %", ["wording", *titles], lines)
    section = Section(f"{key}-answers", "Answers", [details["definition"]], tables=[table], folded=[by_wording])
    question = (
        f"Does {findings.model} judge a woman and a man differently for the same deed, asked in "
        f"{len(details['wordings'])} wordings?"
    )
    return Chapter(key, f"Black-box probing of {findings.model}", question, probe_answer(findings), [section])


def probe_answer(findings: Findings) -> list[str]:
    """Return the outcome of probing, whatever it is."""
    (base, *others), metric = findings.rows, "biased outputs"
    untouched = findings.estimates[base.name, metric, OVERALL]
    over = findings.details["over_wordings"][base.name][metric]
    sentences = [
        f"Untouched, {figure_text(metric, untouched)} % {figure_interval(metric, untouched)} of its answers praise one "
        f"of the two and blame the other; from wording to wording that is {number(over['low'])} to "
        f"{number(over['high'])} %."
    ]
    if others:
        own = findings.estimates[others[0].name, metric, OVERALL]
        sentences.append(
            f"With {others[0].size} neurons suppressed ({others[0].title}), it {moved(metric, own.change)}."
        )
        if (control := findings.control(others[0].name)) is not None:
            random = findings.estimates[control.name, metric, OVERALL]
            sentences.append(control_sentence(metric, random, own.beyond_random, control.title))
    return sentences
