"""Changes to what a model computes, for the length of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def slot_only(model: PreTrainedModel, position: Tensor) -> Iterator[None]:
    """Within the block, the model projects positions ``[batch, slot]`` only: logits ``[batch, slot, vocabulary]``."""

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device)[:, None], position],)

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        yield


@contextmanager
def places_only(model: PreTrainedModel, places: Tensor) -> Iterator[None]:
    """Within the block, only true places, ``[batch, sequence]``, are projected: logits ``[place, vocabulary]``."""

    def choose(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        return (args[0][places],)

    with model.get_output_embeddings().register_forward_pre_hook(choose):
        yield


@contextmanager
def replaced_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Within the block, ``function`` is called in place of the module's forward pass.

    What was set on the instance before (accelerate, torch.compile and PEFT do that) is set again afterwards.
    """
    attributes = vars(module)
    before = {"forward": attributes["forward"]} if "forward" in attributes else {}
    attributes["forward"] = function
    try:
        yield
    finally:
        del attributes["forward"]
        attributes.update(before)
