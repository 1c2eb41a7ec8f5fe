"""Several runs side by side: debias runs, and tables of several models."""

from __future__ import annotations

from collections.abc import Sequence

from biaslab.evaluation.findings import OVERALL
from biaslab.report.parts import STEREOSET, Cell, Section, Table, figure_cell, title_of
from biaslab.report.runs import Run
from biaslab.report.words import change_text, number


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return tables of runs of one kind, where there are two or more of it."""
    debias = [run for run in runs if "debias" in run.parts]
    tables = [run for run in runs if "table" in run.parts]
    text, made = [], []
    if len(debias) > 1:
        made.append(_debias(debias))
        text.append(_judged_alike([int(run.parts["debias"].facts["clusters"]) for run in debias]))
    if len(tables) > 1:
        made.append(_tables(tables))
        text.append(_set_alike(tables))
    return Section("side", "Side by side", text, tables=made) if made else None


def _judged_alike(clusters: Sequence[int]) -> str:
    if len(set(clusters)) == 1:
        return f"All were judged on {number(clusters[0], 0)} clusters of StereoSet."
    counts = ", ".join(number(count, 0) for count in clusters)
    return f"They were judged on other numbers of clusters of StereoSet ({counts}): do not compare the figures."


def _set_alike(tables: Sequence[Run]) -> str:
    first, *others = [run.parts["table"].settings for run in tables]
    names = ("preset", "limit", "stereoset", "text", "sentences", "factor", "positions")
    other = [name for name in names if any(first.get(name) != settings.get(name) for settings in others)]
    if not other:
        return "The tables were made with the same settings."
    return f"The tables were made with other settings ({', '.join(other)}): compare them with care."


def _debias(runs: Sequence[Run]) -> Table:
    """Return a table with a column a run."""
    found = [run.parts["debias"] for run in runs]
    rows: list[tuple[str, list[Cell]]] = [
        ("model", [Cell(findings.model) for findings in found]),
        ("selection", [Cell(str(findings.settings.get("selection", "n/a"))) for findings in found]),
        ("neurons", [Cell(number(findings.facts["neurons"]["count"], 0)) for findings in found]),
    ]
    for metric in STEREOSET:
        before = [findings.estimates[findings.base.name, metric, OVERALL].figure.value for findings in found]
        rows.append((f"{metric}, untouched", [Cell(number(value)) for value in before]))
        cells = [figure_cell(metric, findings.get(findings.rows[1].name, metric), True) for findings in found]
        rows.append((f"{metric}, suppressed", cells))
    controls = [findings.control(findings.rows[1].name) for findings in found]
    changes = [None if c is None else f.get(c.name, "ICAT") for f, c in zip(found, controls, strict=True)]
    rows.append(("ICAT, random neurons", [Cell("n/a" if e is None else change_text(e.change)) for e in changes]))
    texts = [figure_cell("perplexity", f.get(f.rows[1].name, "perplexity"), True) for f in found]
    rows.append(("perplexity, suppressed", texts))
    return Table("side-debias", "Debias runs", ["", *(run.place for run in runs)], rows)


def _tables(runs: Sequence[Run]) -> Table:
    """Return ICAT with a row a treatment and a column a model."""
    found = [run.parts["table"] for run in runs]
    titles = {row.name: title_of(row.title) for findings in found for row in findings.rows}
    rows = [
        (title, [figure_cell("ICAT", findings.get(name, "ICAT"), name != findings.base.name) for findings in found])
        for name, title in titles.items()
    ]
    return Table("side-tables", "ICAT of each treatment, and its change", ["", *(run.place for run in runs)], rows)
