"""The chapter of a results table: many treatments of one model, compared with the untouched one."""

from __future__ import annotations

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.report.parts import (
    Cell,
    Chapter,
    Draw,
    Section,
    Table,
    domain_drawing,
    figure_cell,
    icat_drawing,
    metric_table,
    scope_table,
    title_of,
)
from biaslab.report.runs import Run
from biaslab.report.words import change_text, listed, number, settings_facts, signed, sorted_out
from biaslab.statistics import Interval

_MOST_IN_A_PLOT = 6


def table_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a results table tells.

    Args:
        run: with the part "table".
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    findings = run.parts["table"]
    left_out, settings = findings.details["left_out"], findings.settings
    sections = [
        Section(
            f"{key}-stereoset", "All rows", [],
            [icat_drawing(findings, draw, "ICAT against LMS with 95 % intervals: upper right is best")],
            [metric_table(f"{key}-overall", "StereoSet: all rows", findings)],
        ),
        Section(f"{key}-price", "The price", tables=[_costs(findings, key)]),
        _domains(findings, key, draw),
        _paper(findings, key),
        *([Section(f"{key}-left-out", "Left out", facts=list(left_out.items()))] if left_out else []),
        Section(f"{key}-settings", "Settings", facts=settings_facts(settings)),
    ]  # fmt: skip
    asked = (
        f"What do {number(len(findings.rows) - 1, 0)} treatments of {run.model}, controls among them, do to its bias "
        f"and its language, judged alike (preset {settings.get('preset')})?"
    )
    title = f"Results table of {run.model}"
    return Chapter(key, title, run.place, asked, table_answer(findings), sections=sections)


def table_answer(findings: Findings) -> list[str]:
    """Return the table's outcome in some sentences, whatever it is."""
    treated = [row for row in findings.rows[1:] if row.like is None]
    changes = {
        metric: {row.name: findings.estimates[row.name, metric, OVERALL].change for row in findings.rows}
        for metric in ("ICAT", "LMS", "perplexity")
    }
    titles = {row.name: title_of(row.title) for row in findings.rows}
    before = [findings.estimates[findings.base.name, name, OVERALL].figure.value for name in ("SS", "LMS", "ICAT")]
    ss, lms, icat = map(number, before)
    sentences = [
        f"The untouched model has SS {ss} (50 is ideal), LMS {lms} and ICAT {icat} (100 is ideal).",
        *(_outcome(name, {titles[row.name]: changes[name][row.name] for row in treated}) for name in ("ICAT", "LMS")),
    ]
    if rose := [row.name for row in treated if changes["ICAT"][row.name].low > 0]:
        cheapest = min(rose, key=lambda row: changes["perplexity"][row].value)
        percent = change_text(changes["perplexity"][cheapest], " %")
        sentences.append(f"Of those with which ICAT rose, perplexity is lowest with {titles[cheapest]} ({percent}).")
    if controls := [row.name for row in findings.rows if row.like is not None]:
        text = listed(f"{titles[row]}: {change_text(changes['ICAT'][row])}" for row in controls)
        sentences.append(f"As many random neurons change ICAT so: {text}.")
    return sentences


def _outcome(metric: str, changes: dict[str, Interval]) -> str:
    """Return with which rows a metric rose, fell, or did not change significantly."""
    words = {"rose": "rose with", "fell": "fell with", "unclear": "has no significant change with"}
    outcome = sorted_out(list(changes.items()))
    parts = [f"{words[key]} {listed(names)}" for key, names in outcome.items() if names]
    return f"{metric} {'; it '.join(parts)}." if parts else f"No treatment's {metric} was measured."


def _costs(findings: Findings, key: str) -> Table:
    rows = []
    for row in findings.rows:
        text = figure_cell("perplexity", findings.get(row.name, "perplexity"), row is not findings.base)
        rows.append((title_of(row.title), [Cell(number(row.size, 0)), Cell(number(row.seconds, 0)), text]))
    columns = ["", "neurons, or trained parameters", "seconds to find or train", "perplexity"]
    return Table(f"{key}-costs", "What each row takes, and perplexity with its change", columns, rows)


def _domains(findings: Findings, key: str, draw: Draw) -> Section:
    """Return ICAT by domain; the plot has the untouched row and those with the largest changes."""

    def change(row: str) -> float:
        return -abs(findings.estimates[row, "ICAT", OVERALL].change.value)

    names = [row.name for row in findings.rows]
    largest = sorted(names[1:], key=change)[: _MOST_IN_A_PLOT - 1]
    shown = [name for name in names if name == names[0] or name in largest]
    caption = "ICAT by domain with 95 % intervals"
    caption += "" if len(shown) == len(names) else ": untouched, and the rows with the largest changes of ICAT"
    table = scope_table(f"{key}-icat-domains", "ICAT", findings)
    return Section(f"{key}-domains", "By domain", [], [domain_drawing(findings, draw, shown, caption)], [], [table])


def _paper(findings: Findings, key: str) -> Section:
    paper, base = findings.details["paper"], findings.base.name
    rows = []
    for row in (row for row in findings.rows if row.name in paper["rows"]):
        icat, printed = findings.estimates[row.name, "ICAT", OVERALL], paper["rows"][row.name]["icat"]
        changed = row is not findings.base
        ours = Cell(number(icat.figure.value), (change_text(icat.change),) if changed else ())
        more = (signed(printed - paper["rows"][base]["icat"]),) if changed else ()
        rows.append((title_of(row.title), [ours, Cell(number(printed), more)]))
    columns = ["", findings.model, f"the paper's {paper['model']}"]
    note = "The paper gives no intervals."
    table = Table(f"{key}-paper-rows", "ICAT, and its change", columns, rows, note)
    text = "The paper's models, prompts and training are others: compare the order of the rows, not their values."
    return Section(f"{key}-paper", "Beside the paper's figures", [text], tables=[table])
