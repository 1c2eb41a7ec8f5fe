"""Every command and every code block of the README and the documentation runs, on tiny models and few data."""

from __future__ import annotations

import doctest
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from doc_pages import (
    DATA,
    IGNORED,
    PYTHON,
    SHELL,
    Block,
    Line,
    blocks,
    every_line,
    is_hub_id,
    model_ids,
    name_of,
    pages,
    shell_lines,
)
from nursery import Nursery
from tiny_world import save_assets, save_hub, save_model

# Lines that are not run, and why: the first pattern that a line matches.
NOT_RUN = {
    r"(python3? -m )?pip install |make |python3? -m venv|pre-commit ": "sets up an environment; the tests are in one",
    r"\. |git |cd |ls |cat |head |export |source |mkdir |rm |cp |less |diff ": "the shell's, not biaslab's",
    r"tensorboard |jupyter ": "serves until it is stopped",
    r"(torchrun|srun|sbatch) ": "needs several machines; parsed",
    r"lm_eval |biaslab lm-eval .*--tasks": "needs lm-evaluation-harness, and its tasks from the hub",
    r"biaslab bake .*--push_to_hub": "writes to the hub, which has a test of its own; parsed",
    r"biaslab .*(ORG|NAME|FILE|CONFIG|COMMAND|MODEL|FOLDER|OPTION)\b": "a pattern, not a command",
    r"python (docs|benchmarks)/|python -m (pytest|build)|ruff |mypy|twine ": "for those who develop biaslab",
}
# Options added to a line that would take long, and why: the few data are soon used up; rows that train start processes
# of their own (test_table.py has them); and a search asks every prompt.
SHORTER = {
    r"biaslab fit .*-c minilm_mlm": ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2"],
    r"biaslab table (?!.*--rows)|biaslab table$": ["--rows", "[base, union_ig, bns_guarded, random_bns]"],
    r"biaslab search-prompts": ["--vocabulary", "12", "--beam", "3", "--depth", "2"],
}
# Runs that a page reads without having made them: of an earlier page.
EARLIER = {
    r"runs/debias/version_0": "biaslab debias", r"runs/attribute/version_0": "biaslab predict -c attribute",
    r"runs/balanced/version_0": "biaslab predict -c balanced", r"runs/fisher/version_0": "biaslab predict -c fisher",
    r"runs/union_ig/version_0": "biaslab predict -c union_ig", r"runs/dpce/version_0": "biaslab fit -c dpce",
    r"runs/dpce_small/version_0": "biaslab fit -c dpce_small", r"runs/cda/version_0": "biaslab fit -c cda",
    r"runs/cda_small/version_0": "biaslab fit -c cda_small", r"runs/prompts\.json": "biaslab search-prompts",
    r"runs/table/minilm-mlm": "biaslab table", r"runs/sweep/minilm-mlm": "biaslab sweep",
    r"runs/autodebias/version_0": "biaslab fit -c autodebias --data.prompts runs/prompts.json",
}  # fmt: skip
# Before any command: what they import, the tiny encoder's adapter, few modifiers, and no pictures for TensorBoard.
PRELUDE = """
from functools import partial
import matplotlib.pyplot, torch.utils.tensorboard, transformers.utils.logging
import transformers.models.roberta.modeling_roberta, transformers.models.llama.modeling_llama
import biaslab.commands.bake, biaslab.commands.cards, biaslab.commands.compare, biaslab.commands.debias
import biaslab.commands.judging, biaslab.commands.lightning, biaslab.commands.machine, biaslab.commands.passes
import biaslab.commands.probe, biaslab.commands.report, biaslab.commands.side_effects, biaslab.commands.sweep
import biaslab.commands.table, biaslab.data.prompts, biaslab.evaluation.benchmarks, biaslab.report.tensorboard
import biaslab.tasks, biaslab.tasks.attribution, biaslab.tasks.evaluation
from biaslab.data import words
from biaslab.models import minilm

transformers.utils.logging.disable_progress_bar()
torch.utils.tensorboard.SummaryWriter.add_figure = lambda *args, **kwargs: None
minilm.load = partial(minilm.load, minilm.Path({adapter!r}))
few = words.part_of_modifiers
words.part_of_modifiers = lambda *args, **kwargs: few(*args, **kwargs)[:1]
"""
MAIN = "from biaslab.__main__ import main; main()"
LIMIT = 240  # seconds a command may take


class Page(NamedTuple):
    """Where a page's blocks are run, and what was done there."""

    folder: Path
    done: list[str]


class World:
    """Runs commands and code in processes that have the small world around them."""

    def __init__(self, folder: Path) -> None:
        prelude = PRELUDE.format(adapter=str(save_assets(folder / "cache")))
        for seed, model_id in enumerate(ids_of_all_pages(), 20):
            save_hub(folder / "hub", model_id, seed)
        hub = {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.nursery = Nursery(prelude, BIASLAB_CACHE=str(folder / "cache"), COLUMNS="80", **hub)
        self.kept = folder / "kept"
        self.results: dict[tuple[str, ...], Path] = {}  # of pages that began alike

    def command(self, line: Line, page: Page) -> None:
        """Run a command of biaslab; one on several devices, in as many processes."""
        self.supply(line, page)
        page.done.append(line.text)
        if (known := self.results.get(tuple(page.done))) is not None:
            shutil.copytree(known, page.folder, dirs_exist_ok=True)
            return
        more = [word for pattern, words in SHORTER.items() if re.search(pattern, line.text) for word in words]
        words = list(line.words[1:])
        at = next((number for number, word in enumerate(words) if re.fullmatch(r"--(trainer\.)?devices", word)), None)
        if at is not None:
            words[at + 1] = str(min(int(words[at + 1]), 2))  # as many as the machines that run the tests have
        ranks = int(words[at + 1]) if at is not None else 1
        end = self.nursery.run(page.folder, [*words, *more], code=MAIN, ranks=ranks, limit=LIMIT)
        assert set(end.codes) == {0}, f"{line.page}:{line.line}: {line.text}\n{end.output}"
        self.keep(page)

    def keep(self, page: Page) -> None:
        """Keep what a page's commands have written so far."""
        kept = self.kept / str(len(self.results))
        shutil.copytree(page.folder, kept)
        self.results[tuple(page.done)] = kept

    def supply(self, line: Line, page: Page) -> None:
        """Make what the command reads and the page has not made, with the same model."""
        model = re.search(r"--model(?:\.model_name)?[ =](\S+)", line.text)
        for place, maker in EARLIER.items():
            path = re.search(place, line.text)
            if path is None or (page.folder / path[0]).exists():
                continue
            words = maker.split()
            if model and not model[1].endswith("biaslab"):
                option = "--model.model_name" if words[1] in ("predict", "fit") else "--model"
                words += [option, model[1]]
            self.command(Line(f"for {line.page}", line.line, tuple(words)), page)

    def python(self, block: Block, code: str, page: Page) -> None:
        """Run Python code in a process of its own."""
        page.done.append(code)
        name = f"{block.page}:{block.line}"
        source = f"exec(compile({code!r}, {name!r}, 'exec'), {{'__name__': '__main__'}})"
        end = self.nursery.run(page.folder, [], code=source, limit=LIMIT)
        assert end.codes == [0], f"{name}\n{end.output}"


def ids_of_all_pages() -> list[str]:
    """Return the hub ids that pages name, in their commands and in Python."""
    found = model_ids(every_line())
    for path in pages():
        for block in blocks(path):
            names = re.findall(
                r'(?:load_model|load_tokenizer|from_pretrained|model_name=|model=)\(?"([^"]+)"', block.text
            )
            names += re.findall(r"model_name: *([\w./-]+)", block.text)
            found += [name for name in names if is_hub_id(name)] if block.language in (*PYTHON, *DATA) else []
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("world")
        monkeypatch.setenv("BIASLAB_CACHE", str(folder / "cache"))
        world = World(folder)
    yield world
    world.nursery.process.stdin.close()
    assert world.nursery.process.wait(timeout=60) == 0


def reason(line: Line) -> str:
    """Return why a line is not run; nothing, if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, " ".join(line.words))), "")


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_page(path, world, tmp_path):
    """Its blocks in order, in one folder; Python goes on where the page's former Python stopped."""
    page, code = Page(tmp_path, []), []
    for name in re.findall(r"[ \"]\./([\w-]*model[\w-]*)", path.read_text(encoding="utf-8")):  # a reader's own
        save_model(tmp_path / name, "bert", seed=7)
    for block in blocks(path):
        if block.title and "/" not in block.title and block.language not in SHELL:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
            page.done.append(block.text)
        if block.language in SHELL:
            for line in shell_lines(block):
                run_line(line, world, page)
        elif block.language in PYTHON:
            code.append(doctest.script_from_examples(block.text) if block.language == "pycon" else block.text)
            world.python(block, "\n".join(code), page)
        elif block.language in DATA:
            check_data(block, world, page)
        else:
            assert block.language in IGNORED, f"{block.page}:{block.line}: blocks of {block.language} are not known"


def run_line(line: Line, world: World, page: Page) -> None:
    if line.written:
        (page.folder / line.words[-1]).write_text(line.written, encoding="utf-8")
        page.done.append(f"{line.text}\n{line.written}")
        return
    why = reason(line)
    if why and "parsed" not in why:
        return
    known = line.words[0] == "biaslab" or why
    assert known, f"{line.page}:{line.line}: say in NOT_RUN why {line.text!r} is not run"
    if why:
        start = max(number for number, word in enumerate(line.words) if word == "biaslab")
        line = line._replace(words=(*line.words[start:], "--print_config"))
    world.command(line, page)


def check_data(block: Block, world: World, page: Page) -> None:
    """Parse a block of data; a configuration is one that the command accepts which it is for."""
    if block.language == "toml":
        return
    content = json.loads(block.text) if block.language == "json" else yaml.safe_load(block.text)
    if not isinstance(content, dict) or not content.keys() & {"model", "data", "trainer"}:
        return
    (page.folder / "shown.yaml").write_text(block.text, encoding="utf-8")
    page.done.append(block.text)
    model = content.get("model", {})
    kind = str(model.get("class_path", "") if isinstance(model, dict) else "")
    command = "predict" if "Attribution" in kind else "fit" if kind and "Evaluation" not in kind else "test"
    words = ("biaslab", command, *(() if kind else ("-c", "stereoset")), "-c", "shown.yaml", "--print_config")
    world.command(Line(block.page, block.line, words), page)
