"""The source distribution is complete, and the wheel that is built from it works without the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import biaslab
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


SHIPPED = (".ci", ".github", "benchmarks", "biaslab", "configs", "docs", "tests")  # folders of the source distribution
CACHES = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis", "*.egg-info")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution; built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    sources = folder / "sources"
    sources.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name in SHIPPED:
            shutil.copytree(path, sources / path.name, ignore=CACHES)
        elif path.is_file() and path.name != ".git":
            shutil.copy(path, sources)
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=sources, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def installed(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in, which is built from the source distribution alone."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", folder, sdist)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    return folder / "site"


def test_the_source_distribution_has_its_tests_and_all_that_they_read(sdist):
    assert sdist.name == f"biaslab-{biaslab.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    files = (path.relative_to(ROOT) for folder in SHIPPED for path in (ROOT / folder).rglob("*") if path.is_file())
    here = {str(path) for path in files if not re.search("cache|hypothesis", str(path.parent))}
    assert here - shipped == set()
    assert {"Makefile", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "constraints.txt"} <= shipped
    assert not [name for name in shipped if name.endswith((".pyc", ".gitignore"))]


def test_metadata(installed):
    (distribution,) = metadata.distributions(path=[str(installed)])
    fields = distribution.metadata
    assert (fields["Name"], fields["Version"]) == ("biaslab", biaslab.__version__)
    assert fields["License-Expression"] == "Apache-2.0"
    assert fields["Description-Content-Type"] == "text/markdown"
    assert fields["Requires-Python"] == ">=3.10"
    versions = [name.rpartition(" ")[2] for name in fields.get_all("Classifier") if ":: 3." in name]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == versions


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    releases = re.findall(r"^## \[(.+)\](?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == ("Unreleased", "")
    assert releases[1] == (biaslab.__version__, str(citation["date-released"])) == (citation["version"], releases[1][1])


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
