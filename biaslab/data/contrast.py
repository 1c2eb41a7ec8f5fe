"""The contrast set of the guard: ordinary sentences with a slot, a word that fits it, and one that does not."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.corpus import read_sentences
from biaslab.data.queries import BLANK
from biaslab.data.stereoset import DOMAINS, Terms, candidate_word, half_of, read_clusters
from biaslab.errors import InputError
from biaslab.models.tokens import SLOT, by_length, encode_slot, is_masked, token_in_place

_LONGEST = 64  # tokens; a longer sentence may not fit into the model
Item = TypeVar("Item")
Contrast: TypeAlias = "str | Sequence[str] | None"
# StereoSet's three candidates make three pairs: two for the guard, and one that is itself about bias.
STEREOSET_PAIRS = {"guard/stereotype-unrelated": (0, 2), "guard/anti_stereotype-unrelated": (1, 2), "bias": (0, 1)}
TEXT_PAIRS = {"guard/true-random": (0, 1)}


class Example(NamedTuple):
    """A sentence with a slot."""

    text: str  # with {slot} once
    targets: list[int]  # tokens of the words that are compared in the slot


def sources_of(contrast: Contrast) -> list[str]:
    """Return the sources that a contrast set is made from: none, one, or several."""
    return [contrast] if isinstance(contrast, str) else list(contrast or ())


def pairs_of(contrast: Contrast) -> list[str]:
    """Return the names of a contrast set's pairs, by number.

    >>> pairs_of("bold")
    ['bold/guard/true-random']
    >>> pairs_of(["stereoset", "bold"])[:3]
    ['gender/guard/stereotype-unrelated', 'gender/guard/anti_stereotype-unrelated', 'gender/bias']
    """
    return [f"{section}/{pair}" for section, pairs in _sections(contrast) for pair in pairs]


def _sections(contrast: Contrast) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Return StereoSet's domains and the names of other sources, and the pairs of each."""
    return [
        section
        for source in sources_of(contrast)
        for section in ([(d, STEREOSET_PAIRS) for d in DOMAINS] if source == "stereoset" else [(source, TEXT_PAIRS)])
    ]


def make_batches(
    tokenizer: PreTrainedTokenizerBase, contrast: Contrast, limit: int, tokens_per_batch: int, terms: Terms = "all"
) -> list[dict[str, Any]]:
    """Return batches of the same form as the prompts'.

    Args:
        tokenizer: the model's.
        contrast: "stereoset" (its test split: other target terms than dev's), a source of plain sentences, whose
            "contrast" split is used, or several of these.
        limit: at most so many sentences of each source, spread over it.
        tokens_per_batch: batches are as large as this allows.
        terms: of StereoSet "all" target terms, or those of one half: "find" or "choose".

    Raises:
        InputError: if no sentence of a source can be used.
    """
    batches: list[dict[str, Any]] = []
    first = number = 0
    for source in sources_of(contrast):
        if source == "stereoset":
            examples = _stereoset_examples(tokenizer, limit, terms)
        else:
            examples = [(source, example) for example in _text_examples(tokenizer, source, limit)]
        if not examples:
            raise InputError(
                f"`contrast` is expected to hold words that are one token in their place, but {source!r} has none."
            )
        for section, pairs in _sections(source):
            encoded = [(encode_slot(tokenizer, e.text), e.targets) for name, e in examples if name == section]
            encoded = [(entry, targets) for entry, targets in encoded if len(entry.input_ids) <= _LONGEST]
            for batch in by_length([len(entry.input_ids) for entry, _ in encoded], tokens_per_batch):
                entries, targets = zip(*(encoded[i] for i in batch), strict=True)
                batches.append(
                    {
                        "input_ids": torch.tensor([entry.input_ids for entry in entries]),
                        "position": torch.tensor([entry.position for entry in entries]),
                        "target_ids": torch.tensor(targets),
                        "pairs": torch.tensor(list(pairs.values())),
                        "pair": torch.arange(first, first + len(pairs)),
                        "kind": torch.zeros(len(batch), dtype=torch.long),
                        "group": torch.tensor(batch) + number,
                        "example": torch.tensor(batch) + number,
                    }
                )
            first, number = first + len(pairs), number + len(encoded)
    return batches


def _stereoset_examples(tokenizer: PreTrainedTokenizerBase, limit: int, terms: Terms) -> list[tuple[str, Example]]:
    """Keep the clusters whose three candidates are one token each, as many of each domain as there are."""
    clusters = [cluster for cluster in read_clusters("test") if terms in ("all", half_of(cluster.target))]
    once = _shuffled([cluster for cluster in clusters if cluster.context.count(BLANK) == 1])
    by_domain = [[cluster for cluster in once if cluster.domain == domain] for domain in DOMAINS]
    examples = (
        (cluster.domain, example)
        for cluster in filter(None, chain.from_iterable(zip_longest(*by_domain)))
        if (words := [candidate_word(cluster.context, sentence) for sentence in cluster.sentences])
        and (example := _example(tokenizer, cluster.context.replace(BLANK, SLOT), words))
    )
    return list(islice(examples, limit))


def _text_examples(tokenizer: PreTrainedTokenizerBase, source: str, limit: int) -> list[Example]:
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
        place = rank[word] + draw.choice((-1, 1)) * draw.randint(1, 2 + rank[word] // 10)
        other = by_count[min(len(by_count) - 1, max(0, place))]
        text = re.sub(rf"(?<= ){word}(?=[ .,])", SLOT, sentence, count=1)
        if example := _example(tokenizer, text, [word, other]):
            examples.append(example)
        if len(examples) == limit:
            break
    return examples


def _example(tokenizer: PreTrainedTokenizerBase, text: str, words: Sequence[str]) -> Example | None:
    """Return a sentence whose words are different single tokens in the slot; a causal model's ends with the slot."""
    if not is_masked(tokenizer):
        before = text.partition(SLOT)[0]
        if len(before.split()) < 3:
            return None
        text = before + SLOT
    tokens = [token_in_place(tokenizer, text, word) for word in words]
    known = [token for token in tokens if token is not None]
    return Example(text, known) if len(set(known)) == len(words) else None


def _shuffled(items: Sequence[Item]) -> list[Item]:
    """Return the items in a fixed random order, so that a limit takes some of each domain."""
    order = list(items)
    random.Random(0).shuffle(order)
    return order
