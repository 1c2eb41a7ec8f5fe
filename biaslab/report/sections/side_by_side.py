"""Several runs side by side: debias runs, and tables of several models."""

from __future__ import annotations

from collections.abc import Sequence

from biaslab.evaluation.findings_old import Estimate
from biaslab.report.parts import OVERALL, Cell, Section, Table, figure_cell, perplexity_cell
from biaslab.report.runs import Run, figures
from biaslab.report.sections.debias import chosen, control_change
from biaslab.report.words import change_text, number

_METRICS = ("SS", "LMS", "ICAT")


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return tables of runs of one kind, where there are two or more of it.

    Args:
        runs: all of them.
    """
    debias = [run for run in runs if "debias" in run.parts]
    tables = [run for run in runs if "table" in run.parts]
    text, made = [], []
    if len(debias) > 1:
        made.append(_debias(debias))
        text += _judged_alike([int(run.parts["debias"]["facts"]["clusters"]) for run in debias])
    if len(tables) > 1:
        made.append(_tables(tables))
        text += _set_alike(tables)
    return Section("side", "Side by side", text, tables=made) if made else None


def _judged_alike(clusters: Sequence[int]) -> list[str]:
    if len(set(clusters)) == 1:
        return [f"All were judged on {number(clusters[0], 0)} clusters of StereoSet."]
    told = ", ".join(number(count, 0) for count in clusters)
    return [f"They were judged on other numbers of clusters of StereoSet ({told}): the figures don't compare."]


def _set_alike(tables: Sequence[Run]) -> list[str]:
    first, *others = [run.parts["table"]["settings"] for run in tables]
    names = ("preset", "limit", "stereoset", "text", "sentences", "factor", "positions")
    other = [name for name in names if any(first.get(name) != settings.get(name) for settings in others)]
    if not other:
        return ["The tables were made with the same settings."]
    return [f"The tables were made with other settings ({', '.join(other)}): compare them with care."]


def _debias(runs: Sequence[Run]) -> Table:
    """Return a table with a column a run."""
    found = [figures(run.parts["debias"]["stereoset"]) for run in runs]
    rows: list[tuple[str, list[Cell]]] = [
        ("model", [Cell(run.model) for run in runs]),
        ("selection", [Cell(str(run.config.get("selection", "n/a"))) for run in runs]),
        ("neurons", [Cell(number(run.parts["debias"]["neurons"]["count"], 0)) for run in runs]),
    ]
    for metric in _METRICS:
        rows.append((f"{metric}, untouched", [Cell(number(_before(chosen(of)[metric]))) for of in found]))
        rows.append((f"{metric}, suppressed", [figure_cell(metric, chosen(of)[metric], True) for of in found]))
    controls = [control_change(of) for of in found]
    rows.append(("ICAT, random neurons", [Cell("n/a" if c is None else change_text(c)) for c in controls]))
    texts = [list(run.parts["debias"]["perplexity"].values())[1] for run in runs]
    rows.append(("perplexity, suppressed", [perplexity_cell(text, True) for text in texts]))
    return Table("side-debias", "Debias runs", ["", *_places(runs)], rows)


def _before(estimate: Estimate) -> float:
    return estimate.figure.value - estimate.change.value


def _tables(runs: Sequence[Run]) -> Table:
    """Return ICAT with a row a treatment and a column a model."""
    found = [figures({k: r["stereoset"] for k, r in run.parts["table"]["rows"].items()}) for run in runs]
    titles = {key: row["title"].removeprefix("+ ") for run in runs for key, row in run.parts["table"]["rows"].items()}
    rows = [
        (
            title,
            [
                figure_cell("ICAT", of[key][OVERALL]["ICAT"], key != "base") if key in of else Cell("n/a")
                for of in found
            ],
        )
        for key, title in titles.items()
    ]
    return Table("side-tables", "ICAT of each treatment, and its change", ["", *_places(runs)], rows)


def _places(runs: Sequence[Run]) -> list[str]:
    return [run.place for run in runs]
