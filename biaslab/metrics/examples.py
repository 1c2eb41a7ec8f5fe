"""What metrics of numbered examples share: one that comes again, as under a distributed sampler, counts once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from biaslab.errors import InputError


class ExampleMetric(Metric):
    """Collects rows of scores with integer ids, the last of which are the examples' own.

    Args:
        empty: of each state a tensor without rows, of the right shape and type, by name; "scores" first, the ids of the
            examples last.
        kwargs: see ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, empty: dict[str, Tensor], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._empty = empty
        for state in empty:
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def add(self, *rows: Tensor) -> None:
        """Add rows, one tensor a state.

        Raises:
            InputError: if a score is not a number.
        """
        scores, examples = rows[0], rows[-1]
        missing = examples[scores.isnan().any(1)].tolist()
        if missing:
            raise InputError(
                f"`scores` is expected to hold numbers but has NaN for {len(missing)} of {len(scores)} examples: "
                f"{', '.join(map(str, missing[:10]))}{', …' if len(missing) > 10 else ''}. "
                "Check the model's weights and dtype."
            )
        for state, values in zip(self._empty, rows, strict=True):
            getattr(self, state).append(values.detach())

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; one that saw nothing takes part with empty states of the right shape."""
        if not self._is_synced and not self.scores:  # type: ignore[truthy-function]
            for state, nothing in self._empty.items():
                getattr(self, state).append(nothing.to(self.device))
        super().sync(*args, **kwargs)

    def distinct_rows(self) -> list[Tensor]:
        """Return what was collected, each example once, in the order of the ids; empty where there was no update."""
        if not len(self.scores):  # type: ignore[arg-type]
            return list(self._empty.values())
        states: Sequence[Any] = [getattr(self, state) for state in self._empty]
        *values, examples = map(dim_zero_cat, states)
        ids, inverse = torch.unique(examples, return_inverse=True)
        where = torch.arange(len(examples), device=examples.device)
        first = where.new_full((len(ids),), len(examples)).scatter_reduce(0, inverse, where, "amin")
        return [*(value[first] for value in values), ids]
