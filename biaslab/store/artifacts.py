"""What a long job makes on its way, each part in a place that is named after all that it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from biaslab.errors import InputError
from biaslab.store.shards import write_atomically


class Artifacts:
    """A folder of artifacts; one that depends on other things has another name, and a killed job finds what is done.

    Args:
        folder: where they lie; it is made.

    Raises:
        InputError: if the folder can't be made.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     artifacts = Artifacts(folder)
    ...     path = artifacts.path("judged", {"model": "a", "seed": 1})
    ...     save_tensors(path, {"x": torch.ones(1)}, {"seconds": 3})
    ...     load_tensors(path)
    ({'x': tensor([1.])}, {'seconds': 3})
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"`output` is expected to be a folder that can be written, but {folder} can't: {error}."
            ) from error

    def path(self, name: str, depends_on: Mapping[str, Any]) -> Path:
        """Return where an artifact is, or is to be.

        Args:
            name: what it is.
            depends_on: all that it depends on; anything that JSON can hold.
        """
        return self.folder / f"{name}-{digest(depends_on)}"


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that change with the content, which JSON must be able to hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and what JSON can hold beside them, whole or not at all."""
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(content, {"facts": json.dumps(facts)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what :func:`save_tensors` wrote; None where there is nothing, or nothing that is whole."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("biaslab", "torch", "transformers", "pytorch-lightning")}
