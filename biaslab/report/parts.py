"""What a report is made of: sections with sentences, tables, drawings and cards, and the tables that several share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from biaslab.evaluation.findings_old import Estimate
from biaslab.metrics.stereoset import NAMES
from biaslab.report.drawings import Drawing
from biaslab.report.runs import Figures
from biaslab.report.words import Tile, Verdict, between, change_text, excludes_zero, number, verdict
from biaslab.statistics import Interval

Draw = Callable[..., Drawing]  # name, caption, description, what makes the figure, its arguments
OVERALL = "overall"


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: its figure.
        more: lines below, in small letters.
        verdict: what the change means.
    """

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
    """What a run does not hold.

    Attributes:
        what: in words, the start of a sentence.
        command: that makes it.
    """

    what: str
    command: str


@dataclass(frozen=True)
class Section:
    """A section of a chapter.

    Attributes:
        key: of its element.
        title: its heading.
        text: paragraphs.
        drawings: figures.
        tables: that always show.
        folded: tables that show where the reader asks for them.
        facts: names and values.
        cards: of neurons, as ``biaslab cards`` wrote them.
        missing: what is not there.
    """

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


def figure_cell(metric: str, estimate: Estimate, with_change: bool) -> Cell:
    """Return a figure with its interval, its change, and its spread over seeds."""
    more = [between(estimate.figure)]
    if with_change:
        more.append(change_text(estimate.change))
    if estimate.spread is not None and with_change:
        more.append(f"± {number(estimate.spread)} over seeds")
    return Cell(number(estimate.figure.value), tuple(more), verdict(metric, estimate) if with_change else "")


def perplexity_estimate(content: Mapping[str, Any]) -> Estimate:
    """Return a perplexity of a file; its change is in percent."""
    figure = Interval(content["value"], float("nan"), float("nan"))
    return Estimate(figure, Interval(**content["change_percent"]), content["spread"])


def perplexity_cell(content: Mapping[str, Any], with_change: bool) -> Cell:
    """Return a perplexity and its change in percent."""
    estimate = perplexity_estimate(content)
    if not with_change:
        return Cell(number(estimate.figure.value))
    return Cell(number(estimate.figure.value), (change_text(estimate.change, " %"),), verdict("perplexity", estimate))


def stereoset_table(key: str, caption: str, figures: Figures, base: str, names: Mapping[str, str]) -> Table:
    """Return SS, LMS and ICAT of all rows, with intervals and changes.

    Args:
        key: of the element.
        caption: of the table.
        figures: by row, scope and metric.
        base: the untouched row.
        names: of the rows, as they are printed.
    """
    rows = [
        (names[row], [figure_cell(metric, of[OVERALL][metric], row != base) for metric in NAMES])
        for row, of in figures.items()
    ]
    note = "In percent, with 95 % intervals; below them the change against the untouched model, on the same resamples."
    return Table(key, caption, ["", "SS (ideal 50)", "LMS (ideal 100)", "ICAT (ideal 100)"], rows, note)


def domain_table(key: str, metric: str, figures: Figures, base: str, names: Mapping[str, str]) -> Table:
    """Return a metric of all rows by domain."""
    domains = domains_of(figures, base)
    rows = [
        (names[row], [figure_cell(metric, of[domain][metric], row != base) for domain in domains])
        for row, of in figures.items()
    ]
    return Table(key, f"{metric} by domain, in percent, and its change", ["", *domains], rows)


def domains_of(figures: Figures, base: str) -> list[str]:
    """Return the domains that were judged."""
    return [scope for scope in figures[base] if scope != OVERALL]


def icat_gist(figures: Figures, base: str, names: Mapping[str, str]) -> str:
    """Return ICAT and LMS of each row in words, for those who don't see the figure."""
    parts = []
    for row, of in figures.items():
        lms, icat = of[OVERALL]["LMS"].figure, of[OVERALL]["ICAT"].figure
        change = of[OVERALL]["ICAT"].change
        told = "" if row == base else f" ({'clear' if excludes_zero(change) else 'no clear'} change of ICAT)"
        parts.append(f"{names[row]}: LMS {number(lms.value)}, ICAT {number(icat.value)}{told}")
    return "; ".join(parts) + "."


def by_domain_gist(figures: Figures, base: str, names: Mapping[str, str]) -> str:
    """Return each row's ICAT by domain in words."""
    domains = domains_of(figures, base)
    return " ".join(
        f"{names[row]}: " + ", ".join(f"{d} {number(of[d]['ICAT'].figure.value)}" for d in domains) + "."
        for row, of in figures.items()
    )
