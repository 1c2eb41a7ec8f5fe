from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import CAUSAL, make_model
from reference import stereoset as reference
from transformers import GPT2LMHeadModel

from biaslab.errors import InputError
from biaslab.evaluation.sentences import _rows, sequence_log2_probabilities
from biaslab.models.architectures import ffn_shape, takes_own_mask
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed

START = 1
SENTENCES = [  # candidates that share a beginning, nothing, all but the last token; a longer one, equal and short ones
    [7, 8, 9, 10, 11, 12],
    [7, 8, 9, 20, 21, 11, 12],
    [7, 8, 9, 30, 11, 12],
    [40, 8, 9],
    [41, 42, 8, 9],
    [40, 8, 10],
    [7, 8, 9],
    [40, 8, 9],
    [*range(50, 74)],
    [7],
    [8],
]
NEURONS = [(0, 3), (1, 5), (1, 6), (2, 40)]
TREATMENTS = ["untouched", "zero", "factor", "mean"]


def treatment(model, name):
    """Suppression at all positions, strong enough to show."""
    values = np.random.default_rng(0).normal(size=ffn_shape(model)).astype(np.float32)
    neurons = NeuronSet([] if name == "untouched" else NEURONS, ffn_shape(model))
    return suppressed(model, neurons.with_values(values if name == "mean" else None), 3.0 if name == "factor" else 0.0)


def one_token_at_a_time(model, sentence):
    """The definition: a forward pass a token, over what comes before it."""
    before = [[START]] + [sentence[:end] for end in range(1, len(sentence))]
    found = [reference.probabilities(model, ids, len(ids) - 1)[t] for ids, t in zip(before, sentence, strict=True)]
    return torch.stack(found).log2()


def rows_of_one_sentence(monkeypatch):
    monkeypatch.setattr("biaslab.evaluation.sentences.takes_own_mask", lambda model, length: False)


@pytest.mark.parametrize(("name", "attention"), [*((name, "sdpa") for name in TREATMENTS), ("mean", "eager")])
@pytest.mark.parametrize("model_type", CAUSAL)
def test_shared_beginnings_change_nothing(model_type, name, attention):
    """In float64, where equal means equal; the same suppression acts on both sides."""
    model = make_model(model_type).double()
    if model_type != "gemma2":  # which needs its own kernel
        model.set_attn_implementation(attention)
    assert takes_own_mask(model, 24)
    with treatment(model, name):
        found = sequence_log2_probabilities(model, SENTENCES, START)
        expected = [one_token_at_a_time(model, sentence) for sentence in SENTENCES]
    assert len(found) == len(SENTENCES)
    for own, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(own, wanted, atol=2e-6, rtol=1e-6)  # scores are of float32 logits


@pytest.mark.parametrize("model_type", CAUSAL)
def test_suppression_shows(model_type):
    model = make_model(model_type)
    figures = []
    for name in TREATMENTS:
        with treatment(model, name):
            figures.append(float(torch.cat(sequence_log2_probabilities(model, SENTENCES, START)).sum()))
    assert len(set(figures)) == len(TREATMENTS)


@pytest.mark.parametrize("tokens_at_once", [1, 30, 4096])
@pytest.mark.parametrize("row", [0, 9, 200])
def test_neither_rows_nor_batches_matter(monkeypatch, row, tokens_at_once):
    model = make_model("llama")
    expected = sequence_log2_probabilities(model, SENTENCES, START)
    monkeypatch.setattr("biaslab.evaluation.sentences._ROW", row)
    monkeypatch.setattr("biaslab.evaluation.sentences._TOKENS_AT_ONCE", tokens_at_once)
    for own, wanted in zip(sequence_log2_probabilities(model, SENTENCES, START), expected, strict=True):
        torch.testing.assert_close(own, wanted, atol=1e-5, rtol=1e-6)


class Deaf(GPT2LMHeadModel):
    """A model whose code came from elsewhere, and takes neither positions nor a mask."""

    def forward(self, input_ids, use_cache=None):
        return super().forward(input_ids=input_ids, use_cache=use_cache)


def test_a_model_that_takes_no_mask_reads_one_sentence_a_row():
    model = make_model("gpt2").double()
    deaf = Deaf(model.config).double().eval()
    deaf.load_state_dict(model.state_dict())
    assert not takes_own_mask(deaf, 5)
    for found, sentence in zip(sequence_log2_probabilities(deaf, SENTENCES, START), SENTENCES, strict=True):
        torch.testing.assert_close(found, one_token_at_a_time(model, sentence), atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("model_type", ["mistral", "gemma2"])
def test_a_sentence_that_is_longer_than_the_window_is_read_alone(model_type):
    """The architectures' own masks hold the window, and all sentences then come in rows of their own."""
    model = make_model(model_type).double()
    model.config.sliding_window = 8
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 8
    assert takes_own_mask(model, 8)
    assert not takes_own_mask(model, 9)
    for found, sentence in zip(sequence_log2_probabilities(model, SENTENCES, START), SENTENCES, strict=True):
        torch.testing.assert_close(found, one_token_at_a_time(model, sentence), atol=2e-6, rtol=1e-6)


def test_other_attention_kernels_read_one_sentence_a_row():
    model = make_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    assert not takes_own_mask(model, 5)


def test_what_the_model_reads():
    """Each beginning once, in its place, and no last token; logits of these alone."""
    model = make_model("llama")
    read, projected = [], []
    model.model.register_forward_pre_hook(lambda _, __, kwargs: read.append(kwargs), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, __, logits: projected.append(logits.shape))
    sequence_log2_probabilities(model, SENTENCES[:3], START)
    (row,) = read
    assert row["input_ids"].tolist() == [[START, 7, 8, 9, 10, 11, 20, 21, 11, 30, 11]]
    assert row["position_ids"].tolist() == [[0, 0, 1, 2, 3, 4, 3, 4, 5, 3, 4]]
    assert (row["attention_mask"][0, 0, 8] == 0).nonzero().flatten().tolist() == [1, 2, 3, 6, 7, 8]
    assert projected == [(11, 100)]


def test_sentences_that_share_a_row():
    assert _rows(SENTENCES[:3], 10) == [[0, 1, 2]]
    assert _rows(SENTENCES[:3], 9) == [[0, 1], [2]]
    assert _rows([[5, 6], [5, 7], [5, 7], [4], [5, 7, 8]], 0) == [[3], [0, 1, 2], [4]]  # 7 is read for the last alone


def test_equal_sentences_are_equal_to_the_bit_in_rows_of_their_own(monkeypatch):
    rows_of_one_sentence(monkeypatch)
    found = sequence_log2_probabilities(make_model("gpt2"), SENTENCES, START)
    assert torch.equal(found[3], found[7])


@pytest.mark.parametrize("model_type", CAUSAL)
def test_half_precision(model_type):
    """The mask has the model's type; the softmax is in float32."""
    model = make_model(model_type)
    exact = sequence_log2_probabilities(model, SENTENCES, START)
    found = sequence_log2_probabilities(model.bfloat16(), SENTENCES, START)
    torch.testing.assert_close(torch.cat(found), torch.cat(exact), atol=1.5, rtol=0.1)


def test_no_hook_is_left_after_an_error():
    model = make_model("gpt2")

    def hooks():
        return sum(len(module._forward_pre_hooks) for module in model.modules())

    before = hooks()
    with pytest.raises(IndexError):
        sequence_log2_probabilities(model, [[1000, 1]], START)
    assert hooks() == before


def test_a_start_token_that_the_model_lacks():
    with pytest.raises(InputError, match="`start_id` is expected to be one of the model's 100 tokens but got 100"):
        sequence_log2_probabilities(make_model("gpt2"), SENTENCES, 100)
