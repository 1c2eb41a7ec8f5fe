"""What runs left on disk, read for a report: findings by command, neurons and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from biaslab.errors import InputError
from biaslab.evaluation.findings import FILES, Findings
from biaslab.neurons.neuron_set import NeuronSet

PARTS = ("debias", "table", "compare", "probe", "sweep", "side-effects", "cards")


@dataclass(frozen=True)
class Run:
    """A folder with results.

    Attributes:
        folder: where it is.
        parts: its findings, by the command that found them.
        neurons: that were found; None where there are none.
        scores: mean attribution scores over the pairs, ``[layer, neuron]``; None where there are none.
    """

    folder: Path
    parts: dict[str, Findings]
    neurons: NeuronSet | None = None
    scores: NDArray[Any] | None = None

    @property
    def place(self) -> str:
        """The last two parts of the folder's name, by which a report calls it."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the run's first command."""
        return next(iter(self.parts.values())).settings

    @property
    def model(self) -> str:
        """The model's name, as its user wrote it; both of them for a comparison."""
        return next(iter(self.parts.values())).model

    @property
    def models(self) -> list[str]:
        """The names of all models that the figures are of."""
        compared = self.parts.get("compare")
        if compared is None:
            return [self.model]
        sides = [compared.details[side] for side in "ab"]
        return list(dict.fromkeys(str(side.get("model") or side["name"]) for side in sides))


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
    parts = {name: Findings.load(folder / FILES[name]) for name in PARTS if (folder / FILES[name]).is_file()}
    if not parts:
        known = ", ".join(f"{FILES[name]} (`biaslab {name}`)" for name in PARTS)
        raise InputError(
            f"`runs` is expected to be folders with results, but {folder} has none of {known}. Name the folder "
            "that the command said it wrote to, such as runs/debias/version_0."
        )
    neurons = folder / "neurons.json"
    chosen = NeuronSet.load(neurons) if neurons.is_file() else None
    return Run(folder, parts, chosen, _scores(folder / "scores.safetensors", chosen))


def _scores(path: Path, neurons: NeuronSet | None) -> NDArray[Any] | None:
    """Return the scores' mean over the pairs; nothing where they are not there, or not those of the neurons' model."""
    if neurons is None:
        return None
    try:
        with safe_open(path, "np") as file:
            scores: NDArray[Any] = file.get_tensor("scores")
    except (OSError, SafetensorError):
        return None
    if scores.ndim != 3 or scores.shape[1:] != neurons.shape:
        return None
    known = scores[~np.isnan(scores).any((1, 2))]
    return known.mean(0) if len(known) else None
