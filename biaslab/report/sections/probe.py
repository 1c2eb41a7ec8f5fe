"""The chapter of black-box probing: answers to plain questions, before and after suppression."""

from biaslab.evaluation.findings import METRICS, OVERALL, Findings, Row
from biaslab.report.runs import Run
from biaslab.report.sections.shared import Cell, Chapter, Section, Table, estimate_cell, title_and_size, title_of
from biaslab.report.words import control_sentence, figure_interval, figure_text, moved, number

_METRICS = ("biased outputs", "mass difference")


def chapter(run: Run) -> Chapter:
    """Return the chapter of black-box probing."""
    findings = run.findings["probe"]
    details, biased = findings.details, "biased outputs"

    def cell(row: Row, metric: str) -> Cell:
        over = details["over_wordings"][row.name][metric]
        more = f"± {number(over['deviation'])} over wordings; {number(over['low'])} to {number(over['high'])}"
        return estimate_cell(findings, row.name, metric, more=[more])

    rows = [(title_and_size(row), [cell(row, metric) for metric in _METRICS]) for row in findings.rows]
    table = Table("measures", "Answers of the model", ["", *(METRICS[metric].text for metric in _METRICS)], rows)
    lines = [
        (text, [Cell(figure_text(biased, findings.estimates[row.name, biased, text])) for row in findings.rows])
        for text in details["wordings"]
    ]
    by_wording = Table("wordings", "Biased outputs by wording, %", ["wording", *map(title_of, findings.rows)], lines)
    section = Section("answers", "Answers", [details["definition"]], tables=[table], folded=[by_wording])
    wordings = f"{len(details['wordings'])} wordings"
    question = f"Does {findings.model} judge women and men differently for the same action, asked in {wordings}?"
    return Chapter(f"Black-box probing of {findings.model}", question, probe_answer(findings), [section])


def probe_answer(findings: Findings) -> list[str]:
    """Return the outcome of probing in sentences."""
    (base, *others), metric = findings.rows, "biased outputs"
    untouched = findings.estimates[base.name, metric, OVERALL]
    over = findings.details["over_wordings"][base.name][metric]
    sentences = [
        f"In the untouched model, {figure_text(metric, untouched)} % {figure_interval(metric, untouched)} of the "
        "outputs are biased: they praise one gender and blame the other. By wording, this share is "
        f"{number(over['low'])} to {number(over['high'])} %."
    ]
    for row in others[:1]:
        own = findings.estimates[row.name, metric, OVERALL]
        sentences.append(f"With {row.size} neurons suppressed ({row.title}), this share {moved(metric, own.change)}.")
        if (control := findings.control(row.name)) is not None:
            random = findings.estimates[control.name, metric, OVERALL]
            sentences.append(control_sentence(metric, random, own.beyond_random, control.title))
    return sentences
