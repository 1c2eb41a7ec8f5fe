"""Selection by scores."""

import math

import pytest
import torch

from biaslab.attribution.importance import predicted_rise
from biaslab.errors import InputError
from biaslab.neurons.selection import balanced, fisher, guarded


@pytest.mark.parametrize("scores", [torch.tensor([[-0.5, -0.1]]), torch.zeros(1, 2)])
def test_guarded_refuses_scores_without_a_positive_one(scores):
    """Divided by a negative maximum, the neurons that lower the gap would come first."""
    with pytest.raises(InputError, match="`scores` is expected to have a positive score"):
        guarded(scores, torch.ones(1, 2), count=1)


def three(seed: int = 0):
    """Bias, guard and information of 3 layers of 10 neurons."""
    generator = torch.Generator().manual_seed(seed)
    bias, guard, information = torch.randn(3, 3, 10, generator=generator)
    return bias, guard, information.square()


def test_fisher_takes_the_most_bias_for_what_text_loses():
    bias, guard, information = three()
    cost = information / 2
    worth = (bias - 0.25 * guard).clamp_min(0) / (cost + cost.median())
    wanted = sorted(divmod(int(place), 10) for place in worth.flatten().argsort(descending=True)[:5])
    assert list(fisher(bias, guard, information, count=5)) == wanted
    assert list(fisher(bias, guard, information, count=5, weight=1.0)) != wanted


def test_fisher_keeps_the_budget_and_is_the_largest_such_set():
    bias, guard, information = three()
    percent = 30.0
    chosen = fisher(bias, guard, information, perplexity_percent=percent)
    more = fisher(bias, guard, information, count=len(chosen) + 1)
    assert 1 < len(chosen) < 30
    assert math.expm1(predicted_rise(information, chosen)) * 100 <= percent
    assert math.expm1(predicted_rise(information, more)) * 100 > percent
    assert set(chosen) < set(more)
    assert fisher(bias, guard, information, count=2, perplexity_percent=percent) == fisher(
        bias, guard, information, count=2
    )


def test_fisher_leaves_neurons_out_that_carry_no_bias():
    bias, guard, information = three()
    chosen = fisher(bias, torch.zeros_like(guard), information, count=30)
    assert len(chosen) == int((bias > 0).sum())
    assert all(bias[neuron] > 0 for neuron in chosen)


def gain(strengths, bias, guard, weight):
    return sum(strength * float((bias - weight * guard)[neuron]) for neuron, strength in strengths.items())


def cost(strengths, information):
    return sum(strength**2 * float(information[neuron]) / 2 for neuron, strength in strengths.items())


@pytest.mark.parametrize("percent", [1.0, 20.0, 60.0])
def test_balanced_takes_the_most_bias_that_a_budget_allows(percent):
    """Of the same neurons, no other strengths within the cube gain more at the cost that ε is part of."""
    bias, guard, information = three()
    chosen = balanced(bias, guard, information, count=12, perplexity_percent=percent)
    strengths = chosen.strengths
    assert math.expm1(cost(strengths, information)) * 100 == pytest.approx(percent, rel=1e-5)
    assert all(-1 <= strength <= 1 for strength in strengths.values())
    assert {strength > 0 for strength in strengths.values()} == {True, False}
    with_epsilon = information + information.median()  # the median of F/2 beside F/2
    generator, limit = torch.Generator().manual_seed(1), cost(strengths, with_epsilon)
    for size in (0.01, 0.1, 0.5):
        for _ in range(200):
            noise = size * torch.randn(12, generator=generator)
            other = {n: s + float(x) for (n, s), x in zip(strengths.items(), noise, strict=True)}
            other = {n: max(-1.0, min(1.0, s)) for n, s in other.items()}
            scale = min(1.0, math.sqrt(limit / cost(other, with_epsilon)))
            other = {n: scale * s for n, s in other.items()}
            assert gain(other, bias, guard, 0.25) <= gain(strengths, bias, guard, 0.25) * (1 + 1e-6)


def test_balanced_suppresses_bias_and_strengthens_what_holds_against_it():
    bias, guard, information = three()
    chosen = balanced(bias, guard, information, count=30, weight=0.0, perplexity_percent=5.0)
    assert all((strength > 0) == bool(bias[neuron] > 0) for neuron, strength in chosen.strengths.items())
    everything = balanced(bias, guard, information, count=30, weight=0.0, perplexity_percent=1e60)
    assert {abs(strength) for strength in everything.strengths.values()} == {1.0}
    worth = ((bias - 0.25 * guard) / (information / 2 + (information / 2).median())).abs().flatten()
    wanted = sorted(divmod(int(place), 10) for place in worth.argsort(descending=True)[:7])
    assert list(balanced(bias, guard, information, count=7)) == wanted


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {"perplexity_percent": 0.0}, "`perplexity_percent` is expected to be positive"),
        ({}, {"count": 31}, "`count` is expected to be between 1 and the 30 neurons"),
        ({"scores": torch.zeros(3, 10)}, {"weight": 0.0}, "`scores` is expected to have a neuron whose bias and guard"),
        ({"guard": torch.ones(3, 9)}, {}, r"`guard` is expected to be of shape \[3, 10\]"),
    ],
)
def test_balanced_refuses(change, options, words):
    given = dict(zip(("scores", "guard", "information"), three(), strict=True)) | {"count": 3}
    with pytest.raises(InputError, match=words):
        balanced(**given | change | options)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({}, {}, "`count` or `perplexity_percent`"),
        ({}, {"perplexity_percent": 0.0}, "`perplexity_percent` is expected to be positive"),
        ({}, {"perplexity_percent": 1e-9}, "`scores` is expected to have a neuron whose bias outweighs the guard"),
        ({"scores": -torch.ones(3, 10)}, {"count": 3, "weight": 0.0}, "whose bias outweighs the guard"),
        ({"guard": torch.ones(3, 9)}, {"count": 3}, r"`guard` is expected to be of shape \[3, 10\]"),
        ({"information": torch.full((3, 10), torch.nan)}, {"count": 3}, "`information` is expected to hold numbers"),
    ],
)
def test_fisher_refuses(change, options, words):
    given = dict(zip(("scores", "guard", "information"), three(), strict=True))
    with pytest.raises(InputError, match=words):
        fisher(**given | change, **options)
