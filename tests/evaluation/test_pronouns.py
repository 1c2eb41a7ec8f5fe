"""WinoBias and Winogender against a slow loop that runs each sentence by itself."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from pronoun_files import winobias, winogender
from reference import pronouns as reference

from biaslab.data.winobias import WinoBiasDataModule
from biaslab.data.winogender import WinogenderDataModule
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import METRICS
from biaslab.evaluation.pronouns import WinoBias, Winogender
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.metrics.winobias import winobias_change
from biaslab.metrics.winogender import winogender_change
from biaslab.neurons.neuron_set import NeuronSet, random_like

KINDS = {
    "bert": wordpiece_tokenizer, "roberta": bpe_tokenizer, "gpt2": lambda: bpe_tokenizer(False),
    "llama": lambda: bpe_tokenizer(False),
}  # fmt: skip
NEURONS = NeuronSet([(0, 3), (1, 7), (2, 1), (2, 40)], shape=(3, 48))
FILES = {"winobias": winobias, "winogender": winogender}
SCOPES = {"winobias": ("overall", "type 1", "type 2"), "winogender": ("overall", "occupation", "participant")}


@pytest.fixture(params=FILES)
def benchmark(request):
    return request.param


def set_up(folder, kind, benchmark, **options):
    """A tiny model, its tokenizer, the data and the measure."""
    tokenizer = KINDS[kind]()
    model = make_model(kind, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made, measured_by = {
        "winobias": (WinoBiasDataModule, WinoBias), "winogender": (WinogenderDataModule, Winogender),
    }[benchmark]  # fmt: skip
    data = made(str(folder), path=str(FILES[benchmark](folder / "files")), **options)
    data.prepare_data()
    data.setup("test")
    return model, data.load_tokenizer(), data, measured_by(data)


def oracle(benchmark, scores, pairs):
    """The metrics of some pairs, by the loops."""
    names = [pair.occupation for pair in pairs]
    if benchmark == "winobias":
        return reference.winobias(scores, names, [pair.stereotype == "male" for pair in pairs])
    return reference.winogender(scores, names, [pair.female_share for pair in pairs])


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_those_of_a_loop(tmp_path, kind, benchmark):
    model, tokenizer, data, measure = set_up(tmp_path, kind, benchmark, tokens_per_batch=150)
    scores = measure.ask(model, tokenizer, "")
    assert len(data.batches) > 1
    expected = reference.scores(model, tokenizer, [[pair.pronouns.text(n) for n in range(2)] for pair in data.pairs])
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-4)
    figures = measure.figures(scores)
    assert {scope for _, scope in figures} == set(SCOPES[benchmark])
    for scope in SCOPES[benchmark]:
        labels = [pair.kind if benchmark == "winobias" else pair.referent for pair in data.pairs]
        inside = [number for number, label in enumerate(labels) if scope in ("overall", label)]
        values = oracle(benchmark, [expected[n] for n in inside], [data.pairs[n] for n in inside])
        found = {metric: samples.interval() for (metric, own), samples in figures.items() if own == scope}
        assert set(found) <= set(METRICS)
        assert [figure.value for figure in found.values()] == pytest.approx(values, abs=5e-3)
        assert all(low <= value <= high for value, low, high in found.values())


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_several_pronouns_do_not_tell_each_other_what_they_are(tmp_path, kind):
    """Both are masked where the first is asked for; a causal model is asked for the sentence."""
    model, tokenizer, data, _ = set_up(tmp_path, kind, "winobias")
    for side, words in (("pro", ("he", "his")), ("anti", ("she", "her"))):
        path = tmp_path / "files" / f"{side}_stereotyped_type1.txt.test"
        line = f"1 [The driver] loves the friend because [{words[0]}] is at [{words[1]}] home."
        path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))
    data = WinoBiasDataModule(str(tmp_path), path=str(tmp_path / "files"))
    data.setup("test")
    first = data.pairs[0].pronouns
    assert first.pronouns == (("he", "his"), ("she", "her"))
    expected = reference.scores(model, tokenizer, [[first.text(0), first.text(1)]])
    assert WinoBias(data).ask(model, tokenizer, "")[0].tolist() == pytest.approx(expected[0], abs=2e-4)


def test_facts_and_key_say_what_was_asked(tmp_path, benchmark):
    _, _, data, measure = set_up(tmp_path, "bert", benchmark)
    counts = {"winobias": {"winobias_pairs": 24, "winobias_pairs_left_out": 0}, "winogender": {"winogender_pairs": 16}}
    assert measure.facts() == counts[benchmark]
    assert measure.key[0] == data.pairs


def test_changes_are_paired_and_of_zeroed_weights(tmp_path, benchmark):
    model, tokenizer, _, measure = set_up(tmp_path, "bert", benchmark)
    controls = [Treatment(random_like(NEURONS, seed)) for seed in range(2)]
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)]), Arm("random", controls, like="chosen")]
    evaluation = evaluate(model, tokenizer, arms, [measure])
    zeroed = copy.deepcopy(model)
    for layer, index in NEURONS:
        zeroed.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    before, after = (measure.ask(each, tokenizer, "") for each in (model, zeroed))
    assert torch.allclose(evaluation.answers["chosen", benchmark][0], after, atol=1e-4)
    last = (measure.occupations, measure.male if benchmark == "winobias" else measure.shares)
    change = (winobias_change if benchmark == "winobias" else winogender_change)(before, after, *last)
    for metric, expected in change.items():
        found = evaluation.estimates()["chosen", metric, "overall"].change
        assert tuple(found) == pytest.approx(tuple(expected), abs=1e-2)
        assert evaluation.estimates()["random", metric, "overall"].spread is not None
    assert any(value for value, _, _ in change.values())


@pytest.mark.assets
def test_the_real_model_agrees_with_the_loop_and_follows_the_statistics(asset):
    asset("minilm-encoder")
    asset("winobias")
    asset("winogender")
    from biaslab.models.loading import load_model

    model, tokenizer = load_model("minilm-mlm")
    measures = measures_of(["winobias", "winogender"], "minilm-mlm")
    figures = {}
    for measure in measures:
        scores, pairs = measure.ask(model, tokenizer, ""), measure.key[0]
        some = range(0, len(pairs), 40)
        texts = [[pairs[n].pronouns.text(column) for column in range(2)] for n in some]
        expected = torch.tensor(reference.scores(model, tokenizer, texts), dtype=torch.float64)
        torch.testing.assert_close(scores[list(some)], expected, rtol=0, atol=2e-4)
        figures |= {key: samples.interval() for key, samples in measure.figures(scores).items()}
    assert figures["Winogender correlation", "overall"].low > 20
    assert figures["WinoBias female log-ratio", "overall"].high < 0
    assert figures["WinoBias", "overall"].low < 50 < figures["WinoBias", "overall"].high
