"""The chapter of a results table: many treatments of one model, compared with the untouched one."""

from __future__ import annotations

from collections.abc import Sequence

from biaslab.evaluation.findings import OVERALL, Findings, Row
from biaslab.report.parts import Cell, Chapter, Draw, Section, Table, is_control, title_of
from biaslab.report.runs import Run
from biaslab.report.sections.shared import cost_table, domain_section, stereoset_section
from biaslab.report.words import change_text, figure_text, listed, number, rows_by_direction, signed

_MOST_IN_A_FIGURE = 6


def chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a results table says."""
    findings = run.findings["table"]
    base, *others = findings.rows
    others.sort(key=lambda row: -abs(findings.estimates[row.name, "ICAT", OVERALL].change.value))
    drawn = [row for row in findings.rows if row is base or row in others[: _MOST_IN_A_FIGURE - 1]]
    costs = cost_table(findings, key, "What each row takes, and its perplexity", "neurons, or trained parameters")
    sections = [
        stereoset_section(findings, key, draw, "All rows", "StereoSet: all rows"),
        Section(f"{key}-cost", "Cost", tables=[costs]),
        domain_section(findings, key, draw, drawn, folded=()),
        _paper(findings, key),
    ]
    if left_out := findings.details["left_out"]:
        sections.append(Section(f"{key}-left-out", "Left out", facts=list(left_out.items())))
    question = (
        f"What do {number(len(findings.rows) - 1, 0)} treatments of {findings.model}, controls among them, do to its "
        f"bias and its language, judged alike (preset {findings.settings.get('preset')})?"
    )
    return Chapter(key, f"Results table of {findings.model}", question, table_answer(findings), sections)


def table_answer(findings: Findings) -> list[str]:
    """Return the table's outcome in some sentences, whatever it is."""
    treated = [row for row in findings.rows[1:] if not is_control(row)]
    before = {m: number(findings.estimates[findings.base.name, m, OVERALL].figure.value) for m in ("SS", "LMS", "ICAT")}
    sentences = [
        f"The untouched model has SS {before['SS']} (50 is ideal), LMS {before['LMS']} and ICAT {before['ICAT']} "
        "(100 is ideal).",
        _outcome(findings, "ICAT", treated),
        _outcome(findings, "LMS", treated),
    ]
    if rose := [row for row in treated if findings.estimates[row.name, "ICAT", OVERALL].change.low > 0]:
        changes = {title_of(row): findings.estimates[row.name, "perplexity", OVERALL].change for row in rose}
        best = min(changes, key=lambda title: changes[title].value)
        percent = change_text("perplexity", changes[best])
        sentences.append(f"Of those with which ICAT rose, perplexity is lowest with {best} ({percent}).")
    if controls := [row for row in findings.rows if is_control(row)]:
        changes = {title_of(row): findings.estimates[row.name, "ICAT", OVERALL].change for row in controls}
        told = listed(f"{title}: {change_text('ICAT', change)}" for title, change in changes.items())
        sentences.append(f"Changes of ICAT with as many random neurons: {told}.")
    return sentences


def _outcome(findings: Findings, metric: str, rows: Sequence[Row]) -> str:
    """Say with which rows a metric rose, fell, or did neither significantly, the largest change first."""
    changes = {row.name: findings.estimates[row.name, metric, OVERALL].change for row in rows}
    words = {"rose": "rose with", "fell": "fell with", "unclear": "did not change significantly with"}
    parts = []
    for direction, names in rows_by_direction(changes).items():
        told = listed(f"{title_of(findings.row(name))} ({number(changes[name].value, sign=True)})" for name in names)
        parts += [f"{words[direction]} {told}"] if names else []
    return f"{metric} {'; it '.join(parts)}." if parts else f"{metric} was measured for no treatment."


def _paper(findings: Findings, key: str) -> Section:
    paper, base = findings.details["paper"], findings.base
    lines = []
    for row in (row for row in findings.rows if row.name in paper["rows"]):
        icat, printed = findings.estimates[row.name, "ICAT", OVERALL], paper["rows"][row.name]["icat"]
        ours = () if row is base else (change_text("ICAT", icat.change),)
        theirs = () if row is base else (signed(printed - paper["rows"][base.name]["icat"]),)
        lines.append((title_of(row), [Cell(figure_text("ICAT", icat), ours), Cell(number(printed), theirs)]))
    columns = ["", findings.model, f"the paper's {paper['model']}"]
    table = Table(f"{key}-paper-rows", "ICAT, and its change", columns, lines, "The paper gives no intervals.")
    text = "The paper's models, prompts and training are different: compare the order of the rows, not their figures."
    return Section(f"{key}-paper", "Comparison with the paper", [text], tables=[table])
