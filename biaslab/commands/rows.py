"""The rows of the results table: the treatment of each, with neurons found or weights trained on demand."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from biaslab.commands.cards import SCORES, read_scores
from biaslab.commands.configs import config_file
from biaslab.commands.machine import Machine
from biaslab.commands.passes import Pass, Select, attribution_pass
from biaslab.data.presets import AT_ALL_POSITIONS, GUARD_WEIGHT, PRESETS, SELECTIONS, USUAL, Dtype, PresetName
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.treatment import Arm, Positions, Treatment
from biaslab.models import ranks
from biaslab.models.tokens import Bos
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.selection import ranked
from biaslab.store import Artifacts, files_of, locked, training_in
from biaslab.tasks.attribution import Attribution

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
    "bns_fisher": "+ BNS, fisher",
    "bns_balanced": "+ BNS, balanced",
    "bns_lms": "+ BNS, guard LMS",
    "random_bns": "+ random, as BNS",
    "random_fisher": "+ random, as fisher",
    "random_balanced": "+ random, balanced",
    "random_union_ig": "+ random, as Union",
}
PAPER = {  # SS, LMS and ICAT in percent from the paper's table, ICAT as printed there
    "bert-base-cased": {
        "base": (56.93, 87.29, 75.19), "dpce": (62.41, 78.48, 58.97), "autodebias": (53.03, 50.74, 47.62),
        "union_ig": (51.01, 31.47, 30.83), "bns_paper": (52.78, 86.64, 81.82),
    },
    "roberta-base": {
        "base": (62.46, 91.70, 68.85), "dpce": (64.09, 92.95, 66.67), "autodebias": (59.63, 68.52, 55.38),
        "union_ig": (53.82, 30.61, 28.27), "bns_paper": (57.43, 91.39, 77.81),
    },
    "FairBERTa": {
        "base": (58.62, 91.90, 76.06), "union_ig": (52.27, 37.36, 35.66), "bns_paper": (53.44, 91.05, 84.79),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Makes the rows of the table; neurons are found and weights are trained once, then cached."""

    cache: Artifacts
    model_name: str
    weights: str  # the model's fingerprint
    preset: PresetName
    configs: str  # folder of the training configurations
    seeds: int  # number of random controls
    factor: float = 0.0  # multiplier of the neurons' activations
    positions: Positions = "all"
    bos: Bos = "tokenizer"  # what a causal model's sentences are conditioned on
    trust_remote_code: bool = False
    dtype: Dtype = "float32"
    machine: Machine | None = None  # shared by all processes, which make the same rows

    def arm(self, name: str) -> Arm:
        """Return the arm of a row, a key of ``ROWS``."""
        title = ROWS[name]
        if name == BASE_ROW:
            return Arm(name, title=title)
        if name in TRAINED:
            checkpoint, seconds = ranks.of_first(partial(self.train, name))
            return Arm(name, [Treatment(checkpoint=checkpoint)], title, seconds=seconds)
        how = (self.factor, self.positions)
        if name.startswith("random_"):
            like = name.removeprefix("random_")
            like = {"bns": "bns_guarded", "union_ig": "union_ig"}.get(like, f"bns_{like}")
            neurons, _ = self._neurons(like)
            return Arm(name, [Treatment(random_like(neurons, seed), *how) for seed in range(self.seeds)], title, like)
        neurons, seconds = self._neurons(name)
        return Arm(name, [Treatment(neurons, *how)], title, seconds=seconds)

    def _neurons(self, name: str) -> tuple[NeuronSet, float]:
        """Return the neurons of a row, and the seconds it took to find them."""
        if (selection := name.removeprefix("bns_")) in AT_ALL_POSITIONS:
            return self._effects.sets[selection], self._effects.seconds
        if name.startswith("bns_"):
            return self._gaps.sets[name.removeprefix("bns_")], self._gaps.seconds
        single = self._demographics
        if name != "union_ig_cut":
            return single.sets[name.removesuffix("_ig")], single.seconds
        count, union = len(self._gaps.sets["guarded"]), single.sets["union"]
        if len(union) > count:
            scores, _ = read_scores(single.folder / SCORES)  # [demographic, layer, neuron]
            union = cut(union, scores.nan_to_num(-torch.inf).amax(0), count)
        return union, single.seconds

    @cached_property
    def _gaps(self) -> Pass:
        """The pass that attributes gaps (IG²), with all selections."""
        options = {"selection": "guarded", "source": "both", "guard_weight": GUARD_WEIGHT}
        return self._attribute(
            "ig2", options, PRESETS[self.preset].data,
            lambda task, _: {key: task.select(how, **more) for key, (how, more) in SELECTIONS.items()}, SELECTIONS,
        )  # fmt: skip

    @cached_property
    def _effects(self) -> Pass:
        """The pass that measures effects at all positions, with the selections based on them."""
        options = {"selection": "fisher", "source": "contrast", "replacement": "auto"}
        usual = USUAL["balanced"]
        limit = {"contrast_positions": "all", "contrast_limit": usual.contrast_limit, "contrast": list(usual.contrast)}
        balanced = usual.options(usual.contrast)
        changes: dict[str, dict[str, Any]] = {"fisher": {}, "balanced": balanced}

        def select(task: Attribution, _: PromptDataModule) -> dict[str, NeuronSet]:
            return {name: task.select(name, **own) for name, own in changes.items()}  # type: ignore[arg-type]

        return self._attribute("effects", options, PRESETS[self.preset].data | limit, select, changes)

    @cached_property
    def _demographics(self) -> Pass:
        """The pass that attributes the probability of single demographics (IG), selected as in the paper."""

        def select(task: Attribution, data: PromptDataModule) -> dict[str, NeuronSet]:
            union = task.select("paper")
            return {"union": union, "intersection": intersection(union, data)}

        data = {key: value for key, value in PRESETS[self.preset].data.items() if not key.startswith("contrast")}
        return self._attribute("ig", {"selection": "paper"}, data | {"attributed": "demographics"}, select, {})

    def _attribute(
        self, name: str, options: dict[str, Any], data: dict[str, Any], select: Select, selections: Any
    ) -> Pass:
        own = {"device_map": self.machine.device_map} if self.machine else {}
        options = options | own | {"dtype": self.dtype, "trust_remote_code": self.trust_remote_code}
        data |= {"bos": self.bos}
        depends_on = {"weights": self.weights, "selections": selections}
        return attribution_pass(self.cache, name, self.model_name, options, data, select, depends_on, self.machine)

    def train(self, name: str) -> tuple[Path, float]:
        """Train a baseline, a key of ``TRAINED``, in its own ``biaslab fit``; use the cache, or resume.

        Returns:
            The best checkpoint, and the seconds it took, including the search for prompts.

        Raises:
            InputError: if the training fails, or another command is running it.
        """
        preset, prompts, before = PRESETS[self.preset], None, 0.0
        config = config_file(f"{name}{preset.suffix}", self.configs)
        if name == "autodebias":
            prompts, before = self.search_prompts(preset.search)

        def fit(folder: Path) -> dict[str, Any]:
            last = folder / "checkpoints" / "last.ckpt"
            with locked(training_in(folder)):  # raises if a training outlived its command
                pass
            if not last.exists():  # interrupted before the first checkpoint
                shutil.rmtree(folder, ignore_errors=True)
            options = {
                "-c": config, "--model.model_name": self.model_name, "--trainer.logger.save_dir": folder.parent,
                "--trainer.logger.name": folder.name, "--trainer.logger.version": "",
                "--ckpt_path": last if last.exists() else None, "--data.prompts": prompts,
                "--model.trust_remote_code": "true" if self.trust_remote_code else None,
            }  # fmt: skip
            seconds = _run("fit", options)
            found = [path for path in last.parent.glob("*.ckpt") if not path.stem.startswith("last")]
            if not found:
                raise InputError(
                    f"`configs` is expected to save the best checkpoint (ModelCheckpoint), but {folder} has none."
                )
            return {"seconds": seconds, "checkpoint": max(found, key=lambda path: path.stat().st_mtime).name}

        text = config.read_text(encoding="utf-8")
        depends_on = {
            "weights": self.weights, "config": text, "files": files_of(yaml.safe_load(text)),
            "prompts": None if prompts is None else prompts.read_text(encoding="utf-8"),
        }  # fmt: skip
        folder, done = self.cache.once(name, depends_on, fit)
        return folder / "checkpoints" / done["checkpoint"], before + done["seconds"]

    def search_prompts(self, options: Mapping[str, Any]) -> tuple[Path, float]:
        """Search prompts for Auto-Debias, or take them from the cache; return their file, and the seconds it took."""

        def search(folder: Path) -> dict[str, Any]:
            given = {f"--{key}": value for key, value in options.items()}
            trust = "true" if self.trust_remote_code else None
            own = {"--model": self.model_name, "--output": folder / "prompts.json"}
            return {"seconds": _run("search-prompts", {**own, **given, "--trust_remote_code": trust})}

        folder, done = self.cache.once("prompts", {"weights": self.weights, "search": options}, search)
        return folder / "prompts.json", done["seconds"]


def _run(command: str, options: Mapping[str, Any]) -> float:
    """Run a biaslab command in its own process, without options that are None; return the seconds it took."""
    arguments = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    print(f"\n$ biaslab {command} {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    if code := subprocess.run([sys.executable, "-m", "biaslab", command, *arguments], check=False).returncode:
        raise InputError(
            f"`rows` is expected to hold rows that can be made here, but `biaslab {command}` failed with exit code "
            f"{code}. See its message above: fix the cause, or leave the row out."
        )
    return round(time.monotonic() - start, 1)


def paper_rows(model_name: str) -> dict[str, Any]:
    """Return the paper's figures for a model (hub id, folder or asset), or else those for BERT.

    >>> paper_rows("FacebookAI/roberta-base")["rows"]["bns_paper"]
    {'ss': 57.43, 'lms': 91.39, 'icat': 77.81}
    >>> paper_rows("minilm-mlm")["model"]
    'bert-base-cased'
    """
    name = model_name.rstrip("/").rpartition("/")[2]
    name = name if name in PAPER else "bert-base-cased"
    rows = {row: dict(zip(("ss", "lms", "icat"), figures, strict=True)) for row, figures in PAPER[name].items()}
    return {"model": name, "rows": rows}


def intersection(union: NeuronSet, data: PromptDataModule) -> NeuronSet:
    """Return the neurons that both demographics of any pair share; ``union`` holds a subset per demographic."""
    of = {name: set(neurons) for name, neurons in union.subsets.items()}
    both = [
        of[f"{dimension.name}/{dimension.words[a]}"] & of[f"{dimension.name}/{dimension.words[b]}"]
        for dimension in data.dimensions.values()
        for a, b in dimension.pairs
    ]
    neurons = union & set().union(*both)
    provenance = {"model": union.provenance["model"], "settings": {"selection": "intersection"}}
    return neurons.with_details(provenance=provenance)


def cut(neurons: NeuronSet, scores: Tensor, count: int) -> NeuronSet:
    """Return the ``count`` neurons of a set with the largest scores, ``[layer, neuron]``.

    >>> cut(NeuronSet([(0, 0), (1, 0), (1, 1)], shape=(2, 2)), torch.tensor([[0.5, 9.0], [0.1, 0.7]]), 2)
    NeuronSet([(0, 0), (1, 1)], shape=(2, 2))
    """
    inside = torch.zeros_like(scores, dtype=torch.bool)
    inside[tuple(torch.tensor(list(neurons)).T)] = True
    kept = neurons & ranked(scores.masked_fill(~inside, -torch.inf), count)
    details = {key: value for key, value in neurons.provenance.items() if key in ("model", "settings")}
    return kept.with_details(provenance=details | {"cut": count})
