"""Figure of the gap: its change with suppressed and amplified neurons, for each pair."""

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.plots import style
from biaslab.report.plots.style import ink, signed
from biaslab.statistics import Interval

PAPER_SUPPRESSED, PAPER_AMPLIFIED = -23, 29  # mean change of the gap in percent; section 4.3 of the paper
FILE_NAMES = {"gap": "probability", "log gap": "log_probability"}  # of the metrics, in file names and tags
_LINEAR = 100  # percent; larger changes are on a logarithmic scale
_LETTERS = 20  # per line of a pair's name


def gap_scopes(findings: Findings) -> list[str]:
    """Return the pairs of a gap, then the overall scope."""
    return [*(scope for scope in findings.scopes("gap") if "/" in scope), OVERALL]


def gap_bars(findings: Findings, metric: str = "gap") -> Figure:
    """Draw each pair's change of the gap with suppressed, random and amplified neurons.

    ``metric`` is "gap", the paper's, whose mean changes (ICLR 2024, section 4.3) are marked; or "log gap".
    """
    scopes = gap_scopes(findings)
    places, labels = _places(["mean of the pairs" if scope == OVERALL else scope for scope in scopes])
    figure = style.new_figure(1.3 + (0.28 if any("\n" in label for label in labels) else 0.235) * len(labels))
    left, right = figure.subplots(1, 2, sharey=True)
    suppressed, amplified, random = (
        [findings.estimates[row, metric, scope] for scope in scopes] for row in gap_rows(findings)
    )
    means, spreads = [estimate.change.value for estimate in random], [estimate.spread or 0.0 for estimate in random]
    left.errorbar(
        means, [place + 0.27 for place in places], xerr=spreads, fmt="o", color=style.GREY, markersize=3.5,
        elinewidth=1.2, label="random neurons suppressed: mean ± SD over seeds",
    )  # fmt: skip
    left.plot([], [], color=ink(), linewidth=0.9, label="95 % interval over judging words and wordings")
    ends = [mean + sign * spread for mean, spread in zip(means, spreads, strict=True) for sign in (-1, 1)]
    for axes, estimates, others, paper, color, title in (
        (left, suppressed, ends, PAPER_SUPPRESSED, style.BLUE, f"suppressed, × {findings.settings['factor']:g}"),
        (right, amplified, [], PAPER_AMPLIFIED, style.ORANGE, "amplified, × 2"),
    ):
        changes = [estimate.change for estimate in estimates]
        _bars(axes, places, changes, color, title)
        shown = [paper] if metric == "gap" else []
        _change_axis(axes, [*(value for change in changes for value in change), *others, *shown])
        for value in shown:
            axes.axvline(value, color=style.RED, linewidth=1.1, linestyle="--")
            axes.annotate(
                f"paper {signed(value)}", (value, 1), (0, 2), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", va="bottom", fontsize="x-small",
            )  # fmt: skip
    left.set_yticks(range(len(labels)), labels, fontsize="small", linespacing=1.0)
    for place, label in enumerate(left.get_yticklabels()):
        label.set_fontweight("normal" if place in places[:-1] else "bold")
    left.set_ylim(len(labels) - 0.4, -0.6)
    style.add_legend(figure, 1)
    return figure


def _places(pairs: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the place of each pair, and all labels, with a dimension's label above its pairs."""
    places: list[int] = []
    labels: list[str] = []
    for dimension, of_dimension in groupby(pairs, lambda pair: pair.partition("/")[0] if "/" in pair else ""):
        labels += [dimension] if dimension else []
        for pair in of_dimension:
            places.append(len(labels))
            labels.append(fill(pair.removeprefix(f"{dimension}/"), _LETTERS))
    return places, labels


def _bars(axes: Axes, places: Sequence[int], changes: Sequence[Interval], color: str, title: str) -> None:
    """Draw a bar with its interval for each pair, and write its value next to the panel."""
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
    style.name_axes(axes, "change, %", "")
    axes.tick_params(axis="y", length=0)


def _change_axis(axes: Axes, values: Sequence[float]) -> None:
    """Set limits that include all values; use a logarithmic scale if some are far above 100 %."""
    low, high = min(0.0, *values), max(0.0, *values)
    if high <= 3 * _LINEAR:
        margin = 0.05 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        return
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=1.5)
    axes.set_xlim(min(1.5 * low, -0.25 * _LINEAR), 1.5 * high)
    down, up = ([10**power for power in range(2, len(f"{abs(end):.0f}"))] for end in (low, high))
    axes.set_xticks([*(-power for power in down[-1:]), 0, up[-1]])
    axes.set_xticks([*(-power for power in down[:-1]), *up[:-1]], minor=True)
    axes.xaxis.set_major_formatter(
        lambda value, _: (f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:.0f}").replace("-", "−")
    )
