"""Figures with their intervals: the only place that resamples or takes quantiles."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A figure and its 95 % bootstrap interval.

    Attributes:
        value: the figure, in percent (or in percentage points, for a change).
        low: 2.5th percentile of the resamples.
        high: 97.5th percentile of the resamples.
    """

    value: float
    low: float
    high: float


def draw_counts(size: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Return how often each of so many things is drawn with replacement, ``[resample, size]``; each row sums to size.

    >>> draw_counts(3, 2, torch.Generator().manual_seed(0))
    tensor([[1., 0., 2.],
            [2., 1., 0.]])
    """
    drawn = torch.randint(size, (resamples, size), generator=generator)
    return torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))
