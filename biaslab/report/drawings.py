"""Plots in a report, drawn once each: for the page as SVG that takes its ink, for papers as SVG and PDF."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # nobody draws in it: on the page it becomes the colour of the text, dark or light
_INKED = (
    "text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color", "grid.color",
    "legend.edgecolor", "lines.color", "patch.edgecolor", "hatch.color", "boxplot.flierprops.color",
)  # fmt: skip
_PAGE: Any = {
    **dict.fromkeys(_INKED, _INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
    "grid.alpha": 0.25,
    "legend.framealpha": 0.0,
    "svg.fonttype": "none",  # letters stay letters: they can be searched, and take the page's typeface
    "svg.hashsalt": "biaslab",  # the same figure has the same ids
}


class Drawing(NamedTuple):
    """A plot of the page: the name of its files and its element, its caption, and its SVG."""

    name: str
    caption: str
    svg: Markup


def drawing(
    folder: Path, name: str, caption: str, description: str, draw: Callable[..., Figure], *arguments: Any
) -> Drawing:
    """Draw a plot for the page, and write it as SVG and PDF for papers.

    Args:
        folder: of the files.
        name: of the files and of the element; no other plot of the page has it.
        caption: one sentence, which says what is shown.
        description: the numbers' gist in words, for those who don't see the plot.
        draw: makes the plot.
        arguments: of it.
    """
    import matplotlib

    from biaslab.report.plots.style import save

    with matplotlib.rc_context(_PAGE):
        plot = draw(*arguments)
        save(plot, folder / name, ("svg", "pdf"))
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Drawing(name, caption, inline(buffer.getvalue(), f"figure-{name}", caption, description))


def inline(svg: str, name: str, title: str, description: str) -> Markup:
    """Return an SVG file as an element of a page: own ids, the page's ink, a title and a description.

    Args:
        svg: what matplotlib wrote.
        name: goes before each id.
        title: for those who don't see it.
        description: the numbers' gist.

    >>> svg = '<?xml version="1.0"?><svg width="9pt" height="9pt" viewBox="0 0 9 9"><g id="a" fill="#010203"/></svg>'
    >>> print(inline(svg, "fig", "A < B", "A is 1."))
    <svg viewBox="0 0 9 9" role="img" aria-labelledby="fig-title fig-description"><title
    id="fig-title">A &lt; B</title><desc id="fig-description">A is 1.</desc><g id="fig-a" fill="currentColor"/></svg>
    """
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = body.replace(_INK, "currentColor")
    body = re.sub(r"font-family: [^;]*; ", "", body)
    viewbox = re.search(r'viewBox="[^"]*"', body)
    assert viewbox is not None
    opening = (
        f'<svg {viewbox[0]} role="img" aria-labelledby="{name}-title {name}-description">'
        f'<title\nid="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    return Markup(opening + body[body.index(">") + 1 :])
