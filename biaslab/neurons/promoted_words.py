"""The words that a neuron promotes or lowers at a prompt's slot, through all of the model that comes after it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.attribution.readout import slot_only
from biaslab.data.prompts import Prompt
from biaslab.models.architectures import ffn_modules, without_cache
from biaslab.models.tokens import by_length, token_in_place
from biaslab.neurons.neuron_set import Neuron

WORDS = 10
LIKELY = 1e-4  # rarer words don't fit the slot; their logarithms move most, and they would fill the lists
_TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class WordChange:
    """A word that a neuron promotes or lowers.

    Attributes:
        word: one token of the vocabulary.
        change: of its log-probability at the slot, in nats a unit of the neuron's activation.
    """

    word: str
    change: float


class Asked(NamedTuple):
    """A prompt as the model saw it.

    Attributes:
        prompt: in words.
        input_ids: ``[sequence]``.
        position: of its slot.
        activations: of the neurons at the slot, ``[neuron]``.
    """

    prompt: Prompt
    input_ids: Tensor
    position: int
    activations: Tensor


def word_changes(model: PreTrainedModel, neurons: Sequence[Neuron], prompts: Sequence[Sequence[Asked]]) -> Tensor:
    """Return how the log-probabilities at the slot change with each neuron's activation there.

    The neuron's output vector goes through all that comes after it: norms, later layers, the head. (The head alone
    would name other words, most of all where a norm follows the feed-forward output.) The derivatives are exact.

    Args:
        model: a model of the table.
        neurons: whose activations rise.
        prompts: of each neuron; the mean over them is returned.

    Returns:
        In nats a unit of activation; 0 for tokens whose probability is below ``LIKELY``; float32, on the CPU,
        ``[neuron, vocabulary]``.
    """
    items = [(column, one) for column, own in enumerate(prompts) for one in own]
    sums: list[Tensor] = []  # of the derivatives and of the probabilities, [neuron, vocabulary]
    for batch in by_length([len(one.input_ids) for _, one in items], _TOKENS_AT_ONCE):
        columns = torch.tensor([items[i][0] for i in batch])
        parts = _differentiate(model, [neurons[column] for column in columns], [items[i][1] for i in batch])
        sums = sums or [part.new_zeros(len(neurons), part.shape[1]) for part in parts]
        for total, part in zip(sums, parts, strict=True):
            total.index_add_(0, columns, part)
    counts = torch.tensor([[len(own)] for own in prompts])
    changes: Tensor = torch.where(sums[1] / counts < LIKELY, 0.0, sums[0] / counts)
    return changes


def _differentiate(
    model: PreTrainedModel, neurons: Sequence[Neuron], prompts: Sequence[Asked]
) -> tuple[Tensor, Tensor]:
    """Return derivatives and probabilities at the slots of prompts of equal length, a neuron each."""
    ids = torch.stack([one.input_ids for one in prompts]).to(model.device)
    position = torch.tensor([one.position for one in prompts], device=model.device)
    added = torch.zeros(len(prompts), dtype=model.dtype, device=model.device, requires_grad=True)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the others can't be differentiated twice
        stack.enter_context(slot_only(model, position[:, None]))
        for layer, module in enumerate(ffn_modules(model)):
            if rows := [row for row, neuron in enumerate(neurons) if neuron.layer == layer]:
                places = torch.tensor([[row, int(position[row]), neurons[row].index] for row in rows]).T
                hook = _adding(added, places.to(model.device))
                stack.enter_context(module.register_forward_pre_hook(hook))
        logits: Tensor = model(input_ids=ids, **without_cache(model)).logits[:, 0]
        values = logits.float().log_softmax(-1)
        # The gradient of a weighted sum is linear in the weights; its own gradient is each word's derivative.
        weights = torch.ones_like(values, requires_grad=True)
        (slopes,) = torch.autograd.grad(values, added, weights, create_graph=True)
        (changes,) = torch.autograd.grad(slopes.sum(), weights)
    return changes.cpu(), values.detach().exp().cpu()


def _adding(added: Tensor, places: Tensor) -> Any:
    """Return a pre-hook that adds to the activations at some places, ``[3, place]``: row, position, index."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].index_put(tuple(places), added[places[0]], accumulate=True), *args[1:])

    return hook


class Words:
    """Finds the tokens that are whole words: letters only, two or more, and the very token of the word in the slot.

    Args:
        tokenizer: the model's.
        text: of a prompt, with its slot; whether a word there has a leading space is the tokenizer's matter.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
        self.tokenizer, self.text = tokenizer, text
        self.known: dict[int, str | None] = {}

    def most(self, changes: Tensor, sign: int) -> list[WordChange]:
        """Return the words with the largest changes, ``[vocabulary]``, of this sign, the largest first."""
        found: list[WordChange] = []
        for token in (sign * changes).argsort(descending=True).tolist():
            if len(found) == WORDS or sign * changes[token] <= 0:
                break
            if (word := self._word(token)) is not None:
                found.append(WordChange(word, float(changes[token])))
        return found

    def _word(self, token: int) -> str | None:
        if token not in self.known:
            word = str(self.tokenizer.decode([token])).strip()
            whole = len(word) > 1 and word.isalpha() and token_in_place(self.tokenizer, self.text, word) == token
            self.known[token] = word if whole else None
        return self.known[token]
