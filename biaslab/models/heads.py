"""Context managers that temporarily change what a model computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def slot_only(model: PreTrainedModel, position: Tensor) -> Iterator[None]:
    """Compute logits only at positions ``[batch, slot]``: logits ``[batch, slot, vocabulary]``."""

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device)[:, None], position],)

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        yield


@contextmanager
def places_only(model: PreTrainedModel, places: Tensor) -> Iterator[None]:
    """Compute logits only where ``places`` is true, ``[batch, sequence]``: logits ``[place, vocabulary]``."""

    def choose(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        return (args[0][places],)

    with model.get_output_embeddings().register_forward_pre_hook(choose):
        yield


@contextmanager
def replaced_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward pass by ``function`` for the block.

    A ``forward`` set on the instance (by accelerate, torch.compile or PEFT) is restored afterwards.
    """
    attributes = vars(module)
    before = {"forward": attributes["forward"]} if "forward" in attributes else {}
    attributes["forward"] = function
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)
