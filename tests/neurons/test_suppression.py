from __future__ import annotations

import pytest
import torch
from conftest import CAUSAL, MASKED

from biaslab.errors import InputError
from biaslab.models.architectures import down_weight, ffn_modules
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import (
    recorded,
    require_predicting_slots,
    scale_neurons,
    suppressed,
)

NEURONS = [(0, 3), (2, 1), (2, 40), (2, 47)]
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 4, 12, 13, 14]])


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def logits(model, ids=IDS, **kwargs):
    return model(input_ids=ids, **kwargs).logits


def scale_columns(model, neurons, factor):
    for layer, index in neurons:
        down_weight(ffn_modules(model)[layer])[:, index] *= factor


@pytest.mark.parametrize("factor", [0.0, 2.0, 0.5])
def test_all_positions_equal_scaled_columns_of_the_down_projection_exactly(any_model, factor):
    before = logits(any_model)
    with suppressed(any_model, NEURONS, factor):
        found = logits(any_model)
    assert torch.equal(logits(any_model), before)
    scale_columns(any_model, NEURONS, factor)
    assert torch.equal(found, logits(any_model))
    assert not torch.equal(found, before)


def test_neurons_may_be_a_set_a_list_or_an_iterator(bert):
    outputs = []
    for neurons in (NeuronSet(NEURONS, (3, 48)), NEURONS, iter(NEURONS), [*NEURONS, NEURONS[0]]):
        with suppressed(bert, neurons):
            outputs.append(logits(bert))
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def test_only_layers_with_neurons_get_a_hook_and_none_is_left(any_model):
    before = hooks(any_model)
    modules = ffn_modules(any_model)
    with suppressed(any_model, NEURONS):
        assert [len(module._forward_pre_hooks) for module in modules] == [1, 0, 1]
        assert hooks(any_model) == before + 2
    assert hooks(any_model) == before
    with suppressed(any_model, []):
        assert hooks(any_model) == before
    with pytest.raises(KeyError), suppressed(any_model, NEURONS), recorded(any_model):
        raise KeyError("inside")
    assert hooks(any_model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neurons": [(0, 3), (3, 0)]}, r"`neurons\[1\]` .* layer from 0 to 2 but got 3"),
        ({"neurons": [(0, 48)]}, r"index from 0 to 47 but got 48"),
        ({"neurons": [(0, -1)]}, r"got -1"),
        ({"neurons": NeuronSet([(0, 3)], (3, 40))}, r"\(3, 48\) but was made for one of shape \(3, 40\)"),
        ({"factor": float("nan")}, r"`factor` .* nan"),
        ({"factor": float("inf")}, r"`factor` .* inf"),
        ({"positions": "mask"}, r"`positions` .* 'mask'"),
        ({"positions": torch.zeros(2)}, r"`positions` .* torch.float32"),
        ({"positions": torch.zeros(2, 5, dtype=torch.long)}, r"`positions` .* \[2, 5\]"),
        ({"positions": torch.tensor([0, -1])}, r"`positions` .* -1"),
    ],
)
def test_a_bad_argument_is_refused_before_any_hook_is_installed(bert, change, message):
    before = hooks(bert)
    with pytest.raises(InputError, match=message), suppressed(bert, **{"neurons": NEURONS} | change):
        raise AssertionError
    assert hooks(bert) == before


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_one_position_a_sequence(any_model, dtype):
    positions = torch.tensor([3, 1], dtype=dtype)
    with recorded(any_model) as before:
        logits(any_model)
    before = dict(before)
    with suppressed(any_model, NEURONS, 0.5, positions), recorded(any_model) as after:
        logits(any_model)
    expected = before[0].clone()
    expected[0, 3, 3] *= 0.5
    expected[1, 1, 3] *= 0.5
    assert torch.equal(after[0], expected)
    if any_model.config.model_type in CAUSAL:  # these look back only
        assert torch.equal(after[2][0, :3], before[2][0, :3])
        assert torch.equal(after[2][1, :1], before[2][1, :1])
    with suppressed(any_model, NEURONS, positions=positions), recorded(any_model) as after:
        logits(any_model)
    for layer, index in NEURONS:
        nought = after[layer][..., index] == 0
        assert nought[0].nonzero().tolist() == [[3]]
        assert nought[1].nonzero().tolist() == [[1]]


def test_positions_of_another_batch_are_refused(bert):
    for positions in (torch.tensor([1, 2, 3]), torch.tensor([1, 5])):
        with (
            pytest.raises(InputError, match=r"`positions` .* 2 sequences of 5 tokens"),
            suppressed(bert, NEURONS, positions=positions),
        ):
            logits(bert)
    assert hooks(bert) == 0


@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_slots_are_the_mask_tokens_or_the_last_token(any_model, padding):
    masked = any_model.config.model_type in MASKED
    last = 3 if padding == "right" else 4
    attention = torch.ones_like(IDS)
    if padding:
        attention[:, 4 if padding == "right" else 0] = 0
    with suppressed(any_model, NEURONS, 0.0, "slot", 4), recorded(any_model) as found:
        assert hooks(any_model) == 2 + 2 + 3
        logits(any_model, attention_mask=attention if padding else None)
        nought = (found[2][..., 40] == 0).nonzero().tolist()
        assert nought == ([[1, 1]] if masked else [[0, last], [1, last]])
        logits(any_model, torch.tensor([[9, 4, 7, 4]]))  # another shape, two masks
        nought = (found[2][..., 40] == 0).nonzero().tolist()
        assert nought == ([[0, 1], [0, 3]] if masked else [[0, 3]])
    assert hooks(any_model) == 0


def test_slots_need_a_mask_token_ids_and_a_forward_pass(bert):
    with pytest.raises(InputError, match="`mask_token_id`"), suppressed(bert, NEURONS, positions="slot"):
        raise AssertionError
    with suppressed(bert, NEURONS, positions="slot", mask_token_id=4):
        logits(bert)
        with pytest.raises(InputError, match="`input_ids`"):
            bert(inputs_embeds=torch.zeros(1, 2, 32))
        with pytest.raises(InputError, match=r'`positions` .* "all"'):
            ffn_modules(bert)[0](torch.zeros(2, 5, 48))
        with pytest.raises(IndexError):
            logits(bert, IDS + 1000)
        with pytest.raises(InputError, match=r'`positions` .* "all"'):  # the slots of a pass that failed are forgotten
            ffn_modules(bert)[0](torch.zeros(2, 5, 48))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_stays(bert, dtype):
    model = bert.to(dtype)
    with suppressed(model, NEURONS, 2.0), recorded(model) as activations:
        assert logits(model).dtype == dtype
    assert {tensor.dtype for tensor in activations.values()} == {dtype}
    with suppressed(model, NEURONS):
        found = logits(model)
    scale_columns(model, NEURONS, 0)
    assert torch.equal(found, logits(model))


def test_gradients_flow_after_a_pass_in_inference_mode(bert):
    with suppressed(bert.double(), NEURONS):
        with torch.inference_mode():
            bert(input_ids=IDS)
        embeddings = bert.get_input_embeddings()(IDS).requires_grad_()
        bert(inputs_embeds=embeddings).logits.sum().backward()
    assert embeddings.grad.abs().sum() > 0
    with torch.inference_mode():
        context = suppressed(bert, NEURONS)
        context.__enter__()
    bert(inputs_embeds=embeddings).logits.sum().backward()
    context.__exit__(None, None, None)


def test_nothing_is_changed_in_place(bert):
    module = ffn_modules(bert)[2]
    given = torch.randn(2, 5, 48)
    kept = given.clone()
    for positions in ("all", torch.tensor([0, 1])):
        with suppressed(bert, NEURONS, positions=positions):
            module(given)
    assert torch.equal(given, kept)


def test_two_suppressions_multiply_and_recorded_sees_them(bert):
    with recorded(bert) as activations:
        assert activations == {}
        logits(bert)
    before = dict(activations)
    with suppressed(bert, [(0, 3)], 0.5), suppressed(bert, [(0, 3), (0, 4)], 2.0), recorded(bert) as after:
        logits(bert)
    assert sorted(after) == [0, 1, 2]
    assert torch.equal(after[0][..., 3], before[0][..., 3])
    assert torch.equal(after[0][..., 4], 2 * before[0][..., 4])
    assert after[0].shape == (2, 5, 48)


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_scaled_for_good_is_what_the_hook_does(any_model, factor):
    with suppressed(any_model, NEURONS, factor):
        expected = logits(any_model)
    scale_neurons(any_model, NeuronSet(NEURONS, (3, 48)), factor)
    assert torch.equal(logits(any_model), expected)


def test_the_slot_is_a_position(any_model):
    """The mask token, or a causal model's last token."""
    ids = torch.tensor([[5, 4, 7, 8, 9], [10, 4, 12, 13, 14]])
    with suppressed(any_model, NEURONS, 0.5, "slot", 4):
        found = logits(any_model, ids)
    with suppressed(any_model, NEURONS, 0.5, torch.tensor([1, 1] if any_model.config.model_type in MASKED else [4, 4])):
        assert torch.equal(found, logits(any_model, ids))
    assert hooks(any_model) == 0


def test_slots_of_causal_models_predict_no_sentence(any_model):
    """B1: their last token's output is read by no measure of whole sentences."""
    for where, measures in (("all", ["StereoSet"]), ("slot", [])):
        require_predicting_slots(any_model, where, measures)
    if any_model.config.model_type in MASKED:
        require_predicting_slots(any_model, "slot", ["StereoSet"])
    else:
        with pytest.raises(InputError, match='evaluated by StereoSet, perplexity but got "slot"'):
            require_predicting_slots(any_model, "slot", ["StereoSet", "perplexity"])


def with_values(seed: int = 0) -> NeuronSet:
    values = torch.randn(3, 48, generator=torch.Generator().manual_seed(seed)).numpy()
    return NeuronSet(NEURONS, (3, 48)).with_values(values)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_a_sets_values_are_what_factor_0_sets_neurons_to(any_model, factor):
    neurons = with_values()
    with recorded(any_model) as before:
        logits(any_model)
    with suppressed(any_model, [(0, 3)], 1.0), recorded(any_model) as plain:
        logits(any_model)
    assert torch.equal(plain[0], before[0])
    with suppressed(any_model, neurons, factor), recorded(any_model) as after:
        found = logits(any_model)
    value = torch.tensor(neurons.values[0, 3])
    torch.testing.assert_close(after[0][..., 3], value + factor * (before[0][..., 3] - value))
    others = [index for index in range(48) if index != 3]
    assert torch.equal(after[0][..., others], before[0][..., others])
    with suppressed(any_model, NEURONS, factor):
        assert not torch.equal(found, logits(any_model))


def test_values_at_one_position_only(bert):
    neurons = with_values()
    with suppressed(bert, neurons, positions=torch.tensor([1, 3])), recorded(bert) as after:
        logits(bert)
    for row, place in ((0, 1), (1, 3)):
        assert (after[0][row, :, 3] == torch.tensor(neurons.values[0, 3])).tolist() == [p == place for p in range(5)]


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_values_go_into_the_biases_for_good(any_model, factor):
    model, neurons = any_model.double(), with_values()
    with suppressed(model, neurons, factor):
        found = logits(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    can_be_given_one = model.config.model_type == "llama"
    if getattr(ffn_modules(model)[0], "bias", None) is None and not can_be_given_one:
        with pytest.raises(InputError, match=r"`neurons` is expected to have no replacement values .*no bias"):
            scale_neurons(model, neurons, factor)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        return
    scale_neurons(model, neurons, factor)
    torch.testing.assert_close(logits(model), found, atol=1e-12, rtol=1e-12)
