"""What is installed works without the checkout: the wheel, in a folder of its own, run from an empty folder."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from biaslab.commands.configs import names

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json, sys
import biaslab
from biaslab.__main__ import main
from biaslab.commands.configs import config_file

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["biaslab", *arguments]
    main()
print(biaslab.__file__, config_file("dpce_small"), config_file("configs/attribute.yaml"), sep="\\n")
"""


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *map(str, arguments)], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in; built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in ("biaslab", "configs"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, sources)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def test_everything_ships(installed):
    def files(folder: Path) -> set[str]:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(path) for path in found if "__pycache__" not in path.parts}

    configs = {f"configs/{name}" for name in files(ROOT / "configs")}
    assert files(installed / "biaslab") == files(ROOT / "biaslab") | configs
    assert {f"configs/{name}.yaml" for name in names()} == configs
    assert {"py.typed", "models/minilm_mlm.safetensors", "report/templates/report.html"} <= files(ROOT / "biaslab")


def test_lm_eval_finds_the_model_by_the_entry_point(installed):
    (distribution,) = metadata.distributions(path=[str(installed)])
    (point,) = distribution.entry_points.select(group="lm_eval.models")
    assert (point.name, point.value) == ("biaslab", "biaslab.lm_eval:SuppressedLM")
    assert point.load().__name__ == "SuppressedLM"


def test_commands_run_without_the_checkout(installed, lab, workdir, tiny_cache):
    model, text = str(lab / "model"), str(lab / "text.txt")
    on_cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    few = ["--model.steps", "2", "--data.dimensions", "[gender]", "--data.modifiers", "1", "--data.contrast", "null"]
    ranked = ["--model.selection", "ranked", "--model.source", "prompts"]
    commands = [
        ["predict", "-c", "attribute", "--model.model_name", model, *ranked, *few, *on_cpu],
        ["test", "-c", "configs/stereoset.yaml", "--model.model_name", model, *on_cpu],
        ["table", "--model", model, "--rows", "[base]", "--text", text, "--sentences", "3"],
        ["bake", "--model", model, "--neurons", "runs/attribute/version_0/neurons.json"],
    ]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(commands)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, package, training, attribution = done.stdout.splitlines()
    assert Path(package) == installed / "biaslab" / "__init__.py"
    assert Path(training) == installed / "biaslab" / "configs" / "dpce_small.yaml"
    assert Path(attribution) == installed / "biaslab" / "configs" / "attribute.yaml"
    assert (workdir / "runs/stereoset/version_0/stereoset.json").exists()
    assert list(workdir.glob("runs/table/*/table.json"))
    assert (workdir / "baked/config.json").exists()
