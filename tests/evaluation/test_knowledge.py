"""Kept knowledge against a slow loop that runs each input by itself."""

import copy
import statistics
from collections import Counter

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.commands import judging
from biaslab.data.knowledge import FACTS
from biaslab.evaluation import scoring
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.knowledge import knowledge_samples
from biaslab.evaluation.measures import Perplexity
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.statistics import draw

KINDS = {
    "bert": wordpiece_tokenizer, "roberta": bpe_tokenizer, "gpt2": lambda: bpe_tokenizer(False),
    "llama": lambda: bpe_tokenizer(False),
}  # fmt: skip
NEURONS = NeuronSet([(0, 3), (1, 7), (2, 1), (2, 40)], shape=(3, 48))


@pytest.fixture(params=KINDS)
def asked(request, tmp_path):
    """A tiny model, its tokenizer, and the measure."""
    tokenizer = KINDS[request.param]()
    model = make_model(request.param, len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (measure,) = judging.knowledge(str(tmp_path), False)
    return model, tokenizer, measure


def oracle(model, tokenizer, text, word):
    """The mean log-probability of a word's tokens at the end of a sentence, one token after the other."""
    start, _, end = text.partition(" {slot}")
    space = "" if tokenizer.mask_token == "[MASK]" else " "
    pieces = tokenizer(space + word, add_special_tokens=False)["input_ids"]
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (start, end))
    if model.config.model_type in ("bert", "roberta"):
        opened, closed = [tokenizer.cls_token_id, *before], [*after, tokenizer.sep_token_id]
    logs = []
    for number, piece in enumerate(pieces):
        if model.config.model_type in ("bert", "roberta"):
            ids = [*opened, *pieces[:number], tokenizer.mask_token_id, *closed]
            place = len(opened) + number
        else:
            ids = [*before, *pieces[:number]]
            place = -1
        logs.append(float(model(input_ids=torch.tensor([ids])).logits[0, place].log_softmax(-1)[piece]))
    return statistics.fmean(logs)


def test_figures_are_those_of_a_loop(asked):
    model, tokenizer, measure = asked
    scores = measure.ask(model, tokenizer, "")
    facts = measure.key[0]
    assert scores.shape == (len(facts), 2)
    known: dict[str, list[float]] = {}
    lengths = set()
    for fact, found in zip(facts, scores.tolist(), strict=True):
        right, wrong = (oracle(model, tokenizer, fact.text, word) for word in (fact.right, fact.wrong))
        assert found == [pytest.approx(right, abs=1e-4), pytest.approx(wrong, abs=1e-4)]
        lengths |= {len(tokenizer(" " + word, add_special_tokens=False)["input_ids"]) for word in fact[2:]}
        for scope in ("overall", fact.dimension):
            known.setdefault(scope, []).append(100.0 if right > wrong else 0.0)
    assert max(lengths) > 1  # words of several tokens are asked about, too
    figures = measure.figures(scores)
    assert {scope for metric, scope in figures if metric == "knowledge"} == set(known)
    for (metric, scope), samples in figures.items():
        assert metric == "knowledge"
        assert samples.interval().value == pytest.approx(statistics.fmean(known[scope]), abs=1e-3)
    assert measure.facts() == {"knowledge_sentences": len(facts)}


@pytest.mark.parametrize("seed", range(3))
def test_a_model_whose_answer_is_always_the_same_has_50(asked, monkeypatch, seed):
    """Whichever words it prefers: each is right as often as wrong. Both sentences of a pair must be known."""
    model, tokenizer, measure = asked
    logits = torch.randn(model.config.vocab_size, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    monkeypatch.setattr(scoring, "slot_log_probabilities", lambda model, ids, position: logits.expand(len(ids), -1))
    scores, facts = measure.ask(model, tokenizer, ""), measure.key[0]
    count = Counter((fact.right, fact.wrong) for fact in facts)
    whole = [number for number, (_, _, right, wrong) in enumerate(facts) if count[right, wrong] == count[wrong, right]]
    assert len(whole) > 60
    assert float(knowledge_samples(scores[whole]).value) == 50


def test_a_model_that_knows_nothing_has_about_50(asked):
    model, tokenizer, measure = asked
    found = measure.figures(measure.ask(model, tokenizer, ""))["knowledge", "overall"].interval()
    assert found.low < 50 < found.high
    assert 35 < found.value < 65


def test_equal_words_count_half():
    scores = torch.tensor([[-1.0, -2.0], [-3.0, -3.0], [-2.0, -1.0], [-1.0, -2.0]])
    assert knowledge_samples(scores).value.tolist() == [62.5]


def test_the_interval_resamples_sentences():
    scores = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    known = [100.0 * (right > wrong) for right, wrong in scores.tolist()]
    means = sorted(statistics.fmean(known[number] for number in drawn) for drawn in draw(40).tolist())
    found = knowledge_samples(scores).interval()
    assert found.value == pytest.approx(statistics.fmean(known))
    assert means[49] - 1e-3 <= found.low <= means[50] + 1e-3
    assert means[1949] - 1e-3 <= found.high <= means[1950] + 1e-3


def arms(positions="all"):
    controls = [Treatment(random_like(NEURONS, seed), positions=positions) for seed in range(2)]
    return [
        Arm("untouched"), Arm("chosen", [Treatment(NEURONS, positions=positions)]),
        Arm("random", controls, like="chosen"),
    ]  # fmt: skip


def test_changes_are_paired_and_of_zeroed_weights(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    (measure,) = judging.knowledge(str(tmp_path), False)
    evaluation = evaluate(model, tokenizer, arms(), [measure])
    found = evaluation.estimates()
    zeroed = copy.deepcopy(model)
    for layer, index in NEURONS:
        zeroed.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    before, after = (measure.ask(each, tokenizer, "") for each in (model, zeroed))
    assert torch.allclose(evaluation.answers["chosen", "knowledge"][0], after, atol=1e-4)
    right = [(100.0 * (scores[:, 0] > scores[:, 1])).tolist() for scores in (before, after)]
    changes = [b - a for a, b in zip(*right, strict=True)]
    assert any(changes)
    means = sorted(statistics.fmean(changes[number] for number in drawn) for drawn in draw(len(changes)).tolist())
    change = found["chosen", "knowledge", "overall"].change
    assert change.value == pytest.approx(statistics.fmean(changes), abs=1e-3)
    assert means[49] - 1e-3 <= change.low <= means[50] + 1e-3
    assert found["untouched", "knowledge", "gender"].change == (0, 0, 0)
    assert found["random", "knowledge", "overall"].spread is not None


def test_a_causal_model_is_asked_where_its_last_token_predicts(tmp_path):
    """So neurons may be suppressed there alone, and that makes a difference."""
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model("gpt2", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    (measure,) = judging.knowledge(str(tmp_path), False)
    answers = [evaluate(model, tokenizer, arms(p), [measure]).answers for p in ("all", "slot")]
    everywhere, slot = (each["chosen", "knowledge"][0] for each in answers)
    untouched = answers[0]["untouched", "knowledge"][0]
    assert not torch.equal(slot, untouched)
    assert not torch.equal(slot, everywhere)


def test_what_no_word_is_known_of_is_not_measured(tmp_path):
    tokenizer = wordpiece_tokenizer(pieces=False)
    model = make_model("bert", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    assert judging.knowledge(str(tmp_path), False) == []
    measures = [Perplexity(["the doctor is kind"]), *judging.knowledge(str(tmp_path), False)]
    findings = evaluate(model, tokenizer, arms(), measures).findings("debias", "tiny", {})
    assert findings.rows_of("knowledge") == []
    assert "knowledge_sentences" not in findings.facts


@pytest.mark.assets
def test_a_real_model_knows_more_than_chance(asset):
    asset("minilm-encoder")
    from biaslab.models.loading import load_model

    model, tokenizer = load_model("minilm-mlm")
    (measure,) = judging.knowledge("minilm-mlm", False)
    assert len(measure.key[0]) == len(FACTS)
    found = measure.figures(measure.ask(model, tokenizer, ""))["knowledge", "overall"].interval()
    assert found.low > 60
