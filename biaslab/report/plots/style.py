"""The style of figures (ink and background from rcParams), and how they are written to files and pages."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
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

WIDTH = 4.3  # inches: at 360 px (phones) the smallest letters are still 9 px high
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B3A800")  # Okabe and Ito's
BLUE, ORANGE, RED, GREY = COLORS[0], COLORS[1], COLORS[5], "#8C8C8C"
MARKERS = "osD^vP*X"
_INK = "#000000"  # only for text, axes and intervals; replaced with the page's text colour
_INKED = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
    "legend.edgecolor", "lines.color", "patch.edgecolor", "hatch.color",
)  # fmt: skip
_PAPER = {"figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff"}
_STYLE: Any = {**dict.fromkeys(_INKED, _INK), **_PAPER, "figure.dpi": 72}
_SALT: Any = {"svg.hashsalt": "biaslab"}  # reproducible ids
_PAGE: Any = _SALT | {"svg.fonttype": "none"}  # text is searchable and uses the page's typeface


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> None:
    """Write a figure as PNG, SVG (text as outlines, so it looks the same everywhere) and PDF, reproducibly.

    ``path`` is the files' path without suffix.
    """
    undated: Any = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.rc_context(_SALT | {"svg.fonttype": "path", "pdf.fonttype": 42}):
        for suffix in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=200, metadata=undated[suffix])
            write_atomically(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue())


def ink() -> str:
    """Return the current text colour."""
    return str(matplotlib.rcParams["text.color"])


def arms(found: Sequence[Interval]) -> list[list[float]]:
    """Return the error bars of intervals, at least 0: a mean over seeds may lie outside its interval."""
    return [[max(0.0, f.value - f.low) for f in found], [max(0.0, f.high - f.value) for f in found]]


def signed(value: float, digits: int = 0) -> str:
    """Return a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def add_color_bar(figure: Figure, colored: ScalarMappable, label: str) -> None:
    """Add a colour bar above the panel."""
    bar = figure.colorbar(colored, location="top", aspect=40)
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="small")


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Label both axes in small type."""
    axes.set_xlabel(x, fontsize="small")
    axes.set_ylabel(y, fontsize="small")
    axes.tick_params(labelsize="small")


def add_legend(figure: Figure, columns: int, handles: Mapping[str, Any] | None = None) -> None:
    """Add a legend below all panels: of what has a label, or of these handles by label."""
    given: Any = {} if handles is None else {"handles": list(handles.values()), "labels": list(handles)}
    figure.legend(loc="outside lower center", ncols=columns, fontsize="small", frameon=False, **given)


class Drawing(NamedTuple):
    """A figure of a chapter, made by ``draw(*arguments)``; ``svg`` is the page's element once it is drawn.

    ``name`` is the name of its files and element; ``description`` summarizes the numbers for screen readers.
    """

    name: str
    caption: str
    description: str
    draw: Callable[..., Figure]
    arguments: Sequence[Any]
    svg: Markup = Markup("")

    def drawn(self, folder: Path, key: str) -> Drawing:
        """Draw it, prefix its name with a chapter's key, and write it as SVG and PDF to a folder."""
        name = f"{key}-{self.name}"
        with matplotlib.rc_context(_STYLE):
            figure = self.draw(*self.arguments)
            figure.draw_without_rendering()
            figure.set_layout_engine(None)  # keep the layout: computing it takes most of the time
            save(figure, folder / name, ("svg", "pdf"))
            with matplotlib.rc_context(_PAGE):
                buffer = io.StringIO()
                figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = inline(buffer.getvalue(), f"figure-{name}", self.caption, self.description)
        return self._replace(name=name, svg=svg)


def inline(svg: str, name: str, title: str, description: str) -> Markup:
    """Return an SVG file as a page element, with prefixed ids, the page's text colour, a title and a description.

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
