"""Read checkpoints of debiasing baselines without executing code in them; write ordinary checkpoint folders."""

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.models.failures import unreadable
from biaslab.models.loading import as_dtype, fingerprint, load_model
from biaslab.models.placement import is_dispatched

_PART, _WHOLE = "4GB", "50GB"  # maximum size of a weight file; 50GB is transformers' default
_PREFIX = "model."  # of the language model's weights in a task's checkpoint


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a baseline's checkpoint ("state_dict", "hyper_parameters" and more) without executing anything in it.

    Raises:
        InputError: if it cannot be read, or is not the checkpoint of a task with a ``model_name``.
    """
    checkpoint = open_checkpoint(path)
    if "model_name" not in checkpoint.get("hyper_parameters", {}) or "state_dict" not in checkpoint:
        raise InputError(
            f"`ckpt_path` is expected to be the checkpoint of a task with a `model_name`, but {path!r} has none. "
            "Give the checkpoint of a debiasing baseline."
        )
    return checkpoint


def open_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of any task; see :func:`read_checkpoint`."""
    start = f"`ckpt_path` is expected to be a Lightning checkpoint, but {path!r}"
    if Path(path).is_dir() or Path(path).suffix in (".safetensors", ".gguf"):
        raise InputError(f"{start} is a model. Pass its folder as the model, or give a checkpoint of `biaslab fit`.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's choice: OSError, RuntimeError, UnpicklingError, EOFError, struct.error, ...
        raise InputError(f"{start} can't be read: {unreadable(error)}. Give a checkpoint of `biaslab fit`.") from error
    return checkpoint if isinstance(checkpoint, dict) else {}


def load_weights(model: PreTrainedModel, state: Mapping[str, Tensor], path: str) -> None:
    """Load all weights of the language model from the "state_dict" of the checkpoint at ``path``.

    Raises:
        InputError: if they do not belong to this model.
    """
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"`ckpt_path` is expected to contain all weights of its `model_name`, a {model.config.model_type}, but "
            f"those in {path!r} differ. Give the checkpoint of a debiasing baseline and the model it was trained from."
        ) from error


def trained_model(
    path: str, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return the trained model of a baseline's Lightning checkpoint, its tokenizer and its provenance.

    Raises:
        InputError: see :func:`read_checkpoint`, :func:`biaslab.models.loading.load_model` and :func:`load_weights`.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint["hyper_parameters"]
    name, dtype = settings["model_name"], as_dtype(settings.get("dtype", "float32"))
    model, tokenizer = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code)
    before = fingerprint(model)
    load_weights(model, checkpoint["state_dict"], path)
    training = {
        "checkpoint": path,
        "task": settings.get("_class_path", "not named in the checkpoint"),
        "settings": _public(settings),
        "data": _public(checkpoint.get("datamodule_hyper_parameters", {})),
        "epoch": checkpoint.get("epoch"),
        "steps": checkpoint.get("global_step"),
        "fingerprint": fingerprint(model),
    }
    return model, tokenizer, {"model": {"name": name, "fingerprint": before}, "training": training}


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without Lightning's internal entries."""
    return {key.removeprefix("_"): value for key, value in settings.items() if key != "_instantiator"}


def write_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Atomically write a folder that plain transformers can load; texts are further files by name (README.md)."""
    beside = next(parent for parent in folder.parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=beside) as temporary:
        whole = Path(temporary, folder.name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attempting to save a model with offloaded modules")
            # offloaded weights are read file by file
            model.save_pretrained(whole, max_shard_size=_PART if is_dispatched(model) else _WHOLE)
        tokenizer.save_pretrained(whole)
        for name, text in texts.items():
            (whole / name).write_text(text, encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(folder)  # replaces an empty folder, never one with content
