from __future__ import annotations

import json
import os
import pickle

import pytest
from conftest import make_model

from biaslab import Neuron, NeuronSet
from biaslab.errors import InputError
from biaslab.models.loading import fingerprint
from biaslab.neurons.neuron_set import random_like

SHAPE = (3, 48)
PAIRS = [(2, 7), (0, 5), (2, 1), (0, 5)]


def made_for(model, neurons=PAIRS):
    facts = {"name": "tiny", "fingerprint": fingerprint(model)}
    subsets = {"gender": [(0, 5)], "gender/female-male": [(2, 7), (1, 1)]}
    return NeuronSet(neurons, SHAPE).with_details(subsets, {"model": facts, "settings": {"steps": 4, "ranges": [1, 2]}})


def content(**change):
    whole = {"format_version": 1, "shape": [3, 48], "neurons": [[0, 5]], "subsets": {}, "provenance": {}}
    return {key: value for key, value in (whole | change).items() if value != "absent"}


def test_it_is_sorted_and_each_neuron_comes_once():
    neurons = NeuronSet(iter(PAIRS))
    assert list(neurons) == [Neuron(0, 5), Neuron(2, 1), Neuron(2, 7)]
    assert len(neurons) == 3
    assert (2, 7) in neurons
    assert Neuron(2, 7) in neurons
    assert (7, 2) not in neurons
    assert neurons.by_layer() == {0: [5], 2: [1, 7]}
    assert neurons.layers() == {0: 1, 2: 2}
    assert NeuronSet(PAIRS, SHAPE).layers() == {0: 1, 1: 0, 2: 2}
    assert list(NeuronSet()) == []


def test_equality_is_that_of_the_neurons():
    assert NeuronSet(PAIRS) == NeuronSet(reversed(PAIRS), SHAPE) == set(PAIRS)
    assert set(PAIRS) == NeuronSet(PAIRS)
    assert NeuronSet(PAIRS) != NeuronSet(PAIRS[1:2])
    assert hash(NeuronSet(PAIRS)) == hash(NeuronSet(reversed(PAIRS), SHAPE))
    assert NeuronSet([(0, 5)]) < NeuronSet(PAIRS)


@pytest.mark.parametrize("plain", [False, True])
def test_algebra_agrees_with_that_of_sets(plain):
    one, other = set(PAIRS), {(2, 1), (1, 9)}
    right = other if plain else NeuronSet(other)
    left = NeuronSet(one, SHAPE)
    assert (left | right) == one | other
    assert (left & right) == one & other
    assert (left - right) == one - other
    assert (left ^ right) == one ^ other
    assert (right | left) == one | other
    assert (right - left) == other - one
    for result in (left | right, left & right, left - right, left ^ right, right | left, right & left, right - left):
        assert isinstance(result, NeuronSet)
        assert result.shape == SHAPE
        assert list(result) == sorted(result)


def test_algebra_keeps_what_holds_and_drops_the_rest(bert):
    neurons = made_for(bert)
    for other in (neurons, NeuronSet([(1, 1)], SHAPE), {(1, 1)}):
        result = neurons | other
        assert set(result.provenance) == {"model"}
        assert result.provenance["model"]["fingerprint"] == fingerprint(bert)
        assert not result.subsets
    foreign = NeuronSet(PAIRS, SHAPE).with_details(provenance={"model": {"name": "other", "fingerprint": "0" * 16}})
    assert not (neurons & foreign).provenance
    assert (neurons & foreign).shape == SHAPE
    with pytest.raises(InputError, match=r"`other` .* \(3, 48\), but has shape \(3, 40\)"):
        _ = neurons | NeuronSet([(0, 1)], (3, 40))


def test_a_set_does_not_change():
    details = {"settings": {"steps": 4}}
    neurons = NeuronSet(PAIRS).with_details({"gender": [(0, 5)]}, details)
    details["settings"]["steps"] = 5
    assert neurons.provenance["settings"]["steps"] == 4
    with pytest.raises(TypeError):
        neurons.provenance["settings"] = {}
    with pytest.raises(TypeError):
        neurons.subsets["gender"] = NeuronSet()
    before = neurons
    neurons |= NeuronSet([(1, 1)])
    assert (1, 1) not in before


@pytest.mark.parametrize(
    ("neurons", "shape", "message"),
    [
        ([(0, 5), (0, 48)], SHAPE, r"`neurons\[1\]` .* index from 0 to 47 but got 48 in \(0, 48\)"),
        ([(3, 0)], SHAPE, r"`neurons\[0\]` .* layer from 0 to 2 but got 3"),
        ([(-1, 0)], None, r"`neurons\[0\]` .* layer not negative but got -1"),
        ([(0, 1.0)], None, r"pair of integers .* \(0, 1.0\)"),
        ([(0, True)], None, r"pair of integers"),
        ([(0, 1, 2)], None, r"pair of integers"),
        ([5], None, r"pair of integers .* 5"),
        ([], (0, 48), r"`shape` .* two positive integers, but got \(0, 48\)"),
    ],
)
def test_bad_neurons_are_refused(neurons, shape, message):
    with pytest.raises(InputError, match=message):
        NeuronSet(neurons, shape)


def test_the_file_comes_back_whole_and_reads_well(tmp_path, bert):
    neurons, path = made_for(bert), tmp_path / "neurons.json"
    neurons.save(path)
    found = NeuronSet.load(str(path))
    assert found == neurons
    assert found.shape == SHAPE
    assert found.subsets == neurons.subsets
    assert found.provenance == neurons.provenance
    lines = path.read_text().splitlines()
    assert "  [2, 1]," in lines
    assert len(lines) < 30
    assert os.listdir(tmp_path) == ["neurons.json"]
    copied = pickle.loads(pickle.dumps(found))
    assert (copied, copied.provenance) == (found, found.provenance)


def test_a_set_without_shape_comes_back_too(tmp_path):
    NeuronSet(PAIRS).save(tmp_path / "n.json")
    found = NeuronSet.load(tmp_path / "n.json")
    assert (found, found.shape) == (NeuronSet(PAIRS), None)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "n.json"
    NeuronSet(PAIRS).save(path)

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"`path` .*n.json is not: no space"):
        NeuronSet().save(path)
    assert NeuronSet.load(path) == NeuronSet(PAIRS)
    assert os.listdir(tmp_path) == ["n.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is not JSON: .*line 1 column 2"),
        ("[]", r"JSON object but got list"),
        (content(neurons="absent"), r"lacks \['neurons'\]"),
        (content(format_version="absent"), r"lacks \['format_version'\]"),
        (content(nerons=[]), r"has \['nerons'\]"),
        (content(format_version=2), r"`format_version` is expected to be 1 but got 2"),
        (content(shape=[3]), r"`shape` .* \[3\]"),
        (content(neurons={}), r"`neurons` .* list .* dict"),
        (content(neurons=[[0, 5], [0, 7], [0, 5]]), r"`neurons\[2\]` .* \[0, 5\] is also at index 0"),
        (content(neurons=[[0, 5], [0, "7"]]), r"`neurons\[1\]` .* pair of integers"),
        (content(neurons=[[0, 5], [0, 48]]), r"`neurons\[1\]` .* index from 0 to 47 but got 48"),
        (content(subsets=[]), r"`subsets` .* list"),
        (content(subsets={"gender": [[0, 5], [3, 0]]}), r"`subsets.gender\[1\]` .* layer from 0 to 2 but got 3"),
        (content(provenance={"model": "bert"}), r"`provenance.model`"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_place(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(InputError, match=message) as caught:
        NeuronSet.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`neurons` .*nothing.json can't be read"):
        NeuronSet.load(tmp_path / "nothing.json")


def test_only_the_very_model_is_accepted(bert):
    made_for(bert).require_model(bert)
    NeuronSet(PAIRS).require_model(bert)
    other = make_model("bert", seed=1)
    message = (
        rf"`neurons` .* a bert \(weights {fingerprint(other)}\), .* other weights: tiny \(weights {fingerprint(bert)}\)"
    )
    with pytest.raises(InputError, match=message):
        made_for(bert).require_model(other)
    with pytest.raises(InputError, match=r"\(3, 48\) but was made for one of shape \(3, 40\)"):
        NeuronSet(PAIRS, (3, 40)).require_model(bert)
    with pytest.raises(InputError, match="index from 0 to 47"):
        NeuronSet([(0, 48)]).require_model(bert)


@pytest.mark.parametrize("same_layers", [True, False])
def test_random_sets_are_disjoint_of_the_same_size_and_reproducible(bert, same_layers):
    neurons = made_for(bert)
    controls = [random_like(neurons, seed, same_layers) for seed in (0, 0, 1)]
    assert controls[0] == controls[1]
    assert controls[0] != controls[2]
    for control in controls:
        assert len(control) == len(neurons)
        assert control.isdisjoint(neurons)
        assert control.shape == SHAPE
        control.require_model(bert)
        if same_layers:
            assert control.layers() == neurons.layers()


def test_random_sets_take_every_other_neuron_where_few_are_left():
    neurons = NeuronSet([(0, 0), (0, 1)], (1, 4))
    assert random_like(neurons, 0) == {(0, 2), (0, 3)}
    assert random_like(neurons, 0, same_layers=False) == {(0, 2), (0, 3)}
    full = NeuronSet([(0, 0), (0, 1)], (2, 3))
    with pytest.raises(InputError, match="leave 2 other neurons in layer 0 but leaves 1"):
        random_like(full, 0)
    assert len(random_like(full, 0, same_layers=False)) == 2
    with pytest.raises(InputError, match="shape"):
        random_like(NeuronSet([(0, 0)]), 0)


def valued() -> NeuronSet:
    return NeuronSet([(0, 1), (1, 2)], (2, 3)).with_values([[0.5, -1.25, 0.0], [3e-5, 7.0, 0.1]])


def test_values_come_back_from_the_file_to_the_last_bit(tmp_path):
    valued().save(tmp_path / "neurons.json")
    again = NeuronSet.load(tmp_path / "neurons.json")
    assert again == valued()
    assert again.values.tobytes() == valued().values.tobytes()
    valued().with_values(None).save(tmp_path / "plain.json")
    assert "values" not in (tmp_path / "plain.json").read_text()
    assert NeuronSet.load(tmp_path / "plain.json").values is None


def test_values_stay_with_what_is_made_of_the_set():
    neurons = valued()
    derived = neurons.with_details({"a": [(0, 0)]}), neurons | {(0, 0)}, neurons - {(0, 1)}, random_like(neurons, 0)
    for made in derived:
        assert made.values.tobytes() == neurons.values.tobytes()
    assert valued().fingerprint == valued().with_values(None).fingerprint


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0, 2.0, 3.0], [1.0, float("nan"), 2.0]], [1.0, 2.0]])
def test_values_of_another_shape_or_not_finite_are_refused(values):
    with pytest.raises(InputError, match="`values` is expected to hold one finite number per neuron"):
        NeuronSet([(0, 1)], (2, 3)).with_values(values)


@pytest.mark.parametrize("text", ['"AAAA"', '"no base64!"', "3", "[1.0]"])
def test_bad_values_in_a_file_are_refused(tmp_path, text):
    path = tmp_path / "neurons.json"
    content = valued().with_values(None)
    content.save(path)
    path.write_text(path.read_text().replace('"provenance": {}', f'"provenance": {{}}, "values": {text}'))
    with pytest.raises(InputError, match=r"`values` is expected to hold one float32 per neuron in base64"):
        NeuronSet.load(path)
