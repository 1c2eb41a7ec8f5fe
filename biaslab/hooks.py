"""Context managers on the activations of feed-forward neurons: suppressed, recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.architectures import ffn_modules, ffn_shape
from biaslab.errors import InputError
from biaslab.neurons import NeuronSet

Positions = Literal["all"] | Tensor


class _Scaling:
    """A forward pre-hook that multiplies the input's last axis by a vector, everywhere or at one position a sequence.

    Args:
        indices: of the neurons within the layer.
        factor: what their activations are multiplied by.
        width: neurons of the layer.
        positions: ``[batch]``; None for everywhere.
    """

    def __init__(self, indices: Sequence[int], factor: float, width: int, positions: Tensor | None) -> None:
        with torch.inference_mode(False):  # autograd may have to save it later
            self.scale = torch.ones(width, dtype=torch.float64)
            self.scale[list(indices)] = factor
        self.positions = positions

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        activations: Tensor = args[0]  # [batch, sequence, neuron]
        self._follow(activations)
        if self.positions is None:
            return activations * self.scale, *args[1:]
        if activations.shape[:1] != self.positions.shape:
            raise InputError(
                f"`positions` is expected to hold one position for each of the {len(activations)} sequences of this forward "
                f'pass but holds {len(self.positions)}. Give positions="all", or the positions of this batch.'
            )
        where = torch.arange(len(activations), device=activations.device), self.positions
        return activations.index_put(where, activations[where] * self.scale), *args[1:]

    def _follow(self, activations: Tensor) -> None:
        """Bring the vector to the device and dtype of the activations, the first time only."""
        if self.scale.device != activations.device or self.scale.dtype != activations.dtype:
            with torch.inference_mode(False):
                self.scale = self.scale.to(activations)
        if self.positions is not None and self.positions.device != activations.device:
            self.positions = self.positions.to(activations.device)


@contextmanager
def suppressed(
    model: PreTrainedModel,
    neurons: Iterable[tuple[int, int]],
    factor: float = 0.0,
    positions: Positions = "all",
) -> Iterator[None]:
    """Within the block, the activations of the neurons are multiplied by ``factor`` (bias neuron suppression, BNS).

    At all positions and with the factor 0, the model computes what it would compute with the neurons' columns of the
    down-projection's weight at zero. Only layers that have neurons get a hook. That a set was made for these very weights
    is checked by :meth:`biaslab.neurons.NeuronSet.require_model`, not here.

    Args:
        model: a model of the table.
        neurons: a set, or any (layer, index) pairs.
        factor: 0 switches the neurons off, 1 changes nothing, 2 amplifies.
        positions: "all", or the one position of each sequence where the neurons are scaled, ``[batch]``; forward passes
            then have that many sequences.

    Raises:
        InputError: if a neuron is not in the model or an argument is not what is expected, before anything is changed; by
            the forward pass, if it has another number of sequences than ``positions``.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.3.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> small = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10)
    >>> model = BertForMaskedLM(BertConfig(**small)).eval()
    >>> with suppressed(model, [(1, 3)]), recorded(model) as activations:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> activations[1].shape, activations[1][..., 3].abs().sum().item(), activations[0].count_nonzero().item()
    (torch.Size([1, 3, 16]), 0.0, 48)
    """
    shape = ffn_shape(model)
    if isinstance(neurons, NeuronSet):
        neurons.require_shape(shape)
    by_layer = NeuronSet(neurons, shape).by_layer()
    if not math.isfinite(factor):
        raise InputError(f"`factor` is expected to be a finite number but got {factor}. 0 suppresses, 2 amplifies.")
    places = _checked(positions)
    modules = ffn_modules(model)
    with ExitStack() as stack:
        for layer, indices in by_layer.items():
            hook = _Scaling(indices, factor, shape[1], places)
            stack.enter_context(modules[layer].register_forward_pre_hook(hook))
        yield


def _checked(positions: Positions) -> Tensor | None:
    if isinstance(positions, str) and positions == "all":
        return None
    expected = '`positions` is expected to be "all" or a tensor of integers, one position from 0 on a sequence, [batch],'
    if not isinstance(positions, Tensor):
        raise InputError(f"{expected} but got {positions!r}.")
    if positions.ndim != 1 or positions.is_floating_point() or positions.dtype == torch.bool:
        raise InputError(f"{expected} but got {list(positions.shape)} of {positions.dtype}.")
    if len(positions) and int(positions.min()) < 0:
        raise InputError(f"{expected} but got {int(positions.min())}.")
    return positions.long()


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Within the block, the activations of the last forward pass are kept.

    Entered within :func:`suppressed`, it sees the activations as they are after suppression.

    Args:
        model: a model of the table.

    Yields:
        Activations by layer, ``[batch, sequence, neuron]``, neither copied nor detached; empty before a forward pass.
    """
    activations: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            activations[layer] = args[0]

        return hook

    with ExitStack() as stack:
        for layer, module in enumerate(ffn_modules(model)):
            stack.enter_context(module.register_forward_pre_hook(keep(layer)))
        yield activations
