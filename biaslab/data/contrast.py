"""The contrast set of the guard: ordinary sentences with a slot, a word that fits it, and one that does not."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab import assets
from biaslab.data.corpus import read_sentences
from biaslab.data.queries import BLANK
from biaslab.data.stereoset import candidate_word, read_clusters
from biaslab.errors import InputError
from biaslab.tokenization import SLOT, by_length, encode_slot, is_masked, token_in_place

Item = TypeVar("Item")
# StereoSet's three candidates make three pairs: two for the guard, and one that is itself about bias.
STEREOSET_PAIRS = {"guard/stereotype-unrelated": (0, 2), "guard/anti_stereotype-unrelated": (1, 2), "bias": (0, 1)}
TEXT_PAIRS = {"guard/true-random": (0, 1)}


def pairs_of(source: str) -> dict[str, tuple[int, int]]:
    """Return the pairs of a source's contrast set by name: two targets each."""
    return STEREOSET_PAIRS if source == "stereoset" else TEXT_PAIRS


def prepare(source: str) -> None:
    """Fetch the source if it has a name."""
    if source in assets.DATA:
        assets.fetch(source)


def make_batches(
    tokenizer: PreTrainedTokenizerBase, source: str, limit: int, tokens_per_batch: int
) -> list[dict[str, Tensor]]:
    """Return batches of the same form as the prompts'.

    Args:
        tokenizer: the model's.
        source: "stereoset" (its test split: other target terms than dev's), or a source of plain sentences, whose
            "contrast" split is used.
        limit: at most so many sentences, spread over the source.
        tokens_per_batch: batches are as large as this allows.

    Raises:
        InputError: if no sentence of the source can be used.
    """
    make = _stereoset_examples if source == "stereoset" else _text_examples
    examples = make(tokenizer, source, limit)
    if not examples:
        raise InputError(
            f"`contrast` is expected to hold words that are one token in their place, but {source!r} has none."
        )
    encoded = [encode_slot(tokenizer, text) for text, _ in examples]
    pairs = torch.tensor(list(pairs_of(source).values()))
    return [
        {
            "input_ids": torch.tensor([encoded[i].input_ids for i in batch]),
            "position": torch.tensor([encoded[i].position for i in batch]),
            "target_ids": torch.tensor([examples[i][1] for i in batch]),
            "pairs": pairs,
            "pair": torch.arange(len(pairs)),
            "kind": torch.zeros(len(batch), dtype=torch.long),
            "group": torch.tensor(batch),
            "example": torch.tensor(batch),
        }
        for batch in by_length([len(entry.input_ids) for entry in encoded], tokens_per_batch)
    ]


def _stereoset_examples(tokenizer: PreTrainedTokenizerBase, source: str, limit: int) -> list[tuple[str, list[int]]]:
    """Keep the clusters whose three candidates are one token each."""
    examples = []
    once = [cluster for cluster in read_clusters("test") if cluster.context.count(BLANK) == 1]
    for cluster in _shuffled(once):
        text = _slotted(cluster.context.replace(BLANK, SLOT), tokenizer)
        tokens = text and _tokens(tokenizer, text, [candidate_word(cluster.context, s) for s in cluster.sentences])
        if tokens:
            examples.append((text, tokens))
        if len(examples) == limit:
            break
    return examples


def _text_examples(tokenizer: PreTrainedTokenizerBase, source: str, limit: int) -> list[tuple[str, list[int]]]:
    """Hide a word of each sentence, and put beside it a random one of about the same frequency."""
    sentences = _shuffled([s for s in read_sentences(source, "contrast") if 6 <= len(s.split()) <= 30])
    counts = Counter(word for sentence in sentences for word in re.findall(r"[a-z]{3,}", sentence))
    by_count = [word for word, _ in counts.most_common()]
    rank = {word: place for place, word in enumerate(by_count)}
    draw = random.Random(0)
    examples = []
    for sentence in sentences:
        candidates = re.findall(r"(?<= )[a-z]{3,}(?=[ .,])", sentence)
        if not candidates:
            continue
        word = draw.choice(candidates)
        place = rank[word]
        other = by_count[
            min(len(by_count) - 1, max(0, place + draw.choice((-1, 1)) * draw.randint(1, 2 + place // 10)))
        ]
        text = _slotted(re.sub(rf"(?<= ){word}(?=[ .,])", SLOT, sentence, count=1), tokenizer)
        tokens = text and _tokens(tokenizer, text, [word, other])
        if tokens:
            examples.append((text, tokens))
        if len(examples) == limit:
            break
    return examples


def _slotted(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Cut a causal model's text behind the slot; return an empty string where nothing is left before it."""
    if is_masked(tokenizer):
        return text
    before = text.partition(SLOT)[0]
    return before + SLOT if len(before.split()) >= 3 else ""


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, words: Sequence[str]) -> list[int] | None:
    tokens = [token_in_place(tokenizer, text, word) for word in words]
    known = [token for token in tokens if token is not None]
    return known if len(set(known)) == len(words) else None


def _shuffled(items: Sequence[Item]) -> list[Item]:
    """Return the items in a fixed random order, so that a limit takes some of each domain."""
    order = list(items)
    random.Random(0).shuffle(order)
    return order
