"""What users read is plain technical English: no string of the package and no page has a phrase of the old tone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "biaslab").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_NOUNS = "batch|candidate|dimension|epoch|group|kind|layer|line|page|pair|process|prompt|seed|sentence|word"
_THINGS = "adapter|checkpoint|file|folder|integer|JSON|list|mapping|mask|model|name|neuron|number|object|text"
# A pattern, and what to write instead.
OLD = {
    r"(can't|cannot|can not) be told from": "not significant (95 % CI includes 0)",
    r"(is|are) told (by|from)": "depends on, follows from",
    r"(is|are) none of|is none (here|of the other's)": "is not one of",
    r"a neuron of one": "neuron indices do not correspond between these models",
    r"random deals?|(is|are|was|were) dealt|dealt out": "by chance (permutation test), split across",
    r"anew": "again",
    r"(lie|lies|lying) (in|beside|there)(?! [\[(])": "is in, are in, is stored in",
    r"(prompts|neurons|file) of this very|th(is|e|ese) very (file|model|neurons|prompts|run|search|weights)": "this",
    r"go(es)? on from (here|there)": "run the same command to resume",
    r"(is|are) done again": "is recomputed",
    r"(sizes|size) need not": "compare directions, not magnitudes",
    r"(isn't|is not) shown that": "not significant",
    r"so many(-th)?": "at most N, the first N, every N-th",
    r"bring a (model|data set)": "download",
    r"(is|are) not there any ?more": "no longer exists",
    r"that it was moved to": "the new path",
    r"of each only what": "only what matters to each",
    r"(can|could|can't|cannot) be had": "is available",
    r"(is|are|was|were) asked of": "is evaluated on",
    r"in turn of each": "alternating between",
    r"of (its|their|\w+'s?) form": "in its format",
    r"of like (length|size)": "of similar length",
    r"own matter": "internal",
    r"(its|their) kin": "similar",
    r"gives? (it|them) free": "releases",
    r"stands? instead": "replaces",
    r"bears? (its|the|their|whose) name|name it bears": "is named after",
    r"ha(s|ve) no room for": "does not fit in",
    rf"(neurons|passages|sentences|tokens|words) an? ({_NOUNS})": "per",
    rf"one an? ({_NOUNS})": "one per",
    rf"(?<!there\s)(is|are) no ({_THINGS})s?": "is not a",
}  # fmt: skip
PATTERN = re.compile("|".join(rf"\b(?:{pattern})\b".replace(" ", r"\s+") for pattern in OLD), re.IGNORECASE)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module with the numbers of their lines; fields of an f-string become "{}"."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.JoinedStr):
            yield child.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in child.values)
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, child.value
        else:
            yield from texts(child)


def faults(path: Path) -> list[str]:
    content = path.read_text(encoding="utf-8")
    found = texts(ast.parse(content)) if path.suffix == ".py" else [(1, content)]
    return [
        f"{path.relative_to(ROOT)}:{line + text.count(chr(10), 0, match.start())}: {' '.join(match[0].split())!r}"
        for line, text in found
        for match in PATTERN.finditer(text)
    ]


@pytest.mark.parametrize("folder", sorted({path.relative_to(ROOT).parent.as_posix() for path in SOURCES}))
def test_strings(folder):
    assert [fault for path in SOURCES if path.parent == ROOT / folder for fault in faults(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages(page):
    assert faults(page) == []


@pytest.mark.parametrize(
    "text",
    ["only the first so many pairs", "a change that can't be\n    told from none", "Everything lies in runs/a",
     "to search anew, remove it", "it isn't shown that the choice matters", "neurons a layer", "it is no text"],
)  # fmt: skip
def test_old_phrases_are_found(text):
    assert PATTERN.search(text)


@pytest.mark.parametrize(
    "text", ["a share that lies in [0, 1]", "there is no file", "so that many", "neurons per layer", "plain text"]
)
def test_plain_ones_are_not(text):
    assert not PATTERN.search(text)
