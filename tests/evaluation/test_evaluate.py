"""One way to judge a model: each answer kept by what it depends on, each treatment applied where it was measured."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.errors import InputError
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.measures import Measure, Perplexity
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.statistics import Samples
from biaslab.store import Artifacts

SENTENCES = ["the doctor is kind", "the old man loves cooking", "she was not at home"]
NEURONS = NeuronSet([(0, 3), (1, 7), (2, 1), (2, 40)], shape=(3, 48))


@pytest.fixture
def model_and_tokenizer():
    tokenizer = wordpiece_tokenizer()
    return make_model("bert", len(tokenizer)), tokenizer


class Counted(Perplexity):
    """Counts how often the model is asked."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked = 0

    def ask(self, *arguments):
        self.asked += 1
        return super().ask(*arguments)


def arms(factor: float = 0.0, seeds: int = 2) -> list[Arm]:
    controls = [Treatment(random_like(NEURONS, seed), factor) for seed in range(seeds)]
    return [Arm("untouched"), Arm("chosen", [Treatment(NEURONS, factor)]), Arm("random", controls, like="chosen")]


def test_rows_are_those_of_zeroed_weights(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    found = evaluate(model, tokenizer, arms(), [Perplexity(SENTENCES)]).estimates()
    zeroed = copy.deepcopy(model)
    for layer, index in NEURONS:
        zeroed.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    (expected,) = evaluate(zeroed, tokenizer, arms()[:1], [Perplexity(SENTENCES)]).estimates().values()
    estimate = found["chosen", "perplexity", "overall"]
    assert estimate.figure.value == pytest.approx(expected.figure.value)
    before = found["untouched", "perplexity", "overall"].figure.value
    assert estimate.change.value == pytest.approx(100 * (expected.figure.value / before - 1))
    assert found["untouched", "perplexity", "overall"].change == (0, 0, 0)
    assert found["random", "perplexity", "overall"].spread is not None
    assert estimate.beyond_random is not None


def test_each_answer_is_kept_by_what_it_depends_on(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    cache, measure = Artifacts(tmp_path), Counted(SENTENCES)
    first = evaluate(model, tokenizer, arms(), [measure], cache).estimates()
    assert measure.asked == 4
    assert evaluate(model, tokenizer, arms(), [measure], cache).estimates() == first
    assert measure.asked == 4
    evaluate(model, tokenizer, arms(factor=0.5), [measure], cache)
    assert measure.asked == 4 + 3  # the untouched model is known
    evaluate(model, tokenizer, arms()[:1], [other := Counted(SENTENCES[:2])], cache)
    assert other.asked == 1
    weights = make_model("bert", model.config.vocab_size, seed=1)
    evaluate(weights, tokenizer, arms()[:1], [measure], cache)
    assert measure.asked == 4 + 3 + 1


def test_another_field_of_a_treatment_is_part_of_its_key_and_facts():
    """Else its answers would be those of the untouched model, read from the cache."""

    @dataclass(frozen=True)
    class Tempered(Treatment):
        temperature: float = 1.0

    assert Treatment(factor=0.5).key == Treatment(checkpoint=Path("c")).key == {}
    expected = {"neurons": [tuple(neuron) for neuron in NEURONS], "factor": 0.5, "positions": "all"}
    assert Treatment(NEURONS, 0.5).key == expected
    assert Tempered(temperature=2.0).key == {"temperature": 2.0}
    assert Tempered(temperature=2.0).facts() == {**Treatment().facts(), "temperature": 2.0}


def test_strengths_are_part_of_a_treatments_key_and_facts(model_and_tokenizer, tmp_path):
    """Else a graded set would get the answers of another one of the same neurons."""
    strengths = [0.25, 1.0, -1.0, 0.5]
    graded = NEURONS.with_strengths(dict(zip(NEURONS, strengths, strict=True)))
    key = Treatment(graded, 0.5).key
    assert key == Treatment(NEURONS, 0.5).key | {"strengths": strengths}
    assert Treatment(graded).facts()["neurons"] != Treatment(NEURONS).facts()["neurons"]
    values = Treatment(graded.with_values(torch.ones(3, 48)), 0.5).key
    assert values == key | {"values": values["values"]}
    measure, cache = Counted(SENTENCES), Artifacts(tmp_path)
    rows = [Arm("untouched"), *(Arm(str(n), [Treatment(n)]) for n in (NEURONS, graded, graded.with_strengths(None)))]
    for number, row in enumerate(rows):
        rows[number] = Arm(f"{row.name} {number}", row.treatments)
    found = [each.figure.value for each in evaluate(*model_and_tokenizer, rows, [measure], cache).estimates().values()]
    assert measure.asked == 3
    assert len(set(found)) == 3
    assert found[1] == found[3]
    scaled = copy.deepcopy(model_and_tokenizer[0])
    for (layer, index), strength in zip(NEURONS, strengths, strict=True):
        scaled.bert.encoder.layer[layer].output.dense.weight.data[:, index] *= 1 - strength
    (expected,) = evaluate(scaled, model_and_tokenizer[1], rows[:1], [measure]).estimates().values()
    assert found[2] == pytest.approx(expected.figure.value)


def test_a_damaged_answer_is_asked_for_again(model_and_tokenizer, tmp_path):
    model, tokenizer = model_and_tokenizer
    measure = Counted(SENTENCES)
    first = evaluate(model, tokenizer, arms()[:1], [measure], Artifacts(tmp_path)).estimates()
    (path,) = tmp_path.glob("perplexity-*")
    path.write_bytes(path.read_bytes()[:50])
    assert evaluate(model, tokenizer, arms()[:1], [measure], Artifacts(tmp_path)).estimates() == first
    assert measure.asked == 2


def test_a_measure_may_take_fewer_seeds_and_a_row_fewer_measures(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    measure = Counted(SENTENCES, seeds=1)
    rows = [*arms(seeds=3), Arm("left out", [Treatment(NEURONS, 2.0)], measures=["another"])]
    evaluation = evaluate(model, tokenizer, rows, [measure])
    assert measure.asked == 3
    assert evaluation.estimates()["random", "perplexity", "overall"].spread is None
    assert ("left out", "perplexity", "overall") not in evaluation.estimates()
    assert [row.size for row in evaluation.rows] == [0, 4, 4, 4]


def test_no_hook_is_left_whatever_happens(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer

    class Fails(Perplexity):
        def ask(self, *arguments):
            raise KeyboardInterrupt

    before = sum(len(module._forward_pre_hooks) for module in model.modules())
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, tokenizer, [Arm("chosen", [Treatment(NEURONS)])], [Fails(SENTENCES)])
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == before


class LastToken(Measure):
    """Asks for what the last token predicts."""

    name = "last"
    last_token_only = True

    def __init__(self):
        super().__init__([])

    def ask(self, model, tokenizer, title):
        return model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1).max()[None]

    def figures(self, answers):
        return {("SS", "overall"): Samples(answers, answers.expand(10, 1))}


def test_slot_suppression_is_refused_where_a_causal_model_is_judged_on_sentences():
    """B1: every token predicts, and suppression at the last one would change nothing that is asked for."""
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model("gpt2", len(tokenizer))
    rows = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS, positions="slot")])]
    with pytest.raises(
        InputError, match='`positions` is expected to be "all" for a causal model evaluated by perplexity'
    ):
        evaluate(model, tokenizer, rows, [Perplexity(SENTENCES)])
    evaluation = evaluate(model, tokenizer, rows, [LastToken()])
    assert not torch.equal(evaluation.answers["untouched", "last"][0], evaluation.answers["chosen", "last"][0])


def test_neurons_of_another_model_are_refused(model_and_tokenizer):
    strange = NEURONS.with_details(provenance={"model": {"name": "another", "fingerprint": "0" * 16}})
    with pytest.raises(InputError, match="made for this model"):
        evaluate(*model_and_tokenizer, [Arm("chosen", [Treatment(strange)])], [Perplexity(SENTENCES)])
