"""What the README shows works."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from biaslab import __main__ as program
from biaslab.models.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ROOT / "docs" / "pages"
COMMANDS = [line.partition(" #")[0].strip() for line in README.splitlines() if line.startswith("biaslab ")]


def test_five_everyday_commands():
    (section,) = re.findall(r"## Everyday commands\n(.*?)\n## ", README, re.DOTALL)
    assert section.count("\nbiaslab ") == 5


def types_of_the_table(kind: str) -> list[str]:
    """The types that the page on own models lists."""
    page = (PAGES / "guide" / "own-models.md").read_text()
    (line,) = re.findall(rf"^\| {kind} \| (.*) \|$", page, re.MULTILINE)
    return re.sub(r" \(.*?\)", "", line).split(", ")


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_supported_types_are_those_of_the_table(kind):
    types = [name for name, entry in ARCHITECTURES.items() if entry.masked is (kind == "masked")]
    assert types_of_the_table(kind) == types


def test_cluster_lines_are_understood(tmp_path, monkeypatch, capsys):
    """What stands behind torchrun's and srun's own options."""
    page = (PAGES / "guide" / "long-runs.md").read_text()
    lines = re.findall(r"^(?:torchrun|srun) .*?biaslab (predict) \\\n(.*)$", page, re.MULTILINE)
    assert len(lines) == 2
    for command, options in lines:
        test_commands_are_understood(f"biaslab {command} {options}", tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command, tmp_path, monkeypatch, capsys):
    """From any folder: the configurations ship."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--print_config"])
    with pytest.raises(SystemExit) as exit_info:
        program.main()
    assert exit_info.value.code in (0, None)
    printed = capsys.readouterr().out
    assert isinstance(yaml.safe_load(printed), dict)
    assert "model" in printed or command.split()[1] in (
        "compare",
        "report",
        "models",
    )  # which are given models or runs as such


@pytest.mark.assets
def test_python_example(asset):
    asset("minilm-encoder")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert len(names["neurons"]) == 20
    assert names["after"].shape == (1, 2)


def test_adapter_is_small():
    assert (ROOT / "biaslab" / "models" / "minilm_mlm.safetensors").stat().st_size <= 8e6
