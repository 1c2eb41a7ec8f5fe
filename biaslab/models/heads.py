"""The language-model head at some positions, or for some tokens, only: the projection to the vocabulary costs most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def slot_only(model: PreTrainedModel, position: Tensor) -> Iterator[None]:
    """Within the block, the model projects some positions of each sequence: logits are ``[batch, slot, vocabulary]``.

    Args:
        model: a language model.
        position: of the slots, ``[batch, slot]``.
    """

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device)[:, None], position],)

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        yield
