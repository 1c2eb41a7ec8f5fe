"""A matrix a measure on the terminal, rows that are suppressed by scopes that are measured, and what stands out."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from biaslab.evaluation.findings_old import BASE, Estimate, new_table, signed
from biaslab.metrics.stereoset import NAMES

OVERALL = "overall"
IDEALLY_HALF = ("SS", "CrowS-Pairs")  # in percent; the distance from 50 is what counts
_OWN, _MARK = "▸", "*"
_NARROW = 6  # with more columns than so many, numbers and names are cut short
_LEGEND = f"""First line of each: the untouched model; below: changes. {_OWN} the row's own domain.
{_MARK} the 95 % interval of the change excludes 0 (by chance alone in 1 cell of 20);
changes of the gaps are in percent of the gap.
random: as many random neurons in each layer as all; mean, ± over seeds."""
_TITLES = {
    "SS": "SS (ideal: 50) on {clusters} clusters of StereoSet",
    "LMS": "LMS (ideal: 100)",
    "ICAT": "ICAT (ideal: 100)",
    "CrowS-Pairs": "CrowS-Pairs score (ideal: 50) on {pairs} pairs",
    "gap": "Gap |P(d1) - P(d2)|, {prompts} held-out prompts: 1/1000; percent",
    "log gap": "Log gap |log P(d1) - log P(d2)| there: nats; percent",
}


class Line(NamedTuple):
    """A figure.

    Attributes:
        row: what is suppressed.
        neurons: how many.
        measure: "SS", "LMS", "ICAT", "CrowS-Pairs", "gap", "log gap" or "perplexity".
        scope: where it is measured: "overall", a domain, a category, a dimension.
        own: whether the scope is that of the row's dimension.
        estimate: with NaN where there is no interval.
        unit: of the change: "points" or "percent".
    """

    row: str
    neurons: int
    measure: str
    scope: str
    own: bool
    estimate: Estimate
    unit: str

    def flat(self) -> dict[str, Any]:
        """Return the line as one of a CSV file; empty where there is no interval."""
        figure, change, spread = self.estimate
        fields = {key: value for key, value in self._asdict().items() if key not in ("estimate", "unit")}
        numbers = figure._asdict() | {f"change_{key}": value for key, value in change._asdict().items()}
        numbers = {key: "" if math.isnan(value) else value for key, value in numbers.items()}
        return fields | numbers | {"change_unit": self.unit, "spread": "" if spread is None else spread}


def print_tables(console: Console, lines: Sequence[Line], counts: Mapping[str, int]) -> None:
    """Print all tables, at most 80 columns wide.

    Args:
        console: where to.
        lines: of all rows, measures and scopes.
        counts: how much was measured, by name.
    """
    for measure, title in _TITLES.items():
        console.print(_matrix(title.format(**counts), [line for line in lines if line.measure == measure]))
    console.print(f"\n{_LEGEND}", markup=False)
    console.print(_perplexity(lines, counts["sentences"]))
    console.print(_summary(lines))


def _matrix(title: str, lines: Sequence[Line]) -> Table:
    """Return a table of rows by scopes."""
    scopes = list(dict.fromkeys(line.scope for line in lines))
    wide = len(scopes) > _NARROW
    heads = ["all" if scope == OVERALL else _short(scope, 6 if wide else 10) for scope in scopes]
    table = new_table(title, "", *heads)
    table.padding = (0, 0 if wide else 1, 0, 0)
    for row in dict.fromkeys(line.row for line in lines):
        of_row = {line.scope: line for line in lines if line.row == row}
        table.add_row(_short(row, 10), *(_cell(of_row[scope], wide) for scope in scopes))
        spreads = [of_row[scope].estimate.spread for scope in scopes]
        if None not in spreads:
            table.add_row("", *(f"±{_change(spread, wide)[1:]} " for spread in spreads if spread is not None))
    return table


def _cell(line: Line, wide: bool) -> Text:
    """Return the untouched model's figure, or a change with its marks."""
    value = line.estimate.figure.value * (1000 if line.measure == "gap" else 1)
    if line.row == BASE:
        return Text(f"{value:.{2 if value < 0.95 else 1}f} ")
    before, after = _OWN if line.own else "", _MARK if excludes_zero(line) else " "
    text = f"{before}{_change(line.estimate.change.value, wide)}{after}"
    return Text(text, style="bold" if line.own else "")


def excludes_zero(line: Line) -> bool:
    """Return whether the interval of the change does; it doesn't where there is none."""
    return line.estimate.change.low > 0 or line.estimate.change.high < 0


def _change(value: float, wide: bool) -> str:
    """Return a number with its sign; where there are many columns, in four characters, as a rule.

    >>> [_change(value, True) for value in (0.0, -3.14159, 58.72, -100, 56789)]
    ['+0.0', '-3.1', '+59', '-100', '+57k']
    """
    if abs(value) >= 9999.5:
        return f"{value / 1000:+.0f}k"
    return f"{value:+.0f}" if wide and abs(value) >= 9.95 else f"{value:+.1f}"


def _short(name: str, width: int) -> str:
    """Return a name's first word, cut to a width.

    >>> [_short(name, 6) for name in ("gender", "race-color", "occupation")]
    ['gender', 'race', 'occup.']
    """
    first = re.split("[-_]", name)[0] if len(name) > width else name
    return first if len(first) <= width else f"{first[: width - 1]}."


def _perplexity(lines: Sequence[Line], sentences: int) -> Table:
    table = new_table(f"Perplexity on {sentences} ordinary sentences", "", "n", "value", "change, percent [95 %]")
    for line in lines:
        if line.measure == "perplexity":
            figure, change, spread = line.estimate
            over = "" if spread is None else f" ± {spread:.2f}"
            value = f"{figure.value:.2f}{over}"
            table.add_row(line.row, str(line.neurons), value, "" if line.row == BASE else signed(change))
    return table


def _summary(lines: Sequence[Line]) -> Table:
    """Return the diagonal of the matrices against what lies off it."""
    title = "Mean change, neurons of a dimension"
    table = new_table(title, "", "own domain", "others", "random")
    for measure in (*NAMES, "CrowS-Pairs", "gap", "log gap"):
        name = f"|{measure} - 50|" if measure in IDEALLY_HALF else measure
        table.add_row(name + (", percent" if "gap" in measure else ""), *map(_mean, diagonal(lines, measure)))
    return table


def diagonal(lines: Sequence[Line], measure: str) -> tuple[list[float], list[float], list[float]]:
    """Return a measure's changes: in own domains, in the others, and by random neurons anywhere.

    Of a measure that is ideally 50 percent, the change of the distance from there. Rows without an own domain are left
    out.
    """
    of = [line for line in lines if line.measure == measure and line.scope != OVERALL]
    before = {line.scope: line.estimate.figure.value for line in of if line.row == BASE}
    dimensions = {line.row for line in of if line.own}

    def change(line: Line) -> float:
        if measure in IDEALLY_HALF:
            return abs(line.estimate.figure.value - 50) - abs(before[line.scope] - 50)
        return line.estimate.change.value

    own = [change(line) for line in of if line.own]
    others = [change(line) for line in of if line.row in dimensions and not line.own]
    return own, others, [change(line) for line in of if line.row == "random"]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):+.1f}" if values else ""
