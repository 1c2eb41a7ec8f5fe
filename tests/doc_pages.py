"""README and documentation as their tests read them: the code blocks of a page, and the commands in them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
SHELL = ("bash", "console", "shell", "sh", "shell-session")
PYTHON = ("python", "py", "pycon")
DATA = ("yaml", "yml", "json", "toml")
IGNORED = ("text", "bibtex", "csv", "tsv", "html", "latex", "markdown", "md", "mermaid", "diff", "ini")
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)(?P=fence)`* *$", re.M | re.S
)
_SNIPPET = re.compile(r'^ *--8<-- "(.+)"$', re.MULTILINE)
_PROGRAM = re.compile(r"(\$ )?(biaslab [\w-]+( |$)|make |pip |python3? |torchrun |srun |tensorboard |git |cd )")


class Block(NamedTuple):
    """A fenced block: where it starts, its language, its title (a file's name, if it has one), and its text."""

    page: str
    line: int
    language: str
    title: str
    text: str


class Line(NamedTuple):
    """A line of a shell, with its continuations, without its comment."""

    page: str
    line: int
    words: tuple[str, ...]
    written: str = ""  # what `cat > FILE <<EOF` writes

    @property
    def text(self) -> str:
        """The line as it would be typed."""
        return shlex.join(self.words)


def pages() -> list[Path]:
    """Return the README and all pages."""
    return [ROOT / "README.md", *sorted(PAGES.rglob("*.md"))]


def name_of(path: Path) -> str:
    """Return a page's name, as a test is named by it."""
    return str(path.relative_to(PAGES if PAGES in path.parents else ROOT))


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page in order, included texts in place."""
    text = _SNIPPET.sub(_included, path.read_text(encoding="utf-8"))
    found = []
    for match in _FENCE.finditer(text):
        info = match["info"].strip("{} ")
        language = re.match(r"\.?([\w-]*)", info)[1].lower() if "=" not in info.split(" ")[0] else ""
        title = re.search(r'title="([^"]*)"', info)
        body = re.sub(rf"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        if language == "" and _PROGRAM.match(body):
            language = "bash"
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(name_of(path), line, language or "text", title[1] if title else "", body))
    return found


def _included(found: re.Match[str]) -> str:
    for folder in (PAGES / "commands", ROOT):
        if (path := folder / found[1]).is_file():
            return path.read_text(encoding="utf-8").rstrip("\n")
    raise AssertionError(f"{found[1]} is included, but there is no such file")


def shell_lines(block: Block) -> Iterator[Line]:
    """Yield the command lines of a shell block; where some start with a prompt, the others are output."""
    lines = iter(re.sub(r"\\\n *", "", block.text).splitlines())
    prompted = re.search(r"^\$ ", block.text, re.MULTILINE)
    for number, line in enumerate(lines, block.line + 1):
        if prompted and not line.startswith("$ "):
            continue
        if heredoc := re.match(r"cat > (\S+) <<'?(\w+)'?$", line):
            rest = itertools.takewhile(lambda text, end=heredoc[2]: text != end, lines)
            yield Line(block.page, number, ("cat", ">", heredoc[1]), "\n".join(rest) + "\n")
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # a variable for this command
            del words[0]
        if words:
            yield Line(block.page, number, tuple(words))


def every_line() -> list[Line]:
    """Return the command lines of all pages."""
    return [
        line for path in pages() for block in blocks(path) if block.language in SHELL for line in shell_lines(block)
    ]


def model_ids(lines: list[Line]) -> list[str]:
    """Return the hub ids that command lines name as models."""
    found: dict[str, None] = {}
    for line in lines:
        words = list(line.words)
        for before, word in itertools.pairwise(words):
            if before in ("--model", "--model.model_name", "--model.init_args.model_name"):
                found[word] = None
        found |= dict.fromkeys(re.findall(r"(?:--model(?:\.model_name)?|pretrained)=([^,\s]+)", line.text))
        if words[:2] == ["biaslab", "compare"]:
            found |= dict.fromkeys(words[2:4])
    return [name for name in found if is_hub_id(name)]


def is_hub_id(name: str) -> bool:
    """Return whether a name is neither an asset's, nor a file's or a folder's of a run."""
    return (
        name not in ("minilm-mlm", "smollm2-135m", "biaslab", "MODEL", "NAME")
        and bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name))
        and not name.startswith(("runs/", "./"))
        and not name.endswith((".json", ".ckpt", ".txt"))
    )
