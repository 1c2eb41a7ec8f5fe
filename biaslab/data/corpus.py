"""Ordinary text: sentences by source name or from a file, with fixed splits, and batches to train masked models."""

import csv
import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import TrainingData
from biaslab.errors import InputError, read_text, reading, require_name_or_file
from biaslab.models import assets
from biaslab.models.positions import cut_tokens
from biaslab.models.tokens import by_length

# A sentence's split depends on a hash of its text (percent): training and selection never use the evaluation part.
SPLITS = {"validation": range(0, 2), "contrast": range(2, 4), "evaluation": range(4, 6), "train": range(6, 100)}
BREAK = "<SEP>"  # separates the parts of a PANDA passage


def _bug(folder: Path) -> Iterator[str]:
    with (folder / "full_BUG.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["sentence_text"]


def _bold(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.json")):
        for topic in json.loads(path.read_text(encoding="utf-8")).values():
            yield from chain.from_iterable(topic.values())


def panda_records(folder: Path) -> Iterator[dict[str, str]]:
    """Yield PANDA's records, each with an "original" and its "rewrite"."""
    with tarfile.open(folder / "PANDA-dataset.tgz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".jsonl") else None
            for line in file or ():
                yield json.loads(line)


def split_sentences(passage: str) -> list[str]:
    """Split a passage at the ends of parts and sentences."""
    return [s for part in passage.split(BREAK) for s in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'])", part)]


def _panda(folder: Path) -> Iterator[str]:
    for record in panda_records(folder):
        yield from split_sentences(record["original"])


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {"bug": _bug, "bold": _bold, "panda": _panda}
TEXTS = tuple(_READERS)  # names of sources


def read_sentences(source: str, split: str, argument: str = "source") -> list[str]:
    """Return the distinct sentences of one of SPLITS, in the source's order.

    The source is "bug", "bold", "panda" (its originals), or a text file with one sentence per line. The split
    "contrast" is for the guard, "evaluation" for pseudo-perplexity. ``argument`` is named in error messages.

    Raises:
        InputError: if the source is unknown or not UTF-8 text.
    """
    return [sentence for sentence in all_sentences(source, argument) if in_split(sentence, split)]


def all_sentences(source: str, argument: str = "source") -> list[str]:
    """Return the sentences of all splits (see :func:`read_sentences`), cached until a file changes."""
    require_name_or_file("source", source, TEXTS)
    path = assets.fetch(source) if source in _READERS else Path(source)
    with reading(argument, f"{', '.join(_READERS)} or a UTF-8 text file with one sentence per line", source):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        states = [(file, file.stat()) for file in files]
        identity = tuple((str(file.resolve()), state.st_mtime_ns, state.st_size) for file, state in states)
        return list(_distinct_sentences(source, path, identity))


@lru_cache(maxsize=8)
def _distinct_sentences(source: str, path: Path, identity: object) -> tuple[str, ...]:
    texts = _READERS[source](path) if source in _READERS else read_text(path, may_be_empty=True).splitlines()
    return tuple(dict.fromkeys(sentence for sentence in map(tidy, texts) if len(sentence.split()) >= 4))


def tidy(sentence: str) -> str:
    """Return a text with single spaces and no space before punctuation."""
    return re.sub(r" ([.,;:!?])", r"\1", " ".join(sentence.split()))


def in_split(sentence: str, split: str) -> bool:
    """Return whether a sentence (after :func:`tidy`) belongs to a split."""
    return int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big") % 100 in SPLITS[split]


def equal_lengths(sentences: Sequence[Sequence[int]], tokens_per_batch: int) -> list[Tensor]:
    """Return batches ``[batch, sequence]`` of equally long sentences, with at most ``tokens_per_batch`` tokens."""
    batches = by_length([len(sentence) for sentence in sentences], tokens_per_batch)
    return [torch.tensor([sentences[index] for index in batch]) for batch in batches]


class MaskedBatches(Dataset[dict[str, Tensor]]):
    """Batches of sentences, token ids ``[batch, sequence]`` without padding, re-masked at each access.

    The share ``masked`` of the tokens is masked and predicted; the same tokens at each access if ``fixed``. If
    ``varied``, a tenth of them become another token and a tenth stay unchanged, as in BERT's training (Devlin et al.
    2019, section 3.1).
    """

    def __init__(
        self,
        batches: Sequence[Tensor],
        tokenizer: PreTrainedTokenizerBase,
        masked: float,
        fixed: bool = False,
        varied: bool = False,
    ) -> None:
        self.batches, self.masked, self.fixed, self.varied = batches, masked, fixed, varied
        self.special, self.mask_id = torch.tensor(tokenizer.all_special_ids), tokenizer.mask_token_id
        ids = torch.arange(len(tokenizer))
        self.ordinary = ids[~torch.isin(ids, self.special)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``labels``, ``[batch, sequence]``; labels are -100 where nothing is predicted."""
        tokens = self.batches[index]
        generator = torch.Generator().manual_seed(index) if self.fixed else None
        chance = torch.rand(tokens.shape, generator=generator).masked_fill(torch.isin(tokens, self.special), 1.0)
        target = (chance < self.masked) | (chance == chance.amin(1, keepdim=True))  # at least one per sentence
        hidden = tokens.masked_fill(target, self.mask_id)
        if self.varied:
            chance = torch.rand(tokens.shape, generator=generator)
            others = self.ordinary[torch.randint(len(self.ordinary), tokens.shape, generator=generator)]
            hidden = torch.where(target & (chance >= 0.8), torch.where(chance < 0.9, tokens, others), hidden)
        return {"input_ids": hidden, "labels": tokens.masked_fill(~target, -100)}


class CorpusDataModule(TrainingData):
    """Sentences for masked-language-model training, with a held-out part for validation.

    Args:
        model_name: the model whose tokenizer is used.
        sources: "bug", "bold", "panda", or text files.
        max_length: maximum sentence length in tokens; longer sentences are truncated.
        tokens_per_batch: maximum number of tokens in a batch.
        masked: share of the tokens to mask.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        sources: Sequence[str] = ("bug", "bold", "panda"),
        max_length: int = 64,
        tokens_per_batch: int = 4096,
        masked: float = 0.2,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)

    def setup(self, stage: str) -> None:
        """Read and tokenize the sentences."""
        self.tokenizer = self.load_tokenizer()
        self.train_batches = self._batches("train")
        self.validation_batches = self._batches("validation", fixed=True)

    def _batches(self, split: str, fixed: bool = False) -> MaskedBatches:
        sentences = [s for source in self.sources() for s in read_sentences(source, split, "sources")]
        if not sentences:
            raise InputError(
                f"`sources` is expected to contain sentences of at least four words, but the {split} split has none. "
                "Give more text."
            )
        tokens = cut_tokens(self.tokenizer, sentences, self.hparams["max_length"], f"sentences of the {split} split")
        batches = equal_lengths(tokens, self.hparams["tokens_per_batch"])
        return MaskedBatches(batches, self.tokenizer, self.hparams["masked"], fixed)
