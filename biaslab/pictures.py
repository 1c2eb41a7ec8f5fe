"""Figures, drawn by matplotlib without a screen: ink and background are those of the caller's rcParams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from biaslab.figure_style import (
    BLUE,
    COLORS,
    GREY,
    MARKERS,
    ORANGE,
    RED,
    WIDTH,
    add_color_bar,
    add_legend,
    arms,
    draw_cross,
    ink,
    name_axes,
    new_figure,
    signed,
    write_above,
)
from biaslab.metrics.stereoset import Interval

PAPER_SUPPRESSED, PAPER_AMPLIFIED = -23, 29  # mean change of the gap in percent; section 4.3 of the paper
_LINEAR = 100  # percent up to which a change is drawn in proportion; beyond, its logarithm
_LETTER = 0.06  # of a panel's width
_DARK = "#1A1A1A"  # of letters on the cells of a matrix, which are light on any page
_LOSS_TO_GAIN = LinearSegmentedColormap.from_list("loss to gain", ["#E8873A", "#F4F2EE", "#5DA5DA"])
_OWN = 1.8  # points: the frame around what neurons were chosen for


class Dot(NamedTuple):
    """A setting of a sweep.

    Attributes:
        lms: in percent.
        icat: in percent.
        perplexity_change: in percent.
        factor: what the neurons are multiplied by.
    """

    lms: float
    icat: float
    perplexity_change: float
    factor: float


def gap_bars(rows: Sequence[Mapping[str, Any]], field: str = "probability") -> Figure:
    """Draw how each pair's gap changes when the neurons are suppressed, with random ones beside, and when amplified.

    Args:
        rows: a row a pair and last their mean, as :meth:`biaslab.results.Outcome.gap_rows` makes them.
        field: "probability", the paper's gap, whose mean changes are marked; or "log_probability".

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 4.3.
    """
    places, labels = _gap_places([row["pair"] for row in rows])
    figure = new_figure(1.3 + 0.235 * len(labels))
    left, right = figure.subplots(1, 2, sharey=True)
    own = [place - 0.19 for place in places]
    suppressed, amplified = ([row[f"{field}_{how}_percent"] for row in rows] for how in ("suppressed", "amplified"))
    random, spread = ([row[f"{field}_random_{what}"] for row in rows] for what in ("percent", "spread"))
    _bars(left, own, suppressed, BLUE)
    _bars(right, own, amplified, ORANGE)
    left.errorbar(
        random, [place + 0.27 for place in places], xerr=spread, fmt="o", color=GREY, markersize=3.5, elinewidth=1.2,
        label="random neurons, suppressed: mean ± spread over seeds",
    )  # fmt: skip
    ends = [mean + sign * width for mean, width in zip(random, spread, strict=True) for sign in (-1, 1)]
    marks = [PAPER_SUPPRESSED, PAPER_AMPLIFIED] if field == "probability" else [0, 0]
    _change_axis(left, [*suppressed, *ends, marks[0]])
    _change_axis(right, [*amplified, marks[1]])
    for axes, title, paper in zip((left, right), ("suppressed, × 0", "amplified, × 2"), marks, strict=True):
        axes.axvline(0, color=ink(), linewidth=0.8)
        axes.set_title(title, fontsize="medium", pad=16)
        name_axes(axes, "change of the gap, %", "")
        axes.tick_params(axis="y", length=0)
        if paper:
            axes.axvline(paper, color=RED, linewidth=1.1, linestyle="--")
            write_above(axes, paper, f"paper {signed(paper)}")
    left.set_yticks(list(labels), list(labels.values()), fontsize="small")
    for place, label in zip(labels, left.get_yticklabels(), strict=True):
        label.set_fontweight("normal" if place in places[:-1] else "bold")
    left.set_ylim(max(labels) + 0.6, -0.6)
    add_legend(figure, 1)
    return figure


def _gap_places(pairs: Sequence[str]) -> tuple[list[int], dict[int, str]]:
    """Return the place of each pair, and the label of each place: dimensions have one above their pairs."""
    places: list[int] = []
    labels: dict[int, str] = {}
    dimension = ""
    for pair in pairs:
        head, slash, demographics = pair.partition("/")
        if slash and head != dimension:
            labels[len(labels)] = dimension = head
        places.append(len(labels))
        labels[len(labels)] = demographics or pair
    return places, labels


def _bars(axes: Axes, places: Sequence[float], values: Sequence[float], color: str) -> None:
    axes.barh(places, values, height=0.42, color=color)
    for place, value in zip(places, values, strict=True):
        side, shift = ("left", 2) if value >= 0 else ("right", -2)
        axes.annotate(
            signed(value), (value, place), (shift, 0), textcoords="offset points", ha=side, va="center",
            fontsize="x-small",
        )  # fmt: skip


def _change_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make room for all values and their labels; values far above 100 % go up a logarithmic scale."""
    low, high = min(0.0, *values), max(0.0, *values)
    if high <= 3 * _LINEAR:
        left, right = (_LETTER * len(signed(end)) * (end != 0) for end in (low, high))
        width = (high - low) / (1 - left - right) or 1.0
        axes.set_xlim(low - left * width, high + right * width)
        return
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=0.8)
    low = 2 * low if low < -_LINEAR else min(2 * low, -0.25 * _LINEAR)
    decades = 0.8 * (1 + min(1.0, -low / _LINEAR)) + math.log10(high / _LINEAR)
    share = _LETTER * len(signed(high))
    axes.set_xlim(low, high * 10 ** (share / (1 - share) * decades))
    powers = [10**power for power in range(2, math.floor(math.log10(high)) + 1)]
    axes.set_xticks([-_LINEAR, 0, *powers] if low < -_LINEAR else [0, *powers], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:.0f}".replace("-", "−")


def layer_distribution(counts: Mapping[str, Sequence[int]]) -> Figure:
    """Draw how many neurons of each set lie in each layer: a panel a set, on the same scale.

    Args:
        counts: of each named set, from the first layer on.
    """
    figure = new_figure(0.5 + 1.15 * len(counts))
    panels = figure.subplots(len(counts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (name, of) in zip(panels, counts.items(), strict=True):
        bars = axes.bar(range(len(of)), of, color=BLUE)
        if len(of) <= 16:
            axes.bar_label(bars, fontsize="x-small", padding=1)
        axes.set_title(f"{name}: {sum(of)} neurons", fontsize="small", loc="left")
        axes.margins(y=0.25)
        axes.tick_params(labelsize="small")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("layer", fontsize="small")
    figure.supylabel("neurons", fontsize="small")
    return figure


def score_heat_map(scores: Tensor, ranks: int = 50) -> Figure:
    """Draw the largest attribution scores of each layer, by rank.

    Args:
        scores: of each neuron, ``[layer, neuron]``.
        ranks: how many of each layer.
    """
    ranks = min(ranks, scores.shape[1])
    largest = scores.detach().float().cpu().topk(ranks, dim=1).values
    layers = len(largest)
    norm = PowerNorm(0.5, vmin=min(0.0, float(largest.min())), vmax=float(largest.max().clamp_min(1e-12)))
    figure = new_figure(1.5 + min(3.5, 0.25 * layers))
    axes = figure.subplots()
    image = axes.imshow(
        largest.numpy(), aspect="auto", origin="lower", cmap="viridis", interpolation="nearest",
        norm=norm,
        extent=(0.5, ranks + 0.5, -0.5, layers - 0.5),
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, "rank within the layer", "layer")
    add_color_bar(figure, image, "attribution score (colours go with its square root)")
    figure.axes[-1].set_xticks([float(norm.inverse(part)) for part in (0, 0.25, 0.5, 0.75, 1)])
    figure.axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    return figure


def icat_against_lms(points: Mapping[str, tuple[Interval, Interval]]) -> Figure:
    """Draw each treatment's ICAT against its LMS with 95 % intervals: upper right is best.

    Args:
        points: LMS and ICAT of each, the untouched model first; names with "random" are of controls, which are grey.
    """
    figure = new_figure(3.0 + 0.19 * math.ceil(len(points) / 2))
    axes = figure.subplots()
    treated = [name for name in list(points)[1:] if "random" not in name]
    controls = [name for name in list(points)[1:] if "random" in name]
    for place, (name, (lms, icat)) in enumerate(points.items()):
        if place == 0:
            draw_cross(axes, lms.value, icat.value)
            color, marker = ink(), "+"
        elif name in controls:
            color, marker = GREY, MARKERS[controls.index(name) % len(MARKERS)]
        else:
            number = treated.index(name)
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        axes.errorbar(
            lms.value, icat.value, xerr=arms([lms]), yerr=arms([icat]), fmt=marker, color=color, label=name,
            markersize=11 if place == 0 else 6, markeredgewidth=2 if place == 0 else 1, elinewidth=0.8,
            markerfacecolor="none" if name in controls else color, zorder=3 if place == 0 else 2,
        )  # fmt: skip
    name_axes(axes, "LMS, %", "ICAT, %")
    add_legend(figure, 2)
    return figure


def icat_before_after(icat: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Draw the ICAT of each row as bars with 95 % intervals, side by side in each scope.

    Args:
        icat: of each row by scope ("overall", a domain), the untouched model first; rows with "random" are hatched.
    """
    figure = new_figure(2.7 + 0.19 * math.ceil(len(icat) / 2))
    axes = figure.subplots()
    scopes = list(next(iter(icat.values())))
    width, colors = 0.84 / len(icat), iter(COLORS * len(icat))
    for number, (row, of) in enumerate(icat.items()):
        is_grey = number == 0 or "random" in row
        places = [place + (number - (len(icat) - 1) / 2) * width for place in range(len(scopes))]
        found = [of[scope] for scope in scopes]
        axes.bar(
            places, [f.value for f in found], 0.9 * width, yerr=arms(found), label=row,
            color=GREY if is_grey else next(colors), hatch="///" if "random" in row else None,
            error_kw={"ecolor": ink(), "elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8},
        )  # fmt: skip
    axes.set_xticks(range(len(scopes)), scopes)
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 100)
    name_axes(axes, "", "ICAT, % (ideal 100)")
    add_legend(figure, 2)
    return figure


def effects_matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float]],
    significant: Sequence[Sequence[bool]],
    own: Sequence[Sequence[bool]],
) -> Figure:
    """Draw what each row's treatment does to each column: a gain is blue, a loss orange, and a cell holds its number.

    Args:
        rows: names of the treatments.
        columns: names of what was measured.
        values: changes in percentage points, ``[row, column]``; NaN for none.
        significant: whether the 95 % interval is away from 0, which a star marks, ``[row, column]``.
        own: whether the column is what the row's neurons were chosen for; these cells are framed, ``[row, column]``.
    """
    figure = new_figure(1.3 + 0.36 * len(rows), max(WIDTH, 1.6 + 0.52 * len(columns)))
    axes = figure.subplots()
    most = max([abs(value) for row in values for value in row if not math.isnan(value)], default=0.0) or 1.0
    colors: Colormap = _LOSS_TO_GAIN.with_extremes(bad="none")
    axes.imshow(values, cmap=colors, vmin=-most, vmax=most, aspect="auto")
    for y, (cells, told, framed) in enumerate(zip(values, significant, own, strict=True)):
        for x, value in enumerate(cells):
            if not math.isnan(value):
                text = signed(value, 1 if abs(value) < 10 else 0) + ("*" if told[x] else "")
                weight = "bold" if told[x] else "normal"
                axes.text(x, y, text, ha="center", va="center", fontsize="small", color=_DARK, fontweight=weight)
            if framed[x]:
                axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=_DARK, linewidth=_OWN))
    is_long = max(map(len, columns)) * len(columns) > 44
    axes.set_xticks(range(len(columns)), columns, fontsize="small", rotation=40 if is_long else 0,
                    ha="left" if is_long else "center", rotation_mode="anchor")  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.supxlabel("* 95 % interval away from 0\nframed: what the row's neurons were chosen for", fontsize="small")
    return figure


def sweep_settings(base: Dot, dots: Sequence[Dot], chosen: Dot) -> Figure:
    """Draw each setting's ICAT against its LMS, coloured by the change of perplexity.

    Args:
        base: the untouched model.
        dots: the settings.
        chosen: one of them, ringed.
    """
    figure = new_figure(4.0)
    axes = figure.subplots()
    changes = [dot.perplexity_change for dot in dots]
    low, high = min(0.0, *changes), max(1.0, *changes)
    factors = sorted({dot.factor for dot in dots})
    for number, factor in enumerate(factors):
        own = [dot for dot in dots if dot.factor == factor]
        points = axes.scatter(
            [dot.lms for dot in own], [dot.icat for dot in own], c=[dot.perplexity_change for dot in own], vmin=low,
            vmax=high, marker=MARKERS[number % len(MARKERS)], s=28, cmap="viridis", label=f"×{factor:g}",
        )  # fmt: skip
    axes.scatter(base.lms, base.icat, marker="+", s=120, color=ink(), label="untouched")
    axes.scatter(chosen.lms, chosen.icat, s=160, facecolors="none", edgecolors=RED, linewidths=1.6, label="chosen")
    draw_cross(axes, base.lms, base.icat)
    name_axes(axes, "LMS, %", "ICAT, %")
    add_color_bar(figure, points, "change of perplexity, %")
    add_legend(figure, min(4, len(factors) + 2))
    return figure
