import random
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import MASKED, make_model

from biaslab.errors import InputError
from biaslab.tasks.baselines.autodebias import DIVERGENCES, jensen_shannon
from biaslab.tasks.baselines.prompt_search import Best, Level, PromptScorer, beam_search, level_sizes, projecting_onto
from biaslab.tasks.shards import Shards

CLS, MASK, END, SEP = 1, 3, 4, 2
INPUTS = torch.tensor(
    [[[CLS, one, MASK, END, SEP], [CLS, other, MASK, END, SEP]] for one, other in ((10, 11), (12, 13))]
)
TARGETS = torch.tensor([20, 35, 50, 65])
VOCABULARY = torch.tensor([70, 71, 72, 73, 74, 75])


def scorer(kind: str = "bert", divergence: str = "jensen_shannon", token_budget: int = 64) -> PromptScorer:
    return PromptScorer(make_model(kind), INPUTS, 2, TARGETS, DIVERGENCES[divergence], token_budget)


def oracle(kind: str, prompt: tuple[int, ...], divergence: str = "jensen_shannon") -> float:
    """The score of one prompt: whole sequences one by one, all logits, float64, the divergence by its definition."""
    model = make_model(kind).double()
    values = []
    for pair in INPUTS:
        answers = []
        for word in pair.tolist():
            logits = model(input_ids=torch.tensor([[CLS, word[1], *prompt, MASK, END, SEP]])).logits[0, 2 + len(prompt)]
            answers.append(logits[TARGETS].softmax(0))
        m = (answers[0] + answers[1]) / 2
        ends = [(p, m) if divergence == "jensen_shannon" else (m, p) for p in answers]
        values.append(sum(float((a * (a / b).log()).sum()) for a, b in ends) / 2)
    return sum(values) / len(values)


def search(folder: Path, score, beam: int, depth: int, chunk: int = 5, every: float = 0, advance=int) -> list[Level]:
    shards = Shards(folder)
    shards.open({"beam": beam})
    return beam_search(score, VOCABULARY, beam, depth, chunk, shards, every, advance)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", MASKED)
def test_score_equals_the_oracle(kind, divergence):
    prompts = torch.tensor([[70, 71], [75, 75], [90, 5]])
    expected = [oracle(kind, tuple(prompt), divergence) for prompt in prompts.tolist()]
    torch.testing.assert_close(scorer(kind, divergence)(prompts), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_score_does_not_depend_on_the_budget():
    prompts = VOCABULARY[:, None]
    torch.testing.assert_close(scorer(token_budget=1)(prompts), scorer(token_budget=10_000)(prompts))


@pytest.mark.parametrize("kind", MASKED)
def test_projection_onto_some_tokens(kind):
    model, ids = make_model(kind), torch.tensor([[1, 10, 3, 2]])
    whole = model(input_ids=ids).logits
    with projecting_onto(model, TARGETS):
        torch.testing.assert_close(model(input_ids=ids).logits, whole[..., TARGETS])
    with pytest.raises(IndexError), projecting_onto(model, TARGETS):
        model(input_ids=ids + 100)  # no such tokens
    assert torch.equal(model(input_ids=ids).logits, whole)


def test_a_forward_that_was_there_before_comes_back():
    """Libraries that move weights about wrap modules so."""
    model, ids = make_model("bert"), torch.tensor([[1, 10, 3, 2]])
    head = model.get_output_embeddings()
    calls, forward = [], head.forward

    def wrapped(hidden):
        calls.append(hidden)
        return forward(hidden)

    head.forward = wrapped
    with projecting_onto(model, TARGETS):
        model(input_ids=ids)
    assert vars(head)["forward"] is wrapped
    model(input_ids=ids)
    assert len(calls) == 1


def test_causal_model_is_refused():
    with pytest.raises(InputError, match="masked language model"):
        scorer("gpt2")


def test_beam_of_the_vocabulary_is_exhaustive(tmp_path):
    score = scorer()
    levels = search(tmp_path, score, len(VOCABULARY), 2)
    for length, level in enumerate(levels, 1):
        every = torch.tensor(list(product(VOCABULARY.tolist(), repeat=length)))
        scores = score(every)
        order = scores.argsort(descending=True, stable=True)[: len(VOCABULARY)]
        assert level.prompts.tolist() == every[order].tolist()
        torch.testing.assert_close(level.scores, scores[order])
    assert float(levels[1].scores[0]) == pytest.approx(oracle("bert", tuple(levels[1].prompts[0].tolist())), rel=1e-4)


def test_narrow_beam_extends_the_best_only(tmp_path):
    seen = []

    def score(prompts):
        seen.extend(prompts.tolist())
        return prompts.float().sum(1)

    levels = search(tmp_path, score, 2, 3)
    assert [level.prompts.tolist() for level in levels] == [
        [[75], [74]],
        [[75, 75], [75, 74]],  # 74 75 is as good as 75 74, but comes later
        [[75, 75, 75], [75, 75, 74]],
    ]
    assert len(seen) == sum(level_sizes(6, 2, 3)) == 6 + 12 + 12
    assert {tuple(prompt[:1]) for prompt in seen if len(prompt) == 2} == {(75,), (74,)}


def test_best_is_the_same_in_any_order():
    scores = torch.randint(0, 5, (40,), generator=torch.Generator().manual_seed(0)).float()  # many ties
    expected = sorted(range(40), key=lambda i: (-scores[i], i))[:7]
    for seed in range(5):
        parts = torch.randperm(40, generator=torch.Generator().manual_seed(seed)).split(9)
        whole = Best(7)
        for part in parts:
            best = Best(7)
            best.update(scores[part], part)
            whole.add_part(best.part())
        assert whole.candidates.tolist() == expected
        assert whole.scores.tolist() == scores[expected].tolist()


@pytest.mark.parametrize("every", [0.0, 1000.0])
def test_interrupted_search_gives_the_same(tmp_path, every):
    score, draw = scorer(), random.Random(0)
    undisturbed = search(tmp_path / "whole", score, 4, 3, every=every)
    calls = []

    def breaking(prompts):
        calls.append(len(prompts))
        if draw.random() < 0.4:
            raise KeyboardInterrupt
        return score(prompts)

    for _ in range(10_000):
        try:
            levels = search(tmp_path / "broken", breaking, 4, 3, every=every)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > 12
    for got, expected in zip(levels, undisturbed, strict=True):
        assert torch.equal(got.prompts, expected.prompts)
        assert torch.equal(got.scores, expected.scores)


def test_finished_search_scores_nothing_again(tmp_path):
    done = []
    search(tmp_path, scorer(), 4, 2)

    def score(prompts):
        raise AssertionError("scored again")

    search(tmp_path, score, 4, 2, advance=done.append)
    assert sum(done) == sum(level_sizes(6, 4, 2))


def test_equal_words_score_zero():
    same = INPUTS[:, :1].expand(-1, 2, -1)
    assert (PromptScorer(make_model("bert"), same, 2, TARGETS, jensen_shannon)(VOCABULARY[:, None]) == 0).all()
