"""First-order effects and Fisher information against loops over single tokens."""

from itertools import product

import pytest
import torch
from conftest import make_model
from reference.importance import query_effects

from biaslab.attribution.importance import (
    Asked,
    first_order_effects,
    fisher_information,
    predicted_rise,
    squared_effects,
)
from biaslab.errors import InputError
from biaslab.neurons.suppression import suppressed

SINGLE = ("llama", "mistral", "qwen2", "gemma2")  # whose norms compute in float32, whatever the weights' type


def exactly(model, found, expected):
    """Equal to 1e-10, or to the resolution that the architecture has."""
    limit = 2e-6 if model.config.model_type in SINGLE else 1e-10
    torch.testing.assert_close(found, expected, atol=limit, rtol=limit)


def questions(sequences: int = 3, length: int = 6) -> Asked:
    """Some sequences, and five queries: two of one place, and two of one sequence."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (sequences, length), generator=generator)
    return Asked(ids, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([3, 3, 1, 2, 4]), torch.tensor([7, 50, 9, 30, 31]))


def one_by_one(model, asked: Asked):
    """The effects of each query, ``[query, layer, neuron]``, and its log-probability."""
    found = [
        query_effects(model, asked.input_ids[row], position, target)
        for row, position, target in zip(*(t.tolist() for t in asked[1:]), strict=True)
    ]
    return tuple(map(torch.stack, zip(*found, strict=True)))


def test_effects_equal_a_loop_over_queries_on_each_architecture(any_model):
    model, asked = any_model.double(), questions()
    weights = torch.tensor([[1.0, -1.0, 0.5, 2.0, -0.25], [0.0, 1.0, 0.0, 0.0, 3.0]])
    effects, logs = first_order_effects(model, asked, weights)
    each, expected_logs = one_by_one(model, asked)
    exactly(model, logs, expected_logs)
    expected = torch.zeros_like(effects)
    for number, row in enumerate(asked.row.tolist()):
        expected[:, row] += weights[:, number, None, None].double() * each[number]
    exactly(model, effects, expected)


def test_an_effect_is_what_a_small_change_of_the_factor_does(any_model):
    """Suppression at all positions, as it is done: the change a step of the factor, in its limit."""
    model, asked = any_model.double(), questions()
    coarse = model.config.model_type in SINGLE
    neurons, step = [(0, 3), (1, 7), (2, 40)], 1e-2 if coarse else 1e-4

    def total(factor: float):
        with suppressed(model, neurons, factor):
            return first_order_effects(model, asked, torch.ones(1, 5))

    effects, _ = total(1.0)
    slope = (total(1 + step)[1].sum() - total(1 - step)[1].sum()) / (2 * step)
    wanted = sum(effects[0, :, layer, index].sum() for layer, index in neurons)
    torch.testing.assert_close(slope, wanted, rtol=1e-2 if coarse else 1e-5, atol=1e-4 if coarse else 1e-8)


def test_nothing_is_left_on_the_model(bert):
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bert.modules()]
    first_order_effects(bert, questions(), torch.ones(1, 5))
    with pytest.raises(IndexError):
        first_order_effects(bert, questions()._replace(target_ids=torch.full((5,), 100)), torch.ones(1, 5))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bert.modules()] == before


def test_weights_that_want_gradients_get_none():
    model = make_model("bert").requires_grad_(True)
    effects, _ = first_order_effects(model, questions(), torch.ones(1, 5))
    assert all(parameter.grad is None for parameter in model.parameters())
    same, _ = first_order_effects(make_model("bert"), questions(), torch.ones(1, 5))
    assert torch.equal(effects, same)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_half_precision_is_near(model_type):
    whole, _ = first_order_effects(make_model(model_type).double(), questions(), torch.ones(1, 5))
    half, _ = first_order_effects(make_model(model_type).bfloat16(), questions(), torch.ones(1, 5))
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([whole.flatten(), half.double().flatten()]))[0, 1] > 0.99


def test_fisher_information_equals_a_loop_over_tokens(any_model):
    model, asked = any_model.double(), questions()
    each, _ = one_by_one(model, asked)
    single = Asked(asked.input_ids[asked.row], torch.arange(5), asked.position, asked.target_ids)
    halves = [Asked(single.input_ids[part], torch.arange(len(part)), *(t[part] for t in single[2:]))
              for part in (torch.arange(2), torch.arange(2, 5))]  # fmt: skip
    found = fisher_information(model, [(half, None) for half in halves])
    exactly(model, found, each.square().mean(0))


def test_the_mean_over_all_signs_is_the_fisher_information(any_model):
    """One backward pass a sequence: over all ways to set the signs the products of different tokens vanish."""
    model = any_model.double()
    ids = torch.randint(5, 100, (1, 6), generator=torch.Generator().manual_seed(2))
    places = torch.tensor([0, 2, 3])
    asked = Asked(ids, torch.zeros(3, dtype=torch.long), places, ids[0, places + 1])
    every = [squared_effects(model, asked, torch.tensor(signs)) for signs in product((-1.0, 1.0), repeat=3)]
    each, _ = one_by_one(model, asked)
    exactly(model, torch.stack(every).mean(0), each.square().sum(0))


def test_several_tokens_of_a_sequence_need_signs(bert):
    with pytest.raises(InputError, match="`signs`"):
        squared_effects(bert, questions())


@pytest.mark.parametrize(
    ("change", "weights", "words"),
    [
        ({"input_ids": torch.ones(6)}, torch.ones(1, 5), r"`input_ids` .* \[sequence, token\]"),
        ({"row": torch.zeros(4)}, torch.ones(1, 4), r"`position` .* \[query\] = \[4\]"),
        ({}, torch.ones(5), r"`weights` .* \[sum, 5\]"),
    ],
)
def test_other_shapes_are_refused(bert, change, weights, words):
    with pytest.raises(InputError, match=words):
        first_order_effects(bert, questions()._replace(**change), weights)


def test_predicted_rise_is_half_of_the_sum_for_suppression():
    information = torch.arange(6.0).view(2, 3)
    assert predicted_rise(information, [(0, 1), (1, 2)]) == 3.0
    assert predicted_rise(information, [(0, 1), (1, 2)], factor=2.0) == 3.0
    assert predicted_rise(information, [(1, 1)], factor=1.0) == 0.0
