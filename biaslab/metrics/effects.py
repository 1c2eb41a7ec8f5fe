"""Sums of neurons' first-order effects at all positions: on a contrast set, and squared on ordinary text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.metrics.rows import ShapedMetric

_ONE = 2**40  # effects are summed as multiples of 1/2^40: exact in any order and for any number of processes


class NeuronEffects(ShapedMetric):
    """Sums the effects of neurons by quantity; memory is independent of the number of sequences.

    Args:
        quantities: names of the quantities.
        shape: (layers, neurons per layer).
        kwargs: see ``torchmetrics.Metric``.

    Raises:
        InputError: if a name occurs twice.

    >>> metric = NeuronEffects(["gender/bias", "text"], shape=(1, 2))
    >>> effects = torch.tensor([[[2.0, 0.5]], [[1.0, -0.5]]])  # [sequence, layer, neuron]
    >>> metric.update(effects, torch.tensor([0, 0]))
    >>> metric.update(effects, torch.tensor([1, 1]), tokens=4)  # of text: squared
    >>> metric.effects("gender/bias"), metric.effects("text")
    (tensor([[3., 0.]], dtype=torch.float64), tensor([[1.2500, 0.1250]], dtype=torch.float64))
    """

    higher_is_better = None
    is_differentiable = False
    full_state_update = False
    sums: Tensor
    tokens: Tensor

    def __init__(self, quantities: Sequence[str], shape: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if len(set(quantities)) < len(quantities):
            raise InputError(f"`quantities` is expected to hold unique names but got {list(quantities)}.")
        self.quantities, self.shape = tuple(quantities), shape
        self.add_state("sums", torch.zeros(len(quantities), *shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros(len(quantities), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, effects: Tensor, quantity: Tensor, tokens: int = 0) -> None:
        """Add the effects on a batch of sequences.

        Args:
            effects: effects in nats, ``[sequence, layer, neuron]``.
            quantity: index of the quantity that each is added to, ``[sequence]``.
            tokens: for ordinary text, whose effects are squared, the number of queried tokens; otherwise 0.

        Raises:
            InputError: if an effect is not finite.
        """
        if not effects.isfinite().all():
            raise InputError(
                "`effects` is expected to be finite but has NaN or infinite values. Check the model's weights, or use "
                "bfloat16 instead of float16, which may overflow."
            )
        values = effects.detach().cpu().double()
        sums = torch.zeros(self.sums.shape, dtype=torch.float64)
        sums.index_add_(0, quantity.cpu(), values.square() if tokens else values)
        self.sums += (sums * _ONE).round().long().to(self.sums.device)
        if tokens:
            self.tokens[int(quantity[0])] += tokens

    def part(self) -> dict[str, Tensor]:
        """Return the states, "sums" and "tokens", for :meth:`add_part` of another instance."""
        return {"sums": self.sums, "tokens": self.tokens}

    def add_part(self, part: Mapping[str, Tensor]) -> None:
        """Add the :meth:`part` of a metric with the same quantities and shape, in any order."""
        self._update_count, self._computed = self._update_count + 1, None  # as after an update
        for name, values in part.items():
            getattr(self, name).add_(values.to(self.device))

    def compute(self) -> Tensor:
        """Return the sum of the effects for each quantity of the contrast set, and the mean square per token for text.

        Returns:
            ``[quantity, layer, neuron]``, float64 on the CPU; in nats, or nats² for text.
        """
        return self.sums.cpu().double() / _ONE / self.tokens.cpu().double().clamp_min(1)[:, None, None]

    def effects(self, quantity: str) -> Tensor:
        """Return the effects for one quantity, ``[layer, neuron]``; see :meth:`compute`."""
        values: Tensor = self.compute()[self.quantities.index(quantity)]
        return values
