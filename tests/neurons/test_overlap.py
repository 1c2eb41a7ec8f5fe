"""Comparisons of neuron sets against slow, obvious ways to the same numbers."""

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch

from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.overlap import (
    Migration,
    chance,
    compare_scopes,
    compare_sets,
    mean_layer,
    migration,
    rank_correlation,
    rank_correlations,
)


def random_set(seed: int, shape: tuple[int, int], count: int) -> NeuronSet:
    everywhere = list(itertools.product(*map(range, shape)))
    return NeuronSet(random.Random(seed).sample(everywhere, count), shape)


def exact(counts_a, counts_b, width) -> list[Fraction]:
    """The distribution of the shared neurons in whole numbers: of all ways to choose the second set, layer by layer."""
    ways = [1]
    for a, b in zip(counts_a, counts_b, strict=True):
        of_layer = [math.comb(a, k) * math.comb(width - a, b - k) if k <= b else 0 for k in range(a + 1)]
        ways = [
            sum(ways[i] * of_layer[k - i] for i in range(len(ways)) if 0 <= k - i < len(of_layer))
            for k in range(len(ways) + len(of_layer) - 1)
        ]
    return [Fraction(way, sum(ways)) for way in ways]


@pytest.mark.parametrize(
    ("counts_a", "counts_b", "width"),
    [([2, 0, 5], [1, 3, 4], 8), ([8, 7], [8, 8], 8), ([184], [184], 9216), ([21, 9, 54], [18, 30, 40], 1536)],
)
def test_chance_is_exact(counts_a, counts_b, width):
    distribution = exact(counts_a, counts_b, width)
    at_most = list(itertools.accumulate(distribution))
    for shared in {0, 1, *range(0, sum(map(min, zip(counts_a, counts_b, strict=True))) + 1, 5)}:
        found = chance(counts_a, counts_b, width, shared)
        assert found.p_value == pytest.approx(float(sum(distribution[shared:])), rel=1e-8)
    assert found.expected == pytest.approx(float(sum(k * p for k, p in enumerate(distribution))))
    assert found.low == next(k for k, p in enumerate(at_most) if p >= Fraction(25, 1000))
    assert found.high == next(k for k, p in enumerate(at_most) if p >= Fraction(975, 1000))


def test_chance_is_that_of_all_sets():
    """Two layers of four neurons, each pair of sets looked at."""
    halves = list(itertools.combinations(range(4), 2))
    shared = [
        len({(0, n) for n in x} & {(0, n) for n in y}) + len({(1, n) for n in v} & {(1, n) for n in w})
        for x, y, v, w in itertools.product(halves, repeat=4)
    ]
    for number in range(5):
        wanted = sum(found >= number for found in shared) / len(shared)
        assert chance([2, 2], [2, 2], 4, number).p_value == pytest.approx(wanted)


def test_chance_of_what_no_double_holds_is_zero():
    assert chance([5000], [5000], 300_000, 5000).p_value == 0
    assert chance([5000], [5000], 300_000, 0).p_value == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_shared_and_own_neurons(seed):
    a, b = random_set(seed, (3, 20), 25), random_set(seed + 9, (3, 20), 10 + seed)
    found = compare_sets(a, b, same_neurons=True)
    first, second = set(a), set(b)
    overlap = found.overlap
    assert (overlap.shared, overlap.only_a, overlap.only_b) == (
        len(first & second), len(first - second), len(second - first),
    )  # fmt: skip
    assert overlap.jaccard == pytest.approx(len(first & second) / len(first | second))
    assert found.layers_a == [sum(n.layer == layer for n in a) for layer in range(3)]
    assert overlap.anywhere.expected == pytest.approx(len(a) * len(b) / 60)
    assert found.facts()["mean_layer_b"] == pytest.approx(sum(n.layer for n in b) / len(b))


def slow(layers_a: list[float], layers_b: list[float]) -> tuple[float, float, float]:
    """Shift, distance and share of two lists of layers: pairing both in order, repeated to one length."""
    times_a, times_b = (math.lcm(len(layers_a), len(layers_b)) // len(layers) for layers in (layers_a, layers_b))
    long_a, long_b = sorted(layers_a * times_a), sorted(layers_b * times_b)
    steps = [y - x for x, y in zip(long_a, long_b, strict=True)]
    stay = sum((Counter(long_a) & Counter(long_b)).values())
    return sum(steps) / len(steps), sum(map(abs, steps)) / len(steps), 1 - stay / len(steps)


def values(found: Migration) -> list[float]:
    return [measure.value for measure in found]


@pytest.mark.parametrize("seed", range(5))
def test_migration_is_what_pairing_in_order_gives(seed):
    a, b = random_set(seed, (4, 20), 25), random_set(seed + 9, (4, 20), 10 + seed)
    wanted = slow([n.layer for n in a], [n.layer for n in b])
    for same in (True, False):
        assert values(compare_sets(a, b, same).migration) == pytest.approx(list(wanted))


def test_models_of_other_depths():
    """Each layer of the first model covers two of the second: what lies alike has not moved."""
    a = NeuronSet([(0, 0), (0, 1), (2, 0)], shape=(3, 8))
    b = NeuronSet([(0, 5), (1, 5), (0, 6), (1, 6), (4, 5), (5, 5)], shape=(6, 99))
    found = compare_sets(a, b, same_neurons=False)
    assert values(found.migration) == pytest.approx([0, 0, 0], abs=1e-12)
    assert found.overlap is None
    assert (found.layers_a, found.layers_b) == ([2, 0, 1], [2, 2, 0, 0, 1, 1])
    later = NeuronSet([(4, 5), (5, 5)], shape=(6, 99))
    assert values(compare_sets(a, later, False).migration) == pytest.approx([4 / 3, 4 / 3, 2 / 3])


def p_of_all_deals(own_a: list[int], shared: list[int], own_b: list[int], measure: int) -> float:
    """Of all deals of the own neurons, the share that moves as far; the shared ones stay."""
    found = abs(slow(own_a + shared, own_b + shared)[measure])
    pool = own_a + own_b
    far = total = 0
    for chosen in itertools.combinations(range(len(pool)), len(own_a)):
        to_a = [pool[i] for i in chosen]
        to_b = [pool[i] for i in range(len(pool)) if i not in chosen]
        far += abs(slow(to_a + shared, to_b + shared)[measure]) >= found - 1e-9
        total += 1
    return far / total


def counts(layers: list[int], depth: int = 4) -> list[int]:
    return [layers.count(layer) for layer in range(depth)]


@pytest.mark.parametrize("measure", range(3))
def test_p_values_are_those_of_all_deals(measure):
    own_a, shared, own_b = [0, 0, 1, 1, 2], [3, 3, 2], [1, 2, 2, 3, 3]
    found = migration(counts(own_a), counts(shared), counts(own_b), draws=4000)[measure]
    assert found.p_value == pytest.approx(p_of_all_deals(own_a, shared, own_b, measure), abs=0.025)


def test_of_a_subset_the_test_deals_who_is_in_it():
    """The second set is a part of the first: three of eight neurons, all three in the last layer.

    No other three have a mean so far off; of the share, the three in the first layer are as far off.
    """
    found = migration([3, 2, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0], draws=4000)
    assert found.shift.p_value == pytest.approx(1 / math.comb(8, 3), abs=0.008)
    assert found.moved.p_value == pytest.approx(2 / math.comb(8, 3), abs=0.012)
    assert found.shift.value == pytest.approx(3 - 11 / 8)


@pytest.mark.parametrize("seed", range(3))
def test_equal_sets_have_not_moved(seed):
    a = random_set(seed, (3, 20), 12)
    found = compare_sets(a, a, same_neurons=True)
    for measure in found.migration:
        assert (measure.value, measure.low, measure.high, measure.p_value) == (0, 0, 0, 1)
    assert found.overlap.jaccard == 1


def test_intervals_hold_the_truth_where_much_has_moved():
    """Where nothing has, the test finds that; it does not change the intervals (B9)."""
    generator = torch.Generator().manual_seed(0)

    def drawn(of_layer: list[float]) -> list[int]:
        return torch.multinomial(torch.tensor(of_layer), 150, True, generator=generator).bincount(minlength=3).tolist()

    same, later = [0.4, 0.3, 0.3], [0.1, 0.3, 0.6]
    still = [migration(drawn(same), [0] * 3, drawn(same), draws=200, seed=seed) for seed in range(40)]
    assert sum(found.shift.low <= 0 <= found.shift.high for found in still) >= 35
    null = [found.moved for found in still]
    assert sum(measure.p_value <= 0.05 for measure in null) <= 6
    assert sum(measure.p_value > 0.05 and measure.low > 0 for measure in null) > 0
    moved = [migration(drawn(same), [0] * 3, drawn(later), draws=200, seed=seed) for seed in range(40)]
    for name, truth in (("shift", 0.6), ("distance", 0.6), ("moved", 0.3)):
        measures = [getattr(found, name) for found in moved]
        assert all(measure.p_value < 0.05 and measure.value > measure.chance for measure in measures)
        assert sum(measure.low <= truth <= measure.high for measure in measures) >= 33


def test_draws_are_repeatable():
    assert migration([5, 2], [1, 1], [2, 4], seed=1) == migration([5, 2], [1, 1], [2, 4], seed=1)
    assert migration([5, 2], [1, 1], [2, 4], seed=1) != migration([5, 2], [1, 1], [2, 4], seed=2)


def test_empty_sets():
    a, none = random_set(0, (3, 20), 5), NeuronSet(shape=(3, 20))
    found = compare_sets(a, none, same_neurons=True)
    assert found.migration is None
    assert (found.overlap.shared, found.overlap.only_a, found.overlap.jaccard) == (0, 5, 0)
    facts = compare_sets(none, none, same_neurons=True).facts()
    assert (facts["jaccard"], facts["mean_layer_a"], facts["moved_share"], facts["shift"]) == (None,) * 4
    assert facts["p_value"] == 1


def test_facts_of_a_scope():
    a, b = random_set(0, (3, 20), 12), random_set(1, (3, 20), 12)
    found, other = (compare_sets(a, b, same).facts() for same in (True, False))
    assert list(found) == list(other)
    identity = [name for name in found if other[name] is None]
    assert identity == [
        "shared", "only_a", "only_b", "jaccard", "expected_shared", "expected_shared_low", "expected_shared_high",
        "p_value", "expected_shared_anywhere", "expected_shared_low_anywhere", "expected_shared_high_anywhere",
        "p_value_anywhere", "layers_shared",
    ]  # fmt: skip
    assert found["moved_low"] <= found["moved_share"] <= found["moved_high"]


def test_scopes_are_the_dimensions_of_both():
    a = random_set(0, (3, 20), 12).with_details({"gender": [(0, 1)], "gender/female-male": [(0, 1)], "age": [(1, 1)]})
    b = random_set(1, (3, 20), 12).with_details({"gender": [(0, 1), (2, 2)], "gender/female-male": [(0, 1)]})
    found = compare_scopes(a, b, same_neurons=True)
    assert list(found) == ["overall", "gender"]
    assert (found["gender"].overlap.shared, found["gender"].overlap.only_b) == (1, 1)


def test_a_shape_must_be_known():
    a = random_set(0, (3, 20), 12)
    with pytest.raises(InputError, match="`b` is expected to have the shape of its model"):
        compare_sets(a, NeuronSet([(0, 1)]), same_neurons=True)


def slow_ranks(row: list[float]) -> list[float]:
    return [sum(x < value for x in row) + (sum(x == value for x in row) - 1) / 2 for value in row]


def test_rank_correlation_is_that_of_the_ranks():
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        first, second = (torch.randint(0, 6, (3, 15), generator=generator).float() for _ in range(2))  # equal values
        ranks = [slow_ranks(values.flatten().tolist()) for values in (first, second)]
        wanted = torch.corrcoef(torch.tensor(ranks, dtype=torch.float64))[0, 1]
        assert rank_correlation(first, second) == pytest.approx(float(wanted))
    assert rank_correlation(first, torch.ones(3, 15)) is None


def test_rank_correlations_are_of_the_pairs_that_both_have():
    generator = torch.Generator().manual_seed(0)
    first, second = (
        {pair: torch.rand(2, 9, generator=generator) for pair in pairs}
        for pairs in (("age/x", "age/y", "race/x"), ("race/x", "age/y"))
    )
    second["age/y"][1] = 1.0  # no order
    found = rank_correlations(first, second, ["overall", "age", "race", "religion"])
    assert list(found) == ["overall", "age", "race"]
    means = [(scores["age/y"] + scores["race/x"]) / 2 for scores in (first, second)]
    assert found["overall"]["rank_correlation"] == pytest.approx(rank_correlation(*means))
    assert found["age"]["rank_correlation_layers"] == [
        pytest.approx(rank_correlation(first["age/y"][0], second["age/y"][0])), None,
    ]  # fmt: skip


def test_mean_layer_of_none():
    assert mean_layer([0, 0]) is None
