"""Compares two sets of neurons: overlap, overlap expected by chance, and shift between layers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from biaslab.errors import InputError, require_ranges
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import OVERALL, SIGNIFICANT

_ROUNDING = 1e-12  # a permutation as extreme as the observation counts as such, despite rounding of the sums


class Chance(NamedTuple):
    """The number of neurons that two random sets share.

    Attributes:
        expected: mean number.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
        p_value: probability of sharing at least the observed number.
    """

    expected: float
    low: int
    high: int
    p_value: float


class Overlap(NamedTuple):
    """The number of neurons that two sets share, and that only one of them contains.

    Attributes:
        shared: number of shared neurons.
        only_a: number of neurons of the first set only.
        only_b: number of neurons of the second set only.
        jaccard: |A ∩ B| / |A ∪ B|; None if both sets are empty.
        chance: overlap expected for random sets with the same number of neurons in each layer.
        anywhere: overlap expected for random sets with the same number of neurons in any layers.
    """

    shared: int
    only_a: int
    only_b: int
    jaccard: float | None
    chance: Chance
    anywhere: Chance


class Measure(NamedTuple):
    """A measure of how the layers differ, with a 95 % interval (basic bootstrap over neurons) and a permutation test.

    Use the p-value to decide whether the difference is more than expected by chance. The interval may exclude zero even
    if the test is not significant: a distance is never negative, and with few neurons the interval is too narrow.

    Attributes:
        value: the value.
        low: lower end of the interval.
        high: upper end of the interval.
        chance: 95 % quantile of the absolute value under random assignment of the neurons to the two sets.
        p_value: p-value of the permutation test: how often a random assignment is at least as far from zero.
    """

    value: float
    low: float
    high: float
    chance: float
    p_value: float


class Migration(NamedTuple):
    """How far the second set is shifted to other layers than the first, in layers of the first set's model.

    Attributes:
        shift: shift of the mean layer; positive if the second set is farther from the embeddings.
        distance: earth mover's distance, the number of layers a neuron moves on average, in either direction.
        moved: total variation distance, the share of the neurons that move to another layer.
    """

    shift: Measure
    distance: Measure
    moved: Measure


class Comparison(NamedTuple):
    """The comparison of two sets of neurons.

    Attributes:
        layers_a: number of neurons of the first set in each layer.
        layers_b: number of neurons of the second set in each layer.
        layers_shared: number of shared neurons in each layer; None if neuron indices do not correspond between the
            models.
        overlap: the overlap; None if neuron indices do not correspond between the models.
        migration: the shift between layers; None if a set is empty.
    """

    layers_a: list[int]
    layers_b: list[int]
    layers_shared: list[int] | None
    overlap: Overlap | None
    migration: Migration | None

    def facts(self) -> dict[str, Any]:
        """Return all figures by name; None for those that are not available."""
        facts: dict[str, Any] = {"count_a": sum(self.layers_a), "count_b": sum(self.layers_b)}
        chance = ("expected_shared", "expected_shared_low", "expected_shared_high", "p_value")
        names = ("shared", "only_a", "only_b", "jaccard", *chance, *(f"{name}_anywhere" for name in chance))
        overlap = self.overlap
        figures = [None] * 12 if overlap is None else [*overlap[:4], *overlap.chance, *overlap.anywhere]
        facts |= dict(zip(names, figures, strict=True))
        facts |= {"layers_a": self.layers_a, "layers_b": self.layers_b, "layers_shared": self.layers_shared}
        facts |= {"mean_layer_a": mean_layer(self.layers_a), "mean_layer_b": mean_layer(self.layers_b)}
        for name, measure in zip(Migration._fields, self.migration or [[None] * 5] * 3, strict=True):
            value = "moved_share" if name == "moved" else name
            facts |= dict(zip([value, *(f"{name}_{part}" for part in Measure._fields[1:])], measure, strict=True))
        return facts


def compare_scopes(a: NeuronSet, b: NeuronSet, same_neurons: bool) -> dict[str, Comparison]:
    """Compare two sets, and their subsets for each common dimension; takes the arguments of :func:`compare_sets`."""
    both = [name for name in a.subsets if name in b.subsets and "/" not in name]
    pairs = {OVERALL: (a, b), **{name: (a.subsets[name], b.subsets[name]) for name in both}}
    return {name: compare_sets(first, second, same_neurons) for name, (first, second) in pairs.items()}


def compare_sets(a: NeuronSet, b: NeuronSet, same_neurons: bool) -> Comparison:
    """Compare two sets of neurons with known shapes.

    Args:
        a: the first set.
        b: the second set.
        same_neurons: whether neuron indices correspond between the models. If not, only the layers are compared.

    Raises:
        InputError: if a shape is unknown, or neurons are compared and the shapes differ.

    >>> a = NeuronSet([(0, 1), (0, 2), (1, 5)], shape=(2, 10))
    >>> b = NeuronSet([(0, 2), (1, 5), (1, 6)], shape=(2, 10))
    >>> comparison = compare_sets(a, b, same_neurons=True)
    >>> comparison.overlap.shared, comparison.overlap.jaccard, round(comparison.overlap.chance.expected, 2)
    (2, 0.5, 0.4)
    >>> round(comparison.migration.shift.value, 3), round(comparison.migration.moved.value, 3)
    (0.333, 0.333)
    """
    if a.shape is None or b.shape is None:
        name = "a" if a.shape is None else "b"
        raise InputError(f"`{name}` is expected to have the shape of its model but has none. Give NeuronSet a `shape`.")
    layers_a, layers_b = list(a.layers().values()), list(b.layers().values())
    own_a, kept, own_b = layers_a, [0] * len(layers_a), layers_b
    overlap = None
    if same_neurons:
        own_a, kept, own_b = (list(neurons.layers().values()) for neurons in (a - b, a & b, b - a))
        shared, (layers, width) = sum(kept), a.shape
        either = len(a) + len(b) - shared
        by_layer = chance(layers_a, layers_b, width, shared)
        anywhere = chance([len(a)], [len(b)], layers * width, shared)
        overlap = Overlap(shared, sum(own_a), sum(own_b), shared / either if either else None, by_layer, anywhere)
    moved = migration(own_a, kept, own_b) if a and b else None
    return Comparison(layers_a, layers_b, kept if same_neurons else None, overlap, moved)


def chance(counts_a: Sequence[int], counts_b: Sequence[int], width: int, shared: int) -> Chance:
    """Return how many neurons random sets share, from the exact distribution (a sum of hypergeometric variables).

    Args:
        counts_a: number of neurons of the first set in each layer.
        counts_b: number of neurons of the second set in each layer.
        width: neurons in each layer.
        shared: observed number of shared neurons.

    >>> result = chance([2], [2], 4, shared=2)  # one of the 6 pairs of 4 neurons is the same pair
    >>> round(result.expected, 6), result.low, result.high, round(result.p_value, 6)
    (1.0, 0, 2, 0.166667)
    """
    counts = list(zip(counts_a, counts_b, strict=True))
    distribution = torch.ones(1, dtype=torch.float64)  # of the sum over the layers so far, [number]
    for a, b in counts:
        layer = _hypergeometric(a, b, width).tolist()
        total = distribution.new_zeros(len(distribution) + len(layer) - 1)
        for number, probability in enumerate(layer):
            total[number : number + len(distribution)] += probability * distribution
        distribution = total
    at_most = distribution.cumsum(0)
    low, high = (int((at_most < level).sum()) for level in (0.025, 0.975))
    return Chance(sum(a * b for a, b in counts) / width, low, high, min(1.0, float(distribution[shared:].sum())))


def _hypergeometric(a: int, b: int, width: int) -> Tensor:
    """Return the probability of each number of neurons shared by sets of ``a`` and ``b`` of ``width``, ``[number]``."""

    def log_choices(n: int, k: Tensor) -> Tensor:  # impossible combinations are masked below
        return math.lgamma(n + 1) - torch.lgamma(k.double() + 1) - torch.lgamma((n - k.double()).clamp_min(0) + 1)

    number = torch.arange(min(a, b) + 1, dtype=torch.float64)
    rest = b - number  # of the second set, outside the first
    ways = log_choices(a, number) + log_choices(width - a, rest) - log_choices(width, torch.tensor(float(b)))
    return torch.where(rest <= width - a, ways.exp(), 0.0)


def migration(
    own_a: Sequence[int], shared: Sequence[int], own_b: Sequence[int], draws: int = 2000, seed: int = 0
) -> Migration:
    """Return how far the second set is shifted to other layers, with intervals and permutation tests.

    The basic bootstrap resamples the neurons of only the first set, of only the second set and of both sets separately.
    The permutation test assigns the neurons to the sets at random. If both sets have the same size, shared neurons
    cancel out and keep their place; otherwise which neurons are shared is random, too.

    Args:
        own_a: number of neurons that only the first set contains, in each layer.
        shared: number of neurons that both sets contain, in each layer; there must be some in this or in ``own_a``.
        own_b: number of neurons that only the second set contains, in each layer of its model, which may have another
            number of layers.
        draws: number of bootstrap resamples, and of random assignments of the test.
        seed: seed of both.
    """
    require_ranges({"draws": draws, "seed": seed})
    layers, classes = (len(own_a), len(own_b)), len(own_a) + len(own_b)
    first, both, second = (  # the class of each neuron; see _measured
        torch.arange(start, start + len(counts)).repeat_interleave(torch.tensor(counts))
        for counts, start in ((own_a, 0), (shared, 0), (own_b, len(own_a)))
    )
    staying, moving = (both, both[:0]) if len(first) == len(second) else (both[:0], both)
    pool, sizes = torch.cat([first, moving, second]), [len(first), len(moving), len(second)]
    generator = torch.Generator().manual_seed(seed)

    def counts(*parts: Tensor) -> Tensor:
        return torch.cat(parts).bincount(minlength=classes).double()

    def drawn(neurons: Tensor) -> Tensor:
        return neurons[torch.randint(len(neurons), neurons.shape, generator=generator)] if len(neurons) else neurons

    (value,) = _measured(layers, counts(first, both)[None], counts(second, both)[None])
    pairs = []
    for _ in range(draws):
        kept = drawn(both)
        pairs.append((counts(drawn(first), kept), counts(drawn(second), kept)))
    for _ in range(draws):
        to_a, to_both, to_b = pool[torch.randperm(len(pool), generator=generator)].split(sizes)
        pairs.append((counts(to_a, to_both, staying), counts(to_b, to_both, staying)))
    resamples, assigned = _measured(layers, *map(torch.stack, zip(*pairs, strict=True))).split(draws)
    least, most = (-torch.inf, 0.0, 0.0), (torch.inf, torch.inf, 1.0)
    rows = zip(value, resamples.T, assigned.T, least, most, strict=True)
    return Migration(*(_measure(*row) for row in rows))


def _measure(value: Tensor, resamples: Tensor, assigned: Tensor, least: float, most: float) -> Measure:
    """Return a measure from its bootstrap resamples and its random assignments, ``[draw]``."""
    off = assigned.abs()
    p_value = (1 + int((off >= value.abs() - _ROUNDING).sum())) / (1 + len(off))
    # Basic bootstrap (mirrored at the value): a distance between samples overestimates that between their sources.
    mirrored = 2 * value - resamples.quantile(torch.tensor([0.975, 0.025], dtype=torch.float64))
    low, high = mirrored.clamp(least, most).tolist()
    return Measure(float(value), low, high, float(off.quantile(1 - SIGNIFICANT)), p_value)


def _measured(layers: tuple[int, int], a: Tensor, b: Tensor) -> Tensor:
    """Return shift, distance and moved share, ``[draw, 3]``, from the counts of two sets, each ``[draw, class]``.

    A class is a layer of the first model, followed by those of the second. Both models are given the same depth: if
    their numbers of layers differ, a layer covers several slices of it, over which its neurons are spread evenly.
    """
    slices = math.lcm(*layers)
    eyes = [torch.eye(n, dtype=torch.float64).repeat_interleave(slices // n, 1) * n / slices for n in layers]
    depth = torch.cat(eyes)  # [class, slice]
    centres = (torch.arange(slices) + 0.5).double() * layers[0] / slices  # in layers of the first
    change = b @ depth / b.sum(1, True) - a @ depth / a.sum(1, True)  # [draw, slice]
    distance = change.cumsum(1).abs().sum(1) * layers[0] / slices
    return torch.stack([change @ centres, distance, change.abs().sum(1) / 2], 1)


def mean_layer(counts: Sequence[int]) -> float | None:
    """Return the mean layer, from 0, given the number of neurons in each layer; None if there are no neurons.

    >>> mean_layer([0, 3, 1])
    1.25
    """
    return sum(layer * count for layer, count in enumerate(counts)) / sum(counts) if any(counts) else None


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two tensors of the same shape; ties get their mean rank.

    Returns None if all values of one tensor are equal, since the correlation is then undefined.

    >>> round(rank_correlation(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.3, 0.2])), 3)
    0.5
    """
    pair = [values.flatten().double() for values in (first, second)]
    if any(values.unique().numel() == 1 for values in pair):
        return None
    return float(spearman_corrcoef(*pair))


def rank_correlations(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], scopes: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Return the rank correlations of mean scores: "rank_correlation" and "rank_correlation_layers" for each scope.

    Args:
        first: scores of each pair, ``[layer, neuron]``, by "dimension/pair".
        second: other scores; means are over the pairs that occur in both.
        scopes: "overall" or dimensions; a scope without pairs is left out.
    """
    ranks = {}
    for scope in scopes:
        pairs = [pair for pair in first if pair in second and (scope == OVERALL or pair.startswith(f"{scope}/"))]
        if pairs:
            means = [torch.stack([scores[pair] for pair in pairs]).mean(0) for scores in (first, second)]
            layers = [rank_correlation(*layer) for layer in zip(*means, strict=True)]
            ranks[scope] = {"rank_correlation": rank_correlation(*means), "rank_correlation_layers": layers}
    return ranks
