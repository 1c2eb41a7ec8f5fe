"""What a report is made of: chapters of sections with sentences, tables, drawings and cards; tables of findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from biaslab.evaluation.findings import OVERALL, Findings, Row
from biaslab.report.drawings import Drawing
from biaslab.report.words import Verdict, change_text, figure_interval, figure_text, number, verdict
from biaslab.statistics import Estimate

Name = Callable[[Row], str]  # returns what a row is called


class Cell(NamedTuple):
    """A cell of a table: its text, lines below in small letters, and what the change means."""

    text: str
    more: tuple[str, ...] = ()
    verdict: Verdict = ""


class Table(NamedTuple):
    """A table: its element's key, its headings (that of the rows' names first), and rows of a name and cells."""

    key: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


class Tile(NamedTuple):
    """A figure that a reader sees first; ``ideal`` says what it would be at best."""

    name: str
    ideal: str
    before: str
    after: str
    change: str
    verdict: Verdict


class Missing(NamedTuple):
    """What a run does not hold, the start of a sentence, and the command that makes it."""

    what: str
    command: str


class Section(NamedTuple):
    """A section of a chapter; ``folded`` tables show where the reader asks for them, ``cards`` are of neurons."""

    key: str
    title: str
    text: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    cards: Sequence[Mapping[str, Any]] = ()


class Chapter(NamedTuple):
    """What a report says of one command's findings: the question that it answers, the answer in short, and all else.

    ``facts`` stand with the command's settings, ``tiles`` come first, and ``missing`` is what other commands could add.
    The page gives the ``place``, the run's folder, and the ``key``, which goes before the keys of all that it holds.
    """

    title: str
    question: str
    answer: Sequence[str]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()
    tiles: Sequence[Tile] = ()
    missing: Sequence[Missing] = ()
    place: str = ""
    key: str = ""


def title_of(row: Row) -> str:
    """Return a row's name as it is printed."""
    return row.title.removeprefix("+ ")


def title_and_size(row: Row) -> str:
    """Return a row's name with the number of its neurons."""
    return f"{title_of(row)} ({row.size})" if row.size else title_of(row)


def estimate_cell(metric: str, estimate: Estimate | None, with_change: bool = True, more: Sequence[str] = ()) -> Cell:
    """Return a metric's value with its interval, its change, its spread over seeds, and further lines."""
    if estimate is None:
        return Cell("n/a")
    lines = [figure_interval(metric, estimate)] if math.isfinite(estimate.figure.low) else []
    if with_change:
        lines.append(change_text(metric, estimate.change))
        lines += [] if estimate.spread is None else [f"± {number(estimate.spread)} over seeds"]
    return Cell(figure_text(metric, estimate), (*lines, *more), verdict(metric, estimate) if with_change else "")


def estimate_table(
    findings: Findings,
    key: str,
    caption: str,
    columns: Mapping[str, tuple[str, str]],
    name: Name = title_of,
    note: str = "",
    first: Mapping[str, Callable[[Row], str]] | None = None,
) -> Table:
    """Return a table with a line for each row that has one of its metrics; changes but of the untouched model.

    ``columns`` are metric and scope by heading; ``first`` are columns before these.
    """
    first, rows = first or {}, []
    for row in findings.rows:
        estimates = {column: findings.get(row.name, *column) for column in columns.values()}
        if any(estimates.values()):
            figures = [estimate_cell(column[0], e, row is not findings.base) for column, e in estimates.items()]
            rows.append((name(row), [*(Cell(text(row)) for text in first.values()), *figures]))
    return Table(key, caption, ["", *first, *columns], rows, note)


def scope_table(
    findings: Findings, key: str, caption: str, metric: str, scopes: Sequence[str], name: Name = title_of
) -> Table:
    """Return a table of a metric with a column a scope."""
    return estimate_table(findings, key, caption, {scope: (metric, scope) for scope in scopes}, name)


def domain_table(findings: Findings, key: str, metric: str, name: Name = title_of) -> Table:
    """Return SS, LMS or ICAT of all rows by domain."""
    caption = f"{metric} by domain, in percent, and its change"
    return scope_table(findings, key, caption, metric, domains(findings), name)


def domains(findings: Findings) -> list[str]:
    """Return StereoSet's domains that were judged."""
    return [scope for scope in findings.scopes("ICAT") if scope != OVERALL]
