"""What neurons do at all positions: sums of first-order effects on a contrast set, and of squared ones on text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.metrics.rows import ShapedMetric

_ONE = 2**40  # effects are summed as multiples of 1/2^40: exact in any order and on any number of processes


class NeuronEffects(ShapedMetric):
    """Collects effects of neurons by quantity; memory does not grow with the sequences.

    Args:
        quantities: their names.
        shape: (layers, neurons a layer).
        kwargs: see ``torchmetrics.Metric``.

    Raises:
        InputError: if the names are not different.

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
            raise InputError(f"`quantities` is expected to hold names, each once, but got {list(quantities)}.")
        self.quantities, self.shape = tuple(quantities), shape
        self.add_state("sums", torch.zeros(len(quantities), *shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros(len(quantities), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, effects: Tensor, quantity: Tensor, tokens: int = 0) -> None:
        """Add effects on sequences.

        Args:
            effects: in nats, ``[sequence, layer, neuron]``.
            quantity: to which of the quantities each is added, ``[sequence]``.
            tokens: of text, whose effects are squared: how many tokens were asked for.

        Raises:
            InputError: if an effect is not finite.
        """
        if not effects.isfinite().all():
            raise InputError(
                "`effects` is expected to be finite but is not. Check the model's weights; float16 may overflow, "
                "bfloat16 doesn't."
            )
        values = effects.detach().cpu().double()
        sums = torch.zeros(self.sums.shape, dtype=torch.float64)
        sums.index_add_(0, quantity.cpu(), values.square() if tokens else values)
        self.sums += (sums * _ONE).round().long().to(self.sums.device)
        if tokens:
            self.tokens[int(quantity[0])] += tokens

    def part(self) -> dict[str, Tensor]:
        """Return what was collected, for :meth:`add_part` of another instance: "sums" and "tokens", as the states."""
        return {"sums": self.sums, "tokens": self.tokens}

    def add_part(self, part: Mapping[str, Tensor]) -> None:
        """Add :meth:`part` of a metric of the same quantities and shape; their order changes not a bit."""
        self._update_count, self._computed = self._update_count + 1, None  # as after an update
        for name, values in part.items():
            getattr(self, name).add_(values.to(self.device))

    def compute(self) -> Tensor:
        """Return the effects: of a contrast's sums the weighted sum, of text the mean square a token, in float64.

        Returns:
            ``[quantity, layer, neuron]``, on the CPU; nats, and nats² of text.
        """
        return self.sums.cpu().double() / _ONE / self.tokens.cpu().double().clamp_min(1)[:, None, None]

    def effects(self, quantity: str) -> Tensor:
        """Return :meth:`compute`'s of one quantity, ``[layer, neuron]``."""
        values: Tensor = self.compute()[self.quantities.index(quantity)]
        return values
