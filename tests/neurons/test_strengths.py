"""Strengths of neurons: in sets, in files, and in suppression, against hand-made numbers and scaled weights."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import CAUSAL

from biaslab.errors import InputError
from biaslab.models.architectures import down_weight, ffn_modules
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.suppression import recorded, scale_neurons, suppressed

SHAPE = (3, 48)
STRENGTHS = {(0, 3): 1.0, (2, 1): 0.25, (2, 40): -1.0, (2, 47): 0.0}
GRADED = NeuronSet(STRENGTHS, SHAPE).with_strengths(STRENGTHS)
# 1 - (1 - factor) * strength, by hand
MULTIPLIERS = {0.0: [0.0, 0.75, 2.0, 1.0], 0.5: [0.5, 0.875, 1.5, 1.0], 2.0: [2.0, 1.25, 0.0, 1.0]}
IDS = torch.tensor([[5, 6, 4, 8, 9], [10, 4, 12, 13, 14]])
MASK = 4


def with_values(neurons: NeuronSet) -> NeuronSet:
    return neurons.with_values(torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).numpy())


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def test_a_set_keeps_them_in_its_order_as_float32():
    neurons = NeuronSet([(2, 1), (0, 3)], SHAPE)
    assert neurons.strengths is None
    graded = neurons.with_strengths({(2, 1): 0.1, (0, 3): np.float32(-2)})
    assert dict(graded.strengths) == {(0, 3): -2.0, (2, 1): float(np.float32(0.1))}
    assert list(graded.strengths) == list(graded) == [(0, 3), (2, 1)]
    assert all(type(strength) is float for strength in graded.strengths.values())
    assert graded == neurons
    assert hash(graded) == hash(neurons)
    assert neurons.strengths is None
    assert graded.with_strengths(None).strengths is None
    assert NeuronSet().with_strengths({}).strengths == {}
    assert neurons.with_strengths({(2, 1): 1, (0, 3): Fraction(1, 2)}).strengths[0, 3] == 0.5
    with pytest.raises(TypeError):
        graded.strengths[0, 3] = 1.0
    assert pickle.loads(pickle.dumps(graded)).strengths == graded.strengths


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ([1.0, 1.0], r"`strengths` .* map each neuron of the set to a number but got list"),
        ({(0, 3): 1.0}, r"`strengths` .* exactly the 2 neurons of the set but lacks \(2, 1\)"),
        ({(0, 3): 1.0, (2, 1): 1.0, (1, 1): 1.0}, r"but has \(1, 1\)"),
        ({(0, 3): 1.0, (2, 1): 1.0, "a": 1.0, 3: 1.0}, r"but has 3, a"),
        ({(0, 3): 1.0, (2, 1): float("nan")}, r"`strengths\[\(2, 1\)\]` .* finite float32 number but got nan"),
        ({(0, 3): 1.0, (2, 1): float("-inf")}, r"got -inf"),
        ({(0, 3): 1.0, (2, 1): 1e39}, r"got 1e\+39"),
        ({(0, 3): 1.0, (2, 1): 10**400}, r"finite float32 number but got 1000"),
        ({(0, 3): 1.0, (2, 1): True}, r"got True"),
        ({(0, 3): 1.0, (2, 1): "1"}, r"got '1'"),
        ({(0, 3): 1.0, (2, 1): None}, r"got None"),
    ],
)
def test_bad_strengths_are_refused(strengths, message):
    with pytest.raises(InputError, match=message):
        NeuronSet([(0, 3), (2, 1)], SHAPE).with_strengths(strengths)


def test_the_fingerprint_depends_on_them_and_else_is_what_it_was():
    plain = NeuronSet([(0, 5), (2, 7)])
    assert plain.fingerprint == "798a550307171978"
    one, other = (plain.with_strengths({(0, 5): strength, (2, 7): 1.0}) for strength in (0.5, 0.25))
    assert len({plain.fingerprint, one.fingerprint, other.fingerprint}) == 3
    assert one.fingerprint == NeuronSet([(2, 7), (0, 5)], SHAPE).with_strengths(dict(one.strengths)).fingerprint
    assert one.with_strengths(None).fingerprint == plain.fingerprint


def test_what_is_made_of_a_set_keeps_them():
    subset = NeuronSet([(2, 1)], SHAPE).with_strengths({(2, 1): 0.7})
    made = with_values(GRADED).with_details({"a": subset, "b": [(0, 3)], "c": NeuronSet([(0, 3)])}, {"settings": {}})
    for kept in (made, made.with_values(None), made.with_strengths(dict(STRENGTHS)), made.with_shape(SHAPE)):
        assert kept.strengths == STRENGTHS
        assert kept.subsets["a"].strengths == subset.strengths
        assert kept.subsets["b"].strengths is kept.subsets["c"].strengths is None
    assert made.with_shape(SHAPE).values.tobytes() == made.values.tobytes()


def test_a_shape_becomes_known():
    plain = NeuronSet(STRENGTHS).with_strengths(STRENGTHS)
    known = plain.with_details({"a": plain - {(0, 3)}}, {"model": {"name": "m"}}).with_shape(SHAPE)
    assert plain.shape is None
    assert (known.shape, known.subsets["a"].shape) == (SHAPE, SHAPE)
    assert known.strengths == STRENGTHS
    assert list(known.subsets["a"].strengths.values()) == [0.25, -1.0, 0.0]
    assert known.provenance == {"model": {"name": "m"}}
    with pytest.raises(InputError, match="index from 0 to 39 but got 40"):
        plain.with_shape((3, 40))
    with pytest.raises(InputError, match=r"\(3, 40\) but was made for one of shape"):
        known.with_shape((3, 40))


def test_algebra_by_hand():
    left = NeuronSet([(0, 1), (0, 2)], SHAPE).with_strengths({(0, 1): 0.5, (0, 2): -1.0})
    right = NeuronSet([(0, 2), (0, 3)], SHAPE).with_strengths({(0, 2): 0.25, (0, 3): 0.75})
    plain = NeuronSet([(0, 2), (0, 3)], SHAPE)
    expected = [
        (left | right, {(0, 1): 0.5, (0, 2): -1.0, (0, 3): 0.75}),
        (right | left, {(0, 1): 0.5, (0, 2): 0.25, (0, 3): 0.75}),
        (left & right, {(0, 2): -1.0}),
        (right & left, {(0, 2): 0.25}),
        (left - right, {(0, 1): 0.5}),
        (left ^ right, {(0, 1): 0.5, (0, 3): 0.75}),
        (left | plain, {(0, 1): 0.5, (0, 2): -1.0, (0, 3): 1.0}),
        (plain | left, {(0, 1): 0.5, (0, 2): 1.0, (0, 3): 1.0}),  # a set without strengths has 1
        (plain & left, {(0, 2): 1.0}),
        (left & {(0, 2)}, {(0, 2): -1.0}),
        ({(0, 2)} & left, {(0, 2): -1.0}),  # plain tuples say nothing of strengths
        ({(0, 2), (0, 9)} | left, {(0, 1): 0.5, (0, 2): -1.0, (0, 9): 1.0}),
        (left - {(0, 1)}, {(0, 2): -1.0}),
        ({(0, 2), (0, 9)} - left, {(0, 9): 1.0}),
        (left - left, {}),
    ]
    for result, strengths in expected:
        assert result.strengths == strengths
        assert list(result.strengths) == list(result)
    for result in (plain | plain, plain & {(0, 2)}, plain - right.with_strengths(None)):
        assert result.strengths is None
    foreign = left.with_details(provenance={"model": {"fingerprint": "a"}})
    other = right.with_details(provenance={"model": {"fingerprint": "b"}})
    assert (foreign | other).strengths == (left | right).strengths


def test_random_controls_get_the_strengths_of_their_layer():
    for seed in range(5):
        control, plain = random_like(GRADED, seed), random_like(GRADED.with_strengths(None), seed)
        assert control == plain
        assert plain.strengths is None
        assert control.strengths[next(iter(control))] == 1.0
        assert sorted(list(control.strengths.values())[1:]) == [-1.0, 0.0, 0.25]
    anywhere = random_like(GRADED, 0, same_layers=False)
    assert sorted(anywhere.strengths.values()) == [-1.0, 0.0, 0.25, 1.0]
    orders = {tuple(random_like(GRADED, seed).strengths.values()) for seed in range(9)}
    assert len(orders) > 1  # in the order of drawing, not of the neurons


PLAIN_FILE = """{
 "format_version": 1,
 "shape": [3, 48],
 "neurons": [
  [0, 5],
  [2, 7]
 ],
 "subsets": {
  "gender": [
   [0, 5]
  ]
 },
 "provenance": {
  "settings": {
   "steps": 4
  }
 }
}
"""


def test_a_file_without_them_is_what_it_was(tmp_path):
    """Byte for byte, as files were written before there were strengths."""
    path = tmp_path / "n.json"
    neurons = NeuronSet([(2, 7), (0, 5)], SHAPE).with_details({"gender": [(0, 5)]}, {"settings": {"steps": 4}})
    neurons.save(path)
    assert path.read_text() == PLAIN_FILE
    again = NeuronSet.load(path)
    assert again.strengths is again.subsets["gender"].strengths is None
    again.save(path)
    assert path.read_text() == PLAIN_FILE


@pytest.mark.parametrize("own", [True, False])
def test_they_come_back_from_the_file_to_the_last_bit(tmp_path, own):
    numbers = torch.randn(2, 7, generator=torch.Generator().manual_seed(0)).double() * torch.logspace(-30, 30, 7)
    pairs = [(layer, 7 * layer + 3) for layer in range(3)] + [(1, index) for index in range(4)]
    first, second = (dict(zip(pairs, row.tolist(), strict=True)) for row in numbers)
    subset = NeuronSet(pairs).with_strengths(second)
    neurons = with_values(NeuronSet(pairs, SHAPE).with_strengths(first if own else None))
    neurons = neurons.with_details({"a": subset, "b": [(0, 1)], "empty": NeuronSet().with_strengths({})})
    neurons.save(tmp_path / "n.json")
    again = NeuronSet.load(tmp_path / "n.json")
    assert again.strengths == neurons.strengths
    assert (again.strengths is None) is not own
    assert again.subsets["a"].strengths == {n: float(np.float32(second[n])) for n in pairs}
    assert (again.subsets["b"].strengths, again.subsets["empty"].strengths) == (None, {})
    content = json.loads((tmp_path / "n.json").read_text())["strengths"]
    assert list(content) == (["neurons", "subsets"] if own else ["subsets"])
    assert list(content["subsets"]) == ["a", "empty"]
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "n.json").read_bytes()


def written(tmp_path, strengths, neurons=((2, 7), (0, 5))) -> str:
    content = {
        "format_version": 1, "shape": [3, 48], "neurons": neurons, "subsets": {"gender": [[0, 5]]}, "provenance": {},
        "strengths": strengths,
    }  # fmt: skip
    (tmp_path / "n.json").write_text(json.dumps(content))
    return str(tmp_path / "n.json")


def test_a_file_gives_them_in_its_own_order_and_may_leave_parts_out(tmp_path):
    found = NeuronSet.load(written(tmp_path, {"neurons": [0.5, -1]}))
    assert found.strengths == {(2, 7): 0.5, (0, 5): -1.0}
    assert found.subsets["gender"].strengths is None
    found = NeuronSet.load(written(tmp_path, {"subsets": {"gender": [2]}}))
    assert (found.strengths, found.subsets["gender"].strengths) == (None, {(0, 5): 2.0})
    assert NeuronSet.load(written(tmp_path, None)).strengths is None


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ([0.5, 1], r"`strengths` .* JSON object with the keys `neurons` and `subsets` but got list"),
        ({"neuron": [0.5, 1]}, r"`strengths` .* but got \['neuron'\]"),
        ({"neurons": {"0": 1}}, r"`strengths.neurons` .* list of 2 numbers, one for each pair of `neurons`, .* dict"),
        ({"neurons": None}, r"`strengths.neurons` .* NoneType"),
        ({"neurons": [1]}, r"`strengths.neurons` .* list of 2 numbers.* got 1 of them"),
        ({"neurons": [1, 1, 1]}, r"got 3 of them"),
        ({"neurons": [1, "1"]}, r"`strengths.neurons\[1\]` .* finite float32 number but got '1'"),
        ({"neurons": [True, 1]}, r"`strengths.neurons\[0\]` .* got True"),
        ({"neurons": [1, None]}, r"`strengths.neurons\[1\]` .* got None"),
        ({"neurons": [1, float("nan")]}, r"`strengths.neurons\[1\]` .* got nan"),
        ({"neurons": [float("inf"), 1]}, r"`strengths.neurons\[0\]` .* got inf"),
        ({"neurons": [1, 1e39]}, r"`strengths.neurons\[1\]` .* got 1e\+39"),
        ({"neurons": [1, 10**400]}, r"`strengths.neurons\[1\]` .* got 1000"),
        ({"subsets": [[1]]}, r"`strengths.subsets` .* JSON object but got list"),
        ({"subsets": {"age": [1]}}, r"`strengths.subsets.age` .* a subset in `subsets`, but there is none"),
        ({"subsets": {"gender": [1, 2]}}, r"`strengths.subsets.gender` .* list of 1 numbers.*`subsets.gender`.* 2 of"),
        ({"subsets": {"gender": ["a"]}}, r"`strengths.subsets.gender\[0\]` .* got 'a'"),
    ],
)
def test_bad_strengths_in_a_file_are_refused_with_the_place(tmp_path, strengths, message):
    path = written(tmp_path, strengths)
    with pytest.raises(InputError, match=message) as caught:
        NeuronSet.load(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_activations_by_hand(any_model, factor, valued):
    """At all positions, of the first layer that is touched: of the others the input changes too."""
    strengths = {(0, 3): 1.0, (0, 1): 0.25, (0, 40): -1.0, (0, 47): 0.0}
    neurons = NeuronSet(strengths, SHAPE).with_strengths(strengths)
    neurons = with_values(neurons) if valued else neurons
    values = torch.tensor(neurons.values[0]).double() if valued else torch.zeros(48).double()
    model = any_model.double()
    with recorded(model) as before:
        logits(model)
    with suppressed(model, neurons, factor), recorded(model) as after:
        logits(model)
    for (_, index), multiplier in zip(strengths, MULTIPLIERS[factor], strict=True):
        expected = values[index] + multiplier * (before[0][..., index] - values[index])
        torch.testing.assert_close(after[0][..., index], expected, atol=1e-14, rtol=1e-12)
    others = [index for index in range(48) if (0, index) not in strengths]
    assert torch.equal(after[0][..., others], before[0][..., others])


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_all_positions_equal_scaled_columns(any_model, factor):
    model = any_model.double()
    with suppressed(model, GRADED, factor):
        found = logits(model)
    with suppressed(model, NeuronSet(GRADED, SHAPE), factor):
        assert not torch.equal(found, logits(model))
    for (layer, index), multiplier in zip(STRENGTHS, MULTIPLIERS[factor], strict=True):
        down_weight(ffn_modules(model)[layer]).data[:, index] *= multiplier
    torch.testing.assert_close(logits(model), found, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("valued", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_at_the_slot_only_the_slots_move(any_model, factor, valued):
    """Against hooks that set the very places by hand."""
    model = any_model.double()
    neurons = with_values(GRADED) if valued else GRADED
    values = torch.tensor(neurons.values).double() if valued else torch.zeros(SHAPE).double()
    causal = model.config.model_type in CAUSAL
    slots = [(0, 4), (1, 4)] if causal else [(0, 2), (1, 1)]
    with suppressed(model, neurons, factor, "slot", MASK):
        found = logits(model)

    def by_hand(layer):
        def hook(module, args):
            changed = args[0].clone()
            for (own, index), multiplier in zip(STRENGTHS, MULTIPLIERS[factor], strict=True):
                for row, place in slots if own == layer else ():
                    value = values[layer, index]
                    changed[row, place, index] = value + multiplier * (changed[row, place, index] - value)
            return (changed, *args[1:])

        return hook

    handles = [module.register_forward_pre_hook(by_hand(layer)) for layer, module in enumerate(ffn_modules(model))]
    torch.testing.assert_close(logits(model), found, atol=1e-12, rtol=1e-12)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(logits(model), found)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 2.0])
def test_strength_one_is_none_and_strength_zero_is_untouched(any_model, factor):
    """To the last bit."""
    before = logits(any_model)
    plain = GRADED.with_strengths(None)
    for strength, wanted in ((1.0, plain), (0.0, [])):
        with suppressed(any_model, plain.with_strengths(dict.fromkeys(plain, strength)), factor):
            found = logits(any_model)
        with suppressed(any_model, wanted, factor):
            assert torch.equal(found, logits(any_model))
    with suppressed(any_model, GRADED, 1.0):
        assert torch.equal(logits(any_model), before)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_scaled_for_good_is_what_the_hook_does(any_model, factor):
    """Bit for bit where each multiplier is 0 or a power of two."""
    strengths = {0.0: (1.0, 0.5, -1.0, 3.0), 0.5: (1.0, 2.0, -2.0, 6.0), 2.0: (1.0, -0.5, 0.0, -1.0)}[factor]
    neurons = NeuronSet(STRENGTHS, SHAPE).with_strengths(dict(zip(STRENGTHS, strengths, strict=True)))
    with suppressed(any_model, neurons, factor):
        expected = logits(any_model)
    scale_neurons(any_model, neurons, factor)
    assert torch.equal(logits(any_model), expected)


@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0])
def test_values_go_into_the_biases_as_far_as_strengths_say(any_model, factor):
    model, neurons = any_model.double(), with_values(GRADED)
    with suppressed(model, neurons, factor):
        found = logits(model)
    can_be_given_one = model.config.model_type == "llama"
    if getattr(ffn_modules(model)[0], "bias", None) is None and not can_be_given_one:
        with pytest.raises(InputError, match="no bias"):
            scale_neurons(model, neurons, factor)
        return
    scale_neurons(model, neurons, factor)
    torch.testing.assert_close(logits(model), found, atol=1e-12, rtol=1e-12)
