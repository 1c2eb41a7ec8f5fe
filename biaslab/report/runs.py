"""What runs left on disk, read for a report: figures, neurons, settings, and what lies beside."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biaslab.errors import InputError
from biaslab.evaluation.findings_old import Estimate
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import Interval

# Which command writes a file, and which keys a report can't do without.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "results.json": ("debias", ("facts", "rows", "neurons", "stereoset", "gaps", "perplexity")),
    "table.json": ("table", ("model", "settings", "rows", "left_out", "paper")),
    "comparison.json": ("compare", ("a", "b", "same_neurons", "settings", "scopes")),
    "probe.json": ("probe", ("definition", "settings", "wordings", "rows")),
    "sweep.json": ("sweep", ("settings", "chosen", "held_out", "held_out_perplexity")),
    "side_effects.json": ("side-effects", ("model", "settings", "rows", "own")),
    "cards.json": ("cards", ("model", "method", "cards")),
}
Figures = dict[str, dict[str, dict[str, Estimate]]]  # row -> scope -> metric


@dataclass(frozen=True)
class Run:
    """A folder with results.

    Attributes:
        folder: where it is.
        parts: contents of its files, by the command that writes them.
        config: settings of a debias run; empty where there are none.
        neurons: that were found; None where there are none.
        scores: mean attribution scores over the pairs, ``[layer, neuron]``; None where there are none.
        trials: of a sweep, lines of its CSV file.
    """

    folder: Path
    parts: dict[str, dict[str, Any]]
    config: dict[str, Any]
    neurons: NeuronSet | None
    scores: Tensor | None
    trials: list[dict[str, str]]

    @property
    def place(self) -> str:
        """The last two parts of the folder's name, by which a report calls it."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def model(self) -> str:
        """The model's name, as its user wrote it; both of them for a comparison."""
        named = [content.get("model") or content.get("settings", {}).get("model") for content in self.parts.values()]
        provenance = {} if self.neurons is None else self.neurons.provenance.get("model", {})
        found = [self.config.get("model"), *named, provenance.get("name"), *self._sides(), "a model without a name"]
        return str(next(name for name in found if name))

    @property
    def models(self) -> list[str]:
        """The names of all models that the figures are of."""
        compared = self.parts.get("compare")
        if compared is None:
            return [self.model]
        return list(dict.fromkeys(str(compared[side].get("model") or compared[side].get("name")) for side in "ab"))

    def _sides(self) -> list[str]:
        compared = self.parts.get("compare")
        return [] if compared is None else [" and ".join(str(compared[side].get("name")) for side in "ab")]


def read_runs(folders: Sequence[str]) -> list[Run]:
    """Read the folders of runs, each once.

    Args:
        folders: that ``biaslab debias``, ``table`` and other commands wrote.

    Raises:
        InputError: if there are none, if one holds nothing that a report could be made of, or a damaged file.
    """
    if not folders:
        raise InputError("`runs` is expected to be one or more folders of runs but got none. Name one.")
    return [_read(Path(folder).expanduser()) for folder in dict.fromkeys(folders)]


def _read(folder: Path) -> Run:
    if not folder.is_dir():
        raise InputError(
            f"`runs` is expected to be folders of runs, but {folder} is no folder. Name one that is there."
        )
    parts = {
        command: _json(folder / name, keys) for name, (command, keys) in PARTS.items() if (folder / name).is_file()
    }
    if not parts:
        looked_for = ", ".join(f"{name} (`biaslab {command}`)" for name, (command, _) in PARTS.items())
        raise InputError(
            f"`runs` is expected to be folders with results, but {folder} has none of {looked_for}. Name the folder "
            "that the command said it wrote to, such as runs/debias/version_0."
        )
    neurons = folder / "neurons.json"
    return Run(
        folder=folder,
        parts=parts,
        config=_checked(folder / "config.yaml", yaml.safe_load) if (folder / "config.yaml").is_file() else {},
        neurons=NeuronSet.load(neurons) if neurons.is_file() else None,
        scores=_scores(folder / "scores.safetensors"),
        trials=_trials(folder / "sweep.csv"),
    )


def _json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    content = _checked(path, json.loads)
    if lacking := [key for key in keys if key not in content]:
        raise InputError(
            f"`runs` is expected to hold what this version of biaslab wrote, but {path} lacks {', '.join(lacking)}. "
            "Make it anew."
        )
    return content


def _checked(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return what a file holds, which must be a mapping."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"`runs` is expected to hold whole files, but {path} can't be read: {error}. Make it anew."
        ) from error
    if not isinstance(content, dict):
        raise InputError(f"`runs` is expected to hold whole files, but {path} holds no mapping. Make it anew.")
    return content


def _scores(path: Path) -> Tensor | None:
    """Return the scores' mean over the pairs; nothing where they are not there, or are of no use."""
    try:
        with safe_open(path, "pt") as file:
            scores: Tensor = file.get_tensor("scores")
    except (OSError, SafetensorError):
        return None
    return scores.float().nanmean(0).nan_to_num(0.0) if scores.dim() == 3 and len(scores) else None


def _trials(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def interval(content: dict[str, float]) -> Interval:
    """Return an interval of a file."""
    return Interval(**content)


def figures(content: dict[str, Any]) -> Figures:
    """Return a file's estimates: row -> scope -> metric."""
    return {
        row: {scope: {name: Estimate.read(e) for name, e in of.items()} for scope, of in scopes.items()}
        for row, scopes in content.items()
    }


def mean_score_is_known(run: Run) -> bool:
    """Return whether the scores are of the very neurons that a run suppresses."""
    return run.scores is not None and run.neurons is not None and run.neurons.shape == tuple(run.scores.shape)


def feed_forward_neurons(run: Run) -> int | None:
    """Return how many neurons the model has; None where its shape is not known."""
    shape = None if run.neurons is None else run.neurons.shape
    return None if shape is None else shape[0] * shape[1]
