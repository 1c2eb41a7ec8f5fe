from __future__ import annotations

import math
import statistics
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import honest as reference

from biaslab.errors import InputError
from biaslab.metrics import HonestDivergence, HonestScore
from biaslab.metrics.honest import (
    honest_bootstrap,
    honest_change,
    honest_divergence,
    honest_divergence_bootstrap,
    honest_divergence_change,
    honest_divergence_interval,
    honest_interval,
    honest_score,
    jensen_shannon,
)


def templates(count=40, seed=0):
    """Hurtful and all completions, divergences, and ids in another order."""
    generator = torch.Generator().manual_seed(seed)
    asked = torch.randint(1, 30, (count, 2), generator=generator)
    hurtful = (asked * torch.rand(count, 2, generator=generator)).long()
    divergences = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return hurtful, asked, divergences, torch.randperm(count, generator=generator)


def test_the_divergence_agrees_with_the_loop():
    logits = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).double()
    logits[:, :, 0] = -math.inf  # impossible by both, and below by one
    logits[0, 0, 1] = -math.inf
    first, second = logits.softmax(-1)
    expected = [reference.divergence([a], [b]) for a, b in zip(first, second, strict=True)]
    assert jensen_shannon(first, second).tolist() == pytest.approx(expected)
    assert torch.equal(jensen_shannon(first, first), torch.zeros(5).double())
    assert torch.allclose(jensen_shannon(first, second), jensen_shannon(second, first))
    with pytest.raises(InputError, match=r"`second` .* \[5, 9\], but got \[4, 9\]"):
        jensen_shannon(first, second[:4])


def test_functions_and_bootstraps_agree_with_loops():
    hurtful, asked, divergences, _ = templates()
    shares = [100 * sum(h) / sum(a) for h, a in zip(hurtful.tolist(), asked.tolist(), strict=True)]
    assert honest_score(hurtful, asked).item() == pytest.approx(100 * hurtful.sum().item() / asked.sum().item())
    assert honest_score(hurtful[:1], asked[:1]).item() == pytest.approx(shares[0])
    assert honest_divergence(divergences).item() == pytest.approx(statistics.fmean(divergences[:, 0].tolist()))
    drawn = torch.randint(40, (5, 40), generator=torch.Generator().manual_seed(3))
    expected = [100 * hurtful[d].sum().item() / asked[d].sum().item() for d in drawn]
    assert honest_bootstrap(hurtful, asked, resamples=5, seed=3).tolist() == pytest.approx(expected)
    means = [statistics.fmean(divergences[d, 0].tolist()) for d in drawn]
    assert honest_divergence_bootstrap(divergences, resamples=5, seed=3).tolist() == pytest.approx(means)


def test_the_change_is_paired_and_zero_for_no_change():
    before, asked, _, _ = templates()
    after = before.clone()
    after[:3] = after[:3] // 2
    change, alone = honest_change(before, after, asked), honest_interval(before, asked)
    expected = 100 * (after.sum() - before.sum()).item() / asked.sum().item()
    assert change.value == pytest.approx(expected)
    assert change.low <= change.value <= change.high
    assert change.high - change.low < alone.high - alone.low
    assert tuple(honest_change(before, before, asked)) == (0, 0, 0)


def test_the_change_of_the_divergence_is_paired():
    before = templates()[2]
    change, alone = honest_divergence_change(before, before + 0.25), honest_divergence_interval(before)
    assert tuple(change) == pytest.approx((0.25, 0.25, 0.25))
    assert alone.high - alone.low > 0.05


def test_without_templates_there_is_no_figure():
    nothing = torch.zeros(0, 2, dtype=torch.long)
    assert honest_score(nothing, nothing).isnan()
    assert honest_divergence(torch.zeros(0, 1)).isnan()
    with pytest.raises(InputError, match="at least one template"):
        honest_interval(nothing, nothing)
    with pytest.raises(InputError, match="at least one template"):
        honest_divergence_bootstrap(torch.zeros(0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hurtful": torch.zeros(4, 3)}, r"`scores` .* \[4, 3\]"),
        ({"asked": torch.ones(3, 2)}, r"`hurtful` .* \[3, 2\], but got \[4, 2\]"),
        ({"hurtful": torch.full((4, 2), 2)}, "`hurtful` .* with counts outside this range"),
        ({"hurtful": torch.full((4, 2), -1)}, "`hurtful` .* with counts outside this range"),
        ({"examples": torch.zeros(3, dtype=torch.long)}, r"`examples` .* \[3\]"),
    ],
)
def test_other_counts_are_refused(change, message):
    inputs = {"hurtful": torch.zeros(4, 2), "asked": torch.ones(4, 2), "examples": torch.arange(4)} | change
    with pytest.raises(InputError, match=message):
        HonestScore().update(**inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergences": torch.zeros(4)}, r"`scores` .* \[4\]"),
        ({"divergences": torch.tensor([[0], [math.nan], [0], [0]])}, r"`scores` .* 1 of 4 examples: 1\."),
        ({"examples": torch.zeros(4)}, "`examples` .* torch.float32"),
    ],
)
def test_other_divergences_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        HonestDivergence().update(**{"divergences": torch.zeros(4, 1), "examples": torch.arange(4)} | change)


def test_a_repeated_template_counts_once():
    hurtful, asked, divergences, examples = templates()
    score, divergence = HonestScore(), HonestDivergence()
    for part in (*torch.arange(40).split(13), torch.arange(7)):
        score.update(hurtful[part], asked[part], examples[part])
        divergence.update(divergences[part], examples[part])
    order = examples.argsort()
    assert torch.equal(score.compute(), honest_score(hurtful, asked))
    assert score.interval() == honest_interval(hurtful[order], asked[order])
    assert torch.equal(divergence.compute(), honest_divergence(divergences[order]))
    assert divergence.interval().low < divergence.compute() < divergence.interval().high


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    hurtful, asked, divergences, examples = templates()
    score, divergence, alone = HonestScore(), HonestDivergence(), HonestScore()
    own = torch.arange(30) if rank == 0 else torch.cat([torch.arange(30, 40), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        score.update(hurtful[part], asked[part], examples[part])
        divergence.update(divergences[part], examples[part])
    if rank == 0:  # the other process sees nothing
        alone.update(hurtful, asked, examples)
    else:
        alone._update_count = 1  # no warning
    torch.save((score.compute(), alone.compute(), divergence.compute()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    hurtful, asked, divergences, examples = templates()
    expected = honest_score(hurtful, asked)
    for rank in range(2):
        score, alone, divergence = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(score, expected)
        assert torch.equal(alone, expected)
        assert torch.equal(divergence, honest_divergence(divergences[examples.argsort()]))
