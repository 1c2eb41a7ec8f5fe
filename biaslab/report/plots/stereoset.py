"""Figures of StereoSet: ICAT before and after, ICAT against LMS, side effects, and a sweep."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from biaslab.report.plots import style
from biaslab.report.plots.style import GREY, MARKERS, RED, arms, ink
from biaslab.statistics import Interval

Flags = Sequence[Sequence[bool]]  # [row, column]
_LETTERS = 22  # longest name in a two-column legend
_HATCHES = ("///", "\\\\\\", "xxx")  # for controls
_AGAIN = ("", "...", "ooo")  # hatches for treatments once all colours are used
_ALIKE = {3: "++"}  # hatch of the colour that looks like another one without red or green vision
_DARK = "#1A1A1A"  # text on matrix cells, which are light on any page
_LOSS_TO_GAIN = LinearSegmentedColormap.from_list("loss to gain", ["#E8873A", "#F4F2EE", "#5DA5DA"])


class Dot(NamedTuple):
    """A setting of a sweep: results in percent, and the factor."""

    lms: float
    icat: float
    perplexity_change: float
    factor: float


def trial_dot(trial: Mapping[str, Any], perplexity_before: float) -> Dot:
    """Return a sweep's trial as a point; ``perplexity_before`` is that of the untouched model."""
    change, factor = 100 * (trial["perplexity"] / perplexity_before - 1), trial["factor"]
    return Dot(trial["LMS"], trial["ICAT"], change, 1.0 if factor is None else factor)


def icat_against_lms(points: Mapping[str, tuple[Interval, Interval]]) -> Figure:
    """Draw each treatment's ICAT against its LMS with 95 % intervals: upper right is best.

    ``points`` are LMS and ICAT of each row, the untouched model first; rows with "random" in their name are grey.
    """
    figure, columns = _figure_with_legend(3.0, points)
    axes = figure.subplots()
    base, *_ = points
    drawn = []  # markers without error bars, for the legend
    for (name, (lms, icat)), (color, marker, hatch) in zip(points.items(), _looks(points), strict=True):
        bars = axes.errorbar(
            lms.value, icat.value, xerr=arms([lms]), yerr=arms([icat]), fmt=marker, color=color,
            markersize=11 if name == base else 6, markeredgewidth=2 if name == base else 1, elinewidth=0.8,
            markerfacecolor="none" if hatch in _HATCHES else color, zorder=3 if name == base else 2,
        )  # fmt: skip
        drawn.append(bars.lines[0])
    _against_lms(axes, *(found.value for found in points[base]))
    style.add_legend(figure, columns, dict(zip(points, drawn, strict=True)))
    return figure


def icat_before_after(icat: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Draw the ICAT of each row as bars with 95 % intervals, grouped by scope.

    ``icat`` maps each row to ICAT by scope ("overall", a domain), the untouched model first; "random" rows are hatched.
    """
    figure, columns = _figure_with_legend(2.7, icat)
    axes = figure.subplots()
    scopes = list(next(iter(icat.values())))
    width = 0.84 / len(icat)
    for number, ((row, of), (color, _, hatch)) in enumerate(zip(icat.items(), _looks(icat), strict=True)):
        places = [place + (number - (len(icat) - 1) / 2) * width for place in range(len(scopes))]
        found = [of[scope] for scope in scopes]
        axes.bar(
            places, [f.value for f in found], 0.9 * width, yerr=arms(found), label=row,
            color=color if number else "none", edgecolor=ink(), linewidth=0 if number else 0.8, hatch=hatch,
            error_kw={"ecolor": ink(), "elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8},
        )  # fmt: skip
    axes.set_xticks(range(len(scopes)), scopes)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 100)
    style.name_axes(axes, "", "ICAT, % (ideal 100)")
    style.add_legend(figure, columns)
    return figure


def _against_lms(axes: Axes, lms: float, icat: float) -> None:
    """Label the axes of a panel, and draw dotted lines through the untouched model's point."""
    axes.axvline(lms, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhline(icat, color=GREY, linewidth=0.8, linestyle=":")
    style.name_axes(axes, "LMS, %", "ICAT, %")


def _figure_with_legend(height: float, names: Collection[str]) -> tuple[Figure, int]:
    """Return a figure with room for a legend, and the legend's number of columns."""
    columns = 2 if max(map(len, names)) <= _LETTERS else 1
    return style.new_figure(height + 0.19 * math.ceil(len(names) / columns)), columns


def _looks(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield each row's colour, marker and hatch: ink for the untouched model, grey for controls."""
    treated, controls = itertools.count(), itertools.count()
    for place, name in enumerate(names):
        if place == 0:
            yield ink(), "+", ""
        elif "random" in name:
            number = next(controls)
            yield GREY, MARKERS[number % len(MARKERS)], _HATCHES[number % len(_HATCHES)]
        else:
            round_, color = divmod(number := next(treated), len(style.COLORS))
            yield (
                style.COLORS[color],
                MARKERS[number % len(MARKERS)],
                _AGAIN[round_ % len(_AGAIN)] or _ALIKE.get(color, ""),
            )


def effects_matrix(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], significant: Flags, own: Flags
) -> Figure:
    """Draw the effect of each row's treatment on each column: gains in blue, losses in orange, with numbers.

    Args:
        rows: names of the treatments.
        columns: names of the measured scopes.
        values: changes in percentage points, ``[row, column]``; NaN if unknown.
        significant: whether the 95 % interval excludes 0, marked with a star.
        own: whether the column is the row's own domain; these cells are framed.
    """
    beside, above = max(map(len, rows)), max(map(len, columns))
    width = max(style.WIDTH, 0.08 * beside + 0.52 * len(columns))
    figure = style.new_figure(1.3 + 0.36 * len(rows), width)
    axes = figure.subplots()
    most = max([abs(value) for row in values for value in row if not math.isnan(value)], default=0.0) or 1.0
    axes.imshow(values, cmap=_LOSS_TO_GAIN.with_extremes(bad="none"), vmin=-most, vmax=most, aspect="auto")
    for (y, row), (x, _) in itertools.product(enumerate(values), enumerate(columns)):
        if not math.isnan(row[x]):
            text = style.signed(row[x], 1 if abs(row[x]) < 10 else 0) + ("*" if significant[y][x] else "")
            weight = "bold" if significant[y][x] else "normal"
            axes.text(x, y, text, ha="center", va="center", fontsize="small", color=_DARK, fontweight=weight)
        if own[y][x]:
            axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=_DARK, linewidth=1.8))
    is_long = above * len(columns) > 14 * width - beside  # a letter is about 1/14 inch wide
    axes.set_xticks(range(len(columns)), columns, fontsize="small", rotation=40 if is_long else 0,
                    ha="left" if is_long else "center", rotation_mode="anchor")  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.supxlabel("* 95 % interval excludes 0\nframed: the domain of the row's own neurons", fontsize="small")
    return figure


def sweep_settings(base: Dot, dots: Sequence[Dot], chosen: Dot) -> Figure:
    """Draw each setting's ICAT against its LMS, coloured by the change of perplexity; the chosen one has a ring."""
    figure = style.new_figure(4.0)
    axes = figure.subplots()
    changes = [dot.perplexity_change for dot in dots]
    low, high = min(0.0, *changes), max(1.0, *changes)
    factors = sorted({dot.factor for dot in dots})
    for number, factor in enumerate(factors):
        lms, icat, colors, _ = zip(*(dot for dot in dots if dot.factor == factor), strict=True)
        marker = MARKERS[number % len(MARKERS)]
        points = axes.scatter(
            lms, icat, c=colors, vmin=low, vmax=high, marker=marker, s=28, cmap="viridis", edgecolors=ink(),
            linewidths=0.5,
        )  # fmt: skip
        axes.scatter([], [], marker=marker, s=28, color=GREY, label=f"×{factor:g}")  # grey in the legend
    axes.scatter(base.lms, base.icat, marker="+", s=120, color=ink(), label="untouched")
    axes.scatter(chosen.lms, chosen.icat, s=160, facecolors="none", edgecolors=RED, linewidths=1.6, label="chosen")
    _against_lms(axes, base.lms, base.icat)
    style.add_color_bar(figure, points, "change of perplexity, %")
    style.add_legend(figure, min(4, len(factors) + 2))
    return figure
