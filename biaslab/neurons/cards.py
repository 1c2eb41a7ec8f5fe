"""Neuron cards: for the top neurons of a set, the prompts that activate them and the words that they promote."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError, require_positive
from biaslab.models import ranks
from biaslab.models.architectures import by_token, ffn_modules, ffn_shape, without_cache
from biaslab.models.heads import slot_only
from biaslab.models.tokens import SLOT, by_length, is_masked, token_in_place
from biaslab.neurons.neuron_set import Neuron
from biaslab.neurons.suppression import recorded

WORDS = 10
LIKELY = 1e-4  # rarer words don't fit the slot, but their log-probabilities change most and would fill the lists
_TOKENS_AT_ONCE = 512
PROMPTS = 5
_Prompt: TypeAlias = Any  # biaslab.data.prompts.Prompt, which this package must not import
METHOD = " ".join(
    f"""Neurons: those of the set with the largest mean attribution score over the pairs; 1 is the largest score of a
    prompt. Prompts: those with the largest absolute activation of the neuron at the slot, with different statements and
    wordings if there are enough. Words: the derivative of a word's log-probability with respect to the neuron's
    activation at the slot, through all later layers, averaged over these prompts, in nats per unit of activation, for
    words with a mean probability of {LIKELY:g} or more; for a negative activation, the effect is reversed.""".split()
)


class PromptRun(NamedTuple):
    """A prompt as the model saw it: token ids, ``[sequence]``, and activations at the slot, ``[neuron]``."""

    prompt: _Prompt
    input_ids: Tensor
    position: int
    activations: Tensor


@dataclass(frozen=True)
class Excitement:
    """A prompt, with the slot written as ``[MASK]`` (the mask token) or ``___``, and a neuron's activation there."""

    text: str
    activation: float


@dataclass(frozen=True)
class WordChange:
    """A single-token word, and the change of its log-probability at the slot, in nats per unit of activation."""

    word: str
    change: float


@dataclass(frozen=True)
class Card:
    """Describes one neuron: its scores, the prompts that activate it most, and the words it promotes and lowers.

    Attributes:
        layer: index of the layer, from 0.
        index: index of the neuron within the layer, from 0.
        score: mean attribution score over the pairs.
        scores: scores by pair, for pairs that have scores.
        prompts: the prompts with the largest absolute activation.
        promotes: words that become likelier as its activation rises, largest change first.
        lowers: words that become less likely, largest change first.
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
    prompts: Sequence[_Prompt],
    batches: Iterable[Mapping[str, Any]],
    neurons: Iterable[tuple[int, int]],
    scores: Tensor,
    pair_names: Sequence[str],
    count: int = 20,
    dealt: bool = False,
) -> list[Card]:
    """Describe the neurons of a set with the largest mean score over the pairs, in descending order.

    Args:
        model: a masked or causal language model of a supported architecture.
        tokenizer: the model's tokenizer.
        prompts: the prompts that the batches are made from.
        batches: batches of a :class:`biaslab.data.prompts.PromptDataModule`.
        neurons: a set, or any (layer, index) pairs.
        scores: attribution scores, ``[pair, layer, neuron]``; NaN for a pair without scores.
        pair_names: names of the pairs, ``[pair]``.
        count: maximum number of cards.
        dealt: split the batches across processes; all of them must then call this function.

    Returns:
        One card per neuron.

    Raises:
        InputError: if ``count`` is not positive, or the shape of ``scores`` does not match the pairs and the model.
    """
    require_positive(count=count)
    shape = (len(pair_names), *ffn_shape(model))
    if scores.shape != shape:
        raise InputError(
            f"`scores` is expected to be of shape [pair, layer, neuron], {list(shape)} for this model, but got "
            f"{list(scores.shape)}. Use the scores that were computed with these neurons."
        )
    scores = scores.cpu()
    means = scores.nanmean(0)
    best = sorted(sorted(Neuron(*n) for n in neurons), key=lambda n: -float(means[n.layer, n.index]))[:count]
    if not best:
        return []
    own = itertools.islice(batches, ranks.rank(), None, ranks.size()) if dealt else batches
    found = list(_run(model, prompts, own, best).items())
    runs = [run for _, run in sorted(dict(ranks.gathered(found) if dealt else found).items())]
    texts, activations = [run.prompt for run in runs], torch.stack([run.activations for run in runs])
    excited = [[runs[row] for row in exciting(texts, values)] for values in activations.T.tolist()]
    word_of = _reader(tokenizer, texts[0].text)
    slot = str(tokenizer.mask_token) if is_masked(tokenizer) else "___"
    cards = []
    for column, (neuron, change) in enumerate(zip(best, word_changes(model, best, excited), strict=True)):
        by_pair = zip(pair_names, scores[:, neuron.layer, neuron.index].tolist(), strict=True)
        known = {name: score for name, score in by_pair if not math.isnan(score)}
        shown = [
            Excitement(run.prompt.text.replace(SLOT, slot), float(run.activations[column])) for run in excited[column]
        ]
        words = [_most(change, sign, word_of) for sign in (1, -1)]
        cards.append(Card(*neuron, float(means[neuron.layer, neuron.index]), known, shown, *words))
    return cards


def _run(
    model: PreTrainedModel, prompts: Sequence[_Prompt], batches: Iterable[Mapping[str, Any]], neurons: Sequence[Neuron]
) -> dict[int, PromptRun]:
    """Run each prompt once, without the head, and record the neurons' activations at the slot."""
    runs: dict[int, PromptRun] = {}
    with recorded(model) as seen:
        for batch in batches:
            ids, position = batch["input_ids"], batch["position"].view(len(batch["input_ids"]), -1)[:, 0]
            model.base_model(input_ids=ids.to(model.device), **without_cache(model))
            rows, slots = torch.arange(len(ids), device=model.device), position.to(model.device)
            values = torch.stack([seen[n.layer][rows, slots, n.index] for n in neurons], 1).float().cpu()
            for row, example in enumerate(batch["example"].tolist()):
                runs[example] = PromptRun(prompts[example], ids[row], int(position[row]), values[row])
    return runs


def exciting(prompts: Sequence[_Prompt], activations: Sequence[float], count: int = PROMPTS) -> list[int]:
    """Return the indices of the prompts with the largest absolute activations, over different statements and wordings.

    The prompts differ in statement and wording; if there are too few of those, in statement only; otherwise in text.

    >>> from biaslab.data.prompts import Prompt
    >>> texts = [Prompt("a {slot}", "x", "y", 0), Prompt("b {slot}", "x", "y", 0), Prompt("c {slot}", "x", "y", 1)]
    >>> exciting(texts, [1.0, -3.0, 2.0], count=2)
    [1, 2]
    >>> exciting(texts, [3.0, -2.0, 1.0], count=2)
    [0, 2]
    """
    order = sorted(range(len(prompts)), key=lambda row: -abs(activations[row]))
    texts = [prompt.text for prompt in prompts]
    statements = [(prompt.dimension, prompt.kind, prompt.group) for prompt in prompts]
    seen: Counter[Any] = Counter()
    wordings = []  # number of the prompt within its statement: the wordings are in the same order for each
    for statement in statements:
        wordings.append(seen[statement])
        seen[statement] += 1
    chosen: list[int] = []
    for differ in ((texts, statements, wordings), (texts, statements), (texts,)):
        for row in order:
            if len(chosen) < count and not any(key[row] == key[other] for key in differ for other in chosen):
                chosen.append(row)
    return sorted(chosen, key=order.index)


def word_changes(model: PreTrainedModel, neurons: Sequence[Neuron], prompts: Sequence[Sequence[PromptRun]]) -> Tensor:
    """Return the derivatives of the log-probabilities at the slot with respect to each neuron's activation there.

    The derivatives are exact and go through everything after the neuron: norms, later layers and the head. (Projecting
    a neuron's output vector with the head alone gives other words, especially if a norm follows.)

    Returns:
        Means over the neuron's prompts, in nats per unit of activation, ``[neuron, vocabulary]``; 0 for tokens with a
        mean probability below ``LIKELY``.
    """
    items = [(column, run) for column, runs in enumerate(prompts) for run in runs]
    sums: list[Tensor] = []  # of the derivatives and of the probabilities, [neuron, vocabulary]
    for batch in by_length([len(run.input_ids) for _, run in items], _TOKENS_AT_ONCE):
        columns = torch.tensor([items[i][0] for i in batch])
        parts = _differentiate(model, [neurons[column] for column in columns], [items[i][1] for i in batch])
        sums = sums or [part.new_zeros(len(neurons), part.shape[1]) for part in parts]
        for total, part in zip(sums, parts, strict=True):
            total.index_add_(0, columns, part)
    counts = torch.tensor([[len(runs)] for runs in prompts])
    changes: Tensor = torch.where(sums[1] / counts < LIKELY, 0.0, sums[0] / counts)
    return changes


def _differentiate(
    model: PreTrainedModel, neurons: Sequence[Neuron], prompts: Sequence[PromptRun]
) -> tuple[Tensor, Tensor]:
    """Return derivatives and probabilities at the slots of equally long prompts, each with its own neuron."""
    ids = torch.stack([run.input_ids for run in prompts]).to(model.device)
    position = torch.tensor([run.position for run in prompts], device=model.device)
    added = torch.zeros(len(prompts), dtype=model.dtype, device=model.device, requires_grad=True)

    def add(places: Tensor, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens = by_token(args[0], len(prompts)).index_put(tuple(places), added[places[0]], accumulate=True)
        return (tokens.view_as(args[0]), *args[1:])

    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # the other backends have no second derivatives
        stack.enter_context(slot_only(model, position[:, None]))
        for layer, module in enumerate(ffn_modules(model)):
            if rows := [row for row, neuron in enumerate(neurons) if neuron.layer == layer]:
                places = torch.tensor([[row, int(position[row]), neurons[row].index] for row in rows]).T  # [3, place]
                stack.enter_context(module.register_forward_pre_hook(partial(add, places.to(model.device))))
        logits: Tensor = model(input_ids=ids, **without_cache(model)).logits[:, 0]
        values = logits.float().log_softmax(-1)
        # The gradient of a weighted sum is linear in the weights, so its gradient is the derivative of each word.
        weights = torch.ones_like(values, requires_grad=True)
        (slopes,) = torch.autograd.grad(values, added, weights, create_graph=True)
        (changes,) = torch.autograd.grad(slopes.sum(), weights)
    return changes.cpu(), values.detach().exp().cpu()


def _reader(tokenizer: PreTrainedTokenizerBase, text: str) -> Callable[[int], str | None]:
    """Return a function that decodes a token if it is a whole word of two or more letters in the text, else None."""

    @cache
    def word_of(token: int) -> str | None:
        word = str(tokenizer.decode([token])).strip()
        whole = len(word) > 1 and word.isalpha() and token_in_place(tokenizer, text, word) == token
        return word if whole else None

    return word_of


def _most(changes: Tensor, sign: int, word_of: Callable[[int], str | None]) -> list[WordChange]:
    """Return the words with the largest changes (of ``[vocabulary]``) of this sign, in descending order."""
    best: list[WordChange] = []
    for token in (sign * changes).argsort(descending=True).tolist():
        if len(best) == WORDS or sign * changes[token] <= 0:
            break
        if (word := word_of(token)) is not None:
            best.append(WordChange(word, float(changes[token])))
    return best
