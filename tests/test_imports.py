"""Who may import whom: what a package pulls in, read in a fresh process, and what it names, read from the source."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import biaslab

ROOT = Path(biaslab.__file__).parent
HEAVY = ("torch", "transformers", "pytorch_lightning", "matplotlib")
# What each part may name of biaslab, beside itself; parts of Lightning's rim see all that is below them.
CORE = {"errors", "statistics", "store", "models", "neurons", "attribution", "data", "metrics", "evaluation"}
MAY_NAME = {
    "errors": set(),
    "statistics": set(),
    "store": {"errors"},
    "models": {"errors", "statistics", "store"},
    "neurons": {"errors", "statistics", "store", "models"},
    "attribution": {"errors", "statistics", "store", "models"},
    "data": {"errors", "statistics", "store", "models"},
    "metrics": {"errors", "statistics"},
    "evaluation": CORE - {"evaluation"},
    "report": {"errors", "statistics", "store", "neurons", "evaluation", "models"},
    "tasks": CORE,
    "callbacks": CORE,
    "lm_eval": {"errors", "models", "neurons"},
    "commands": {*CORE, "report", "tasks", "callbacks", "lm_eval"},
    "cli": {"errors", "commands"},
    "__main__": {"errors", "cli"},
}
# What must not be in a process that has imported every module of a part.
NEVER = {
    "errors": HEAVY,
    "statistics": HEAVY,
    "store": HEAVY,
    "cli": HEAVY,
    "__main__": HEAVY,
    "models": ("pytorch_lightning", "matplotlib"),
    "neurons": ("pytorch_lightning",),
    "attribution": ("pytorch_lightning", "matplotlib"),
    # torchmetrics itself imports matplotlib, where it is installed: of what uses it, our own plots are what counts
    "metrics": ("pytorch_lightning", "biaslab.report"),
    "evaluation": ("pytorch_lightning", "biaslab.report"),
    "data": ("biaslab.report",),
    "tasks": ("biaslab.report",),
    "callbacks": ("biaslab.report",),
    "lm_eval": ("pytorch_lightning", "biaslab.report"),
    "report": ("pytorch_lightning",),
    # results are read, and a report is written, without torch
    "evaluation.findings": HEAVY,
    "neurons.neuron_set": HEAVY,
    "models.table": HEAVY,
    "report.runs": HEAVY,
    "report.page": ("torch", "transformers", "pytorch_lightning"),
}


def modules(part: str) -> list[str]:
    path = ROOT.joinpath(*part.split("."))
    files = [path.with_suffix(".py")] if path.with_suffix(".py").exists() else sorted(path.rglob("*.py"))
    names = [".".join(file.relative_to(ROOT.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


TORCH = ["torch", "transformers.modeling_utils", "transformers.models.bert.modeling_bert"]
IMPORTS = """
import importlib, json, os, sys

base, parts = json.loads(sys.argv[1])
for module in base:
    importlib.import_module(module)
for part, (modules, never) in parts.items():
    if not (child := os.fork()):
        for module in modules:
            importlib.import_module(module)
        print(part, *sorted(set(sys.modules) & set(never)), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def pulled_in() -> dict[str, list[str]]:
    """What no process may hold that has imported a part: each is forked from one with nothing, or with torch alone."""
    found = {}
    without_torch = [part for part, never in NEVER.items() if "torch" in never]
    for base, parts in ([], without_torch), (TORCH, [p for p in NEVER if p not in without_torch]):
        asked = json.dumps([base, {part: (modules(part), NEVER[part]) for part in parts}])
        command = [sys.executable, "-c", IMPORTS, asked]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found |= {part: names for part, *names in map(str.split, lines)}
    return found


@pytest.mark.parametrize("part", NEVER)
def test_what_a_part_pulls_in(part, pulled_in):
    assert pulled_in[part] == []


def named(path: Path) -> set[str]:
    """The parts of biaslab that a file's imports name, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "biaslab":
            found |= {f"biaslab.{alias.name}" for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[1] for name in found if name.startswith("biaslab.")}


@pytest.mark.parametrize("part", MAY_NAME)
def test_who_names_whom(part):
    path = ROOT / part
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        assert named(file) <= MAY_NAME[part] | {part}, file


def test_every_part_has_its_rules():
    TopologicalSorter(MAY_NAME).prepare()  # raises where the rules themselves allow a circle
    parts = {
        path.stem for path in ROOT.iterdir() if (path.is_dir() or path.suffix == ".py") and path.stem != "__init__"
    }
    assert parts - {"__pycache__", "py"} == set(MAY_NAME)
    assert len([path for path in ROOT.iterdir() if path.is_file()]) <= 10
    assert len([path for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]) <= 9


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_too_long_to_be_read_at_once(path):
    assert len(path.read_text().splitlines()) <= 400
