"""Sentences that differ only in the gender of their pronouns, and batches of inputs that score both."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias

from transformers import PreTrainedTokenizerBase

from biaslab.data.queries import BLANK, Queries, Query, causal_queries, say_unknown_words, whole_examples, word_pieces
from biaslab.models.positions import require_room
from biaslab.models.tokens import Bos, beginning, is_masked

Gender: TypeAlias = Literal["female", "male"]
_FEMALE = {"he": ("she",), "him": ("her",), "his": ("her", "hers"), "himself": ("herself",)}  # by male pronoun


class PronounPair(NamedTuple):
    """Two sentences that differ in the gender of their pronouns."""

    parts: tuple[str, ...]  # the text before, between and after the pronouns
    pronouns: tuple[tuple[str, ...], tuple[str, ...]]  # of the first and second sentence, in order
    gender: Gender  # of the first sentence's pronouns

    def text(self, column: int) -> str:
        """Return the first (0) or second (1) sentence."""
        words = zip(self.parts, (*self.pronouns[column], ""), strict=True)
        return "".join(part + word for part, word in words)


def pronoun_pair(first: str, second: str) -> PronounPair | None:
    """Return two sentences as a pair if they differ exactly in the gender of their pronouns, otherwise None.

    The pronouns of a sentence must have the same gender, each with its counterpart in the other sentence.

    >>> pronoun_pair("The cook said that he was late.", "The cook said that she was late.")
    PronounPair(parts=('The cook said that ', ' was late.'), pronouns=(('he',), ('she',)), gender='male')
    >>> pronoun_pair("The cook lost his hat.", "The cook lost hers.") is None
    True
    """
    words = [re.split(r"(\w+)", text) for text in (first, second)]
    if len(words[0]) != len(words[1]):
        return None
    parts, found = [""], []
    for both in zip(*words, strict=True):
        if both[0] == both[1]:
            parts[-1] += both[0]
        else:
            found.append(both)
            parts.append("")
    genders = {_gender(one.lower(), other.lower()) for one, other in found}
    if len(genders) != 1 or (gender := genders.pop()) is None:
        return None
    return PronounPair(tuple(parts), (tuple(one for one, _ in found), tuple(other for _, other in found)), gender)


def _gender(one: str, other: str) -> Gender | None:
    """Return the gender of a pronoun if the other word is its counterpart, otherwise None."""
    if other in _FEMALE.get(one, ()):
        return "male"
    return "female" if one in _FEMALE.get(other, ()) else None


def pronoun_queries(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PronounPair]) -> Queries:
    """Return a masked language model's queries for the pronouns, ``[2 · pair + column][piece]``.

    Each pronoun is masked in place, so both sentences share an input. Several tokens of a pronoun, or several pronouns
    of a sentence, are queried left to right: earlier tokens are filled in, later pronouns are masked, and the queried
    pronoun has one mask. Thus no pronoun reveals the gender of another.
    """
    mask_id, mask = tokenizer.mask_token_id, str(tokenizer.mask_token)
    inputs = tokenizer([mask.join(pair.parts) for pair in pairs])["input_ids"]
    asked = [
        (part[-1:] + BLANK, word)
        for pair in pairs
        for words in pair.pronouns
        for part, word in zip(pair.parts[:-1], words, strict=True)
    ]
    pieces = iter(word_pieces(tokenizer, asked))
    queries = []
    for pair, ids in zip(pairs, inputs, strict=True):
        masks = [place for place, token in enumerate(ids) if token == mask_id]
        written = accumulate(part.count(mask) for part in pair.parts[:-1])  # masks in the sentence itself
        places = [masks[number + before] for number, before in enumerate(written)]
        for words in pair.pronouns:
            queries.append(_one_by_one(mask_id, ids, places, [next(pieces) for _ in words]))
    return queries


def _one_by_one(mask_id: int, ids: Sequence[int], places: Sequence[int], words: Sequence[Sequence[int]]) -> list[Query]:
    """Return the queries for words with masked places, each piece after the earlier ones."""
    queries, start = [], 0
    before: list[int] = []
    for place, word in zip(places, words, strict=True):
        before += ids[start:place]
        start = place + 1
        for piece in word:
            queries.append(Query((*before, mask_id, *ids[start:]), len(before), piece))
            before.append(piece)
    return queries


def pronoun_batches(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PronounPair],
    tokens_per_batch: int,
    bos: Bos,
    place: Callable[[int], str],
) -> list[dict[str, Any]]:
    """Return batches of whole pairs, for a masked or a causal model depending on the tokenizer.

    A masked model is queried for the pronouns in place, a causal model for whole sentences, whose probabilities differ
    only from the pronoun on: in both cases, the context on both sides of the pronoun counts. A causal model's
    probability of the pronoun alone would not depend on the words that show whom it refers to.

    Args:
        tokenizer: the model's tokenizer.
        pairs: the sentence pairs.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, what sentences are conditioned on.
        place: returns the location of the pair with a given index, for messages.

    Returns:
        For each batch ``inputs`` and ``examples`` of :func:`biaslab.data.queries.whole_examples` (a pair's first
        sentence first), ``rule`` ("masked" or "causal"), and for a causal model ``start_id`` and ``front``.
        :func:`biaslab.evaluation.scoring.score_pairs` computes its scores.

    Raises:
        InputError: if a sentence is longer than the model's maximum length.
    """
    kind: dict[str, Any] = {"rule": "masked"}
    if is_masked(tokenizer):
        queries = pronoun_queries(tokenizer, pairs)
        say_unknown_words(tokenizer, queries, "pronouns")
    else:
        start = beginning(tokenizer, bos)
        kind = {"rule": "causal", "start_id": start.start_id, "front": len(start.front)}
        queries = causal_queries(tokenizer, [pair.text(column) for pair in pairs for column in range(2)], start)
    require_room(tokenizer, (max(len(query.input_ids) for query in each) for each in queries), lambda n: place(n // 2))
    # a causal model's sentences stay in order: neighbours share a prefix, which is computed once
    key: Callable[[list[int]], int] = max if is_masked(tokenizer) else lambda _: 0
    return [kind | batch for batch in whole_examples(queries, 2, tokens_per_batch, key)]
