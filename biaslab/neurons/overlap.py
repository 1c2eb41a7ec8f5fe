"""Two sets of neurons compared: what they share, what chance alone shares, and how far they lie in other layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import SIGNIFICANT

OVERALL = "overall"
_ROUNDING = 1e-12  # a deal that moves as much as was observed counts as such, whatever the order of the sums


class Chance(NamedTuple):
    """How many neurons two random sets share.

    Attributes:
        expected: on average.
        low: in 2.5 % of the cases it is at most this.
        high: in 97.5 % of the cases it is at most this.
        p_value: how often it is as many as were found, or more.
    """

    expected: float
    low: int
    high: int
    p_value: float


class Overlap(NamedTuple):
    """What two sets share.

    Attributes:
        shared: how many neurons both have.
        only_a: how many only the first has.
        only_b: how many only the second has.
        jaccard: the share of the shared ones among all that either has; None where there are none.
        chance: of random sets with as many neurons in each layer.
        anywhere: of random sets with as many neurons, in whichever layers.
    """

    shared: int
    only_a: int
    only_b: int
    jaccard: float | None
    chance: Chance
    anywhere: Chance


class Measure(NamedTuple):
    """A measure of how the layers differ.

    Attributes:
        value: that was found.
        low: of the 95 % interval, a basic bootstrap over the neurons; the p-value says what chance makes.
        high: of it.
        chance: in 95 % of the deals of the neurons at random to the two sets, it is at most so much off zero.
        p_value: how often a deal is as far off zero as what was found, or farther.
    """

    value: float
    low: float
    high: float
    chance: float
    p_value: float


class Migration(NamedTuple):
    """How far the second set lies in other layers than the first; in layers of the first one's model.

    Attributes:
        shift: of the mean layer; positive where the second set lies farther from the embeddings.
        distance: the earth mover's: so many layers a neuron moves on average, in one direction or the other.
        moved: the total variation distance: this share of the neurons moves to another layer at all.
    """

    shift: Measure
    distance: Measure
    moved: Measure


class Comparison(NamedTuple):
    """Two sets compared.

    Attributes:
        layers_a: neurons of the first set a layer.
        layers_b: of the second.
        layers_shared: neurons that both have a layer; None where neuron indices do not correspond.
        overlap: None where a neuron of one model is none of the other's.
        migration: None where a set is empty.
    """

    layers_a: list[int]
    layers_b: list[int]
    layers_shared: list[int] | None
    overlap: Overlap | None
    migration: Migration | None

    def facts(self) -> dict[str, Any]:
        """Return all figures by name; None for what can't be had."""
        found = {
            "count_a": sum(self.layers_a), "count_b": sum(self.layers_b), **_plain_overlap(self.overlap),
            "layers_a": self.layers_a, "layers_b": self.layers_b,
            "layers_shared": self.layers_shared,
            "mean_layer_a": mean_layer(self.layers_a), "mean_layer_b": mean_layer(self.layers_b),
        }  # fmt: skip
        for name in Migration._fields:
            measure = None if self.migration is None else getattr(self.migration, name)
            found["moved_share" if name == "moved" else name] = measure and measure.value
            found |= {f"{name}_{part}": measure and getattr(measure, part) for part in Measure._fields[1:]}
        return found


def _plain_overlap(overlap: Overlap | None) -> dict[str, Any]:
    found = {name: overlap and getattr(overlap, name) for name in ("shared", "only_a", "only_b", "jaccard")}
    for suffix, field in (("", "chance"), ("_anywhere", "anywhere")):
        chance = overlap and getattr(overlap, field)
        names = ("expected_shared", "expected_shared_low", "expected_shared_high", "p_value")
        found |= {f"{name}{suffix}": chance and value for name, value in zip(names, chance or [None] * 4, strict=True)}
    return found


def compare_scopes(a: NeuronSet, b: NeuronSet, same_neurons: bool) -> dict[str, Comparison]:
    """Compare two sets, and their subsets of each dimension that both have.

    Args:
        a: of known shape.
        b: of known shape; the same where neurons are compared.
        same_neurons: whether a neuron of one model is that of the other; else only the layers are compared.
    """
    both = [name for name in a.subsets if name in b.subsets and "/" not in name]
    pairs = {OVERALL: (a, b), **{name: (a.subsets[name], b.subsets[name]) for name in both}}
    return {name: compare_sets(first, second, same_neurons) for name, (first, second) in pairs.items()}


def compare_sets(a: NeuronSet, b: NeuronSet, same_neurons: bool) -> Comparison:
    """Compare two sets.

    Args:
        a: of known shape.
        b: of known shape; the same where neurons are compared.
        same_neurons: whether a neuron of one model is that of the other; else only the layers are compared.

    Raises:
        InputError: if a shape is not known.

    >>> a = NeuronSet([(0, 1), (0, 2), (1, 5)], shape=(2, 10))
    >>> b = NeuronSet([(0, 2), (1, 5), (1, 6)], shape=(2, 10))
    >>> found = compare_sets(a, b, same_neurons=True)
    >>> found.overlap.shared, found.overlap.jaccard, round(found.overlap.chance.expected, 2)
    (2, 0.5, 0.4)
    >>> round(found.migration.shift.value, 3), round(found.migration.moved.value, 3)
    (0.333, 0.333)
    """
    for name, neurons in (("a", a), ("b", b)):
        if neurons.shape is None:
            raise InputError(f"`{name}` is expected to know its model's shape but doesn't. Give NeuronSet its `shape`.")
    counts_a, counts_b = list(a.layers().values()), list(b.layers().values())
    shared = a & b if same_neurons else NeuronSet(shape=a.shape)
    held = list(shared.layers().values())
    overlap = _overlap(a, b, len(shared)) if same_neurons else None
    own_b = [count - kept for count, kept in zip(counts_b, held, strict=True)] if same_neurons else counts_b
    own_a = [count - kept for count, kept in zip(counts_a, held, strict=True)]
    moved = migration(own_a, held, own_b) if len(a) and len(b) else None
    return Comparison(counts_a, counts_b, held if same_neurons else None, overlap, moved)


def _overlap(a: NeuronSet, b: NeuronSet, shared: int) -> Overlap:
    assert a.shape is not None
    layers, width = a.shape
    either = len(a) + len(b) - shared
    in_layers = chance([*a.layers().values()], [*b.layers().values()], width, shared)
    anywhere = chance([len(a)], [len(b)], layers * width, shared)
    jaccard = shared / either if either else None
    return Overlap(shared, len(a) - shared, len(b) - shared, jaccard, in_layers, anywhere)


def chance(counts_a: Sequence[int], counts_b: Sequence[int], width: int, shared: int) -> Chance:
    """Return how many neurons random sets share: the exact distribution, a sum of hypergeometric ones.

    Args:
        counts_a: of the first set in each layer.
        counts_b: of the second.
        width: neurons a layer.
        shared: how many were found.

    >>> found = chance([2], [2], 4, shared=2)  # of the 6 pairs of 4 neurons, one is the very pair
    >>> round(found.expected, 6), found.low, found.high, round(found.p_value, 6)
    (1.0, 0, 2, 0.166667)
    """
    of_number = torch.ones(1, dtype=torch.float64)  # [number]
    for a, b in zip(counts_a, counts_b, strict=True):
        of_number = _sum_of_two(of_number, _hypergeometric(a, b, width))
    at_most = of_number.cumsum(0)
    low, high = (int((at_most < level).sum()) for level in (0.025, 0.975))
    expected = sum(a * b for a, b in zip(counts_a, counts_b, strict=True)) / width
    return Chance(expected, low, high, min(1.0, float(of_number[shared:].sum())))


def _hypergeometric(a: int, b: int, width: int) -> Tensor:
    """Return the probability of each number that sets of ``a`` and ``b`` of ``width`` neurons share, ``[number]``."""
    number = torch.arange(min(a, b) + 1, dtype=torch.float64)
    rest = b - number  # of the second set, outside the first
    ways = _log_choices(a, number) + _log_choices(width - a, rest) - _log_choices(width, torch.tensor(float(b)))
    return torch.where(rest <= width - a, ways.exp(), 0.0)


def _log_choices(n: int, k: Tensor) -> Tensor:
    """Return the logarithm of the number of ways to choose ``k`` of ``n``; what has no way is masked by the caller."""
    return math.lgamma(n + 1) - torch.lgamma(k.double() + 1) - torch.lgamma((n - k.double()).clamp_min(0) + 1)


def _sum_of_two(first: Tensor, second: Tensor) -> Tensor:
    """Return the distribution of the sum of two independent numbers."""
    total = first.new_zeros(len(first) + len(second) - 1)
    for number, probability in enumerate(second.tolist()):
        total[number : number + len(first)] += probability * first
    return total


def migration(
    own_a: Sequence[int], shared: Sequence[int], own_b: Sequence[int], draws: int = 2000, seed: int = 0
) -> Migration:
    """Return how far the second set lies in other layers, against chance.

    Intervals come from a bootstrap over the neurons: those that only one set has and those that both have are drawn
    again each among themselves. The test is a permutation test: which set a neuron is in is dealt at random. Where the
    sets are as large as one another, shared neurons cancel out and stay; else which are shared is dealt, too.

    Args:
        own_a: neurons in each layer that only the first set has; with the shared ones there must be some.
        shared: that both have, layers as in ``own_a``.
        own_b: that only the second has; in another number of layers where the models differ.
        draws: of the bootstrap, and deals of the test.
        seed: of both.
    """
    measured = _measures(len(own_a), len(own_b))
    first, both, second = (_codes(counts, start) for counts, start in ((own_a, 0), (shared, 0), (own_b, len(own_a))))
    as_large, classes = len(first) == len(second), len(own_a) + len(own_b)
    staying, moving = (both, both[:0]) if as_large else (both[:0], both)
    pool, sizes = torch.cat([first, moving, second]), [len(first), len(moving), len(second)]
    generator = torch.Generator().manual_seed(seed)

    def counts(*parts: Tensor) -> Tensor:
        return torch.cat(parts).bincount(minlength=classes).double()

    def drawn(codes: Tensor) -> Tensor:
        return codes[torch.randint(len(codes), codes.shape, generator=generator)] if len(codes) else codes

    found = measured(counts(first, both)[None], counts(second, both)[None])[0]
    pairs = []
    for _ in range(draws):
        kept = drawn(both)
        pairs.append((counts(drawn(first), kept), counts(drawn(second), kept)))
    for _ in range(draws):
        to_a, to_both, to_b = pool[torch.randperm(len(pool), generator=generator)].split(sizes)
        pairs.append((counts(to_a, to_both, staying), counts(to_b, to_both, staying)))
    resampled, dealt_at_random = measured(*map(torch.stack, zip(*pairs, strict=True))).split(draws)
    least = (-torch.inf, 0.0, 0.0)
    most = (torch.inf, torch.inf, 1.0)
    rows = zip(found, resampled.T, dealt_at_random.T, least, most, strict=True)
    return Migration(*(_measure(*row) for row in rows))


def _codes(counts: Sequence[int], start: int) -> Tensor:
    """Return the layer of each neuron, ``[neuron]``, numbered from ``start``."""
    return torch.arange(start, start + len(counts)).repeat_interleave(torch.tensor(counts))


def _measure(value: Tensor, resampled: Tensor, dealt: Tensor, least: float, most: float) -> Measure:
    """Sum up a measure from its bootstrap and its deals, ``[draw]``.

    The interval is the basic one, mirrored at the value: a distance between two samples is larger than that between
    what they were drawn from, and the mirror takes off what the percentiles would add once more.
    """
    off = dealt.abs()
    p_value = (1 + int((off >= value.abs() - _ROUNDING).sum())) / (1 + len(dealt))
    mirrored = 2 * value - resampled.quantile(torch.tensor([0.975, 0.025], dtype=torch.float64))
    low, high = mirrored.clamp(least, most).tolist()
    return Measure(float(value), low, high, float(off.quantile(1 - SIGNIFICANT)), p_value)


def _measures(layers_a: int, layers_b: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the function from two sets' counts, each ``[draw, class]``, to shift, distance and share, ``[draw, 3]``.

    A class is a layer of the first model or, after those, of the second. Both models are as deep as one another: where
    they have other numbers of layers, a layer covers several slices of the depth, and its neurons lie in each alike.
    """
    slices = math.lcm(layers_a, layers_b)
    depth = torch.cat([
        torch.eye(layers, dtype=torch.float64).repeat_interleave(slices // layers, 1) * layers / slices
        for layers in (layers_a, layers_b)
    ])  # [class, slice]  # fmt: skip
    centres = (torch.arange(slices) + 0.5).double() * layers_a / slices  # in layers of the first

    def measured(a: Tensor, b: Tensor) -> Tensor:
        change = b @ depth / b.sum(1, True) - a @ depth / a.sum(1, True)  # [draw, slice]
        distance = change.cumsum(1).abs().sum(1) * layers_a / slices
        return torch.stack([change @ centres, distance, change.abs().sum(1) / 2], 1)

    return measured


def mean_layer(counts: Sequence[int]) -> float | None:
    """Return the mean layer, from 0, of as many neurons in each layer; None where there are none.

    >>> mean_layer([0, 3, 1])
    1.25
    """
    return sum(layer * count for layer, count in enumerate(counts)) / sum(counts) if any(counts) else None


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Spearman's rank correlation; equal values share their mean rank.

    Args:
        first: ``[value]``, or ``[group, value]``.
        second: of the same shape.

    Returns:
        A scalar, or ``[group]``, from -1 to 1; NaN where all values of one are equal.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.3, 0.2]))
    tensor(0.5000, dtype=torch.float64)
    """
    a, b = first.double(), second.double()
    if a.ndim == 2:
        return torch.stack([rank_correlation(*pair) for pair in zip(a, b, strict=True)])
    if a.unique().numel() == 1 or b.unique().numel() == 1:
        return a.new_tensor(torch.nan)
    return spearman_corrcoef(a, b)
