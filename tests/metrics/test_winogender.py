from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import pronouns as reference

from biaslab.errors import InputError
from biaslab.metrics.winogender import (
    NAMES,
    WinogenderAssociation,
    winogender_bootstrap,
    winogender_change,
    winogender_intervals,
    winogender_point,
)
from biaslab.statistics import draw


def sentences(count=90, seed=0):
    """Sentences about twelve occupations of unequal sizes, which follow the share of women a little."""
    generator = torch.Generator().manual_seed(seed)
    occupations = torch.randint(12, (count,), generator=generator)
    shares = (torch.rand(12, generator=generator).double() * 98 + 1)[occupations]
    scores = -20 + torch.randn(count, 2, generator=generator).double()
    scores[:, 0] += 0.3 * (shares / 100).logit()
    return scores, occupations, shares, torch.randperm(count, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_the_loop(seed):
    *rows, _ = sentences(seed=seed)
    expected = reference.winogender(*(each.tolist() for each in rows))
    assert winogender_point(*rows).tolist() == pytest.approx(expected, abs=1e-9)


def test_a_preference_for_a_gender_changes_neither_correlation_nor_slope():
    scores, *labels, _ = sentences()
    shifted = scores - torch.tensor([2.0, 0.0])
    before, after = (winogender_point(each, *labels) for each in (scores, shifted))
    torch.testing.assert_close(after, before - torch.tensor([0.0, 0.0, 2.0]))


def test_the_slope_is_that_of_the_scores():
    _, occupations, shares, _ = sentences()
    scores = torch.stack([0.7 * (shares / 100).logit() - 1, torch.zeros(len(shares))], 1) - 20
    correlation, slope, mean = winogender_point(scores, occupations, shares).tolist()
    assert correlation == pytest.approx(100)
    assert slope == pytest.approx(0.7)
    logits = {int(o): float((s / 100).logit()) for o, s in zip(occupations, shares, strict=True)}
    assert mean == pytest.approx(0.7 * sum(logits.values()) / len(logits) - 1)


def test_the_bootstrap_agrees_with_a_loop_over_occupations():
    *rows, _ = sentences()
    listed = list(zip(*(each.tolist() for each in rows), strict=True))
    names = sorted({occupation for _, occupation, _ in listed})
    expected = []
    for picks in draw(len(names), 5, 3).tolist():
        chosen = [
            (scores, (copy, own), share)
            for copy, pick in enumerate(picks)
            for scores, own, share in listed
            if own == names[pick]
        ]
        expected.append(reference.winogender(*zip(*chosen, strict=True)))
    found = winogender_bootstrap(*rows, resamples=5, seed=3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_occupations_that_do_not_differ_have_no_line():
    scores, ids = -torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    correlation, slope, mean = winogender_point(scores, ids, torch.full((3,), 29.3)).tolist()
    assert math.isnan(correlation)
    assert math.isnan(slope)
    assert mean == pytest.approx(float((scores[:, 0] - scores[:, 1]).mean()))
    shares = torch.tensor([20.0, 50.0, 70.0])
    correlation, slope, _ = winogender_point(torch.full((3, 2), -0.3), ids, shares).tolist()
    assert math.isnan(correlation)
    assert slope == 0
    drawn = winogender_bootstrap(scores, ids, shares)
    alone = (draw(3) == draw(3)[:, :1]).all(1)
    assert torch.equal(drawn[:, 0].isnan(), alone)
    assert torch.equal(drawn[:, 1].isnan(), alone)
    assert not any(map(math.isnan, winogender_intervals(scores, ids, shares)["Winogender slope"]))


def test_intervals_hold_the_values_and_a_paired_change_is_narrower():
    scores, *labels, _ = sentences()
    found = winogender_intervals(scores, *labels)
    assert list(found) == list(NAMES)
    assert all(low <= value <= high for value, low, high in found.values())
    after = scores.clone()
    after[:5, 0] -= 0.5
    change = winogender_change(scores, after, *labels)
    for name in NAMES:
        assert change[name].value == pytest.approx(winogender_intervals(after, *labels)[name].value - found[name].value)
        assert change[name].high - change[name].low < found[name].high - found[name].low
    assert set(winogender_change(scores, scores, *labels).values()) == {(0, 0, 0)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(4, 3)}, r"`scores` .* \[4, 3\]"),
        ({"scores": torch.ones(4, 2)}, "`scores` .* at most 0"),
        ({"occupations": torch.zeros(4)}, r"`occupations` .* torch.float32"),
        ({"female_shares": torch.tensor([50.0, 50.0, 50.0])}, r"`female_shares` .* \[4\], but got \[3\]\."),
        ({"female_shares": torch.tensor([50.0, 0.0, 50.0, 50.0])}, "`female_shares` .* with 0"),
        ({"female_shares": torch.tensor([50, 100, 50, 50])}, "`female_shares` .* with 100"),
        ({"female_shares": torch.tensor([50.0, math.nan, 50.0, 50.0])}, "`female_shares` .* with nan"),
    ],
)
def test_other_arguments_are_refused(changes, message):
    inputs = {"scores": torch.zeros(4, 2), "occupations": torch.arange(4), "female_shares": torch.full((4,), 30.0)}
    for function in (winogender_point, winogender_bootstrap):
        with pytest.raises(InputError, match=message):
            function(**inputs | changes)
    with pytest.raises(InputError, match=r"`scores` .* at least one"):
        winogender_bootstrap(torch.zeros(0, 2), torch.arange(0), torch.zeros(0))


def test_the_metric_counts_a_sentence_once_in_the_order_of_the_ids():
    *rows, examples = sentences()
    metric = WinogenderAssociation()
    for part in torch.arange(90).split(13):
        metric.update(*(each[part] for each in rows), examples[part])
    metric.update(rows[0][:9] - 1, rows[1][:9], rows[2][:9], examples[:9])
    found, order = metric.distinct(), examples.argsort()
    assert torch.equal(found.examples, torch.arange(90))
    assert all(torch.equal(one, each[order]) for one, each in zip(found, rows, strict=False))
    assert [float(value) for value in metric.compute().values()] == pytest.approx(winogender_point(*rows).tolist())
    with pytest.raises(InputError, match=r"`scores` .* 1 of 1 examples: 7\."):
        metric.update(torch.tensor([[math.nan, 0]]), torch.tensor([0]), torch.tensor([30.0]), torch.tensor([7]))


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = sentences()
    everything, alone = WinogenderAssociation(), WinogenderAssociation()
    own = torch.arange(70) if rank == 0 else torch.cat([torch.arange(70, 90), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        everything.update(*(each[part] for each in rows))
    if rank == 0:  # the other process sees nothing
        alone.update(*rows)
    else:
        alone._update_count = 1  # no warning
    torch.save((everything.compute(), alone.compute()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    *rows, _ = sentences()
    expected = winogender_point(*rows).tolist()
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            assert [float(found[name]) for name in NAMES] == pytest.approx(expected, abs=1e-9)
