"""Accuracy of the integrals of an attribution run."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biaslab.metrics.rows import RowMetric, from_bits, to_bits

_COLUMNS = 7  # batch, sum of residuals, of sizes, worst ratio, sum of nodes, most nodes, number of integrals


class Quality(NamedTuple):
    """Accuracy of the integrals of a run.

    Attributes:
        mean: sum of the absolute completeness residuals, relative to the L1 norm of the scores.
        worst: the same for the prompt and pair with the largest value.
        nodes: mean number of quadrature nodes.
        most_nodes: largest number of quadrature nodes.
    """

    mean: float
    worst: float
    nodes: float
    most_nodes: int


class IntegrationQuality(RowMetric):
    """Collects the completeness residuals and the numbers of quadrature nodes of batches.

    The result does not depend on the order of the batches or the number of processes.

    >>> metric = IntegrationQuality()
    >>> residual, size = torch.tensor([[[0.5, -0.5], [0.0, 0.0]]]), torch.tensor([[[50.0, 50.0], [10.0, 90.0]]])
    >>> metric.update(0, residual, size, nodes=torch.tensor([[3, 5]]))
    >>> metric.compute()
    Quality(mean=0.005, worst=0.01, nodes=4.0, most_nodes=5)
    """

    higher_is_better = False
    rows: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_rows(rows=torch.zeros(0, _COLUMNS, dtype=torch.long))

    def update(self, number: int, residual: Tensor, size: Tensor, nodes: Tensor) -> None:
        """Add a batch.

        Args:
            number: number of the batch.
            residual: completeness residuals, ``[prompt, pair, layer]``.
            size: L1 norms of the scores, ``[prompt, pair, layer]``.
            nodes: numbers of quadrature nodes, ``[prompt, layer]``.
        """
        residual, size, nodes = (values.cpu().double() for values in (residual.abs(), size, nodes))
        worst = (residual.sum(-1) / size.sum(-1).clamp_min(1e-30)).max()
        row = [residual.sum(), size.sum(), worst, nodes.sum(), nodes.max()]
        values = torch.stack([residual.new_tensor(number), *row, residual.new_tensor(nodes.numel())])
        self.rows.append(to_bits(values[None]).to(self.device))

    def part(self) -> dict[str, Tensor]:
        """Return the collected data for :meth:`add_part` of another instance: "rows" ``[batch, 7]``, on the CPU."""
        return {"rows": from_bits(self.collected("rows"))} if len(self.rows) else {}

    def add_part(self, part: Mapping[str, Tensor]) -> None:
        """Add the :meth:`part` of another instance."""
        self._update_count, self._computed = self._update_count + 1, None  # as after an update
        self.rows += [to_bits(rows).to(self.device) for rows in part.values()]

    def compute(self) -> Quality:
        """Return the figures; NaN before the first update."""
        if not len(self.rows):
            return Quality(math.nan, math.nan, math.nan, 0)
        columns = from_bits(self.collected("rows")).T.tolist()
        residual, size, nodes, count = (math.fsum(columns[i]) for i in (1, 2, 4, 6))
        return Quality(residual / max(size, 1e-30), max(columns[3]), nodes / max(count, 1), int(max(columns[5])))
