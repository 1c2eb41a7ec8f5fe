"""Counterfactual data augmentation: passages with their rewrites, and a control with the originals repeated."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from biaslab.data import corpus
from biaslab.data.attribute_words import GENDER_PAIRS
from biaslab.data.module import TrainingData
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.positions import cut_tokens
from biaslab.models.tokens import require_masked

_OTHER = {one: other for pair in GENDER_PAIRS for one, other in (pair, pair[::-1])}
_BEFORE_NOUN = {**_OTHER, "her": "his", "his": "her"}
# These words follow an object ("saw her in the park"); a noun or adjective follows a possessive ("her park").
_FUNCTION_WORDS = """
    a about after again all an and any are around as at away back because before but by down during every for from had
    has he here how if in instead into is it just like my not now of off on onto or our out over she so some than that
    the their then there these they this those through to today together tomorrow too toward towards until up was we
    well were what when where whether which while who why will with without would yesterday you your
"""
_NO_NOUN = frozenset(_FUNCTION_WORDS.split())


class Pair(NamedTuple):
    """A passage and its counterfactual."""

    original: str  # the source's text
    rewrite: str  # about someone of another demographic


class Pairs(NamedTuple):
    """Pairs for training and for validation; no sentence is in both."""

    train: list[Pair]  # every pair
    validation: list[Pair]  # one pair per original


def swap_gender(sentence: str) -> str:
    """Return a sentence with each gendered word replaced by its counterpart, in the same case.

    "her" corresponds to both "him" and "his"; the following word decides which.

    >>> swap_gender("The actress said that he gave her his book, not hers.")
    'The actor said that she gave his her book, not his.'
    >>> swap_gender("He saw HER in the park.")
    'She saw HIM in the park.'
    """
    return re.sub(r"[^\W\d_]+", _counterpart, sentence)


def _counterpart(match: re.Match[str]) -> str:
    word = match[0]
    following = re.match(r"\s+([^\W\d_]+)", match.string[match.end() :])
    possessive = following is not None and following[1].lower() not in _NO_NOUN
    other = (_BEFORE_NOUN if possessive else _OTHER).get(word.lower())
    if other is None:
        return word
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def read_pairs(source: str) -> Pairs:
    """Return passages and their counterfactuals, in an order determined by their text.

    An original's split depends on the hash of its text, as in :func:`biaslab.data.corpus.read_sentences`. A training
    pair must also share no sentence with the source's evaluation split or with a validation pair: in PANDA, an article
    comes with several questions, and a passage with fifteen rewrites on average.

    The source is "panda" (human rewrites), or "bug", "bold" or a text file, whose gendered words are swapped; passages
    without a counterfactual are skipped.

    Raises:
        InputError: if the source cannot be read, or has no pairs for one of the splits.
    """
    pairs = sorted(set(_all_pairs(source)), key=lambda pair: hashlib.sha256("\0".join(pair).encode()).digest())
    passages = {text: corpus.tidy(text.replace(corpus.BREAK, " ")) for pair in pairs for text in pair}
    train, validation = (
        [p for p in pairs if corpus.in_split(passages[p.original], s)] for s in ("train", "validation")
    )
    originals = {sentence for text in {pair.original for pair in pairs} for sentence in _sentences(text)}
    closed = {sentence for sentence in originals if corpus.in_split(sentence, "evaluation")}
    closed = closed.union(*(_sentences(text) for pair in validation for text in pair))
    free = {text for text in {text for pair in train for text in pair} if closed.isdisjoint(_sentences(text))}
    train = _changed([pair for pair in train if free.issuperset(pair)], passages)
    validation = list({pair.original: pair for pair in _changed(validation, passages)}.values())
    if not train or not validation:
        raise InputError(
            f"`source` is expected to contain passages with counterfactuals, but {source!r} has {len(train)} for "
            f"training and {len(validation)} for validation. Give more text."
        )
    return Pairs(train, validation)


def _all_pairs(source: str) -> Iterator[Pair]:
    if source == "panda":
        for record in corpus.panda_records(assets.fetch("panda")):
            yield Pair(record["original"], record["rewrite"])
    else:
        for sentence in corpus.all_sentences(source):
            yield Pair(sentence, swap_gender(sentence))


def _changed(pairs: Iterable[Pair], passages: Mapping[str, str]) -> list[Pair]:
    """Return the passages of the pairs whose two passages differ."""
    tidied = [Pair(passages[pair.original], passages[pair.rewrite]) for pair in pairs]
    return [pair for pair in tidied if pair.original != pair.rewrite]


def _sentences(text: str) -> set[str]:
    """Return a text and its sentences of at least four words, normalised as in ``read_sentences``."""
    texts = map(corpus.tidy, [text, *corpus.split_sentences(text)])
    return {sentence for sentence in texts if len(sentence.split()) >= 4}


def even_batches(sequences: Sequence[Sequence[int]], batch_size: int) -> list[Tensor]:
    """Return batches ``[batch, sequence]`` without padding; their number depends only on the number of sequences.

    Sequences of similar length share a batch and are truncated to the shortest one, keeping their last (special) token.
    Sequences of the same length are shuffled with a fixed seed, which spreads the rewrites of a passage.
    """
    shuffled = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)).tolist()
    order = sorted(shuffled, key=lambda index: len(sequences[index]))
    chunks = [[sequences[index] for index in order[i : i + batch_size]] for i in range(0, len(order), batch_size)]
    return [torch.tensor([[*sequence[: len(chunk[0]) - 1], sequence[-1]] for sequence in chunk]) for chunk in chunks]


class CounterfactualDataModule(TrainingData):
    """Passages and their counterfactuals for masked-language-model training, or the control without counterfactuals.

    An epoch has the originals and, in mixed order, the rewrites (in the control, the originals again). Both variants
    have the same number of examples, batches and steps, and the same validation set (originals and rewrites).

    Args:
        model_name: the model whose tokenizer is used.
        source: "panda", "bug", "bold" or a text file; see :func:`read_pairs`.
        augmented: whether to use the rewrites; False for the control.
        max_length: maximum passage length in tokens; longer passages are truncated.
        batch_size: passages per batch.
        masked: share of the tokens to predict.
        limit: maximum number of training pairs; for validation, a tenth of it; None for all.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        source: str = "panda",
        augmented: bool = True,
        max_length: int = 256,
        batch_size: int = 32,
        masked: float = 0.15,
        limit: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)

    def sources(self) -> list[str]:
        """Return the source as a list."""
        return [self.hparams["source"]]

    def setup(self, stage: str) -> None:
        """Read, tokenize and batch the pairs."""
        h = self.hparams
        self.tokenizer = self.load_tokenizer()
        require_masked(self.tokenizer)
        pairs = read_pairs(h["source"])
        train = pairs.train[: h["limit"]]
        validation = pairs.validation[: h["limit"] and -(-h["limit"] // 10)]
        originals = [pair.original for pair in train]
        second = [pair.rewrite for pair in train] if h["augmented"] else originals
        first, again = (even_batches(self._tokens(texts), h["batch_size"]) for texts in (originals, second))
        held_out = self._tokens([text for pair in validation for text in pair])
        fixed = corpus.equal_lengths(held_out, h["batch_size"] * h["max_length"])
        self.train_batches = corpus.MaskedBatches(first + again, self.tokenizer, h["masked"], varied=True)
        self.validation_batches = corpus.MaskedBatches(fixed, self.tokenizer, h["masked"], fixed=True, varied=True)

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        return cut_tokens(self.tokenizer, texts, self.hparams["max_length"], "sentences and their rewrites")
