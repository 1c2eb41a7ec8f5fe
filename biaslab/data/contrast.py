"""The contrast set of the guard: ordinary sentences with a slot, a word that fits it and one that does not."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.corpus import read_sentences
from biaslab.data.queries import BLANK
from biaslab.data.stereoset import DOMAINS, Terms, candidate_word, half_of, read_clusters, spread
from biaslab.errors import InputError
from biaslab.models.tokens import SLOT, Encoded, by_length, encode_slot, is_masked, token_in_place

_LONGEST = 64  # tokens; longer sentences may exceed the model's maximum length
Contrast: TypeAlias = "str | Sequence[str] | None"
# StereoSet's three candidates form three pairs: two for the guard and one for bias.
STEREOSET_PAIRS = {"guard/stereotype-unrelated": (0, 2), "guard/anti_stereotype-unrelated": (1, 2), "bias": (0, 1)}
TEXT_PAIRS = {"guard/true-random": (0, 1)}


class Example(NamedTuple):
    """A sentence with a slot."""

    section: str  # StereoSet's domain, or the name of another source
    sentence: Encoded
    targets: list[int]  # tokens of the words compared in the slot


def sources_of(contrast: Contrast) -> list[str]:
    """Return the list of sources of a contrast set."""
    return [contrast] if isinstance(contrast, str) else list(contrast or ())


def pairs_of(contrast: Contrast) -> list[str]:
    """Return the names of a contrast set's pairs, in order.

    >>> pairs_of("bold")
    ['bold/guard/true-random']
    >>> pairs_of(["stereoset", "bold"])[:3]
    ['gender/guard/stereotype-unrelated', 'gender/guard/anti_stereotype-unrelated', 'gender/bias']
    """
    sections = (section for source in sources_of(contrast) for section in _sections(source).items())
    return [f"{section}/{pair}" for section, pairs in sections for pair in pairs]


def _sections(source: str) -> dict[str, dict[str, tuple[int, int]]]:
    """Return the pairs of each section of a source."""
    return dict.fromkeys(DOMAINS, STEREOSET_PAIRS) if source == "stereoset" else {source: TEXT_PAIRS}


def make_batches(
    tokenizer: PreTrainedTokenizerBase, contrast: Contrast, limit: int, tokens_per_batch: int, terms: Terms = "all"
) -> list[dict[str, Any]]:
    """Return batches in the same format as those of prompts.

    Sources are "stereoset" (its test split, whose target terms differ from dev's; all terms or one half), sources of
    plain sentences (their "contrast" split), or several of these. Each provides at most ``limit`` sentences.

    Raises:
        InputError: if no sentence of a source is usable.
    """
    batches: list[dict[str, Any]] = []
    longest = min(_LONGEST, tokenizer.model_max_length)
    first = number = 0
    for source in sources_of(contrast):
        found = _stereoset(tokenizer, terms) if source == "stereoset" else _plain_text(tokenizer, source)
        examples = list(islice(filter(None, found), limit))
        if not examples:
            raise InputError(
                f"`contrast` is expected to contain words that are a single token in context, but {source!r} has none. "
                "Choose another source."
            )
        for section, pairs in _sections(source).items():
            own = [e for e in examples if e.section == section and len(e.sentence.input_ids) <= longest]
            for batch in by_length([len(example.sentence.input_ids) for example in own], tokens_per_batch):
                chosen, numbers = [own[i] for i in batch], torch.tensor(batch) + number
                inputs = {
                    "input_ids": torch.tensor([example.sentence.input_ids for example in chosen]),
                    "position": torch.tensor([example.sentence.position for example in chosen]),
                    "target_ids": torch.tensor([example.targets for example in chosen]),
                }
                labels = {"kind": torch.zeros_like(numbers), "group": numbers, "example": numbers}
                pair = torch.arange(first, first + len(pairs))
                batches.append({**inputs, "pairs": torch.tensor(list(pairs.values())), "pair": pair, **labels})
            first, number = first + len(pairs), number + len(own)
    return batches


def _stereoset(tokenizer: PreTrainedTokenizerBase, terms: Terms) -> Iterator[Example | None]:
    """Yield the clusters whose three candidates are single tokens, alternating between domains."""
    clusters = [c for c in read_clusters("test") if c.context.count(BLANK) == 1 and terms in ("all", half_of(c.target))]
    for cluster in spread(clusters):
        words = [candidate_word(cluster.context, sentence) for sentence in cluster.sentences]
        yield _example(tokenizer, cluster.domain, cluster.context.replace(BLANK, SLOT), words)


def _plain_text(tokenizer: PreTrainedTokenizerBase, source: str) -> Iterator[Example | None]:
    """Replace a word of each sentence by a slot; pair it with a random word of about the same frequency."""
    sentences = [s for s in read_sentences(source, "contrast", "contrast") if 6 <= len(s.split()) <= 30]
    random.Random(0).shuffle(sentences)
    counts = Counter(word for sentence in sentences for word in re.findall(r"[a-z]{3,}", sentence))
    by_count = [word for word, _ in counts.most_common()]
    rank = {word: place for place, word in enumerate(by_count)}
    draw = random.Random(0)
    for sentence in sentences:
        if candidates := re.findall(r"(?<= )[a-z]{3,}(?=[ .,])", sentence):
            word = draw.choice(candidates)
            place = rank[word] + draw.choice((-1, 1)) * draw.randint(1, 2 + rank[word] // 10)
            other = by_count[min(len(by_count) - 1, max(0, place))]
            text = re.sub(rf"(?<= ){word}(?=[ .,])", SLOT, sentence, count=1)
            yield _example(tokenizer, source, text, [word, other])


def _example(tokenizer: PreTrainedTokenizerBase, section: str, text: str, words: Sequence[str]) -> Example | None:
    """Return the example if its words are distinct single tokens in the slot; for a causal model, it ends there."""
    if is_masked(tokenizer) and str(tokenizer.mask_token) in text:
        return None  # it would be used instead of the slot
    if not is_masked(tokenizer):
        before = text.partition(SLOT)[0]
        if len(before.split()) < 3:
            return None
        text = before + SLOT
    tokens = [token_in_place(tokenizer, text, word) for word in words]
    known = [token for token in tokens if token is not None]
    return Example(section, encode_slot(tokenizer, text), known) if len(set(known)) == len(words) else None
