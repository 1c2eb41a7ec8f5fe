"""The training data of DPCE: sentences with attribute words of one group, or with target words only."""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from transformers import PreTrainedTokenizerBase

from biaslab.data.attribute_words import GENDER_PAIRS, TARGETS
from biaslab.data.corpus import read_sentences
from biaslab.data.module import TokenizedData, loader
from biaslab.errors import InputError
from biaslab.models.positions import say_cut

GROUPS = ("female", "male")
TARGET = "target"
KINDS = (*GROUPS, TARGET)

Span = tuple[int, int]  # first character, and one past the last
Candidate = tuple[str, list[Span]]  # a sentence, and the spans of its words

_GROUP_OF = {word: group for pair in GENDER_PAIRS for word, group in zip(pair, GROUPS, strict=True)}
_TARGETS = frozenset(TARGETS)
_CHUNK = 1000  # sentences tokenized at once


class Example(NamedTuple):
    """A tokenized sentence."""

    input_ids: list[int]  # with special tokens
    words: list[list[int]]  # token positions of each of its words


def sort_by_kind(sentences: Sequence[str]) -> dict[str, list[Candidate]]:
    """Return the sentences of each kind, without those with attribute words of both groups or with no listed word.

    A sentence with attribute words occurs once, with all of them; one with target words occurs once per word, with the
    word's first occurrence. Whole words are compared in lower case.
    """
    sorted_: dict[str, list[Candidate]] = {kind: [] for kind in KINDS}
    for sentence in sentences:
        words = [(match.group().lower(), match.span()) for match in re.finditer(r"\w+", sentence)]
        groups = {_GROUP_OF[word] for word, _ in words if word in _GROUP_OF}
        if len(groups) == 1:
            sorted_[groups.pop()].append((sentence, [span for word, span in words if word in _GROUP_OF]))
        elif not groups:
            first = {word: span for word, span in reversed(words) if word in _TARGETS}
            sorted_[TARGET] += [(sentence, [span]) for span in first.values()]
    return sorted_


def _pieces(offsets: Sequence[Span], span: Span) -> list[int]:
    """Return the positions of a word's tokens; empty if the sentence is truncated before the word's end."""
    places = [at for at, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return places if places and offsets[places[-1]][1] >= span[1] else []


def encode(candidates: Sequence[Candidate], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Example]:
    """Tokenize sentences with a fast tokenizer, truncated to ``max_length``, and find the tokens of their words.

    Truncated words are dropped, and so are sentences that have no word left.
    """
    max_length = min(max_length, tokenizer.model_max_length)
    for start in range(0, len(candidates), _CHUNK):
        texts, spans = zip(*candidates[start : start + _CHUNK], strict=True)
        encoded = tokenizer(list(texts), truncation=True, max_length=max_length, return_offsets_mapping=True)
        say_cut(tokenizer, texts, encoded["input_ids"], max_length, "sentences with attribute words")
        for ids, offsets, words in zip(encoded["input_ids"], encoded["offset_mapping"], spans, strict=True):
            if places := [whole for word in words if (whole := _pieces(offsets, word))]:
                yield Example(ids, places)


def collate(kind: str, examples: Sequence[Example], pad_id: int) -> dict[str, Any]:
    """Return a batch of examples of one kind, padded with ``pad_id`` at the end.

    Returns:
        ``kind``; ``input_ids`` and ``attention_mask``, ``[batch, sequence]``; and ``weights``, ``[batch, sequence]``:
        1 / (number of tokens of the word) for tokens of listed words, else 0. The weighted sum of hidden states is
        the sum over words of the mean over their tokens; the sum of the weights is the number of words.
    """
    tokens = [torch.tensor(example.input_ids) for example in examples]
    input_ids = pad_sequence(tokens, batch_first=True, padding_value=pad_id)
    mask = pad_sequence([torch.ones_like(each) for each in tokens], batch_first=True)
    weights = torch.zeros(input_ids.shape)
    for row, example in enumerate(examples):
        for word in example.words:
            weights[row, word] = 1 / len(word)
    return {"kind": kind, "input_ids": input_ids, "attention_mask": mask, "weights": weights}


class KindBatches(Dataset[dict[str, Any]]):
    """Batches of one kind each, with as many batches of each kind as the smaller group fills.

    A different part of the larger group is drawn each time; target examples repeat if there are too few.
    """

    def __init__(self, examples: Mapping[str, Sequence[Example]], batch_size: int, pad_id: int) -> None:
        self.examples, self.batch_size, self.pad_id = examples, batch_size, pad_id
        self.of_a_kind = max(1, min(len(examples[group]) for group in GROUPS) // batch_size)

    def __len__(self) -> int:
        return len(KINDS) * self.of_a_kind

    def __getitem__(self, index: tuple[str, list[int]]) -> dict[str, Any]:
        kind, numbers = index
        return collate(kind, [self.examples[kind][number] for number in numbers], self.pad_id)

    def draw(self, seed: int) -> list[tuple[str, list[int]]]:
        """Return the indices of an epoch's batches, in random order."""
        generator = random.Random(seed)
        batches = []
        needed = self.of_a_kind * self.batch_size
        for kind in KINDS:
            numbers = range(len(self.examples[kind]))
            rounds = range(math.ceil(needed / len(numbers)))
            order = [number for _ in rounds for number in generator.sample(numbers, len(numbers))]
            batches += [(kind, order[start : start + self.batch_size]) for start in range(0, needed, self.batch_size)]
        generator.shuffle(batches)
        return batches


class EpochSampler(DistributedSampler[dict[str, Any]]):
    """Draws the batches of each epoch (always the same ones if fixed), reproducibly, and gives each rank its share.

    It is a ``DistributedSampler`` so that Lightning sets its epoch and does not replace it. It draws only when
    iteration starts: a resumed training sets the epoch late.
    """

    def __init__(self, batches: KindBatches, seed: int, ranks: int, rank: int, fixed: bool = False) -> None:
        super().__init__(batches, ranks, rank, seed=seed, drop_last=True)
        self.batches, self.fixed = batches, fixed

    def __iter__(self) -> Iterator[Any]:
        drawn = self.batches.draw(self.seed + (0 if self.fixed else self.epoch))
        yield from drawn[self.rank : self.total_size : self.num_replicas]


class AttributeSentencesDataModule(TokenizedData):
    """Sentences of three kinds for DPCE: with female words, with male words, and with target words but neither.

    Args:
        model_name: the model whose tokenizer is used.
        sources: "bug", "bold", "panda", or text files with one sentence per line.
        max_length: maximum sentence length in tokens; longer sentences are truncated.
        batch_size: sentences per batch.
        limit: maximum number of training examples of each kind; None for all.
        validation_limit: maximum number of validation examples of each kind.
        seed: seed for the choice of examples and the order of batches.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        sources: Sequence[str] = ("bug", "bold", "panda"),
        max_length: int = 128,
        batch_size: int = 32,
        limit: int | None = None,
        validation_limit: int = 1000,
        seed: int = 42,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)

    def setup(self, stage: str) -> None:
        """Read, classify and tokenize the sentences."""
        self.tokenizer = self.load_tokenizer()
        if not self.tokenizer.is_fast:
            raise InputError(
                f"`model_name` is expected to have a fast tokenizer, but {self.hparams['model_name']!r} has a "
                f"{type(self.tokenizer).__name__}, which has no character offsets. Choose another model."
            )
        self.training = self._batches("train", self.hparams["limit"])
        self.validation = self._batches("validation", self.hparams["validation_limit"])

    def _batches(self, split: str, limit: int | None) -> KindBatches:
        sentences = [s for source in self.sources() for s in read_sentences(source, split, "sources")]
        examples = {}
        for kind, candidates in sort_by_kind(sentences).items():
            random.Random(self.hparams["seed"]).shuffle(candidates)
            examples[kind] = list(islice(encode(candidates, self.tokenizer, self.hparams["max_length"]), limit))
            if not examples[kind]:
                raise InputError(
                    "`sources` is expected to contain sentences with female words, with male words, and with target "
                    f"words but neither, but the {split} split has none of the kind {kind!r}. Give more text."
                )
        return KindBatches(examples, self.hparams["batch_size"], self.tokenizer.pad_token_id or 0)

    def attribute_batches(self, rank: int = 0, ranks: int = 1) -> Iterator[dict[str, Any]]:
        """Yield a rank's share of all training sentences with attribute words, each once, batched by length."""
        size = self.hparams["batch_size"]
        for group in GROUPS:
            examples = sorted(self.training.examples[group], key=lambda example: len(example.input_ids))
            for start in range(rank * size, len(examples), ranks * size):
                yield collate(group, examples[start : start + size], self.training.pad_id)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the training batches, redrawn each epoch."""
        return self._loader(self.training)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the validation batches, always the same."""
        return self._loader(self.validation, fixed=True)

    def _loader(self, batches: KindBatches, fixed: bool = False) -> DataLoader[dict[str, Any]]:
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return loader(batches, sampler=EpochSampler(batches, self.hparams["seed"], ranks, rank, fixed))
