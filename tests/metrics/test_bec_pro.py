from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import bec_pro as reference

from biaslab.errors import InputError
from biaslab.metrics import BecProAssociation
from biaslab.metrics.bec_pro import (
    bec_pro_association,
    bec_pro_bootstrap,
    bec_pro_change,
    bec_pro_difference,
    bec_pro_difference_bootstrap,
    bec_pro_interval,
)

GROUPS = ("male", "female", "balanced")


def questions(count=60, seed=0):
    """Scores, professions (each of one group, some with more questions) and groups; ids in another order."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    professions = torch.randint(17, (count,), generator=generator)
    return scores, professions, professions % 3, torch.randperm(count, generator=generator)


def slowly(scores, professions, groups):
    rows = []
    for number, (pair, profession, group) in enumerate(
        zip(scores.tolist(), professions.tolist(), groups.tolist(), strict=True)
    ):
        named = zip(("male", "female"), pair, strict=True)
        rows += [(profession, GROUPS[group], number, gender, value) for gender, value in named]
    return reference.metrics(rows)


@pytest.mark.parametrize("seed", range(3))
def test_functions_agree_with_the_loop(seed):
    scores, professions, groups, _ = questions(seed=seed)
    difference, association = slowly(scores, professions, groups)
    assert bec_pro_difference(scores, professions).item() == pytest.approx(difference)
    assert bec_pro_association(scores, professions, groups).item() == pytest.approx(association)


def test_bootstrap_draws_professions():
    """Each with all its questions; the balanced ones are not among those that the association draws from."""
    scores, professions, groups, _ = questions()
    for chosen, function in (
        (
            torch.ones(60, dtype=torch.bool),
            lambda **kwargs: bec_pro_difference_bootstrap(scores, professions, **kwargs),
        ),
        (groups < 2, lambda **kwargs: bec_pro_bootstrap(scores, professions, groups, **kwargs)),
    ):
        ids = professions[chosen].unique()
        drawn = torch.randint(len(ids), (5, len(ids)), generator=torch.Generator().manual_seed(3))
        column = int(bool(chosen.all()) is False)
        expected = []
        for draw in drawn:
            parts = [slowly(*(each[professions == ids[d]] for each in (scores, professions, groups))) for d in draw]
            expected.append(sum(part[column] for part in parts) / len(parts))
        assert function(resamples=5, seed=3).tolist() == pytest.approx(expected)


def test_the_change_is_paired_and_zero_for_no_change():
    scores, professions, groups, _ = questions()
    after = scores + 0.1 * torch.randn(60, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    change, alone = bec_pro_change(scores, after, professions, groups), bec_pro_interval(scores, professions, groups)
    assert change.value == pytest.approx(slowly(after, professions, groups)[1] - slowly(scores, professions, groups)[1])
    assert change.low <= change.value <= change.high
    assert change.high - change.low < (alone.high - alone.low) / 2
    assert tuple(bec_pro_change(scores, scores, professions, groups)) == (0, 0, 0)


def test_balanced_professions_alone_have_no_association():
    scores, professions, _, _ = questions()
    balanced = torch.full((60,), 2)
    assert bec_pro_association(scores, professions, balanced).isnan()
    assert bec_pro_difference(scores[:0], professions[:0]).isnan()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 3)}, r"`scores` .* \[4, 3\]"),
        ({"professions": torch.zeros(3, dtype=torch.long)}, r"`professions` .* \[3\]"),
        ({"groups": torch.zeros(4)}, r"`groups` .* torch.float32"),
        ({"groups": torch.full((4,), 3)}, r"`groups` is expected to hold 0, 1 or 2 but got \[3\]"),
        ({"examples": torch.zeros(3, dtype=torch.long)}, r"`examples` .* \[3\]"),
        ({"scores": torch.tensor([[0, 0], [0, math.nan], [0, 0], [0, 0]])}, r"`scores` .* 1 of 4 examples: 1\."),
    ],
)
def test_other_updates_are_refused(change, message):
    ids = torch.arange(4)
    inputs = {"scores": torch.zeros(4, 2), "professions": ids, "groups": ids % 3, "examples": ids} | change
    with pytest.raises(InputError, match=message):
        BecProAssociation().update(**inputs)


def test_nothing_to_resample_and_other_shapes_are_refused():
    scores, professions, groups, _ = questions()
    with pytest.raises(InputError, match=r"`scores` .* at least one profession"):
        bec_pro_interval(scores, professions, torch.full((60,), 2))
    with pytest.raises(InputError, match=r"`after` .* \[60, 2\], but got \[3, 2\]"):
        bec_pro_change(scores, scores[:3], professions, groups)


def test_a_repeated_question_counts_once():
    inputs = questions()
    metric = BecProAssociation()
    for part in torch.arange(60).split(13):
        metric.update(*(each[part] for each in inputs))
    metric.update(inputs[0][:9] + 1, *(each[:9] for each in inputs[1:]))
    assert torch.equal(metric.distinct()[3], torch.arange(60))
    assert metric.compute().item() == pytest.approx(slowly(*inputs[:3])[1])
    order = inputs[3].argsort()
    assert metric.interval() == bec_pro_interval(*(each[order] for each in inputs[:3]))


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    inputs = questions()
    everything, alone = BecProAssociation(), BecProAssociation()
    own = torch.arange(45) if rank == 0 else torch.cat([torch.arange(45, 60), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        everything.update(*(each[part] for each in inputs))
    if rank == 0:  # the other process sees nothing
        alone.update(*inputs)
    else:
        alone._update_count = 1  # no warning
    torch.save((everything.compute(), alone.compute()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    inputs = questions()
    order = inputs[3].argsort()
    expected = bec_pro_association(*(each[order] for each in inputs[:3]))
    for rank in range(2):
        assert all(torch.equal(found, expected) for found in torch.load(tmp_path / f"{rank}.pt"))
