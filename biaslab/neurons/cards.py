"""Neuron cards: for each of the best neurons of a set, the prompts that excite it and the words that it promotes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.prompts import Prompt
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_shape, without_cache
from biaslab.models.tokens import SLOT, is_masked
from biaslab.neurons.neuron_set import Neuron
from biaslab.neurons.promoted_words import LIKELY, Asked, WordChange, Words, word_changes
from biaslab.neurons.suppression import recorded

PROMPTS = 5
METHOD = " ".join(
    f"""Neurons: those of the set with the largest mean attribution score over the pairs; 1 is a prompt's largest score.
    Prompts: those at whose slot the neuron's activation is largest in absolute value, of different statements and
    wordings where there are enough. Words: the derivative of a word's log-probability with respect to the neuron's
    activation at the slot, through all of the model that comes after it, mean over these prompts, in nats a unit of
    activation, of words with a mean probability of {LIKELY:g} or more; where the activation is negative, the neuron
    does the opposite.""".split()
)


@dataclass(frozen=True)
class Excitement:
    """A prompt that excites a neuron.

    Attributes:
        text: with its slot written ``[MASK]`` (the tokenizer's mask token), or ``___`` for a causal model.
        activation: of the neuron at the slot.
    """

    text: str
    activation: float


@dataclass(frozen=True)
class Card:
    """What is known of a neuron.

    Attributes:
        layer: from 0.
        index: from 0, within the layer.
        score: mean attribution score over the pairs.
        scores: of each pair that has any.
        prompts: that excite it most, by absolute activation.
        promotes: the words that get likelier where its activation rises, the most so first.
        lowers: the words that get less likely, the most so first.
    """

    layer: int
    index: int
    score: float
    scores: dict[str, float]
    prompts: list[Excitement]
    promotes: list[WordChange]
    lowers: list[WordChange]


@torch.no_grad()
def neuron_cards(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    batches: Iterable[Mapping[str, Any]],
    neurons: Iterable[tuple[int, int]],
    scores: Tensor,
    pair_names: Sequence[str],
    count: int = 20,
) -> list[Card]:
    """Describe the neurons of a set that have the largest mean score over the pairs, the best first.

    Args:
        model: a model of the table.
        tokenizer: the model's.
        prompts: that the batches are made from.
        batches: of :class:`biaslab.data.prompts.PromptDataModule`.
        neurons: a set, or any (layer, index) pairs.
        scores: attribution scores, ``[pair, layer, neuron]``; NaN for a pair that has none.
        pair_names: of each pair.
        count: at most so many cards.

    Raises:
        InputError: if ``count`` is not positive, or the scores are not those of these pairs and this model.
    """
    if count < 1:
        raise InputError(f"`count` is expected to be a positive integer but got {count}.")
    shape = (len(pair_names), *ffn_shape(model))
    if scores.shape != shape:
        raise InputError(
            f"`scores` is expected to be [pair, layer, neuron], {list(shape)} for this model, but got "
            f"{list(scores.shape)}. Give the scores that were found with the neurons."
        )
    scores = scores.cpu()
    means = scores.nanmean(0)
    best = sorted(sorted(Neuron(*n) for n in neurons), key=lambda n: -float(means[n.layer, n.index]))[:count]
    if not best:
        return []
    asked = _ask(model, prompts, batches, best)
    texts = [one.prompt for one in asked]
    excited = [[asked[row] for row in exciting(texts, values)] for values in _by_neuron(asked)]
    words = Words(tokenizer, texts[0].text)
    slot = str(tokenizer.mask_token) if is_masked(tokenizer) else "___"
    cards = []
    for column, (neuron, change) in enumerate(zip(best, word_changes(model, best, excited), strict=True)):
        own = scores[:, neuron.layer, neuron.index].tolist()
        card = Card(
            *neuron,
            score=float(means[neuron.layer, neuron.index]),
            scores={name: score for name, score in zip(pair_names, own, strict=True) if not math.isnan(score)},
            prompts=[
                Excitement(one.prompt.text.replace(SLOT, slot), float(one.activations[column]))
                for one in excited[column]
            ],
            promotes=words.most(change, 1),
            lowers=words.most(change, -1),
        )
        cards.append(card)
    return cards


def _ask(
    model: PreTrainedModel, prompts: Sequence[Prompt], batches: Iterable[Mapping[str, Any]], neurons: Sequence[Neuron]
) -> list[Asked]:
    """Run each prompt once, without the head, and keep the neurons' activations at the slot."""
    layer, index = (torch.tensor(column) for column in zip(*neurons, strict=True))
    asked: dict[int, Asked] = {}
    with recorded(model) as seen:
        for batch in batches:
            ids, position = batch["input_ids"], batch["position"].view(len(batch["input_ids"]), -1)[:, 0]
            model.base_model(input_ids=ids.to(model.device), **without_cache(model))
            rows = torch.arange(len(ids))
            wanted = torch.empty(len(ids), len(neurons))
            for number in set(layer.tolist()):
                own = layer == number
                at_slot = seen[number][rows.to(model.device), position.to(model.device)]  # [batch, neuron]
                wanted[:, own] = at_slot[:, index[own].to(model.device)].float().cpu()
            for row, example in enumerate(batch["example"].tolist()):
                asked[example] = Asked(prompts[example], ids[row], int(position[row]), wanted[row])
    return [asked[example] for example in sorted(asked)]


def _by_neuron(asked: Sequence[Asked]) -> list[list[float]]:
    columns: list[list[float]] = torch.stack([one.activations for one in asked]).T.tolist()
    return columns


def exciting(prompts: Sequence[Prompt], activations: Sequence[float], count: int = PROMPTS) -> list[int]:
    """Return which prompts have the largest absolute activations, spread over statements and wordings.

    Each is of another statement and in another wording; where there are too few such, of another statement; where
    there are too few again, another text.

    >>> texts = [Prompt("a {slot}", "x", "y", 0), Prompt("b {slot}", "x", "y", 0), Prompt("c {slot}", "x", "y", 1)]
    >>> exciting(texts, [1.0, -3.0, 2.0], count=2)
    [1, 2]
    >>> exciting(texts, [3.0, -2.0, 1.0], count=2)
    [0, 2]
    """
    order = sorted(range(len(prompts)), key=lambda row: -abs(activations[row]))
    texts = [prompt.text for prompt in prompts]
    statements = [(prompt.dimension, prompt.kind, prompt.group) for prompt in prompts]
    wordings = _wordings(statements)
    chosen: list[int] = []
    for differ in ((texts, statements, wordings), (texts, statements), (texts,)):
        for row in order:
            if len(chosen) < count and not any(key[row] == key[other] for key in differ for other in chosen):
                chosen.append(row)
    return sorted(chosen, key=order.index)


def _wordings(statements: Sequence[Any]) -> list[int]:
    """Number the prompts of each statement: its wordings come in the same order everywhere."""
    counts: Counter[Any] = Counter()
    numbers = []
    for statement in statements:
        numbers.append(counts[statement])
        counts[statement] += 1
    return numbers
