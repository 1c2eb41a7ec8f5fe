"""Several runs side by side: debias runs, and tables of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biaslab.evaluation.findings import OVERALL
from biaslab.report.parts import Cell, Section, Table, estimate_cell, title_of
from biaslab.report.runs import Run
from biaslab.report.words import change_text, figure_text, number

_ALIKE = ("preset", "limit", "stereoset", "text", "sentences", "factor", "positions")


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return tables of runs of one kind, where there are two or more of it."""
    text, made = [], []
    for command, table, alike in (("debias", _debias, _judged_alike), ("table", _tables, _set_alike)):
        of_command = [run for run in runs if command in run.findings]
        if len(of_command) > 1:
            made.append(table(of_command))
            text.append(alike(of_command))
    return Section("side", "Side by side", text, tables=made) if made else None


def _judged_alike(runs: Sequence[Run]) -> str:
    clusters = [number(run.findings["debias"].facts["clusters"], 0) for run in runs]
    if len(set(clusters)) == 1:
        return f"All were judged on {clusters[0]} clusters of StereoSet."
    return f"The numbers of clusters of StereoSet differ ({', '.join(clusters)}): the figures can't be compared."


def _set_alike(runs: Sequence[Run]) -> str:
    first, *others = [run.findings["table"].settings for run in runs]
    names = [name for name in _ALIKE if any(first.get(name) != settings.get(name) for settings in others)]
    if not names:
        return "The tables were made with the same settings."
    return f"The tables were made with other settings ({', '.join(names)}): compare them with care."


def _debias(runs: Sequence[Run]) -> Table:
    """Return a table with a column a run, of its first row after the untouched model."""
    found = [run.findings["debias"] for run in runs]
    rows: dict[str, list[Cell]] = {
        "model": [Cell(findings.model) for findings in found],
        "selection": [Cell(str(findings.settings.get("selection", "n/a"))) for findings in found],
        "neurons": [Cell(number(findings.facts["neurons"]["count"], 0)) for findings in found],
    }
    for metric in ("SS", "LMS", "ICAT", "perplexity"):
        estimates = [[findings.get(row.name, metric) for row in findings.rows[:2]] for findings in found]
        rows[f"{metric}, untouched"] = [Cell(figure_text(metric, e) if e else "n/a") for e, _ in estimates]
        rows[f"{metric}, suppressed"] = [estimate_cell(metric, after) for _, after in estimates]
    controls = [findings.control(findings.rows[1].name) for findings in found]
    random = [findings.get(row.name, "ICAT") if row else None for findings, row in zip(found, controls, strict=True)]
    rows["ICAT, random neurons"] = [Cell(change_text("ICAT", e.change) if e else "n/a") for e in random]
    return _table("side-debias", "Debias runs", runs, rows)


def _tables(runs: Sequence[Run]) -> Table:
    """Return ICAT with a row a treatment and a column a model."""
    found = [run.findings["table"] for run in runs]
    titles = {row.name: title_of(row) for findings in found for row in findings.rows}
    rows = {
        title: [estimate_cell("ICAT", f.get(name, "ICAT", OVERALL), name != f.base.name) for f in found]
        for name, title in titles.items()
    }
    return _table("side-tables", "ICAT of each treatment, and its change", runs, rows)


def _table(key: str, caption: str, runs: Sequence[Run], rows: Mapping[str, Sequence[Cell]]) -> Table:
    return Table(key, caption, ["", *(run.place for run in runs)], list(rows.items()))
