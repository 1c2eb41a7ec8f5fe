"""Two sets of neurons compared: what they share, what chance alone shares, and how far they lie in other layers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from biaslab.errors import InputError, require_ranges
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import OVERALL, SIGNIFICANT

_ROUNDING = 1e-12  # a deal that moves as much as was observed counts as such, whatever the order of the sums


class Chance(NamedTuple):
    """How many neurons two random sets share."""

    expected: float  # on average
    low: int  # in 2.5 % of the cases it is at most this
    high: int  # in 97.5 % of the cases it is at most this
    p_value: float  # how often it is as many as were found, or more


class Overlap(NamedTuple):
    """How many neurons two sets share, and how many only one of them has."""

    shared: int
    only_a: int
    only_b: int
    jaccard: float | None  # the share of the shared ones among all that either has; None where there are none
    chance: Chance  # of random sets with as many neurons in each layer
    anywhere: Chance  # of random sets with as many neurons, in whichever layers


class Measure(NamedTuple):
    """A measure of how the layers differ, with its 95 % interval (a basic bootstrap over the neurons) and its test.

    The interval may leave out zero where the test finds nothing (a distance is never negative, and few neurons make it
    too narrow): whether it is more than expected by chance is what the p-value says.
    """

    value: float
    low: float
    high: float
    chance: float  # in 95 % of the random assignments of the neurons to the two sets, it is at most so much off zero
    p_value: float  # of a permutation test: how often a random assignment is as far off zero, or farther


class Migration(NamedTuple):
    """How far the second set lies in other layers than the first; in layers of the first one's model."""

    shift: Measure  # of the mean layer; positive where the second set lies farther from the embeddings
    distance: Measure  # the earth mover's: so many layers a neuron moves on average, in one direction or the other
    moved: Measure  # the total variation distance: this share of the neurons moves to another layer at all


class Comparison(NamedTuple):
    """Two sets compared."""

    layers_a: list[int]  # neurons of the first set a layer
    layers_b: list[int]
    layers_shared: list[int] | None  # None where neuron indices do not correspond between the models
    overlap: Overlap | None  # None likewise
    migration: Migration | None  # None where a set is empty

    def facts(self) -> dict[str, Any]:
        """Return all figures by name; None for what can't be had."""
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
    """Compare two sets, and their subsets of each dimension that both have; arguments as :func:`compare_sets`."""
    both = [name for name in a.subsets if name in b.subsets and "/" not in name]
    pairs = {OVERALL: (a, b), **{name: (a.subsets[name], b.subsets[name]) for name in both}}
    return {name: compare_sets(first, second, same_neurons) for name, (first, second) in pairs.items()}


def compare_sets(a: NeuronSet, b: NeuronSet, same_neurons: bool) -> Comparison:
    """Compare two sets of known shape; if neuron indices do not correspond between the models, only their layers.

    Raises:
        InputError: if a shape is not known, or neurons are compared and the shapes differ.

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
        raise InputError(f"`{name}` is expected to know its model's shape but doesn't. Give NeuronSet its `shape`.")
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
    """Return how many neurons random sets share: the exact distribution, a sum of hypergeometric ones.

    The sets have ``counts_a`` and ``counts_b`` of each layer's ``width`` neurons; ``shared`` were found.

    >>> result = chance([2], [2], 4, shared=2)  # of the 6 pairs of 4 neurons, one is the very pair
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
    """Return the probability of each number that sets of ``a`` and ``b`` of ``width`` neurons share, ``[number]``."""

    def log_choices(n: int, k: Tensor) -> Tensor:  # what has no way is masked below
        return math.lgamma(n + 1) - torch.lgamma(k.double() + 1) - torch.lgamma((n - k.double()).clamp_min(0) + 1)

    number = torch.arange(min(a, b) + 1, dtype=torch.float64)
    rest = b - number  # of the second set, outside the first
    ways = log_choices(a, number) + log_choices(width - a, rest) - log_choices(width, torch.tensor(float(b)))
    return torch.where(rest <= width - a, ways.exp(), 0.0)


def migration(
    own_a: Sequence[int], shared: Sequence[int], own_b: Sequence[int], draws: int = 2000, seed: int = 0
) -> Migration:
    """Return how far the second set lies in other layers, against chance.

    The basic bootstrap draws those that only one set has and those that both have each among themselves. The test is a
    permutation test, which assigns the neurons to the sets at random: shared ones cancel out and stay where both sets
    are as large; else which are shared is random, too.

    Neurons are counted in each layer: those that only the first set has, that both have (with the first's there must be
    some), and that only the second has, in another number of layers where the models differ. ``draws`` are those of the
    bootstrap, and the assignments of the test.
    """
    require_ranges({"draws": draws, "seed": seed})
    layers, classes = (len(own_a), len(own_b)), len(own_a) + len(own_b)
    first, both, second = (  # the class of each neuron: see _measured
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
    """Return a measure from its bootstrap and its random assignments, ``[draw]``."""
    off = assigned.abs()
    p_value = (1 + int((off >= value.abs() - _ROUNDING).sum())) / (1 + len(off))
    # Mirrored at the value: a distance between two samples is larger than that between what they were drawn from.
    mirrored = 2 * value - resamples.quantile(torch.tensor([0.975, 0.025], dtype=torch.float64))
    low, high = mirrored.clamp(least, most).tolist()
    return Measure(float(value), low, high, float(off.quantile(1 - SIGNIFICANT)), p_value)


def _measured(layers: tuple[int, int], a: Tensor, b: Tensor) -> Tensor:
    """Return shift, distance and share, ``[draw, 3]``, of two sets' counts, each ``[draw, class]``.

    A class is a layer of the first model or, after those, of the second. Both models are as deep as one another: where
    they have other numbers of layers, a layer covers several slices of the depth, and its neurons lie in each alike.
    """
    slices = math.lcm(*layers)
    eyes = [torch.eye(n, dtype=torch.float64).repeat_interleave(slices // n, 1) * n / slices for n in layers]
    depth = torch.cat(eyes)  # [class, slice]
    centres = (torch.arange(slices) + 0.5).double() * layers[0] / slices  # in layers of the first
    change = b @ depth / b.sum(1, True) - a @ depth / a.sum(1, True)  # [draw, slice]
    distance = change.cumsum(1).abs().sum(1) * layers[0] / slices
    return torch.stack([change @ centres, distance, change.abs().sum(1) / 2], 1)


def mean_layer(counts: Sequence[int]) -> float | None:
    """Return the mean layer, from 0, of as many neurons in each layer; None where there are none.

    >>> mean_layer([0, 3, 1])
    1.25
    """
    return sum(layer * count for layer, count in enumerate(counts)) / sum(counts) if any(counts) else None


def rank_correlation(first: Tensor, second: Tensor) -> float | None:
    """Return Spearman's rank correlation of two tensors of one shape; equal values share their mean rank.

    It is None where all values of one are equal, and it is not defined.

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
    """Return the rank correlation of mean scores by scope: "rank_correlation" and "rank_correlation_layers".

    Scores are those of each pair, "dimension/pair", ``[layer, neuron]``; their mean is over the pairs that both have.
    Scopes are "overall" or dimensions; one without pairs is left out.
    """
    ranks = {}
    for scope in scopes:
        pairs = [pair for pair in first if pair in second and (scope == OVERALL or pair.startswith(f"{scope}/"))]
        if pairs:
            means = [torch.stack([scores[pair] for pair in pairs]).mean(0) for scores in (first, second)]
            layers = [rank_correlation(*layer) for layer in zip(*means, strict=True)]
            ranks[scope] = {"rank_correlation": rank_correlation(*means), "rank_correlation_layers": layers}
    return ranks
