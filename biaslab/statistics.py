"""Estimates with confidence intervals: the only module that resamples or computes quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:  # torch is imported only where needed: reading and reporting results works without it
    import torch
    from torch import Tensor

Unit = Literal["points", "percent", "nats"]
_LEVELS = (0.025, 0.975)  # quantiles of a 95 % interval
SIGNIFICANT = 0.05
OVERALL = "overall"  # the scope of all examples


def is_significant(p_value: float) -> bool:
    """Return whether a p-value is significant at the 5 % level.

    >>> is_significant(0.05), is_significant(0.051)
    (True, False)
    """
    return p_value <= SIGNIFICANT


class Interval(NamedTuple):
    """A value and its 95 % interval: the 2.5th and 97.5th percentiles of the resamples."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends are on the same side of zero: the change is significant.

        >>> Interval(2.0, 1.0, 3.0).excludes_zero, Interval(2.0, -1.0, 5.0).excludes_zero
        (True, False)
        """
        return self.low > 0 or self.high < 0


class Estimate(NamedTuple):
    """The estimate of a measure under a treatment."""

    figure: Interval  # its value; with several seeds, the mean over the seeds
    change: Interval  # from the unmodified model, paired on the same resamples, in the measure's unit
    spread: float | None = None  # standard deviation of the change over seeds; None for a single seed
    # the change minus the random control's, on the same resamples, with seeds resampled too; None without a control
    beyond_random: Interval | None = None


UNCHANGED = Interval(0.0, 0.0, 0.0)  # the change of the unmodified model


class Samples(NamedTuple):
    """A value, as parts to be averaged, and its bootstrap resamples."""

    value: Tensor  # [part]
    resamples: Tensor  # [resample, part]; every treatment uses the same draws, so that changes are paired

    def change_from(self, before: Samples, unit: Unit) -> Samples:
        """Return the change of each part, in points or nats, or in percent of its value before."""
        if unit != "percent":
            return Samples(self.value - before.value, self.resamples - before.resamples)
        return Samples(100 * (self.value / before.value - 1), 100 * (self.resamples / before.resamples - 1))

    def interval(self) -> Interval:
        """Return the mean over the parts and its 95 % interval."""
        return interval(self.value.mean(), self.resamples.mean(-1))


def mean(samples: Sequence[Samples]) -> Samples:
    """Return the mean of several samples, resample by resample: the mean over the seeds of a control."""
    import torch

    value, resamples = (torch.stack(list(parts)).mean(0) for parts in zip(*samples, strict=True))
    return Samples(value, resamples)


def interval(value: Tensor | float, resamples: Tensor) -> Interval:
    """Return a value and the 95 % percentile interval of its resamples, ``[resample]``, ignoring NaN."""
    low, high = resamples.nanquantile(resamples.new_tensor(_LEVELS)).tolist()
    return Interval(float(value), low, high)


def intervals(names: Sequence[str], values: Tensor, resamples: Tensor) -> dict[str, Interval]:
    """Return the 95 % intervals by name, from values ``[measure]`` and resamples ``[resample, measure]``."""
    return {name: interval(*column) for name, *column in zip(names, values, resamples.T, strict=True)}


def estimate(before: Samples, runs: Sequence[Samples], unit: Unit, control: Sequence[Samples] = ()) -> Estimate:
    """Return a treatment's estimate: its value, its paired change, and the difference from its random control.

    Args:
        before: samples of the unmodified model.
        runs: samples of the treatment: one, or one per seed.
        unit: unit of the change.
        control: samples of its random control, one per seed; empty without a control.
    """
    average = mean(runs)
    change = average.change_from(before, unit)
    values = [float(run.change_from(before, unit).value.mean()) for run in runs]
    spread = standard_deviation(values) if len(values) > 1 else None
    beyond = None if not control else _beyond(change, [run.change_from(before, unit) for run in control])
    return Estimate(average.interval(), change.interval(), spread, beyond)


def _beyond(change: Samples, control: Sequence[Samples], seed: int = 0) -> Interval:
    """Return the difference from the control; each resample also draws control seeds with replacement."""
    import torch

    values = torch.stack([run.value.mean() for run in control])  # [seed]
    resamples = torch.stack([run.resamples.mean(-1) for run in control], 1)  # [resample, seed]
    shares = draw_counts(len(control), len(resamples), torch.Generator().manual_seed(seed)).to(resamples) / len(control)
    return interval(change.value.mean() - values.mean(), change.resamples.mean(-1) - (resamples * shares).sum(1))


def standard_deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation of at least two values.

    >>> standard_deviation([1.0, 3.0])
    1.4142135623730951
    """
    centre = sum(values) / len(values)
    return float((sum((value - centre) ** 2 for value in values) / (len(values) - 1)) ** 0.5)


def draw_counts(size: int, resamples: int, generator: torch.Generator) -> Tensor:
    """Return how often each of ``size`` items is drawn with replacement, ``[resample, size]``; rows sum to ``size``.

    >>> import torch
    >>> draw_counts(3, 2, torch.Generator().manual_seed(0))
    tensor([[1., 0., 2.],
            [2., 1., 0.]])
    """
    import torch

    drawn = torch.randint(size, (resamples, size), generator=generator)
    return torch.zeros(drawn.shape).scatter_add_(1, drawn, torch.ones(drawn.shape))


def draw(size: int, resamples: int = 2000, seed: int = 0) -> Tensor:
    """Return the indices that each resample draws with replacement from ``size`` items, ``[resample, size]``."""
    import torch

    return torch.randint(size, (resamples, size), generator=torch.Generator().manual_seed(seed))


def cluster_means(values: Tensor, clusters: Tensor) -> Tensor:
    """Return the mean of each cluster's values, ``[cluster, ...]``, ordered by cluster number.

    Args:
        values: ``[example, ...]``.
        clusters: the cluster number of each example, ``[example]``.

    >>> import torch
    >>> cluster_means(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([5, 5, 7]))
    tensor([2., 4.])
    """
    ids, own, counts = clusters.unique(return_inverse=True, return_counts=True)
    sums = values.new_zeros(len(ids), *values.shape[1:]).index_add_(0, own, values)
    means: Tensor = sums / counts.view(-1, *[1] * (values.ndim - 1)).to(sums)
    return means


def clustered_samples(values: Tensor, clusters: Tensor) -> Samples:
    """Return the mean over clusters of each cluster's mean, and its bootstrap over clusters.

    Args:
        values: ``[example]``.
        clusters: the cluster number of each example, ``[example]``.

    >>> import torch
    >>> clustered_samples(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([5, 5, 7])).value
    tensor([3.])
    """
    means = cluster_means(values, clusters)
    return Samples(means.mean()[None], means[draw(len(means))].mean(1)[:, None])
