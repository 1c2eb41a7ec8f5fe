"""Selection by scores."""

import math

import pytest
import torch

from biaslab.attribution.importance import predicted_rise
from biaslab.errors import InputError
from biaslab.neurons.selection import fisher, guarded


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
