"""Each command has a page, whose help is the program's and whose output is that of the line that it shows."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress

import pytest
from conftest import main
from doc_pages import PAGES, ROOT, Block, blocks, name_of, shell_lines

from biaslab.cli import COMMANDS

_SPEC = importlib.util.spec_from_file_location("outputs", ROOT / "docs" / "outputs.py")
outputs = importlib.util.module_from_spec(_SPEC)
sys.modules["outputs"] = outputs
_SPEC.loader.exec_module(outputs)


@pytest.mark.parametrize("name", COMMANDS)
def test_it_has_a_page(name):
    page = (PAGES / "commands" / f"{name}.md").read_text()
    assert f'--8<-- "help/{name}.txt"' in page
    assert (f'--8<-- "outputs/{name}.txt"' in page) is (name in outputs.SHOWN)
    assert f"]({name}.md)" in (PAGES / "commands" / "index.md").read_text()


@pytest.mark.skipif(
    sys.version_info[:2] not in ((3, 11), (3, 12)), reason="Python prints options and types in another way"
)
@pytest.mark.parametrize("name", COMMANDS)
def test_its_help_is_up_to_date(name, monkeypatch, capsys):
    """Else run `python docs/outputs.py --help-texts`."""
    monkeypatch.setenv("COLUMNS", "80")
    with suppress(SystemExit):
        main([name, "--help"])
    assert (PAGES / "commands" / "help" / f"{name}.txt").read_text() == outputs.anonymous(capsys.readouterr().out)


@pytest.mark.parametrize("name", outputs.SHOWN)
def test_its_output_is_that_of_the_line_shown(name):
    """Else run `python docs/outputs.py --only NAME`."""
    text = (PAGES / "commands" / "outputs" / f"{name}.txt").read_text()
    shown = [outputs.shlex.split(line) for line in outputs.SHOWN[name].lines]
    assert [list(line.words) for line in shell_lines(Block(name, 1, "console", "", text))] == shown
    assert str(ROOT) not in text


@pytest.mark.parametrize("path", [ROOT / "README.md", PAGES / "index.md", PAGES / "first-steps.md"], ids=name_of)
def test_quoted_output_of_the_demo_is_what_it_prints(path):
    printed = (PAGES / "commands" / "outputs" / "debias.txt").read_text().splitlines()
    quoted = [line for block in blocks(path) if block.language == "text" for line in block.text.splitlines()]
    assert quoted
    assert [line for line in quoted if line not in printed] == []
