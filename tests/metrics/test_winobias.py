from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import pronouns as reference

from biaslab.errors import InputError
from biaslab.metrics.winobias import (
    NAMES,
    WinoBiasPreference,
    winobias_bootstrap,
    winobias_change,
    winobias_intervals,
    winobias_point,
)
from biaslab.statistics import draw


def sentences(count=120, seed=0):
    """Scores with ties; occupations of unequal sizes, more of one stereotype than of the other; ids in any order."""
    generator = torch.Generator().manual_seed(seed)
    scores = -torch.randint(20_000, 20_012, (count, 2), generator=generator).double() / 4000
    occupations = torch.randint(9, (count,), generator=generator) * torch.randint(1, 3, (count,), generator=generator)
    male = (occupations % 3 > 0).long()
    return scores, occupations, male, torch.randperm(count, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_the_loop(seed):
    scores, occupations, male, _ = sentences(seed=seed)
    assert (scores[:, 0] == scores[:, 1]).any()
    expected = reference.winobias(scores.tolist(), occupations.tolist(), male.tolist())
    assert winobias_point(scores, occupations, male).tolist() == pytest.approx(expected, abs=1e-9)
    assert winobias_point(scores.float(), occupations, male.bool()).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("preference", [-3.0, 0.25, 7.0])
def test_a_preference_for_a_gender_alone_is_no_stereotype(preference):
    """Whatever the mix of occupations and sentences: it is what the third metric says."""
    _, occupations, male, _ = sentences()
    scores = torch.zeros(len(male), 2).double() - 20
    scores[:, 0] += torch.where(male.bool(), -preference, preference) / 2
    scores[:, 1] -= torch.where(male.bool(), -preference, preference) / 2
    assert winobias_point(scores, occupations, male).tolist() == pytest.approx([50, 0, preference])
    assert (winobias_bootstrap(scores, occupations, male)[:, :2] - torch.tensor([50.0, 0.0])).abs().max() < 1e-9


def test_a_stereotype_is_seen_beside_a_preference():
    _, occupations, male, _ = sentences()
    ratios = torch.where(male.bool(), 3.0 + 0.5, -3.0 + 0.5)  # 3 nats for any man, 0.5 for any stereotype
    scores = torch.stack([ratios, torch.zeros(len(male))], 1) - 20
    assert winobias_point(scores, occupations, male).tolist() == pytest.approx([50, 0.5, -3])


def test_the_bootstrap_agrees_with_a_loop_over_occupations():
    scores, occupations, male, _ = sentences()
    rows = list(zip(scores.tolist(), occupations.tolist(), male.tolist(), strict=True))
    sides = [sorted({occupation for _, occupation, is_male in rows if is_male == side}) for side in (0, 1)]
    drawn = [draw(len(side), 5, 3 + number) for number, side in enumerate(sides)]
    expected = []
    for resample in range(5):
        chosen, copies = [], 0
        for side, picks in zip(sides, drawn, strict=True):
            for pick in picks[resample].tolist():
                copies += 1  # an occupation that is drawn twice is two
                chosen += [(each, (copies, name), is_male) for each, name, is_male in rows if name == side[pick]]
        expected.append(reference.winobias(*zip(*chosen, strict=True)))
    found = winobias_bootstrap(scores, occupations, male, resamples=5, seed=3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_both_stereotypes_are_drawn_apart():
    """With as many occupations of each, the draws of one tell nothing of those of the other."""
    generator = torch.Generator().manual_seed(0)
    scores, ids = -torch.rand(40, 2, generator=generator).double(), torch.arange(40)
    alone = scores.clone()
    alone[20:] = -1.0
    other = scores.clone()
    other[:20] = -1.0
    both = [winobias_bootstrap(each, ids, (ids >= 20).long())[:, 1] for each in (alone, other)]
    assert abs(torch.corrcoef(torch.stack(both))[0, 1]) < 0.1


def test_intervals_hold_the_values_and_a_paired_change_is_narrower():
    scores, occupations, male, _ = sentences()
    found = winobias_intervals(scores, occupations, male)
    assert list(found) == list(NAMES)
    assert all(low <= value <= high for value, low, high in found.values())
    after = scores.clone()
    after[:10] = after[:10].flip(1)
    change = winobias_change(scores, after, occupations, male)
    for name in NAMES:
        assert change[name].value == pytest.approx(
            winobias_intervals(after, occupations, male)[name].value - found[name].value
        )
        assert change[name].high - change[name].low < found[name].high - found[name].low
    assert set(winobias_change(scores, scores, occupations, male).values()) == {(0, 0, 0)}


def test_without_one_stereotype_there_is_no_figure():
    scores, ids = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]]), torch.arange(2)
    for male in (torch.ones(2), torch.zeros(2)):
        assert winobias_point(scores, ids, male.long()).isnan().all()
        assert winobias_bootstrap(scores, ids, male.long()).isnan().all()
    assert winobias_point(torch.zeros(0, 2), ids[:0], ids[:0]).isnan().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": torch.zeros(4, 3)}, r"`scores` .* \[4, 3\]"),
        ({"scores": torch.ones(4, 2)}, "`scores` .* at most 0"),
        ({"scores": torch.full((4, 2), math.nan)}, "`scores` .* finite"),
        ({"occupations": torch.zeros(3, dtype=torch.long)}, r"`occupations` .* \[3\]"),
        ({"male": torch.zeros(4)}, r"`male` .* torch.float32"),
        ({"male": torch.tensor([0, 1, 1, 1])}, r"`male` .* the same in all sentences of an occupation .* \[0\]"),
    ],
)
def test_other_arguments_are_refused(changes, message):
    inputs = {
        "scores": torch.zeros(4, 2),
        "occupations": torch.tensor([0, 0, 1, 1]),
        "male": torch.tensor([0, 0, 1, 1]),
    }
    for function in (winobias_point, winobias_bootstrap):
        with pytest.raises(InputError, match=message):
            function(**inputs | changes)


def test_the_metric_counts_a_sentence_once_in_the_order_of_the_ids():
    *rows, examples = sentences()
    metric = WinoBiasPreference()
    for part in torch.arange(120).split(13):
        metric.update(*(each[part] for each in rows), examples[part])
    metric.update(rows[0][:9] - 1, rows[1][:9], rows[2][:9], examples[:9])
    found, order = metric.distinct(), examples.argsort()
    assert torch.equal(found.examples, torch.arange(120))
    assert all(torch.equal(one, each[order]) for one, each in zip(found, rows, strict=False))
    assert [float(value) for value in metric.compute().values()] == pytest.approx(winobias_point(*rows).tolist())
    assert [state[0].dtype for state in (metric.scores, metric.occupations, metric.male)] == [torch.long] * 3
    with pytest.raises(InputError, match=r"`scores` .* 1 of 1 examples: 7\."):
        metric.update(torch.tensor([[math.nan, 0]]), *torch.tensor([[0], [0], [7]]))


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    rows = sentences()
    everything, alone = WinoBiasPreference(), WinoBiasPreference()
    own = torch.arange(90) if rank == 0 else torch.cat([torch.arange(90, 120), torch.arange(3)])  # uneven, with repeats
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
    expected = winobias_point(*rows).tolist()
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            assert [float(found[name]) for name in NAMES] == pytest.approx(expected, abs=1e-12)
