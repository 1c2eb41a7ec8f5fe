"""How well the integrals of an attribution run came out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

_COLUMNS = 7  # batch, sum of residuals, of sizes, worst ratio, sum of nodes, most nodes, number of integrals


class Quality(NamedTuple):
    """Figures on the integrals of a run.

    Attributes:
        mean: sum of the completeness residuals' sizes, relative to the scores' L1 norm.
        worst: the largest of a prompt and pair, likewise.
        nodes: of the quadrature, on average.
        most_nodes: at most.
    """

    mean: float
    worst: float
    nodes: float
    most_nodes: int


class IntegrationQuality(Metric):
    """Collects the completeness residuals, and the numbers of nodes, of batches.

    Its figures do not depend on the order in which batches are added, nor on how many processes add them.

    Args:
        kwargs: see ``torchmetrics.Metric``.

    >>> metric = IntegrationQuality()
    >>> residual, size = torch.tensor([[[0.5, -0.5], [0.0, 0.0]]]), torch.tensor([[[50.0, 50.0], [10.0, 90.0]]])
    >>> metric.update(0, residual, size, nodes=torch.tensor([[3, 5]]))
    >>> metric.compute()
    Quality(mean=0.005, worst=0.01, nodes=4.0, most_nodes=5)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(self, number: int, residual: Tensor, size: Tensor, nodes: Tensor) -> None:
        """Add a batch.

        Args:
            number: of the batch.
            residual: completeness residuals, ``[prompt, pair, layer]``.
            size: L1 norms of the scores, ``[prompt, pair, layer]``.
            nodes: of the integrals, ``[prompt, layer]``.
        """
        residual, size, nodes = (values.cpu().double() for values in (residual.abs(), size, nodes))
        worst = (residual.sum(-1) / size.sum(-1).clamp_min(1e-30)).max()
        row = [residual.sum(), size.sum(), worst, nodes.sum(), nodes.max()]
        values = torch.stack([residual.new_tensor(number), *row, residual.new_tensor(nodes.numel())])
        self.rows.append(_bits(values[None]).to(self.device))

    def part(self) -> dict[str, Tensor]:
        """Return what was collected, for :meth:`add_part` of another instance: "rows" ``[batch, 7]``, on the CPU."""
        return {"rows": self._values()} if len(self.rows) else {}

    def add_part(self, part: Mapping[str, Tensor]) -> None:
        """Add what another instance collected."""
        self._update_count, self._computed = self._update_count + 1, None  # as after an update
        self.rows += [_bits(rows).to(self.device) for rows in part.values()]

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; one that saw nothing takes part with an empty state."""
        if not self._is_synced and not self.rows:
            self.rows.append(torch.zeros(0, _COLUMNS, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> Quality:
        """Return the figures; NaN where nothing was added."""
        if not len(self.rows):
            return Quality(math.nan, math.nan, math.nan, 0)
        columns = self._values().T.tolist()
        residual, size, nodes, count = (math.fsum(columns[i]) for i in (1, 2, 4, 6))
        return Quality(residual / max(size, 1e-30), max(columns[3]), nodes / max(count, 1), int(max(columns[5])))

    def _values(self) -> Tensor:
        return dim_zero_cat(self.rows).cpu().view(torch.float64)


def _bits(values: Tensor) -> Tensor:
    """Return float64 as the integers of its bits: the state can then lie on a device that has no float64."""
    return values.cpu().view(torch.long)
