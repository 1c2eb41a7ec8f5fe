"""Figure of the gap: how it changes with suppressed and with amplified neurons, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.plots.style import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    add_legend,
    ink,
    name_axes,
    new_figure,
    signed,
    write_above,
)
from biaslab.statistics import Interval

PAPER_SUPPRESSED, PAPER_AMPLIFIED = -23, 29  # mean change of the gap in percent; section 4.3 of the paper
FILE_NAMES = {"gap": "probability", "log gap": "log_probability"}  # of the metrics, in names of files and tags
_LINEAR = 100  # percent up to which a change is drawn in proportion; beyond, its logarithm
_LETTERS = 20  # of a pair's name on a line


def gap_scopes(findings: Findings) -> list[str]:
    """Return the pairs of a gap, and last all of them."""
    return [*(scope for scope in findings.scopes("gap") if "/" in scope), OVERALL]


def gap_bars(findings: Findings, metric: str = "gap") -> Figure:
    """Draw how each pair's gap changes when the neurons are suppressed, with random ones beside, and when amplified.

    Args:
        findings: of a debias run.
        metric: "gap", the paper's, whose mean changes are marked; or "log gap".

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 4.3.
    """
    scopes, is_paper = gap_scopes(findings), metric == "gap"
    places, labels = _places(["mean of the pairs" if scope == OVERALL else scope for scope in scopes])
    has_two_lines = any("\n" in label for label in labels)
    figure = new_figure(1.3 + (0.28 if has_two_lines else 0.235) * len(labels))
    left, right = figure.subplots(1, 2, sharey=True)
    of_rows = [[findings.estimates[row, metric, scope] for scope in scopes] for row in gap_rows(findings)]
    suppressed, amplified, controls = ([estimate.change for estimate in estimates] for estimates in of_rows)
    random, spread = [change.value for change in controls], [estimate.spread or 0.0 for estimate in of_rows[2]]
    left.errorbar(
        random, [place + 0.27 for place in places], xerr=spread, fmt="o", color=GREY, markersize=3.5, elinewidth=1.2,
        label="random neurons, suppressed: mean ± spread over seeds",
    )  # fmt: skip
    left.plot([], [], color=ink(), linewidth=0.9, label="95 % interval over judging words and wordings")
    ends = [mean + sign * width for mean, width in zip(random, spread, strict=True) for sign in (-1, 1)]
    _bars(left, places, suppressed, BLUE, f"suppressed, × {findings.settings['factor']:g}")
    _bars(right, places, amplified, ORANGE, "amplified, × 2")
    for axes, changes, others, paper in (
        (left, suppressed, ends, PAPER_SUPPRESSED),
        (right, amplified, [], PAPER_AMPLIFIED),
    ):
        values = [value for change in changes for value in change]
        _change_axis(axes, [*values, *others, paper] if is_paper else [*values, *others])
        if is_paper:
            axes.axvline(paper, color=RED, linewidth=1.1, linestyle="--")
            write_above(axes, paper, f"paper {signed(paper)}")
    left.set_yticks(range(len(labels)), labels, fontsize="small", linespacing=1.0)
    for place, label in enumerate(left.get_yticklabels()):
        label.set_fontweight("normal" if place in places[:-1] else "bold")
    left.set_ylim(len(labels) - 0.4, -0.6)
    add_legend(figure, 1)
    return figure


def _places(pairs: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the place of each pair, and the label of each place: dimensions have one above their pairs."""
    places: list[int] = []
    labels: list[str] = []
    dimension = ""
    for pair in pairs:
        head, slash, demographics = pair.partition("/")
        if slash and head != dimension:
            labels.append(head)
            dimension = head
        places.append(len(labels))
        labels.append(fill(demographics or pair, _LETTERS))
    return places, labels


def _bars(axes: Axes, places: Sequence[int], changes: Sequence[Interval], color: str, title: str) -> None:
    """Draw a bar a pair with its interval, and write its number beside the panel."""
    heights = [place - 0.19 for place in places]
    bars = axes.barh(heights, [change.value for change in changes], height=0.42, color=color)
    for bar, height, change in zip(bars, heights, changes, strict=True):
        axes.plot(change[1:], (height, height), color=ink(), linewidth=0.9, solid_capstyle="butt")
        axes.annotate(
            signed(change.value), (1, bar.get_y() + bar.get_height() / 2), (3, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize="x-small",
        )  # fmt: skip
    axes.axvline(0, color=ink(), linewidth=0.8)
    axes.set_title(title, fontsize="small", pad=16)
    name_axes(axes, "change, %", "")
    axes.tick_params(axis="y", length=0)


def _change_axis(axes: Axes, values: Sequence[float]) -> None:
    """Make room for all values; those far above 100 % go up a logarithmic scale."""
    low, high = min(0.0, *values), max(0.0, *values)
    if high <= 3 * _LINEAR:
        margin = 0.05 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        return
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.5)
    axes.set_xlim(min(1.5 * low, -0.25 * _LINEAR), 1.5 * high)
    down, up = [-power for power in _powers(-low)], _powers(high)
    axes.set_xticks([*down[-1:], 0, up[-1]])
    axes.set_xticks([*down[:-1], *up[:-1]], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))


def _powers(end: float) -> list[int]:
    """Return the powers of ten on the logarithmic part of an axis."""
    return [10**power for power in range(2, len(f"{end:.0f}"))] if end > 0 else []


def _short(value: float) -> str:
    return (f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.0f}").replace("-", "−")
