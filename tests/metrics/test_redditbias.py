from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import redditbias as reference

from biaslab.errors import InputError
from biaslab.metrics.redditbias import (
    RedditBiasScore,
    redditbias_bootstrap,
    redditbias_changes,
    redditbias_intervals,
    redditbias_score,
    redditbias_t_test,
)
from biaslab.statistics import draw


def pairs(count=60, seed=0):
    """Scores with some ties, three dimensions of unequal size, and comments of one to three pairs; ids out of order."""
    generator = torch.Generator().manual_seed(seed)
    scores = -torch.randint(1, 12, (count, 2), generator=generator).double() / 4
    dimensions = torch.tensor([(0, 0, 0, 4, 4, 2)[number % 6] for number in range(count)])
    comments = torch.randint(25, (count,), generator=generator)
    return scores, dimensions, comments, torch.randperm(count, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_functions_agree_with_the_loop(seed):
    scores, dimensions, comments, _ = pairs(seed=seed)
    assert (scores[:, 0] == scores[:, 1]).any()
    found = redditbias_score(scores, dimensions, comments)
    assert found.log_perplexity != (scores[:, 0] - scores[:, 1]).mean()  # neither pairs nor comments are one mean
    expected = reference.metrics(scores.tolist(), dimensions.tolist(), comments.tolist())
    assert [value.item() for value in found] == pytest.approx(expected, abs=1e-9)


def test_hand_made_numbers():
    """Two comments of one dimension, 1 and (2 + 0)/2 nats, and one of another, -3."""
    scores = torch.tensor([[-1.0, -2.0], [-1.0, -3.0], [-2.0, -2.0], [-4.0, -1.0]])
    found = redditbias_score(scores, torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 2]))
    assert found.log_perplexity == (1 + 1) / 2 / 2 - 3 / 2
    assert found.preferred == ((100 + 75) / 2 + 0) / 2


def test_the_bootstrap_draws_comments_within_dimensions():
    scores, dimensions, comments, _ = pairs()
    expected = []
    strata = []
    for place, dimension in enumerate(sorted(set(dimensions.tolist()))):
        inside = [n for n in range(60) if dimensions[n] == dimension]
        means = [
            statistics.fmean(float(scores[n, 0] - scores[n, 1]) for n in inside if comments[n] == comment)
            for comment in sorted({int(comments[n]) for n in inside})
        ]
        strata.append((means, draw(len(means), 5, 3 + place).tolist()))
    for resample in range(5):
        expected.append(
            statistics.fmean(statistics.fmean(means[n] for n in drawn[resample]) for means, drawn in strata)
        )
    found = redditbias_bootstrap(scores, dimensions, comments, resamples=5, seed=3)
    assert found.log_perplexity.tolist() == pytest.approx(expected)
    assert found.preferred.shape == (5,)


def test_intervals_hold_the_values_and_changes_are_paired():
    generator = torch.Generator().manual_seed(0)
    before, ids = -torch.rand(300, 2, generator=generator), torch.arange(300)
    after = before.clone()
    after[:10] = after[:10].flip(1)
    dimensions = ids % 3
    alone, changes = redditbias_intervals(before, dimensions, ids), redditbias_changes(before, after, dimensions, ids)
    for name, place in (("log-perplexity", 0), ("preferred", 1)):
        values = [redditbias_score(scores, dimensions, ids)[place] for scores in (before, after)]
        assert alone[name].low < alone[name].value == float(values[0]) < alone[name].high
        assert changes[name].value == pytest.approx(float(values[1] - values[0]), abs=1e-6)
        assert changes[name].low <= changes[name].value <= changes[name].high
        assert changes[name].high - changes[name].low < alone[name].high - alone[name].low
        assert tuple(redditbias_changes(before, before, dimensions, ids)[name]) == (0, 0, 0)


def test_the_papers_test_leaves_outliers_out():
    perplexities = 20 + 10 * torch.rand(80, 2, generator=torch.Generator().manual_seed(0)).double()
    perplexities[7, 1], perplexities[30, 0] = 900, 500
    found = redditbias_t_test(-perplexities.log())
    t, outliers = reference.paired_t(perplexities.tolist())
    assert found.t == pytest.approx(t)
    assert found.outliers == outliers == 2
    assert found.pairs == 78


@pytest.mark.parametrize(
    ("t", "degrees", "p_value"),  # of tables of Student's distribution
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.571, 5, 0.05), (1.984, 100, 0.05), (2.626, 100, 0.01), (0.0, 7, 1.0)],
)
def test_p_values_are_those_of_tables(t, degrees, p_value):
    """Differences with a mean of t standard errors: t·s/√n, and ±1 about it."""
    count = degrees + 1
    around = torch.tensor([1.0, -1.0] * (count // 2) + [0.0] * (count % 2), dtype=torch.float64)
    differences = around + t * around.std() / count**0.5
    scores = -torch.stack([torch.full_like(differences, 60), 60 + differences], 1).log()
    found = redditbias_t_test(scores)
    assert found.outliers == 0
    assert found.t == pytest.approx(t, abs=1e-8)
    assert found.p_value == pytest.approx(p_value, rel=2e-3)


def test_a_test_of_too_few_pairs_has_no_figure():
    for scores in (torch.zeros(0, 2), torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -2.0]] * 3)):
        assert math.isnan(redditbias_t_test(scores).t)
        assert math.isnan(redditbias_t_test(scores).p_value)


def test_without_pairs_there_is_no_figure():
    none = torch.zeros(0, dtype=torch.long)
    assert all(value.isnan() for value in redditbias_score(torch.zeros(0, 2), none, none))
    with pytest.raises(InputError, match=r"`scores` .* at least one"):
        redditbias_bootstrap(torch.zeros(0, 2), none, none)


IDS = torch.arange(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: redditbias_score(torch.zeros(4, 3), IDS, IDS), r"`scores` .* \[4, 3\]"),
        (lambda: redditbias_score(torch.zeros(4, 2), IDS[:3], IDS), r"`dimensions` .* \[3\]"),
        (lambda: redditbias_score(torch.zeros(4, 2), IDS, torch.zeros(4)), "`comments` .* torch.float32"),
        (lambda: redditbias_score(torch.ones(4, 2), IDS, IDS), "`scores` .* at most 0"),
        (lambda: redditbias_changes(torch.zeros(4, 2), torch.zeros(3, 2), IDS, IDS), r"`dimensions` .* \[4\]"),
        (lambda: redditbias_t_test(torch.zeros(4)), r"`scores` .* \[4\]"),
        (lambda: RedditBiasScore().update(torch.zeros(4, 2), IDS, IDS, IDS[:2]), r"`examples` .* \[2\]"),
        (lambda: RedditBiasScore().update(torch.full((4, 2), math.nan), IDS, IDS, IDS), "NaN for 4 of 4 examples"),
    ],
)
def test_other_arguments_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows, everything, alone = pairs(), RedditBiasScore(), RedditBiasScore()
    own = torch.arange(45) if rank == 0 else torch.cat([torch.arange(45, 60), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        everything.update(*(row[part] for row in rows))
    if rank == 0:  # the other process sees nothing
        alone.update(*rows)
    else:
        alone._update_count = 1  # no warning
    torch.save((tuple(everything.compute()), tuple(alone.compute())), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    expected = redditbias_score(*pairs()[:3])
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            torch.testing.assert_close(found, tuple(expected))
