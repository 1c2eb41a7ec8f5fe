"""The continuous forms of SS and of the CrowS-Pairs score, against plain loops."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from torchmetrics import MetricCollection

from biaslab.errors import InputError
from biaslab.metrics import StereotypeLogRatio, StereotypeScore, crows_pairs, stereoset
from biaslab.metrics.rows import log_probabilities
from biaslab.statistics import Interval

NO_IDS = torch.zeros(0, dtype=torch.long)


def clusters(count=60, terms=7, seed=0):
    """Probabilities with ties, terms of unequal size, and ids in another order."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(1, 9, (count, 3), generator=generator) / 10
    term = (torch.rand(count, generator=generator) ** 2 * terms).long()
    return scores, term, torch.randperm(count, generator=generator)


def loop(scores, terms, average="macro"):
    """The mean log-ratio of lists of probabilities."""
    of_term = defaultdict(list)
    for (stereotype, anti_stereotype, _), term in zip(scores, terms, strict=True):
        of_term[term if average == "macro" else "all"].append(math.log(stereotype) - math.log(anti_stereotype))
    return statistics.fmean(map(statistics.fmean, of_term.values()))


def resamples(count, resample=5, seed=3):
    return torch.randint(count, (resample, count), generator=torch.Generator().manual_seed(seed))


def percentiles(values: list[float]) -> tuple[float, float]:
    """The 2.5th and the 97.5th, between the nearest two."""
    ordered, found = sorted(values), []
    for level in (0.025, 0.975):
        place = level * (len(ordered) - 1)
        below = math.floor(place)
        found.append(ordered[below] + (place - below) * (ordered[math.ceil(place)] - ordered[below]))
    return found[0], found[1]


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("seed", range(3))
def test_the_function_agrees_with_the_loop_on_both_scales(average, seed):
    scores, terms, _ = clusters(seed=seed)
    expected = loop(scores.tolist(), terms.tolist(), average)
    for given, scale in ((scores, "probability"), (scores.log(), "log_probability")):
        assert stereoset.log_ratio(given, terms, scale, average).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_the_class_agrees_with_the_loop_and_counts_a_repeated_cluster_once(average):
    scores, terms, examples = clusters()
    metric = StereotypeLogRatio("probability", average)
    for part in torch.arange(60).split(13):
        metric.update(scores[part], terms[part], examples[part])
    metric.update(scores[:9], terms[:9], examples[:9])
    expected = loop(scores.tolist(), terms.tolist(), average)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
    metric.reset()
    assert metric.scores == []


def test_the_strength_counts_where_the_sign_is_the_same():
    """SS is 100 in each case, and the sum of the log-ratios is theirs."""
    terms = torch.tensor([0, 1])
    for ratio in (1.5, 4.0, 100.0):
        scores = torch.tensor([[ratio * 0.002, 0.002, 0.5]]).repeat(2, 1)
        assert stereoset.stereotype_score(scores, terms) == 100
        assert stereoset.log_ratio(scores, terms, "probability").item() == pytest.approx(math.log(ratio), rel=1e-5)
        opposite = scores[:, [1, 0, 2]]
        assert stereoset.log_ratio(opposite, terms, "probability").item() == pytest.approx(-math.log(ratio), rel=1e-5)


def test_macro_by_hand():
    scores = torch.tensor([[0.4, 0.1, 0.2], [0.4, 0.1, 0.2], [0.1, 0.2, 0.4]])
    terms = torch.tensor([5, 5, 9])
    found = [stereoset.log_ratio(scores, terms, "probability", average).item() for average in ("macro", "micro")]
    assert found == pytest.approx([(math.log(4) - math.log(2)) / 2, (2 * math.log(4) - math.log(2)) / 3], rel=1e-6)


def test_in_a_collection_it_shares_the_states_of_its_neighbours():
    scores, terms, examples = clusters()
    collection = MetricCollection({"ss": StereotypeScore(), "ratio": StereotypeLogRatio("probability")})
    collection.update(scores, terms, examples)
    assert len(collection.compute_groups) == 1
    assert collection.compute()["ratio"].item() == pytest.approx(loop(scores.tolist(), terms.tolist()), abs=1e-6)


def test_without_clusters_it_is_nan():
    metric = StereotypeLogRatio("probability")
    metric.update(torch.zeros(0, 3), NO_IDS, NO_IDS)
    assert metric.compute().isnan()
    assert stereoset.log_ratio(torch.zeros(0, 3), NO_IDS, "log_probability").isnan()
    assert crows_pairs.crows_pairs_log_ratio(torch.zeros(0, 2)).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_probability_of_zero_counts_as_the_smallest_number_and_is_told(dtype):
    scores, terms = torch.tensor([[0.5, 0.0, 0.2], [0.25, 0.25, 0.1]], dtype=dtype), torch.tensor([0, 1])
    least = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).tiny
    with pytest.warns(UserWarning, match=r"`scores` has probabilities of 0.* smaller in magnitude"):
        found = stereoset.log_ratio(scores, terms, "probability")
    assert found.item() == pytest.approx((math.log(0.5) - math.log(least)) / 2, rel=1e-6)
    with pytest.warns(UserWarning, match="probabilities of 0"):
        interval = stereoset.log_ratio_interval(scores, terms, "probability")
    assert all(map(math.isfinite, interval))
    metric = StereotypeLogRatio("probability")
    metric.update(scores, terms, terms)
    with pytest.warns(UserWarning, match="probabilities of 0"):
        assert metric.compute().isfinite()


def test_the_unrelated_candidate_does_not_matter():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = torch.tensor([[0.5, 0.25, 0.0], [0.5, 0.25, float("nan")]])
        assert stereoset.log_ratio(scores, torch.tensor([0, 1]), "probability").item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("scores", "scale", "message"),
    [
        ([[-1.0, -2.0, -3.0]], "probability", r'`scores` .* from 0 to 1 for the scale "probability" but got -1'),
        ([[0.5, 1.2, 0.1]], "probability", "`scores` .* but got 1.2"),
        ([[0.5, float("nan"), 0.1]], "probability", "`scores` .* but got nan"),
        ([[0.5, 0.1, 0.1]], "log_probability", r'`scores` .* at most 0 for the scale "log_probability" but got 0.5'),
        ([[-1.0, -math.inf, -1.0]], "log_probability", "`scores` .* finite numbers .* but got -inf"),
        ([[0.5, 0.1, 0.1]], "bits", '`scale` is expected to be "probability" or "log_probability" but got \'bits\''),
        ([[0.5, 0.1]], "probability", r"`scores` .* \[1, 2\]"),
    ],
)
def test_scores_of_another_scale_or_shape_are_refused(scores, scale, message):
    for function in (stereoset.log_ratio, stereoset.log_ratio_bootstrap, stereoset.log_ratio_interval):
        with pytest.raises(InputError, match=message):
            function(torch.tensor(scores), torch.tensor([0]), scale)


def test_the_class_refuses_what_the_function_does():
    with pytest.raises(InputError, match=r"`scale` .* 'bits'"):
        StereotypeLogRatio("bits")
    with pytest.raises(InputError, match=r"`average` .* 'weighted'"):
        StereotypeLogRatio("probability", "weighted")
    metric = StereotypeLogRatio("log_probability")
    metric.update(*clusters())
    with pytest.raises(InputError, match=r"`scores` .* at most 0"):
        metric.compute()


def test_rounding_of_log_probabilities_is_no_error():
    scores = torch.tensor([[1.1e-5, -1.0]])
    assert torch.equal(log_probabilities(scores, "log_probability"), scores)


def test_bootstrap_agrees_with_a_loop_over_the_resamples_of_ss():
    scores, terms, _ = clusters()
    names = terms.unique()
    expected, shares = [], []
    for draw in resamples(len(names)):
        sample, labels = [], []
        for copy, term in enumerate(names[draw].tolist()):
            members = scores[terms == term].tolist()
            sample, labels = sample + members, labels + [copy] * len(members)
        expected.append(loop(sample, labels))
        shares.append(stereoset.stereotype_score(torch.tensor(sample), torch.tensor(labels)).item())
    found = stereoset.log_ratio_bootstrap(scores, terms, "probability", resamples=5, seed=3)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert stereoset.bootstrap(scores, terms, 5, 3)[:, 0].tolist() == pytest.approx(shares, abs=1e-3)


def test_interval_and_paired_change_agree_with_loops():
    """Of terms with one cluster each, whose resamples are means of drawn numbers."""
    before, after = (clusters(count=40, seed=seed)[0] for seed in (1, 2))
    terms = torch.arange(40)
    ratios = [[math.log(a / b) for a, b, _ in scores.tolist()] for scores in (before, after)]
    changes = [new - old for old, new in zip(*ratios, strict=True)]
    found = stereoset.log_ratio_interval(before, terms, "probability")
    change = stereoset.log_ratio_change(before, after, terms, "probability")
    for interval, values in ((found, ratios[0]), (change, changes)):
        means = [statistics.fmean(values[place] for place in draw) for draw in resamples(40, 2000, 0).tolist()]
        assert tuple(interval) == pytest.approx((statistics.fmean(values), *percentiles(means)), abs=1e-5)
    assert stereoset.log_ratio_change(before, before, terms, "probability") == Interval(0, 0, 0)


def test_bootstrap_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"`scores` .* at least one cluster"):
        stereoset.log_ratio_interval(torch.zeros(0, 3), NO_IDS, "probability")
    with pytest.raises(InputError, match=r"`scores` .* at least one pair"):
        crows_pairs.crows_pairs_log_ratio_interval(torch.zeros(0, 2))


def pairs(count=50, seed=0):
    return -40 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).double()


def test_pairs_agree_with_loops():
    before, after = pairs(seed=1), pairs(seed=2)
    ratios = [[more - less for more, less in scores.tolist()] for scores in (before, after)]
    changes = [new - old for old, new in zip(*ratios, strict=True)]
    assert crows_pairs.crows_pairs_log_ratio(before).item() == pytest.approx(statistics.fmean(ratios[0]))
    found = crows_pairs.crows_pairs_log_ratio_bootstrap(before, resamples=5, seed=3)
    draws = resamples(50).tolist()
    assert found.tolist() == pytest.approx([statistics.fmean(ratios[0][place] for place in draw) for draw in draws])
    interval = crows_pairs.crows_pairs_log_ratio_interval(before)
    change = crows_pairs.crows_pairs_log_ratio_change(before, after)
    for figure, values in ((interval, ratios[0]), (change, changes)):
        means = [statistics.fmean(values[place] for place in draw) for draw in resamples(50, 2000, 0).tolist()]
        assert tuple(figure) == pytest.approx((statistics.fmean(values), *percentiles(means)), abs=1e-9)
    assert crows_pairs.crows_pairs_log_ratio_change(before, before) == Interval(0, 0, 0)


def test_a_neutral_pair_counts_with_its_difference():
    scores = torch.tensor([[-20.0, -20.0004], [-10.0, -10.0]], dtype=torch.float64)
    assert not crows_pairs.decided(scores).any()
    assert crows_pairs.crows_pairs_log_ratio(scores).item() == pytest.approx(0.0002)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crows_pairs.crows_pairs_log_ratio(torch.zeros(4, 3)), r"`scores` .* \[4, 3\]"),
        (lambda: crows_pairs.crows_pairs_log_ratio(torch.tensor([[0.5, -1.0]])), "`scores` .* at most 0 .* got 0.5"),
        (lambda: crows_pairs.crows_pairs_log_ratio(torch.tensor([[-math.inf, -1.0]])), "`scores` .* got -inf"),
        (
            lambda: crows_pairs.crows_pairs_log_ratio_change(torch.zeros(4, 2), torch.zeros(3, 2)),
            r"`after` .* \[4, 2\], but got \[3, 2\]",
        ),
    ],
)
def test_other_pairs_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    scores, terms, examples = clusters()
    metric, alone = StereotypeLogRatio("probability"), StereotypeLogRatio("log_probability", "micro")
    own = torch.arange(45) if rank == 0 else torch.cat([torch.arange(45, 60), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        metric.update(scores[part], terms[part], examples[part])
    if rank == 0:  # the other process sees nothing
        alone.update(scores.log(), terms, examples)
    else:
        alone._update_count = 1  # as for a process whose batches had none of a domain: no warning
    torch.save(torch.stack([metric.compute(), alone.compute()]), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    scores, terms, _ = clusters()
    expected = [loop(scores.tolist(), terms.tolist(), average) for average in ("macro", "micro")]
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == pytest.approx(expected, abs=1e-6)
