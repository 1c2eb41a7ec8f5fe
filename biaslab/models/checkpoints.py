"""Lightning checkpoints of debiasing baselines: read without running anything in them, and loaded into a model."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.errors import InputError

_PREFIX = "model."  # of a task's language model in its checkpoint


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read the checkpoint of a debiasing baseline: its "state_dict", its "hyper_parameters", and what Lightning adds.

    Nothing in it is executed.

    Raises:
        InputError: if it can't be read, or is none of a task with a ``model_name``.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(
            f"`ckpt_path` is expected to be a Lightning checkpoint, but {path!r} can't be read as one: "
            f"{(str(error).splitlines() or [''])[0]} Give a file that `biaslab fit` wrote."
        ) from error
    settings = checkpoint.get("hyper_parameters", {}) if isinstance(checkpoint, dict) else {}
    if "model_name" not in settings or "state_dict" not in checkpoint:
        raise InputError(
            f"`ckpt_path` is expected to be the checkpoint of a task with a `model_name`, but {path!r} names none. "
            "Give one of a debiasing baseline."
        )
    return dict(checkpoint)


def load_weights(model: PreTrainedModel, state: Mapping[str, Tensor], path: str) -> None:
    """Load the language model's weights of a checkpoint, all of them.

    Args:
        model: the model that was trained, of the same shape.
        state: the checkpoint's "state_dict".
        path: of the checkpoint, for the error.

    Raises:
        InputError: if they are not this model's.
    """
    weights = {name.removeprefix(_PREFIX): tensor for name, tensor in state.items() if name.startswith(_PREFIX)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"`ckpt_path` is expected to hold all weights of its `model_name`, a {model.config.model_type}, but "
            f"{path!r} has others. Give the checkpoint of a debiasing baseline, and the model that it was trained from."
        ) from error
