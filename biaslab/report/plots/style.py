"""How figures look: their size, colours, letters and files; ink and background are those of the caller's rcParams."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from biaslab.statistics import Interval
from biaslab.store import write_atomically

WIDTH = 4.3  # inches: on a telephone's 360 pixels the smallest letters are still 9 pixels high
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A800")  # Okabe and Ito's
BLUE, ORANGE, RED, GREY = COLORS[0], COLORS[1], COLORS[5], "#8C8C8C"
MARKERS = "osD^vP*X"


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> None:
    """Write a figure as PNG, SVG (letters as outlines: it looks the same everywhere) and PDF, the same bytes each time.

    ``path`` is that of the files, without a suffix.
    """
    fonts: Any = {"svg.fonttype": "path", "svg.hashsalt": "biaslab", "pdf.fonttype": 42}
    undated: Any = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(fonts):
        for suffix in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=200, metadata=undated[suffix])
            write_atomically(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue())


def ink() -> str:
    """Return the colour of the caller's letters."""
    return str(matplotlib.rcParams["text.color"])


def arms(found: Sequence[Interval]) -> list[list[float]]:
    """Return how far the intervals reach down and up; a mean over seeds may lie outside of its interval."""
    return [[max(0.0, f.value - f.low) for f in found], [max(0.0, f.high - f.value) for f in found]]


def signed(value: float, digits: int = 0) -> str:
    """Return a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def draw_cross(axes: Axes, x: float, y: float) -> None:
    """Draw dotted lines through a point."""
    axes.axvline(x, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhline(y, color=GREY, linewidth=0.8, linestyle=":")


def add_color_bar(figure: Figure, colored: ScalarMappable, label: str) -> None:
    """Add the scale of colours, above the panel."""
    bar = figure.colorbar(colored, location="top", aspect=40)
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="small")


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Name both axes, and make their letters small."""
    axes.set_xlabel(x, fontsize="small")
    axes.set_ylabel(y, fontsize="small")
    axes.tick_params(labelsize="small")


def add_legend(figure: Figure, columns: int) -> None:
    """Add the legend, below all panels."""
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
