"""PANDA's sentences with human rewrites about another demographic, and the queries for both.

It is unknown which of the two is a stereotype, but a model should not find either much more likely.
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

SPLITS = {"find": "contrast", "held_out": "evaluation"}  # splits of biaslab.data.corpus.SPLITS; CDA trains on neither
_WORDS = range(5, 31)  # per sentence
_MOST_CHANGED = 3  # words
_LONGEST = 48  # tokens
_FOLDS = 5  # a fifth of the tokens that both sentences share is masked at once


class PandaPair(NamedTuple):
    """A sentence and its rewrite."""

    original: str
    rewrite: str


def read_panda_pairs(part: str) -> list[PandaPair]:
    """Return sentences with rewrites that change few words, from a part of SPLITS, ordered by a hash of their text.

    A sentence's part depends on a hash of its text; sentences of the part "find" are skipped if their passage has a
    held-out sentence.

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
    """Return whether one to three words differ, in more than case and punctuation.

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
    """Yield pairs with both sentences' tokens, if all words are known and neither is too long."""
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
    """Return a masked model's queries for the tokens that two sentences share, ``[sentence][token]``.

    The shared tokens are split at random into five folds, of which the first ``folds`` are queried; the tokens of a
    fold are masked at once, in both sentences.
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
    """Held-out sentences of PANDA with one rewrite each, as batches that query the log-likelihood of both.

    A masked model is queried for the tokens that both sentences share, a fifth of them masked at once; a causal model
    for all tokens. A batch contains whole pairs: ``inputs`` and ``examples`` of
    :func:`biaslab.data.queries.whole_examples`, the inputs by :func:`biaslab.data.queries.group_places`.

    Args:
        model_name: the model whose tokenizer is used.
        limit: use only the first N pairs.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, what sentences are conditioned on; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.
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
        """Read the pairs and return their batches."""
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
