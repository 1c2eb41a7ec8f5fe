from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import crows_pairs as reference

from biaslab.errors import InputError
from biaslab.metrics.crows_pairs import (
    PairScores,
    crows_pairs_bootstrap,
    crows_pairs_change,
    crows_pairs_interval,
    crows_pairs_score,
    decided,
)


def pairs(count=60, seed=0):
    """Scores with ties, some by rounding alone; ids in another order; every third pair of the other direction."""
    generator = torch.Generator().manual_seed(seed)
    scores = -torch.randint(20_000, 20_012, (count, 2), generator=generator).double() / 4000
    directions = ["antistereo" if number % 3 == 2 else "stereo" for number in range(count)]
    return scores, torch.randperm(count, generator=generator), directions


@pytest.mark.parametrize("seed", range(3))
def test_functions_agree_with_the_loop(seed):
    scores, _, directions = pairs(seed=seed)
    overall, stereotype, anti_stereotype, neutral = reference.metrics(scores.tolist(), directions)
    clear = decided(scores)
    assert 0 < neutral == (~clear).sum() < len(scores)
    assert 0 < (scores[~clear, 0] != scores[~clear, 1]).sum() < neutral  # both kinds of ties
    assert crows_pairs_score(scores).item() == pytest.approx(overall, abs=1e-4)
    for direction, expected in (("stereo", stereotype), ("antistereo", anti_stereotype)):
        chosen = clear & torch.tensor([each == direction for each in directions])
        assert crows_pairs_score(scores[chosen]).item() == pytest.approx(expected, abs=1e-4)


def test_a_neutral_pair_is_a_pair_but_no_preference():
    scores = torch.tensor([[-1.0, -2.0], [-3.0, -3.0]])
    assert crows_pairs_score(scores) == 50
    assert crows_pairs_score(scores[decided(scores)]) == 100


def test_scores_are_rounded_as_python_rounds_them():
    """The double 0.0005 lies a little above its name; times 1000 it is exactly a half, and goes to the even digit."""
    scores = torch.tensor([[0.0005, 0.0], [-0.0005, 0.0], [0.0004, 0.0], [-0.0, 0.0]], dtype=torch.float64)
    assert scores.round(decimals=3)[0, 0] == 0 != round(0.0005, 3)
    assert decided(scores).tolist() == [True, True, False, False]
    assert crows_pairs_score(scores) == 25


def test_an_impossible_sentence_is_less_likely_and_two_are_neutral():
    scores = torch.tensor([[-1.0, -math.inf], [-math.inf, -math.inf]])
    assert decided(scores).tolist() == [True, False]
    assert crows_pairs_score(scores) == 50


def test_without_pairs_the_score_is_nan():
    assert crows_pairs_score(torch.zeros(0, 2)).isnan()


def test_bootstrap_agrees_with_a_loop_over_resamples():
    scores, _, directions = pairs()
    drawn = torch.randint(60, (5, 60), generator=torch.Generator().manual_seed(3))
    expected = [reference.metrics(scores[draw].tolist(), directions)[0] for draw in drawn]
    assert crows_pairs_bootstrap(scores, resamples=5, seed=3).tolist() == pytest.approx(expected, abs=1e-3)


def test_intervals_hold_the_value_and_are_as_wide_as_the_binomial_says():
    scores = torch.rand(800, 2, generator=torch.Generator().manual_seed(0)) * 50
    value, low, high = crows_pairs_interval(scores)
    assert value == crows_pairs_score(scores)
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(value * (100 - value) / 800), rel=0.1)


def test_paired_change_is_narrower_than_two_intervals_and_zero_for_no_change():
    before = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 50
    after = before.clone()
    after[:10] = after[:10].flip(1)
    change, alone = crows_pairs_change(before, after), crows_pairs_interval(before)
    assert change.value == pytest.approx(float(crows_pairs_score(after) - crows_pairs_score(before)))
    assert change.low <= change.value <= change.high
    assert change.high - change.low < alone.high - alone.low
    assert tuple(crows_pairs_change(before, before)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crows_pairs_score(torch.zeros(4, 3)), r"`scores` .* \[4, 3\]"),
        (lambda: decided(torch.zeros(4)), r"`scores` .* \[4\]"),
        (lambda: crows_pairs_interval(torch.zeros(0, 2)), "`scores` .* at least one"),
        (lambda: crows_pairs_change(torch.zeros(4, 2), torch.zeros(3, 2)), r"`after` .* \[4, 2\], but got \[3, 2\]"),
    ],
)
def test_other_shapes_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 3)}, r"`scores` .* \[4, 3\]"),
        ({"examples": torch.zeros(3, dtype=torch.long)}, r"`examples` .* \[3\]"),
        ({"examples": torch.zeros(4)}, r"`examples` .* torch.float32"),
        ({"scores": torch.tensor([[0, 0], [0, math.nan], [0, 0], [0, 0]])}, r"`scores` .* 1 of 4 examples: 1\."),
    ],
)
def test_other_updates_are_refused(change, message):
    inputs = {"scores": torch.zeros(4, 2), "examples": torch.arange(4)}
    with pytest.raises(InputError, match=message):
        PairScores().update(**inputs | change)


def test_pairs_are_in_the_order_of_the_ids_and_a_repeated_one_counts_once():
    scores, examples, _ = pairs()
    metric = PairScores()
    for part in torch.arange(60).split(13):
        metric.update(scores[part], examples[part])
    metric.update(scores[:9] - 1, examples[:9])
    found = metric.compute()
    assert torch.equal(found.examples, torch.arange(60))
    assert torch.equal(found.scores, scores[examples.argsort()])
    metric.reset()
    assert metric.scores == []


def test_the_states_are_integers_on_the_metrics_device_and_no_bit_is_lost():
    scores = torch.tensor([[-20.1, -math.inf], [5e-324, -0.0], [1 / 3, -1e300]], dtype=torch.float64)
    metric = PairScores()
    metric.update(scores, torch.arange(3))
    assert [state.dtype for state in (*metric.scores, *metric.examples)] == [torch.long, torch.long]
    assert torch.equal(metric.compute().scores.view(torch.long), scores.view(torch.long))
    elsewhere = PairScores().to("meta")
    elsewhere.update(scores, torch.arange(3))
    assert {state.device.type for state in (*elsewhere.scores, *elsewhere.examples)} == {"meta"}


def test_without_pairs_nothing_is_there_with_the_usual_warning():
    with pytest.warns(UserWarning, match="was called before the ``update``"):
        assert PairScores().compute().scores.shape == (0, 2)


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    scores, examples, _ = pairs()
    everything, alone = PairScores(), PairScores()
    own = torch.arange(45) if rank == 0 else torch.cat([torch.arange(45, 60), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        everything.update(scores[part], examples[part])
    if rank == 0:  # the other process sees nothing
        alone.update(scores, examples)
    else:
        alone._update_count = 1  # no warning
    torch.save((tuple(everything.compute()), tuple(alone.compute())), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    scores, examples, _ = pairs()
    for rank in range(2):
        for found, ids in torch.load(tmp_path / f"{rank}.pt"):
            assert torch.equal(ids, torch.arange(60))
            assert torch.equal(found, scores[examples.argsort()])
