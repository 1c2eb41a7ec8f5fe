"""How figures look, with the ink and background of the caller's rcParams, and how they get into files and pages."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from biaslab.statistics import Interval
from biaslab.store import write_atomically

WIDTH = 4.3  # inches: on a telephone's 360 pixels the smallest letters are still 9 pixels high
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A800")  # Okabe and Ito's
BLUE, ORANGE, RED, GREY = COLORS[0], COLORS[1], COLORS[5], "#8C8C8C"
MARKERS = "osD^vP*X"
_INK = "#000000"  # of nothing but text, axes and intervals: on the page the colour of the text, dark or light
_INKED = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
    "legend.edgecolor", "lines.color", "patch.edgecolor", "hatch.color",
)  # fmt: skip
_PAPER = {"figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff"}
_STYLE: Any = {**dict.fromkeys(_INKED, _INK), **_PAPER, "figure.dpi": 72}
_SALT: Any = {"svg.hashsalt": "biaslab"}  # the same figure has the same ids
_PAGE: Any = _SALT | {"svg.fonttype": "none"}  # letters can be searched, and take the page's typeface


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> None:
    """Write a figure as PNG, SVG (letters as outlines: it looks the same everywhere) and PDF, the same bytes each time.

    ``path`` is that of the files, without a suffix.
    """
    undated: Any = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(_SALT | {"svg.fonttype": "path", "pdf.fonttype": 42}):
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


class Drawing(NamedTuple):
    """A figure of a chapter, which ``draw(*arguments)`` makes; ``svg`` is the page's element, once it is drawn.

    ``name`` is that of its files and its element; ``description`` tells the numbers' gist to those who don't see it.
    """

    name: str
    caption: str
    description: str
    draw: Callable[..., Figure]
    arguments: Sequence[Any]
    svg: Markup = Markup("")

    def drawn(self, folder: Path, key: str) -> Drawing:
        """Return it drawn and named after a chapter's key; its files, SVG and PDF, go into a folder."""
        name = f"{key}-{self.name}"
        with matplotlib.rc_context(_STYLE):
            figure = self.draw(*self.arguments)
            figure.draw_without_rendering()
            figure.set_layout_engine(None)  # it stays as it was laid out: laying it out takes most of the time
            save(figure, folder / name, ("svg", "pdf"))
            with matplotlib.rc_context(_PAGE):
                buffer = io.StringIO()
                figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = inline(buffer.getvalue(), f"figure-{name}", self.caption, self.description)
        return self._replace(name=name, svg=svg)


def inline(svg: str, name: str, title: str, description: str) -> Markup:
    """Return an SVG file as an element of a page: ids after a name, the page's ink, a title and a description.

    >>> svg = '<?xml version="1.0"?><svg width="9pt" height="9pt" viewBox="0 0 9 9"><g id="a" fill="#000000"/></svg>'
    >>> print(inline(svg, "fig", "A < B", "A is 1."))
    <svg viewBox="0 0 9 9" fill="currentColor" role="img" aria-labelledby="fig-title fig-description"><title
    id="fig-title">A &lt; B</title><desc id="fig-description">A is 1.</desc><g id="fig-a" fill="currentColor"/></svg>
    """
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"(<metadata>.*?</metadata>|<!--.*?-->)\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'(?:xlink:)?(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r'font-family: [^;"]*(; )?', "", body.replace(_INK, "currentColor"))
    viewbox = re.search(r'viewBox="[^"]*"', body)
    assert viewbox is not None
    opening = (
        f'<svg {viewbox[0]} fill="currentColor" role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title\nid="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    return Markup(opening + body[body.index(">") + 1 :])
