"""How each row of the table treats the model: neurons that are found, weights that are trained, controls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from safetensors import safe_open
from torch import Tensor

from biaslab.data.presets import GUARD_WEIGHT, PRESETS
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.selection import ranked
from biaslab.store import Artifacts, versions, write_atomically
from biaslab.tasks.attribution import Attribution, Selection
from biaslab.tasks.base import single_trainer

TRAINED = {"dpce": "DPCE", "autodebias": "AutoDebias", "cda": "CDA", "cda_control": "CDA's control"}
BASE_ROW = "base"
ROWS = {
    BASE_ROW: "base",
    **{name: f"+ {title}" for name, title in TRAINED.items()},
    "union_ig": "+ Union_IG",
    "intersection_ig": "+ Intersection_IG",
    "union_ig_cut": "+ Union_IG, cut",
    "bns_paper": "+ BNS, paper",
    "bns_ranked": "+ BNS, ranked",
    "bns_guarded": "+ BNS, guarded",
    "bns_lms": "+ BNS, guard LMS",
    "random_bns": "+ random, as BNS",
    "random_union_ig": "+ random, as Union",
}
# "lms" spares what StereoSet's test split needs, but not what plain text does.
SELECTIONS: dict[str, tuple[Selection, dict[str, Any]]] = {
    "paper": ("paper", {}),
    "ranked": ("ranked", {}),
    "guarded": ("guarded", {}),
    "lms": ("guarded", {"guard": ["stereoset"], "guard_weight": 2.0}),
}
Select = Callable[[Attribution, PromptDataModule], dict[str, NeuronSet]]


class Treatment(NamedTuple):
    """What is done to the model.

    Attributes:
        neurons: that are suppressed.
        checkpoint: of other weights.
        seconds: that finding or training took.
    """

    neurons: NeuronSet | None = None
    checkpoint: Path | None = None
    seconds: float = 0.0


class Found(NamedTuple):
    """What an attribution pass found.

    Attributes:
        sets: of neurons, by selection.
        folder: of the pass.
        seconds: that it took.
    """

    sets: dict[str, NeuronSet]
    folder: Path
    seconds: float


class Treatments:
    """Finds the neurons and trains the weights of the rows, each where it is asked for, and once.

    Args:
        artifacts: where they are kept.
        model_name: of the model.
        weights: its fingerprint.
        preset: a key of ``PRESETS``.
        configs: the folder of the training configurations.
        seeds: how many random controls.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: by a row that can't be had.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        model_name: str,
        weights: str,
        preset: str,
        configs: str | Path,
        seeds: int,
        trust_remote_code: bool = False,
    ) -> None:
        self.artifacts, self.model_name, self.weights = artifacts, model_name, weights
        self.preset, self.configs, self.seeds = PRESETS[preset], Path(configs), seeds
        self.trust_remote_code = trust_remote_code
        self.found = cache(self._find)
        self.single = cache(self._find_single)
        self.trained = cache(self._train)

    def of(self, row: str) -> list[Treatment]:
        """Return the treatments of a row: one, or one a seed.

        Args:
            row: a key of ``ROWS``.
        """
        if row == BASE_ROW:
            return [Treatment()]
        if row in TRAINED:
            return [self.trained(row)]
        if row.startswith("random_"):
            (like,) = self.of(row.removeprefix("random_").replace("bns", "bns_guarded"))
            assert like.neurons is not None
            return [Treatment(random_like(like.neurons, seed)) for seed in range(self.seeds)]
        if row.startswith("bns_"):
            found = self.found()
            chosen = found.sets[row.removeprefix("bns_")]
        else:
            found = self.single()
            chosen = self._of_single(row, found)
        return [Treatment(chosen, seconds=found.seconds)]

    def _of_single(self, row: str, found: Found) -> NeuronSet:
        """Return the union or the intersection of the demographics' neurons, or the union cut to the size of BNS."""
        if row != "union_ig_cut":
            return found.sets[row.removesuffix("_ig")]
        count, union = len(self.found().sets["guarded"]), found.sets["union"]
        return union if len(union) <= count else cut(union, _largest_scores(found.folder), count)

    def _find(self) -> Found:
        """Attribute gaps (IG²), and select."""
        options = {"selection": "guarded", "source": "both", "guard_weight": GUARD_WEIGHT}

        def select(task: Attribution, data: PromptDataModule) -> dict[str, NeuronSet]:
            return {name: task.select(how, **changes) for name, (how, changes) in SELECTIONS.items()}

        return self._attribute("ig2", options, self.preset.data, select, SELECTIONS)

    def _find_single(self) -> Found:
        """Attribute single demographics' probabilities (IG); select as the paper does; unite and intersect."""
        data = {k: v for k, v in self.preset.data.items() if not k.startswith("contrast")}

        def select(task: Attribution, data: PromptDataModule) -> dict[str, NeuronSet]:
            union = task.select("paper")
            return {"union": union, "intersection": intersection(union, data)}

        return self._attribute("ig", {"selection": "paper"}, data | {"attributed": "demographics"}, select, {})

    def _attribute(
        self, name: str, options: dict[str, Any], data: dict[str, Any], select: Select, selections: Mapping[str, Any]
    ) -> Found:
        options = options | {"trust_remote_code": self.trust_remote_code}
        return attribution_pass(
            self.artifacts,
            name,
            self.model_name,
            options,
            data,
            select,
            {"weights": self.weights, "selections": selections},
        )

    def _train(self, name: str) -> Treatment:
        """Train a baseline by ``biaslab fit``, in a process and folder of its own; a killed one goes on."""
        config = self.configs / f"{name}{self.preset.suffix}.yaml"
        if not config.is_file():
            raise InputError(
                f"`configs` is expected to be the folder of the training configurations, but there is no {config}. "
                "Give the folder that comes with biaslab's source."
            )
        depends_on: dict[str, Any] = {"weights": self.weights, "config": config.read_text(encoding="utf-8")}
        extra: list[str] = []
        before = 0.0
        if name == "autodebias":
            prompts, before = self._search()
            depends_on["prompts"] = prompts.read_text(encoding="utf-8")
            extra = ["--data.prompts", str(prompts)]
        folder = self.artifacts.path(name, depends_on)
        done = _read_done(folder)
        if done is None:
            if not (folder / "checkpoints" / "last.ckpt").exists():  # killed before the first one
                shutil.rmtree(folder, ignore_errors=True)
            seconds = _run("fit", "-c", str(config), *self._model(), *_logger(folder), *_resumed(folder), *extra)
            done = {"seconds": before + seconds, "checkpoint": _best(folder).name}
            _write_done(folder, done)
        return Treatment(checkpoint=folder / "checkpoints" / done["checkpoint"], seconds=done["seconds"])

    def _model(self) -> list[str]:
        trust = ["--model.trust_remote_code", "true"] if self.trust_remote_code else []
        return ["--model.model_name", self.model_name, *trust]

    def _search(self) -> tuple[Path, float]:
        """Search prompts for AutoDebias, unless they were found; return their file, and the seconds that it took."""
        folder = self.artifacts.path("prompts", {"weights": self.weights, "search": self.preset.search})
        done = _read_done(folder)
        if done is None:
            options = [part for key, value in self.preset.search.items() for part in (f"--{key}", str(value))]
            trust = ["--trust_remote_code", "true"] if self.trust_remote_code else []
            seconds = _run(
                "search-prompts", "--model", self.model_name, "--output", str(folder / "prompts.json"), *options, *trust
            )
            done = {"seconds": seconds}
            _write_done(folder, done)
        return folder / "prompts.json", done["seconds"]


def attribution_pass(
    artifacts: Artifacts,
    name: str,
    model_name: str,
    options: dict[str, Any],
    data: dict[str, Any],
    select: Select,
    depends_on: Mapping[str, Any],
) -> Found:
    """Run an attribution pass in a folder of its own, unless it was; a killed one goes on.

    Args:
        artifacts: where the folder is.
        name: of the pass.
        model_name: of the model.
        options: further arguments of :class:`biaslab.tasks.attribution.Attribution`.
        data: further arguments of :class:`biaslab.data.prompts.PromptDataModule`.
        select: makes sets of neurons, by name, from the task and the data, after the pass.
        depends_on: what the sets depend on beside the options and the data.
    """
    folder = artifacts.path(name, {**depends_on, "options": options, "data": data, "versions": versions()})
    done = _read_done(folder)
    if done is None:
        if (folder / "neurons.json").exists():  # killed after the pass, before its sets were written
            shutil.rmtree(folder)
        start = time.monotonic()
        task, module = Attribution(model_name, **options), PromptDataModule(model_name, **data)
        logger = TensorBoardLogger(folder.parent, name=folder.name, version="", default_hp_metric=False)
        single_trainer(logger).predict(task, module, return_predictions=False)
        sets = select(task, module)
        for key, neurons in sets.items():
            neurons.save(folder / f"neurons_{slug(key)}.json")
        done = {"sets": list(sets), "seconds": round(time.monotonic() - start, 1)}
        _write_done(folder, done)
    sets = {key: NeuronSet.load(folder / f"neurons_{slug(key)}.json") for key in done["sets"]}
    return Found(sets, folder, done["seconds"])


def intersection(union: NeuronSet, data: PromptDataModule) -> NeuronSet:
    """Return the neurons that both demographics of a pair have, of all pairs.

    Args:
        union: with a subset for each demographic.
        data: that knows the pairs.
    """
    of = {name: set(neurons) for name, neurons in union.subsets.items()}
    both = [
        of[f"{dimension.name}/{dimension.words[a]}"] & of[f"{dimension.name}/{dimension.words[b]}"]
        for dimension in data.dimensions.values()
        for a, b in dimension.pairs
    ]
    found = NeuronSet(set().union(*both), shape=union.shape)
    return found.with_details(
        provenance={"model": union.provenance["model"], "settings": {"selection": "intersection"}}
    )


def _largest_scores(folder: Path) -> Tensor:
    """Return the largest of the demographics' mean scores, ``[layer, neuron]``."""
    with safe_open(folder / "scores.safetensors", "pt") as file:
        scores: Tensor = file.get_tensor("scores")
    return scores.nan_to_num(-torch.inf).amax(0)


def cut(neurons: NeuronSet, scores: Tensor, count: int) -> NeuronSet:
    """Return the neurons of a set with the largest scores.

    Args:
        neurons: at least ``count``.
        scores: ``[layer, neuron]``.
        count: how many are kept.

    >>> cut(NeuronSet([(0, 0), (1, 0), (1, 1)], shape=(2, 2)), torch.tensor([[0.5, 9.0], [0.1, 0.7]]), 2)
    NeuronSet([(0, 0), (1, 1)], shape=(2, 2))
    """
    inside = torch.zeros_like(scores, dtype=torch.bool)
    inside[tuple(torch.tensor(list(neurons)).T)] = True
    kept = ranked(scores.masked_fill(~inside, -torch.inf), count)
    details = {key: value for key, value in neurons.provenance.items() if key in ("model", "settings")}
    return kept.with_details(provenance=details | {"cut": count})


def slug(model_name: str) -> str:
    """Return a folder's name for a model.

    >>> slug("facebook/FairBERTa")
    'facebook--FairBERTa'
    """
    return model_name.strip("/").replace("/", "--") or "model"


def _run(*arguments: str) -> float:
    """Run a command of biaslab in a process of its own, and return the seconds that it took."""
    print(f"\n$ biaslab {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "biaslab", *arguments], check=False).returncode
    if code:
        raise InputError(
            f"`rows` is expected to hold what can be made here, but `biaslab {arguments[0]}` ended with code {code}; "
            "its message stands above. Correct that, or leave the row out."
        )
    return round(time.monotonic() - start, 1)


def _logger(folder: Path) -> list[str]:
    where = {"save_dir": folder.parent, "name": folder.name, "version": ""}
    return [part for key, value in where.items() for part in (f"--trainer.logger.{key}", str(value))]


def _resumed(folder: Path) -> list[str]:
    last = folder / "checkpoints" / "last.ckpt"
    return ["--ckpt_path", str(last)] if last.exists() else []


def _best(folder: Path) -> Path:
    """Return the best checkpoint: the newest that is not the last step's."""
    found = [path for path in (folder / "checkpoints").glob("*.ckpt") if not path.stem.startswith("last")]
    if not found:
        raise InputError(f"`configs` is expected to keep the best checkpoint (ModelCheckpoint), but {folder} has none.")
    return max(found, key=lambda path: path.stat().st_mtime)


def _read_done(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _write_done(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomically(folder / "done.json", (json.dumps(content, indent=1) + "\n").encode())
