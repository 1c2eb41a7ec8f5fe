"""Read the files of runs for a report: the findings of each command, neurons and scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from biaslab.errors import InputError
from biaslab.evaluation.findings import FILES, Findings
from biaslab.neurons.neuron_set import NeuronSet


@dataclass(frozen=True)
class Run:
    """A folder with findings by command, with neurons and their mean scores over the pairs, ``[layer, neuron]``."""

    folder: Path
    findings: Mapping[str, Findings]
    neurons: NeuronSet | None = None
    scores: NDArray[np.float32] | None = None

    @property
    def place(self) -> str:
        """The last two parts of the folder's path, which name the run in a report."""
        return "/".join(self.folder.resolve().parts[-2:])

    @property
    def models(self) -> list[str]:
        """The names of all models in the findings; a comparison has two."""
        named = [findings.model for command, findings in self.findings.items() if command != "compare"]
        if (compared := self.findings.get("compare")) is not None:
            named += [str(side.get("model") or side["name"]) for side in sides(compared)]
        return list(dict.fromkeys(filter(None, named))) or ["an unnamed model"]


def models_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of all models in the runs."""
    return list(dict.fromkeys(name for run in runs for name in run.models))


def sides(compared: Findings) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the facts of the two compared sides, "a" and "b"."""
    return compared.details["a"], compared.details["b"]


def read_runs(folders: Sequence[str], commands: Iterable[str] = FILES) -> list[Run]:
    """Read the findings of these commands from the folders of runs, each once.

    Raises:
        InputError: if there are no folders, or one holds no findings or a corrupt file.
    """
    if not folders:
        raise InputError("`runs` is expected to be one or more folders of runs but got none. Give one.")
    files = {command: FILES[command] for command in commands}
    return [_read(Path(folder).expanduser(), files) for folder in dict.fromkeys(folders)]


def _read(folder: Path, files: Mapping[str, str]) -> Run:
    if not folder.is_dir():
        raise InputError(f"`runs` is expected to be folders of runs, but {folder} is not a folder. Check the path.")
    findings = {command: Findings.load(folder / name) for command, name in files.items() if (folder / name).is_file()}
    if not findings:
        names = ", ".join(f"{name} (`biaslab {command}`)" for command, name in files.items())
        raise InputError(
            f"`runs` is expected to be folders with results, but {folder} has none of {names}. Give the folder that "
            "the command wrote its results to, such as runs/debias/version_0."
        )
    neurons = NeuronSet.load(path) if (path := folder / "neurons.json").is_file() else None
    scores = _mean_scores(path) if (path := folder / "scores.safetensors").is_file() else None
    return Run(folder, findings, neurons, scores)


def _mean_scores(path: Path) -> NDArray[np.float32]:
    """Return the mean scores over the pairs that have scores."""
    try:
        with safe_open(path, "numpy") as file:
            scores: NDArray[np.float32] = file.get_tensor("scores").astype(np.float32)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"`runs` is expected to hold valid files, but {path} can't be read: {error}. Run its command again."
        ) from error
    if scores.ndim != 3 or not len(scores):
        raise InputError(
            f"`runs` is expected to hold scores [pair, layer, neuron], but {path} has shape {list(scores.shape)}. "
            "Run its command again."
        )
    known = ~np.isnan(scores)
    mean: NDArray[np.float32] = np.where(known, scores, 0).sum(0) / np.maximum(known.sum(0), 1).astype(np.float32)
    return mean
