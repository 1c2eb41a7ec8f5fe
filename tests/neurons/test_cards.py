"""Neuron cards against slow oracles: one prompt at a time, and the whole Jacobian by reverse-mode differentiation."""

import math
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from torch.autograd.functional import jacobian

from biaslab.data.prompts import Prompt, PromptDataModule
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_modules
from biaslab.models.tokens import encode_slot
from biaslab.neurons.cards import LIKELY, PROMPTS, WORDS, PromptRun, exciting, neuron_cards, word_changes
from biaslab.neurons.neuron_set import Neuron

KINDS = ("bert", "roberta", "gpt2", "llama")
NEURONS = [(0, 3), (1, 7), (2, 1), (2, 40)]
PAIRS = ["gender/female-male", "ethnicity/black-white", "ethnicity/white-asian"]


class Case:
    """A tiny model with its tokenizer, prompts and made-up scores."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.tokenizer = wordpiece_tokenizer() if kind == "bert" else bpe_tokenizer(masked=kind == "roberta")
        self.model = make_model(kind, len(self.tokenizer))
        self.tokenizer.save_pretrained(folder)
        self.data = PromptDataModule(str(folder), ["gender", "ethnicity"], kinds=["negative", "positive"], modifiers=2)
        self.data.setup("predict")
        self.scores = torch.rand(3, 3, 48, generator=torch.Generator().manual_seed(0))

    def cards(self, neurons=NEURONS, **options):
        arguments = {"scores": self.scores, "pair_names": PAIRS} | options
        data = self.data
        return neuron_cards(self.model, self.tokenizer, data.prompts, data.batches, neurons, **arguments)


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bert_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("bert", tmp_path_factory.mktemp("bert"))


def activation(model, ids: list[int], position: int, neuron: tuple[int, int]) -> float:
    """One prompt, one neuron: the input of the down-projection."""
    seen = []
    with ffn_modules(model)[neuron[0]].register_forward_pre_hook(lambda _, args: seen.append(args[0])):
        model(torch.tensor([ids]))
    return float(seen[0][0, position, neuron[1]])


def slow_change(model, ids, position: int, neuron: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities' Jacobian along the neuron's output vector, which is added at the slot; probabilities."""
    module = ffn_modules(model)[neuron[0]]
    column = module.weight[neuron[1]] if model.config.model_type == "gpt2" else module.weight[:, neuron[1]]
    direction = torch.zeros(len(ids), len(column))
    direction[position] = column

    def log_probabilities(added: torch.Tensor) -> torch.Tensor:
        with module.register_forward_hook(lambda _, __, output: output + added * direction):
            return model(torch.as_tensor(ids)[None]).logits[0, position].log_softmax(-1)

    zero = torch.zeros(())
    return jacobian(log_probabilities, zero), log_probabilities(zero).exp()


def slow_changes(model, prompts: list[tuple[list[int], int]], neuron: tuple[int, int]) -> torch.Tensor:
    parts = [torch.stack(slow_change(model, ids, position, neuron)) for ids, position in prompts]
    change, probability = torch.stack(parts).mean(0)
    return torch.where(probability < LIKELY, 0, change)


def test_activations_are_those_of_single_prompts(case):
    mask = case.tokenizer.mask_token or "___"
    for card in case.cards():
        texts = {prompt.text.replace("{slot}", mask): prompt for prompt in case.data.prompts}
        values = {}
        for text, prompt in texts.items():
            encoded = encode_slot(case.tokenizer, prompt.text)
            values[text] = activation(case.model, *encoded, (card.layer, card.index))
        assert len({shown.text for shown in card.prompts}) == PROMPTS
        assert [shown.activation for shown in card.prompts] == pytest.approx(
            [values[shown.text] for shown in card.prompts], abs=1e-5
        )
        sizes = [abs(shown.activation) for shown in card.prompts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(max(map(abs, values.values())), abs=1e-5)
        statements = {(p.dimension, p.kind, p.group) for p in (texts[shown.text] for shown in card.prompts)}
        assert len(statements) == PROMPTS


def test_words_are_the_jacobians(case):
    """The lists, from all tokens by the vocabulary's own spelling of whole words."""
    vocabulary = case.tokenizer.get_vocab()
    if case.kind == "bert":
        whole = {token: index for token, index in vocabulary.items() if len(token) > 1 and token.isalpha()}
    else:
        whole = {t[1:]: i for t, i in vocabulary.items() if len(t) > 2 and t[0] == "Ġ" and t[1:].isalpha()}
    mask = case.tokenizer.mask_token or "___"
    texts = {prompt.text.replace("{slot}", mask): prompt.text for prompt in case.data.prompts}
    for card in case.cards(count=2):
        prompts = [tuple(encode_slot(case.tokenizer, texts[shown.text])) for shown in card.prompts]
        changes = slow_changes(case.model, prompts, (card.layer, card.index))
        assert 0 < (changes == 0).sum() < len(changes) // 2  # unlikely words are left out
        expected = sorted(((float(changes[i]), word) for word, i in whole.items()), reverse=True)
        for found, best in ((card.promotes, expected[:WORDS]), (card.lowers, expected[::-1][:WORDS])):
            assert len(found) == WORDS
            assert [w.change for w in found] == pytest.approx([change for change, _ in best], rel=1e-3, abs=1e-5)
            for shown in found:
                assert shown.change == pytest.approx(float(changes[whole[shown.word]]), rel=1e-3, abs=1e-5)


def test_word_changes_of_each_architecture(any_model):
    """Prompts of two lengths, each with its slot elsewhere; neurons of all layers in the same batch."""
    masked = any_model.config.model_type in ("bert", "roberta", "mpnet", "distilbert")
    sequences = [[5, 17, 4, 30, 8], [9, 60, 4, 11, 7], [41, 6, 12, 90, 33, 10, 50]]
    places = [2, 1, 5] if masked else [4, 4, 6]
    asked = [
        PromptRun(Prompt("", "", "", 0), torch.tensor(ids), place, torch.empty(0))
        for ids, place in zip(sequences, places, strict=True)
    ]
    neurons = [Neuron(2, 7), Neuron(0, 30), Neuron(1, 2)]
    prompts = [asked, asked[:1], asked[1:]]
    before = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in any_model.modules())
    with torch.no_grad():
        found = word_changes(any_model, neurons, prompts)
    after = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in any_model.modules())
    assert before == after
    for row, neuron, own in zip(found, neurons, prompts, strict=True):
        expected = slow_changes(any_model, [(one.input_ids, one.position) for one in own], neuron)
        assert expected.count_nonzero() > 10
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-5)


def test_the_order_is_that_of_the_mean_scores(bert_case):
    scores = torch.zeros(3, 3, 48)
    scores[:, 1, 7] = torch.tensor([1.0, math.nan, 0.0])
    scores[:, 2, 1] = torch.tensor([1.5, math.nan, 0.5])
    scores[:, 0, 3] = scores[:, 2, 40] = torch.tensor([-1.0, math.nan, 0.0])
    cards = bert_case.cards(reversed(NEURONS), scores=scores)
    assert [(card.layer, card.index, card.score) for card in cards] == [
        (2, 1, 1.0), (1, 7, 0.5), (0, 3, -0.5), (2, 40, -0.5),
    ]  # fmt: skip
    assert cards[0].scores == {PAIRS[0]: 1.5, PAIRS[2]: 0.5}
    assert [card[:2] for card in map(astuple, bert_case.cards(scores=scores, count=2))] == [(2, 1), (1, 7)]


def test_slots_of_several_tokens_are_read_at_the_first(bert_case):
    batches = [dict(b, position=torch.stack([b["position"], b["position"] + 1], 1)) for b in bert_case.data.batches]
    cards = neuron_cards(
        bert_case.model, bert_case.tokenizer, bert_case.data.prompts, batches, NEURONS, bert_case.scores, PAIRS
    )
    assert cards == bert_case.cards()


def test_no_neurons_no_cards(bert_case):
    assert bert_case.cards([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "`count` is expected to be a positive integer but got 0"),
        (
            {"pair_names": PAIRS[:2]},
            r"`scores` is expected to be of shape \[pair, layer, neuron\], \[2, 3, 48\] for this model",
        ),
        ({"scores": torch.zeros(3, 2, 48)}, r"`scores` is expected .* but got \[3, 2, 48\]"),
    ],
)
def test_errors(bert_case, options, message):
    with pytest.raises(InputError, match=message):
        bert_case.cards(**options)


def test_exciting_prompts_are_spread():
    prompts = [Prompt(f"{group} {wording} {{slot}}", "d", "k", group) for group in range(3) for wording in range(3)]
    values = [9.0, 8.0, 7.0, 6.0, -8.5, 1.0, 5.0, 4.0, 3.0]
    assert exciting(prompts, values, count=3) == [0, 4, 8]  # another statement and another wording each
    assert exciting(prompts, values, count=5) == [0, 4, 1, 2, 8]  # no fourth statement: whatever comes next
    assert exciting(prompts[:3], values[:3]) == [0, 1, 2]
    assert exciting([prompts[0]] * 3, values[:3]) == [0]  # the same text is shown once
