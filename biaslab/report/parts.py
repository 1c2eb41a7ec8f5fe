"""What a report is made of: sections with sentences, tables, drawings and cards; and tables of findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from biaslab.evaluation.findings import METRICS, OVERALL, Findings
from biaslab.report.drawings import Drawing
from biaslab.report.words import Tile, Verdict, between, change_text, number, verdict
from biaslab.statistics import Estimate

Draw = Callable[..., Drawing]  # name, caption, description, what makes the plot, its arguments
STEREOSET = ("SS", "LMS", "ICAT")


class Cell(NamedTuple):
    """A cell of a table: its figure, lines below in small letters, and what the change means."""

    text: str
    more: tuple[str, ...] = ()
    verdict: Verdict = ""


class Table(NamedTuple):
    """A table.

    Attributes:
        key: of its element.
        caption: what it shows.
        columns: headings, that of the rows' names first.
        rows: a row's name, and its cells.
        note: below it.
    """

    key: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


class Missing(NamedTuple):
    """What a run does not hold, as the start of a sentence, and the command that makes it."""

    what: str
    command: str


@dataclass(frozen=True)
class Section:
    """A section of a chapter; ``folded`` tables show where the reader asks for them."""

    key: str
    title: str
    text: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    cards: Sequence[Mapping[str, Any]] = ()
    missing: Missing | None = None


@dataclass(frozen=True)
class Chapter:
    """What a report says of a part of a run.

    Attributes:
        key: of its element.
        title: its heading.
        place: the run's folder, short.
        asked: what was asked, in a sentence.
        answer: sentences that sum it up.
        tiles: the figures that a reader sees first.
        sections: all else.
    """

    key: str
    title: str
    place: str
    asked: str
    answer: Sequence[str]
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = field(default_factory=list)


def figure_cell(metric: str, estimate: Estimate | None, with_change: bool) -> Cell:
    """Return a figure with its interval, its change and its spread over seeds; "n/a" where it was not measured."""
    if estimate is None:
        return Cell("n/a")
    unit = " %" if METRICS[metric].unit == "percent" else ""
    more = [] if unit else [between(estimate.figure)]  # of these the change is what counts
    if with_change:
        more.append(change_text(estimate.change, unit))
    if estimate.spread is not None and with_change:
        more.append(f"± {number(estimate.spread)}{unit} over seeds")
    return Cell(number(estimate.figure.value), tuple(more), verdict(metric, estimate) if with_change else "")


def metric_table(key: str, caption: str, findings: Findings, metrics: Sequence[str] = STEREOSET) -> Table:
    """Return metrics overall of all rows, with intervals and changes."""
    rows = [
        (
            title_of(row.title),
            [figure_cell(name, findings.get(row.name, name), row is not findings.base) for name in metrics],
        )
        for row in findings.rows_of(metrics[0])
    ]
    note = "In percent, with 95 % intervals; below them the change against the untouched model, on the same resamples."
    heads = [f"{name} (ideal {METRICS[name].ideal:g})" if METRICS[name].ideal else name for name in metrics]
    return Table(key, caption, ["", *heads], rows, note if metrics == STEREOSET else "")


def scope_table(key: str, metric: str, findings: Findings, caption: str = "") -> Table:
    """Return a metric of all rows by scope."""
    scopes = findings.scopes(metric)[1:]
    rows = [
        (
            title_of(row.title),
            [figure_cell(metric, findings.get(row.name, metric, scope), row is not findings.base) for scope in scopes],
        )
        for row in findings.rows_of(metric)
    ]
    return Table(key, caption or f"{metric} by domain, in percent, and its change", ["", *scopes], rows)


def title_of(title: str) -> str:
    """Return a row's title without the sign that a results table puts before it."""
    return title.removeprefix("+ ")


def icat_drawing(findings: Findings, draw: Draw, caption: str) -> Drawing:
    """Return ICAT against LMS of each row."""
    from biaslab.report.plots.stereoset import icat_against_lms

    points, gist = {}, []
    for row in findings.rows_of("ICAT"):
        lms, icat = (findings.estimates[row.name, name, OVERALL] for name in ("LMS", "ICAT"))
        title = title_of(row.title)
        points[title] = (lms.figure, icat.figure)
        significant = "significant" if icat.change.excludes_zero else "no significant"
        change = "" if row is findings.base else f" ({significant} change of ICAT)"
        gist.append(f"{title}: LMS {number(lms.figure.value)}, ICAT {number(icat.figure.value)}{change}")
    return draw("icat-lms", caption, "; ".join(gist) + ".", icat_against_lms, points)


def domain_drawing(findings: Findings, draw: Draw, rows: Sequence[str], caption: str) -> Drawing:
    """Return ICAT of some rows by domain."""
    from biaslab.report.plots.stereoset import icat_before_after

    domains = findings.scopes("ICAT")[1:]
    figures = {
        title_of(findings.row(row).title): {name: findings.estimates[row, "ICAT", name].figure for name in domains}
        for row in rows
    }
    gist = [f"{row}: {', '.join(f'{d} {number(f.value)}' for d, f in of.items())}." for row, of in figures.items()]
    return draw("domains", caption, " ".join(gist), icat_before_after, figures)
