"""What mkdocs does for these pages besides its plugins: formulas as MathML, and notebooks as pages."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TUTORIALS = "tutorials/"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, with the outputs that it was committed with."""
    for file in list(files):
        if file.src_uri.startswith(TUTORIALS) and file.src_uri.endswith(".ipynb"):
            name = Path(file.src_uri).stem
            text = page_of(json.loads(file.content_string), f"{name}.ipynb")
            files.append(File.generated(config, f"{TUTORIALS}{name}.md", content=text))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Turn each formula into MathML, which browsers draw without scripts or a network."""
    return _FORMULA.sub(lambda found: _mathml(found[2], found[1]), content)


def _mathml(formula: str, tag: str) -> str:
    display = "block" if tag == "div" else "inline"
    formula = html.unescape(formula).strip()
    math = convert(formula, display=display).replace("<math ", f'<math aria-label="{html.escape(formula)}" ', 1)
    return f'<{tag} class="formula">{math}</{tag}>'


def page_of(notebook: dict[str, Any], name: str) -> str:
    """Return a notebook as Markdown: its text, code, and kept outputs."""
    cells = [_cell(cell) for cell in notebook["cells"]]
    link = f"[Download this notebook]({name}){{ download }}"
    return "\n\n".join([cells[0], link, *cells[1:]]) + "\n"


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"]).strip("\n")
    if cell["cell_type"] == "markdown":
        return source
    if cell["cell_type"] != "code" or not source:
        return ""
    language = "bash" if source.startswith(("%%bash", "!")) else "python"
    return "\n\n".join([_fenced(source, language), *filter(None, map(_output, cell["outputs"]))])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        encoded = "".join(data["image/png"]).replace("\n", "")
        alternative = html.escape("".join(data.get("text/plain", ["plot"])))
        return f'<p><img alt="{alternative}" src="data:image/png;base64,{encoded}"></p>'
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    text = "".join(output.get("text") or data.get("text/plain") or output.get("traceback") or [])
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).strip("\n")
    return _fenced(text, "{ .text .output .no-copy }") if text else ""


def _fenced(text: str, language: str) -> str:
    fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall(r"`{3,}", text))])
    return f"{fence}{language}\n{text}\n{fence}"
