"""PANDA's sentences beside people's rewrites of them about someone of another demographic, and what is asked of both.

Which of the two is a stereotype is not known, only that a model should find neither much likelier.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from biaslab.data import corpus
from biaslab.data.crows_pairs import shared_places
from biaslab.data.module import EvaluationData
from biaslab.data.queries import Queries, Query, group_places, token_queries, whole_examples
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.tokens import Bos, beginning, is_masked, require_bos

SPLITS = {"find": "contrast", "held_out": "evaluation"}  # of biaslab.data.corpus.SPLITS, which CDA trains on neither of
_WORDS = range(5, 31)  # of a sentence
_MOST_CHANGED = 3  # words
_LONGEST = 48  # tokens
_FOLDS = 5  # a fifth of the tokens that both sentences share is hidden at once


class PandaPair(NamedTuple):
    """A sentence and its rewrite."""

    original: str
    rewrite: str


def read_panda_pairs(part: str) -> list[PandaPair]:
    """Return sentences with a rewrite that changes few words, of a part of SPLITS, in an order that their text decides.

    A sentence's part is a hash of its text; one to find with is left out if it stands in a passage with a held-out one.

    Raises:
        InputError: if there are none.
    """
    records = {(record["original"], record["rewrite"]) for record in corpus.panda_records(assets.fetch("panda"))}
    pairs: set[PandaPair] = set()
    closed: set[str] = set()
    for passages in records:
        originals, rewrites = ([corpus.tidy(s) for s in corpus.split_sentences(text)] for text in passages)
        if part == "find" and any(corpus.in_split(sentence, SPLITS["held_out"]) for sentence in originals):
            closed.update(originals)
        elif len(originals) == len(rewrites):
            both = map(PandaPair, originals, rewrites)
            pairs.update(p for p in both if corpus.in_split(p.original, SPLITS[part]) and _few_words_differ(*p))
    free = [pair for pair in pairs if pair.original not in closed]
    if not free:
        raise InputError(f"`part` is expected to have sentences with rewrites, but {part!r} of PANDA has none.")
    return sorted(free, key=lambda pair: hashlib.sha256("\0".join(pair).encode()).digest())


def _few_words_differ(original: str, rewrite: str) -> bool:
    """Return whether there is a difference in one to three words, and not only in case and punctuation.

    >>> _few_words_differ("She said that her son was ill.", "He said that his son was ill.")
    True
    >>> _few_words_differ("The boy said that he was ill.", "The boy said, that he was ill")
    False
    """
    first, second = original.split(), rewrite.split()
    if original == rewrite or len(first) not in _WORDS or len(second) not in _WORDS:
        return False
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    changes = [(first[a:b], second[c:d]) for kind, a, b, c, d in blocks if kind != "equal"]
    letters = [[[w for w in map(_letters, words) if w] for words in change] for change in changes]
    return sum(max(map(len, change)) for change in changes) <= _MOST_CHANGED and any(a != b for a, b in letters)


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))


def one_each(pairs: Iterable[PandaPair]) -> list[PandaPair]:
    """Return the first rewrite of each original."""
    firsts: dict[str, PandaPair] = {}
    for pair in pairs:
        firsts.setdefault(pair.original, pair)
    return list(firsts.values())


def encoded_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PandaPair]
) -> Iterator[tuple[PandaPair, list[int], list[int]]]:
    """Yield pairs and both sentences' tokens, those of which all words are known and that are not too long."""
    texts = [text for pair in pairs for text in pair]
    ids = tokenizer(texts, add_special_tokens=is_masked(tokenizer))["input_ids"] if texts else []
    longest = min(_LONGEST, tokenizer.model_max_length - 2)
    for pair, first, second in zip(pairs, ids[::2], ids[1::2], strict=True):
        known = all(tokenizer.unk_token_id not in own and 1 < len(own) <= longest for own in (first, second))
        if known and first != second and (not is_masked(tokenizer) or shared_places(first, second)[0]):
            yield pair, first, second


def hidden_queries(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[list[int]], draw: random.Random, folds: int = _FOLDS
) -> Queries:
    """Return what to ask a masked model about two sentences, ``[sentence][token]``: tokens that both share.

    The shared tokens are dealt at random into five folds, of which the first ``folds`` are asked for; the tokens of a
    fold are hidden at once, the same ones in both sentences.
    """
    places = shared_places(*sentences)
    order = draw.sample(range(len(places[0])), len(places[0]))
    parts = [sorted(order[fold::_FOLDS]) for fold in range(folds)]
    queries: Queries = []
    for ids, own in zip(sentences, places, strict=True):
        queries.append([])
        for part in parts:
            hidden = list(ids)
            for number in part:
                hidden[own[number]] = tokenizer.mask_token_id
            queries[-1] += [Query(tuple(hidden), own[number], ids[own[number]]) for number in part]
    return queries


class PandaPairsDataModule(EvaluationData):
    """Held-out sentences of PANDA with a rewrite each, as batches that ask for the log-likelihood of both.

    A masked model is asked for the tokens that both sentences share, a fifth of them hidden at once; a causal one for
    all tokens. A batch is made of whole pairs: ``inputs`` and ``examples`` as of
    :func:`biaslab.data.queries.whole_examples`, the inputs by :func:`biaslab.data.queries.group_places`.

    Args:
        model_name: whose tokenizer is used.
        limit: only the first so many pairs.
        tokens_per_batch: batches are as large as this allows.
        bos: of a causal model, what its sentences are conditioned on, as of
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: let a checkpoint bring its own Python code.
    """

    asset = "panda"

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        limit: int | None = None,
        tokens_per_batch: int = 1024,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs, and return their batches."""
        tokenizer, draw = self.load_tokenizer(), random.Random(0)
        encoded = encoded_pairs(tokenizer, one_each(read_panda_pairs("held_out")))
        chosen = list(encoded)[: self.hparams["limit"]]
        self.pairs = [pair for pair, _, _ in chosen]
        if is_masked(tokenizer):
            queries = [own for _, *both in chosen for own in hidden_queries(tokenizer, both, draw)]
        else:
            start = beginning(tokenizer, self.hparams["bos"])
            queries = token_queries(tokenizer, [text for pair in self.pairs for text in pair], start)
        return whole_examples(queries, 2, self.hparams["tokens_per_batch"], max, group_places)
