"""The chapters of a results table and of a sweep: many treatments of one model, compared with the untouched one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biaslab.report.parts import (
    OVERALL,
    Cell,
    Chapter,
    Draw,
    Section,
    Table,
    by_domain_gist,
    domain_table,
    domains_of,
    icat_gist,
    perplexity_cell,
    stereoset_table,
)
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.runs import Figures, Run, figures, interval
from biaslab.report.words import (
    change_text,
    listed,
    number,
    settings_facts,
    signed,
    sorted_out,
)
from biaslab.statistics import Interval

_BASE_ROW = "base"
_MOST_IN_A_FIGURE = 6


def table_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a results table tells.

    Args:
        run: with the part "table".
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    content = run.parts["table"]
    rows: dict[str, Any] = content["rows"]
    found = figures({name: row["stereoset"] for name, row in rows.items()})
    names = {name: row["title"].removeprefix("+ ") for name, row in rows.items()}
    sections = [
        _figures(found, names, key, draw),
        _costs(rows, names, key),
        _domains(found, names, key, draw),
        _paper(content, found, names, key),
    ]
    if content["left_out"]:
        sections.append(Section(f"{key}-left-out", "Left out", facts=list(content["left_out"].items())))
    sections.append(Section(f"{key}-settings", "Settings", facts=settings_facts(content["settings"])))
    asked = (
        f"What do {number(len(rows) - 1, 0)} treatments of {run.model}, controls among them, do to its bias and its "
        f"language, judged alike (preset {content['settings'].get('preset')})?"
    )
    answer = table_answer(found, {name: row["perplexity"] for name, row in rows.items()}, names)
    return Chapter(key, f"Results table of {run.model}", run.place, asked, answer, sections=sections)


def table_answer(found: Figures, text: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return the table's outcome in some sentences, whatever it is."""
    controls = [row for row in found if row.startswith("random")]
    treated = [row for row in found if row != _BASE_ROW and row not in controls]
    changes = {row: found[row][OVERALL]["ICAT"].change for row in found}
    lms = {row: found[row][OVERALL]["LMS"].change for row in found}
    before = found[_BASE_ROW][OVERALL]
    sentences = [
        f"The untouched model has SS {number(before['SS'].figure.value)} (50 is ideal), LMS "
        f"{number(before['LMS'].figure.value)} and ICAT {number(before['ICAT'].figure.value)} (100 is ideal).",
        _outcome("ICAT", {names[row]: changes[row] for row in treated}),
        _outcome("LMS", {names[row]: lms[row] for row in treated}),
    ]
    if rose := [row for row in treated if changes[row].low > 0]:
        cheapest = min(rose, key=lambda row: text[row]["change_percent"]["value"])
        percent = change_text(interval(text[cheapest]["change_percent"]), " %")
        sentences.append(f"Of those with which ICAT rose, perplexity is lowest with {names[cheapest]} ({percent}).")
    if controls:
        told = listed(f"{names[row]}: {change_text(changes[row])}" for row in controls)
        sentences.append(f"As many random neurons change ICAT so: {told}.")
    return sentences


def _outcome(metric: str, changes: Mapping[str, Interval]) -> str:
    """Return with which rows a metric rose, fell, or did neither as far as can be told."""
    found = sorted_out(list(changes.items()))
    words = {"rose": "rose with", "fell": "fell with", "unclear": "has no clear change with"}
    parts = [f"{words[key]} {listed(names)}" for key, names in found.items() if names]
    return f"{metric} {'; it '.join(parts)}." if parts else f"No treatment's {metric} was measured."


def _figures(found: Figures, names: Mapping[str, str], key: str, draw: Draw) -> Section:
    points = {names[row]: (of[OVERALL]["LMS"].figure, of[OVERALL]["ICAT"].figure) for row, of in found.items()}
    caption = "ICAT against LMS with 95 % intervals: upper right is best"
    drawings = [draw("icat-lms", caption, icat_gist(found, _BASE_ROW, names), icat_against_lms, points)]
    table = stereoset_table(f"{key}-overall", "StereoSet: all rows", found, _BASE_ROW, names)
    return Section(f"{key}-stereoset", "All rows", [], drawings, [table])


def _costs(rows: Mapping[str, Any], names: Mapping[str, str], key: str) -> Section:
    cells = [
        (
            names[name],
            [
                Cell(number(row["size"], 0)),
                Cell(number(row["seconds"], 0)),
                perplexity_cell(row["perplexity"], name != _BASE_ROW),
            ],
        )
        for name, row in rows.items()
    ]
    columns = ["", "neurons, or trained parameters", "seconds to find or train", "perplexity"]
    table = Table(f"{key}-costs", "What each row takes, and perplexity with its change", columns, cells)
    return Section(f"{key}-price", "The price", tables=[table])


def _domains(found: Figures, names: Mapping[str, str], key: str, draw: Draw) -> Section:
    shown = _shown(found)
    icat = {
        names[row]: {domain: of[domain]["ICAT"].figure for domain in domains_of(found, _BASE_ROW)}
        for row, of in shown.items()
    }
    caption = "ICAT by domain with 95 % intervals"
    caption += "" if len(shown) == len(found) else ": untouched, and the rows with the largest changes of ICAT"
    drawings = [draw("domains", caption, by_domain_gist(shown, _BASE_ROW, names), icat_before_after, icat)]
    icat_table = domain_table(f"{key}-icat-domains", "ICAT", found, _BASE_ROW, names)
    return Section(f"{key}-domains", "By domain", [], drawings, [], [icat_table])


def _shown(found: Figures) -> Figures:
    """Return the untouched row and those with the largest changes, as many as a figure has room for."""
    others = [row for row in found if row != _BASE_ROW]
    largest = sorted(others, key=lambda row: -abs(found[row][OVERALL]["ICAT"].change.value))[: _MOST_IN_A_FIGURE - 1]
    return {row: of for row, of in found.items() if row == _BASE_ROW or row in largest}


def _paper(content: Mapping[str, Any], found: Figures, names: Mapping[str, str], key: str) -> Section:
    paper, model = content["paper"]["rows"], content["paper"]["model"]
    base = paper[_BASE_ROW]["icat"]
    cells = []
    for row in (row for row in found if row in paper):
        icat = found[row][OVERALL]["ICAT"]
        ours = Cell(number(icat.figure.value), () if row == _BASE_ROW else (change_text(icat.change),))
        more = () if row == _BASE_ROW else (signed(paper[row]["icat"] - base),)
        cells.append((names[row], [ours, Cell(number(paper[row]["icat"]), more)]))
    table = Table(
        f"{key}-paper-rows", "ICAT, and its change", ["", content["model"], f"the paper's {model}"], cells,
        "The paper gives no intervals.",
    )  # fmt: skip
    text = (
        "The paper's models, prompts and training are others: the order of the rows compares, their figures need not."
    )
    return Section(f"{key}-paper", "Beside the paper's figures", [text], tables=[table])
