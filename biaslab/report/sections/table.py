"""The chapter of a results table: many treatments of one model, compared with the untouched one."""

from collections.abc import Sequence

from biaslab.evaluation.findings import OVERALL, Findings, Row
from biaslab.report.runs import Run
from biaslab.report.sections import shared
from biaslab.report.sections.shared import Cell, Chapter, Section, Table, title_of
from biaslab.report.tables import STEREOSET
from biaslab.report.words import by_direction, change_text, figure_text, listed, number, signed
from biaslab.statistics import Interval

_MOST_IN_A_FIGURE = 6


def chapter(run: Run) -> Chapter:
    """Return the chapter of a results table."""
    findings = run.findings["table"]
    largest = [row for row, _ in _changes(findings, findings.rows[1:], "ICAT")][: _MOST_IN_A_FIGURE - 1]
    drawn = [row for row in findings.rows if row is findings.base or row in largest]
    costs = shared.cost_table(findings, "Size and cost of each row", "neurons or trained parameters")
    sections = [
        shared.stereoset_section(findings, "All rows", "StereoSet: all rows"),
        shared.cost_section(findings, [], costs),
        shared.domain_section(findings, drawn, folded=()),
        *shared.benchmark_sections(findings),
        _paper(findings),
    ]
    if left_out := findings.details["left_out"]:
        sections.append(Section("left-out", "Left out", facts=list(left_out.items())))
    question = (
        f"How do {number(len(findings.rows) - 1, 0)} treatments of {findings.model}, including controls, affect its "
        f"bias and language modelling under the same evaluation (preset {findings.settings.get('preset')})?"
    )
    return Chapter(f"Results table of {findings.model}", question, table_answer(findings), sections)


def table_answer(findings: Findings) -> list[str]:
    """Return the table's outcome in sentences."""
    controls = [row for row in findings.rows if row.like is not None or row.name.startswith("random")]
    treated = [row for row in findings.rows[1:] if row not in controls]
    ss, lms, icat = (number(findings.estimates[findings.base.name, m, OVERALL].figure.value) for m in STEREOSET)
    sentences = [f"The untouched model has SS {ss} (50 is ideal), LMS {lms} and ICAT {icat} (100 is ideal)."]
    metrics = ["ICAT", "LMS", *(["knowledge"] if findings.rows_of("knowledge") else [])]
    sentences += [_outcome(findings, metric, treated) for metric in metrics]
    if rose := [row for row in treated if findings.estimates[row.name, "ICAT", OVERALL].change.low > 0]:
        changes = [(row, findings.estimates[row.name, "perplexity", OVERALL].change) for row in rose]
        best, change = min(changes, key=lambda item: item[1].value)
        percent = change_text("perplexity", change)
        sentences.append(f"Of the rows where ICAT rose, perplexity is lowest for {title_of(best)} ({percent}).")
    if controls:
        of_controls = [(row, findings.estimates[row.name, "ICAT", OVERALL].change) for row in controls]
        told = listed(f"{title_of(row)}: {change_text('ICAT', change)}" for row, change in of_controls)
        sentences.append(f"Change of ICAT with as many random neurons: {told}.")
    return sentences


def _changes(findings: Findings, rows: Sequence[Row], metric: str) -> list[tuple[Row, Interval]]:
    """Return each row's change of a metric, the largest first."""
    changes = [(row, findings.estimates[row.name, metric, OVERALL].change) for row in rows]
    return sorted(changes, key=lambda item: -abs(item[1].value))


def _outcome(findings: Findings, metric: str, rows: Sequence[Row]) -> str:
    """Say for which rows a metric rose, fell or did not change significantly, the largest change first."""
    changes = [
        (f"{title_of(row)} ({signed(change.value)})", change) for row, change in _changes(findings, rows, metric)
    ]
    parts = by_direction(changes, "rose for", "fell for", "did not change significantly for")
    name = metric[0].upper() + metric[1:]
    return f"{name} {'; it '.join(parts)}." if parts else f"{name} was measured for no treatment."


def _paper(findings: Findings) -> Section:
    paper, base = findings.details["paper"], findings.base
    lines = []
    for row in (row for row in findings.rows if row.name in paper["rows"]):
        icat, printed = findings.estimates[row.name, "ICAT", OVERALL], paper["rows"][row.name]["icat"]
        ours = () if row is base else (change_text("ICAT", icat.change),)
        theirs = () if row is base else (signed(printed - paper["rows"][base.name]["icat"]),)
        lines.append((title_of(row), [Cell(figure_text("ICAT", icat), ours), Cell(number(printed), theirs)]))
    columns = ["", findings.model, f"{paper['model']} in the paper"]
    table = Table("paper-rows", "ICAT and its change", columns, lines, "The paper gives no intervals.")
    text = "The paper's models, prompts and training are different: compare the order of the rows, not their values."
    return Section("paper", "Comparison with the paper", [text], tables=[table])
