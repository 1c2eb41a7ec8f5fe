"""What docs/hooks.py and docs/docstrings.py make of notebooks, formulas and docstrings; needs the extra `docs`."""

from __future__ import annotations

import importlib.util

import pytest
from doc_pages import ROOT

for package in ("mkdocs", "latex2mathml", "griffe"):
    pytest.importorskip(package, reason="the extra docs is not installed")


def module(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_notebook_keeps_its_text_code_and_outputs():
    outputs = [
        {"output_type": "stream", "text": ["one\n", "\x1b[31mtwo\x1b[0m\n"]},
        {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": ["<Figure>"]}},
        {"output_type": "execute_result", "data": {"text/html": ["<b>three</b>"], "text/plain": ["four"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text."]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": outputs},
        {"cell_type": "code", "source": "", "outputs": []},
    ]
    text = module("hooks").page_of({"cells": cells}, "one.ipynb")
    assert text.startswith("# Title\n\nText.\n\n[Download this notebook](one.ipynb)")
    assert "```python\nprint(1)\n```\n\n```{ .text .output .no-copy }\none\ntwo\n```" in text
    assert 'alt="&lt;Figure&gt;" src="data:image/png;base64,QUJD"' in text
    assert "<b>three</b>" in text
    assert "four" not in text


@pytest.mark.parametrize(("tag", "ends", "display"), [("span", "()", "inline"), ("div", "[]", "block")])
def test_a_formula_becomes_mathml(tag, ends, display):
    formula = f"\\{ends[0]}a &lt; b_1\\{ends[1]}"
    html = module("hooks").on_page_content(f'<{tag} class="arithmatex">{formula}</{tag}> and text')
    assert html.startswith(f'<{tag} class="formula"><math aria-label="a &lt; b_1"')
    assert f'display="{display}"' in html
    assert "<mo>&#x0003C;</mo>" in html
    assert html.endswith(f"</math></{tag}> and text")


def test_docstrings_become_markdown():
    text = "See :func:`~a.b.name` and :class:`Own`.\n\n.. math:: x = 1\n\n>>> 1 + 1\n2\n>>> 2\n2"
    assert module("docstrings").markdown(text, "here") == (
        'See <autoref optional identifier="a.b.name"><code>name</code></autoref> and '
        '<autoref optional identifier="here.Own"><code>Own</code></autoref>.\n\n'
        "$$x = 1$$\n\n```pycon\n>>> 1 + 1\n2\n>>> 2\n2\n```"
    )
