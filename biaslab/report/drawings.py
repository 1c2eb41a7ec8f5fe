"""Figures in a report, each drawn once: as files for papers, and for the page as SVG that takes its colour of text."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from biaslab.report.plots.style import save

_INK = "#000000"  # of nothing but text, axes and intervals: on the page the colour of the text, dark or light
_INKED = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color",
    "legend.edgecolor", "lines.color", "patch.edgecolor", "hatch.color",
)  # fmt: skip
_FACES = ("figure.facecolor", "axes.facecolor")
_STYLE: Any = {**dict.fromkeys(_INKED, _INK), **dict.fromkeys(_FACES, "#ffffff"), "figure.dpi": 72}
_PAGE: Any = {
    "svg.fonttype": "none",  # letters stay letters: they can be searched, and take the page's typeface
    "svg.hashsalt": "biaslab",  # the same figure has the same ids
}


class Drawing(NamedTuple):
    """A figure of a page.

    Attributes:
        name: of its files and its element; no other figure of the page has it.
        caption: one sentence, which says what is shown.
        description: the numbers' gist in words, for those who don't see the figure.
        draw: makes the figure.
        arguments: of it.
        svg: the page's element, once it is drawn.
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
