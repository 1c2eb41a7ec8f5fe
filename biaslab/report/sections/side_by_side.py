"""Several runs side by side: debias runs, and tables of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from biaslab.report.parts import Cell, Section, Table, estimate_cell, title_of
from biaslab.report.runs import Run
from biaslab.report.words import change_text, figure_text, number

_ALIKE = ("preset", "limit", "stereoset", "text", "sentences", "factor", "positions")


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return tables of runs of one kind, where there are two or more of it."""
    text, tables = [], []
    for command, make in (("debias", _debias), ("table", _tables)):
        of_command = [run for run in runs if command in run.findings]
        if len(of_command) > 1:
            sentence, key, caption, rows = make(of_command)
            text.append(sentence)
            tables.append(Table(key, caption, ["", *(run.place for run in of_command)], list(rows.items())))
    return Section("side", "Side by side", text, tables=tables) if tables else None


_Side = tuple[str, str, str, Mapping[str, Sequence[Cell]]]  # sentence; key, caption and rows of a table


def _debias(runs: Sequence[Run]) -> _Side:
    """Return a table with a column a run, of its first row after the untouched model."""
    found = [run.findings["debias"] for run in runs]
    clusters = [number(findings.facts["clusters"], 0) for findings in found]
    alike = f"All were judged on {clusters[0]} clusters of StereoSet."
    differ = f"The numbers of clusters of StereoSet differ ({', '.join(clusters)}): the figures can't be compared."
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
    return alike if len(set(clusters)) == 1 else differ, "side-debias", "Debias runs", rows


def _tables(runs: Sequence[Run]) -> _Side:
    """Return ICAT with a row a treatment and a column a model."""
    found = [run.findings["table"] for run in runs]
    settings = [findings.settings for findings in found]
    other = [name for name in _ALIKE if any(settings[0].get(name) != others.get(name) for others in settings)]
    alike = "The tables were made with the same settings."
    differ = f"The tables were made with other settings ({', '.join(other)}): compare them with care."
    titles = {row.name: title_of(row) for findings in found for row in findings.rows}
    rows = {
        title: [estimate_cell("ICAT", f.get(name, "ICAT"), name != f.base.name) for f in found]
        for name, title in titles.items()
    }
    return differ if other else alike, "side-tables", "ICAT of each treatment, and its change", rows
