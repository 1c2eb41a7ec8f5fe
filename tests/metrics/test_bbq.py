from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from conftest import run_two_processes
from reference import bbq as reference

from biaslab.errors import InputError
from biaslab.metrics import BBQAnswers
from biaslab.metrics.bbq import BIAS, NAMES, Questions, bbq_bootstrap, bbq_change, bbq_interval, bbq_scores


def answered(count=240, seed=0):
    """Questions of two categories with four templates each, some without people named, and rows for the loop."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    right = torch.randint(2, (count,), generator=generator)
    right[torch.rand(count, generator=generator) < 0.5] = 2
    templates = torch.randint(8, (count,), generator=generator)
    ids = torch.randperm(count, generator=generator)
    return Questions(scores, right, templates, 3 + templates // 4, ids)


def rows_of(questions):
    """The same as rows of the files: the biased answer is ans0, the unknown one ans2."""
    info = {"answer_info": {"ans0": ["", "old"], "ans1": ["", "young"], "ans2": ["", "unknown"]}, "target_loc": "0"}
    return [
        info | {"context_condition": "ambig" if label == 2 else "disambig", "label": label}
        for label in questions.right.tolist()
    ]


def looped(questions, chosen):
    rows, answers = rows_of(questions), questions.scores.argmax(1).tolist()
    return reference.figures([rows[i] for i in chosen], [answers[i] for i in chosen])


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_the_loop(seed):
    questions = answered(seed=seed)
    found = bbq_scores(questions)
    assert found.shape == (2, 4)
    for place, category in enumerate((3, 4)):
        chosen = [i for i, own in enumerate(questions.categories.tolist()) if own == category]
        assert found[place].tolist() == pytest.approx(looped(questions, chosen))


def one(columns, right, category=0):
    """Questions whose answers are these columns."""
    scores = torch.nn.functional.one_hot(torch.tensor(columns), 3).float()
    same = torch.full((len(columns),), category)
    return Questions(scores, torch.tensor(right), same, same, torch.arange(len(columns)))


@pytest.mark.parametrize(
    ("columns", "right", "expected"),
    [
        ([2, 2, 0, 1], [2, 2, 0, 1], [100, 100, 0, 0]),  # always right
        ([0, 0, 0, 0], [2, 2, 0, 1], [0, 50, 100, 100]),  # always biased
        ([1, 1, 1, 1], [2, 2, 0, 1], [0, 50, -100, -100]),
        ([0, 1, 0, 1], [2, 2, 1, 0], [0, 0, 0, 0]),  # always wrong, either way as often
        ([2, 2, 2, 2], [2, 2, 0, 1], [100, 0, 0, 0]),  # names nobody
        ([0, 2, 2, 0], [2, 2, 0, 1], [50, 0, 50, 100]),  # s_AMB is scaled, s_DIS is not
    ],
)
def test_scores_by_hand(columns, right, expected):
    assert bbq_scores(one(columns, right)).tolist() == [expected]


def test_equally_likely_answers_share_the_question():
    questions = one([0, 0], [2, 0])._replace(scores=torch.tensor([[1.0, 0, 1], [0, 0, 0]]))
    assert bbq_scores(questions)[0].tolist() == pytest.approx([50, 100 / 3, 50, 0])


def test_a_kind_of_contexts_that_is_not_there_is_nan_and_without_questions_there_are_no_categories():
    found = bbq_scores(one([0, 2], [2, 2]))[0]
    assert found[[0, 2]].tolist() == [50, 50]
    assert found[[1, 3]].isnan().all()
    assert bbq_scores(Questions(*(part[:0] for part in one([0], [2])))).shape == (0, 4)


def test_bootstrap_agrees_with_a_loop_over_resamples():
    questions = answered()
    found = bbq_bootstrap(questions, resamples=5, seed=7)
    for place, category in enumerate((3, 4)):
        drawn = torch.randint(4, (5, 4), generator=torch.Generator().manual_seed(7 + category)) + 4 * place
        for resample, draw in enumerate(drawn.tolist()):
            chosen = [i for name in draw for i, own in enumerate(questions.templates.tolist()) if own == name]
            assert found[resample, place].tolist() == pytest.approx(looped(questions, chosen))


def test_variants_of_a_template_tell_no_more_than_one():
    """Ten copies of each question in its template leave the interval as it is; as templates, they would shrink it."""
    questions = answered(40)
    copied = Questions(*(part.repeat(10, *[1] * (part.ndim - 1)) for part in questions))
    apart = copied._replace(templates=torch.arange(400))
    for name in NAMES:
        wide, narrow = bbq_interval(copied)[name], bbq_interval(apart)[name]
        assert tuple(wide) == pytest.approx(tuple(bbq_interval(questions)[name]))
        assert narrow.high - narrow.low < wide.high - wide.low


def test_intervals_hold_the_value_and_changes_are_paired():
    before = answered()
    after = before._replace(scores=before.scores.clone())
    after.scores[:20] = after.scores[:20].flip(1)
    values = bbq_scores(before).mean(0).tolist()
    for place, name in enumerate(NAMES):
        value, low, high = bbq_interval(before)[name]
        assert value == pytest.approx(values[place])
        assert low < value < high
        change = bbq_change(before, after)[name]
        assert change.value == pytest.approx(float((bbq_scores(after) - bbq_scores(before)).mean(0)[place]))
        assert change.low <= change.value <= change.high
        assert change.high - change.low < high - low
        assert tuple(bbq_change(before, before)[name]) == (0, 0, 0)
    assert set(BIAS) < set(NAMES)


QUESTIONS = one([0, 1, 2], [2, 2, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bbq_scores(QUESTIONS._replace(scores=torch.zeros(3, 2))), r"`scores` .* \[3, 2\]"),
        (lambda: bbq_scores(QUESTIONS._replace(right=torch.tensor([0, 3, 1]))), "`right` is expected .* but got 3"),
        (lambda: bbq_scores(QUESTIONS._replace(templates=torch.zeros(3))), "`templates` .* torch.float32"),
        (lambda: bbq_scores(QUESTIONS._replace(categories=torch.arange(2))), r"`categories` .* \[2\]"),
        (lambda: bbq_bootstrap(Questions(*(part[:0] for part in QUESTIONS))), "`questions` .* at least one"),
        (lambda: bbq_bootstrap(QUESTIONS, resamples=0), "`resamples`"),
        (lambda: bbq_change(QUESTIONS, QUESTIONS._replace(examples=torch.tensor([0, 2, 1]))), "`after` .* `before`"),
        (lambda: BBQAnswers().update(*QUESTIONS._replace(scores=torch.full((3, 3), math.nan))), "`scores` .* has NaN"),
        (lambda: BBQAnswers().update(*QUESTIONS._replace(right=torch.tensor([0, -1, 1]))), "`right` .* but got -1"),
    ],
)
def test_other_inputs_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def agree(found, expected):
    order = expected.examples.argsort()
    assert all(torch.equal(own, part[order]) for own, part in zip(found, expected, strict=True))


def test_questions_are_in_the_order_of_the_ids_and_a_repeated_one_counts_once():
    questions, metric = answered(), BBQAnswers()
    for part in torch.arange(240).split(37):
        metric.update(*(each[part] for each in questions))
    metric.update(questions.scores[:9] - 1, *(each[:9] for each in questions[1:]))
    agree(metric.compute(), questions)
    assert bbq_interval(metric.compute()) == bbq_interval(questions)
    metric.reset()
    assert metric.scores == []


def test_the_states_are_integers_on_the_metrics_device():
    metric = BBQAnswers().to("meta")
    metric.update(*answered())
    states = [state for name in Questions._fields for state in getattr(metric, name)]
    assert {(state.device.type, state.dtype) for state in states} == {("meta", torch.long)}


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    questions = answered()
    everything, alone = BBQAnswers(), BBQAnswers()
    own = torch.arange(150) if rank == 0 else torch.cat([torch.arange(150, 240), torch.arange(3)])  # uneven, repeats
    for part in own.split(41):
        everything.update(*(each[part] for each in questions))
    if rank == 0:  # the other process sees nothing
        alone.update(*questions)
    else:
        alone._update_count = 1  # no warning
    torch.save((tuple(everything.compute()), tuple(alone.compute())), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    questions = answered()
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt"):
            agree(Questions(*found), questions)
            torch.testing.assert_close(bbq_scores(Questions(*found)), bbq_scores(questions))
