"""CrowS-Pairs: pairs of sentences from its file, and batches of inputs that score what both share."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from biaslab.data.queries import Query, causal_queries, group_queries
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.loading import load_tokenizer
from biaslab.models.tokens import is_masked

CATEGORIES = (
    "age",
    "disability",
    "gender",
    "nationality",
    "physical-appearance",
    "race-color",
    "religion",
    "sexual-orientation",
    "socioeconomic",
)
DIRECTIONS = ("stereo", "antistereo")
_COLUMNS = ("sent_more", "sent_less", "bias_type", "stereo_antistereo")


class CrowsPair(NamedTuple):
    """Two sentences that differ in the group that they speak about.

    Attributes:
        more: the more stereotyping sentence.
        less: the less stereotyping one.
        category: of the bias, one of ``CATEGORIES``.
        direction: "stereo" where the disadvantaged group's sentence is the more stereotyping one, else "antistereo".
    """

    more: str
    less: str
    category: str
    direction: str


def read_pairs(path: str | Path | None = None) -> list[CrowsPair]:
    """Return the pairs of a file of CrowS-Pairs' form, in its order.

    Args:
        path: of a CSV file; None for the asset, fetched if need be.

    Raises:
        InputError: if the file can't be read or is no CrowS-Pairs; it names the line and what it lacks.
    """
    source = assets.fetch("crows-pairs") / "crows_pairs_anonymized.csv" if path is None else Path(path)
    try:
        with source.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            pairs = [_pair(record, reader.line_num, source) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"`path` is expected to be a CrowS-Pairs file (CSV), but {source} can't be read or is cut off: {error}. "
            "Give another file."
        ) from error
    if not pairs:
        raise InputError(f"`path` is expected to be a CrowS-Pairs file, but {source} has no pairs. Give another file.")
    return pairs


def _pair(record: Mapping[str, str | None], line: int, source: Path) -> CrowsPair:
    problem = _problem(record)
    if problem:
        raise InputError(
            f"`path` is expected to be a CrowS-Pairs file, but line {line} of {source} {problem}. "
            "Repair the file, or give another."
        )
    return CrowsPair(*(str(record[column]) for column in _COLUMNS))


def _problem(record: Mapping[str, str | None]) -> str:
    """Say what is wrong with a record; an empty string if nothing is."""
    for column in _COLUMNS:
        if not (record.get(column) or "").strip():
            return f"lacks a text under {column!r}"
    for column, known in (("bias_type", CATEGORIES), ("stereo_antistereo", DIRECTIONS)):
        if record[column] not in known:
            return f"has the {column} {record[column]!r}, not one of {', '.join(known)}"
    return ""


def shared_queries(tokenizer: PreTrainedTokenizerBase, pairs: list[CrowsPair]) -> list[list[Query]]:
    """Return what to ask a masked language model about each sentence: each token that the pair shares, masked in turn.

    The first and the last shared token, CLS and SEP, are never asked for. Which tokens are shared can depend on the
    order of the two sentences: as with the authors, the disadvantaged group's comes first.

    Args:
        tokenizer: of the model.
        pairs: of sentences.

    Returns:
        ``[2 · pair + column][token]``, the more stereotyping sentence in column 0; both ask for the same tokens.

    Reference:
        Nangia et al. 2020, section 3, and the authors' script.
    """
    more, less = (tokenizer([pair[column] for pair in pairs])["input_ids"] for column in range(2))
    queries = []
    for pair, *sentences in zip(pairs, more, less, strict=True):
        order = 1 if pair.direction == "stereo" else -1  # that of the groups, not of the stereotypes
        places = _shared_places(*sentences[::order])[::order]
        queries += [_masked(tokenizer, *both) for both in zip(sentences, places, strict=True)]
    return queries


def _shared_places(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """Return where the shared tokens stand in each of two sentences, without the first and the last.

    >>> _shared_places([101, 7, 8, 102], [101, 5, 6, 8, 102])
    ([2], [3])
    """
    blocks = SequenceMatcher(None, first, second).get_matching_blocks()
    places = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)][1:-1]
    return [place for place, _ in places], [place for _, place in places]


def _masked(tokenizer: PreTrainedTokenizerBase, sentence: list[int], places: list[int]) -> list[Query]:
    mask = (tokenizer.mask_token_id,)
    return [Query((*sentence[:p], *mask, *sentence[p + 1 :]), p, sentence[p]) for p in places]


class CrowsPairsDataModule(LightningDataModule):
    """CrowS-Pairs as batches of inputs; the tokenizer says which kind of model they are for.

    A batch is made of whole pairs: ``rule`` ("masked" or "causal"), ``inputs`` (see
    :func:`biaslab.data.queries.group_queries`; a sentence's index is 2 · pair + column, the more stereotyping one in
    column 0), ``examples`` (ids, ``[pair]``), ``categories`` (indices into ``category_names``, ``[pair]``), and for a
    causal model ``start_id``. :func:`biaslab.evaluation.scoring.score_pairs` scores it.

    Args:
        model_name: whose tokenizer is used.
        path: a file of CrowS-Pairs' form instead of CrowS-Pairs itself.
        limit: only the first so many pairs.
        every: of these every N-th pair.
        tokens_per_batch: batches are as large as this allows.

    Raises:
        InputError: if an argument has another value.
    """

    category_names = CATEGORIES

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        limit: int | None = None,
        every: int = 1,
        tokens_per_batch: int = 4096,
    ) -> None:
        super().__init__()
        for name, number in (("limit", limit), ("every", every), ("tokens_per_batch", tokens_per_batch)):
            if number is not None and number < 1:
                raise InputError(f"`{name}` is expected to be a positive integer but got {number}.")
        self.save_hyperparameters()

    def prepare_data(self) -> None:
        """Fetch the data set where no path is given."""
        if self.hparams["path"] is None:
            assets.fetch("crows-pairs")

    def setup(self, stage: str) -> None:
        """Read the pairs and tokenize them; once, however many trainers ask."""
        if hasattr(self, "batches"):
            return
        self.pairs = read_pairs(self.hparams["path"])[: self.hparams["limit"] : self.hparams["every"]]
        self.batches = self._batches(load_tokenizer(self.hparams["model_name"]))

    def _batches(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        kind: dict[str, Any] = {"rule": "masked"}
        if is_masked(tokenizer):
            queries = shared_queries(tokenizer, self.pairs)
        else:
            start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
            kind = {"rule": "causal", "start_id": start_id}
            queries = causal_queries(tokenizer, [text for pair in self.pairs for text in (pair.more, pair.less)])
        members = _whole_pairs(queries, self.hparams["tokens_per_batch"])
        return [kind | self._batch(pairs, queries) for pairs in members]

    def _batch(self, indices: list[int], queries: list[list[Query]]) -> dict[str, Any]:
        return {
            "inputs": group_queries([queries[2 * index + column] for index in indices for column in range(2)]),
            "examples": torch.tensor(indices),
            "categories": torch.tensor([CATEGORIES.index(self.pairs[index].category) for index in indices]),
        }

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the batches."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list serves as a data set


def _whole_pairs(queries: list[list[Query]], tokens_per_batch: int) -> list[list[int]]:
    """Group the indices of pairs, the short ones first, into batches of at most ``tokens_per_batch`` tokens."""
    lengths = [
        [len(query.input_ids) for sentence in queries[start : start + 2] for query in sentence]
        for start in range(0, len(queries), 2)
    ]
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda index: sorted(set(lengths[index]))):
        cost = sum(lengths[index])
        if cost > room or not batches:
            batches.append([])
            room = tokens_per_batch
        batches[-1].append(index)
        room -= cost
    return batches
