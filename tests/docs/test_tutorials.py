"""The tutorials run, in time, without warnings, and print what the committed notebooks show."""

import base64
import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "pages" / "tutorials").glob("*.ipynb"))
CPU_SECONDS = 240  # about 60 and 90 of one core, less on two; busy machines need more for the same work


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import tutorials

    return tutorials


def cells(path: Path, kind: str) -> list[dict]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.assets
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_outputs_are_those_of_the_notebook(path, asset):
    for name in ("minilm-encoder", "stereoset", "bold"):
        asset(name)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, str(ROOT / "docs" / "tutorials.py"), "--check", path.stem]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert after.ru_utime - before.ru_utime < CPU_SECONDS


def test_both_are_there():
    assert [path.stem for path in TUTORIALS] == ["gone", "where"]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_committed_notebooks_are_clean(path, runner):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"] == runner.METADATA
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = cells(path, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    text = json.dumps([output for output in outputs if "image/png" not in output.get("data", {})])
    assert not re.search(r"it/s|Warning|/home/|/root/|/tmp/|/work/", text)
    pictures = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 2
    assert all(len(base64.b64decode(picture)) < 100_000 for picture in pictures)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_links_lead_to_files(path):
    for cell in cells(path, "markdown"):
        for link in re.findall(r"\]\(([^)#]+)\)", "".join(cell["source"])):
            assert link.startswith("https://") or (path.parent / link).exists(), link


def run(runner, *sources: str) -> list[list[dict]]:
    code = [{"cell_type": "code", "source": [source]} for source in sources]
    runner.execute(code)
    return [cell["outputs"] for cell in code]


def test_cells_share_names_and_keep_prints_values_and_plots(runner):
    first, second, third = run(
        runner,
        "x = 2\nprint('x is', x)",
        "def twice():\n    return 2 * x\n\ntwice()",
        "from matplotlib import pyplot as plt\nfigure, axes = plt.subplots()\nplt.show()",
    )
    assert first == [{"name": "stdout", "output_type": "stream", "text": ["x is 2\n"]}]
    assert [output["data"] for output in second] == [{"text/plain": ["4"]}]
    assert base64.b64decode(third[0]["data"]["image/png"]).startswith(b"\x89PNG")


def test_a_figure_as_the_last_value_is_a_plot(runner):
    (outputs,) = run(runner, "from matplotlib.figure import Figure\nFigure()")
    assert [set(output["data"]) for output in outputs] == [{"image/png", "text/plain"}]


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("gap 0.1 [0.05, 0.20]", "gap 0.1 [0.06, 0.19]", 0),
        ("gap 0.1 [0.05, 0.20]", "gap 0.1 [0.09, 0.19]", 1),
        ("SS 58.7", "SS 58.1", 0),  # 2 %
        ("SS 58.7", "SS 62.1", 1),
        ("change -0.1", "change +0.1", 0),
        ("change -0.5", "change +0.5", 1),
        ("gap 0.1", "gap 0.1  not significant", 1),
        ("gap 0.1", "gap 0.1\nlog gap 0.2", 1),
    ],
)
def test_what_counts_as_a_difference(runner, before, after, count):
    old, new = (
        [{"outputs": [{"output_type": "stream", "text": text.splitlines(keepends=True)}]}] for text in (before, after)
    )
    assert len(runner.differences(old, new)) == count
