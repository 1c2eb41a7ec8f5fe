"""Docstrings as mkdocs takes them: Sphinx' roles become links, its formulas and doctests Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([\w.]+)`")
_MATH = re.compile(r"^\.\. math::\s+(.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1(?!>>> *$)\S.*|\n\1 +\S.*)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj.module.path)


def markdown(text: str, module: str) -> str:
    """Return a docstring with its links, formulas and doctests in Markdown; names without a dot are the module's."""

    def link(found: re.Match[str]) -> str:
        path = found[1] if "." in found[1] else f"{module}.{found[1]}"
        return f'<autoref optional identifier="{path}"><code>{found[1].rpartition(".")[2]}</code></autoref>'

    def fenced(found: re.Match[str]) -> str:
        return f"{found[1]}```pycon\n{found[0]}\n{found[1]}```"

    return _MATH.sub(r"$$\1$$", _ROLE.sub(link, _DOCTEST.sub(fenced, text)))
