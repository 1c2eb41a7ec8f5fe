"""StereoSet: clusters from its files, and batches of inputs that score their candidates."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from biaslab.data.queries import BLANK, Query, causal_queries, group_queries, masked_queries
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.loading import load_tokenizer

DOMAINS = ("gender", "profession", "race", "religion")
LABELS = ("stereotype", "anti-stereotype", "unrelated")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Cluster(NamedTuple):
    """A context and three candidates.

    Attributes:
        id: of the cluster.
        target: the target term.
        domain: one of ``DOMAINS``.
        context: the sentence with BLANK (intrasentence), or the sentence that comes before (intersentence).
        sentences: the stereotype, the anti-stereotype and the unrelated candidate.
        sentence_ids: of the three.
    """

    id: str
    target: str
    domain: str
    context: str
    sentences: tuple[str, str, str]
    sentence_ids: tuple[str, str, str]


def read_clusters(source: str | Path = "dev", task: str = "intrasentence") -> list[Cluster]:
    """Return the clusters of a StereoSet file, in its order.

    Args:
        source: "dev" or "test" (the asset, fetched if need be), or a file of the same form.
        task: "intrasentence" or "intersentence".

    Raises:
        InputError: if the file can't be read, is cut off or is no StereoSet; it names the cluster and what it lacks.
    """
    path = assets.fetch("stereoset") / f"{source}.json" if source in ("dev", "test") else Path(source)
    return [_cluster(record, index, path, task) for index, record in enumerate(_records(path, task))]


def _records(path: Path, task: str) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"`path` is expected to be a StereoSet file (JSON), but {path} can't be read or is cut off: {error}. "
            "Give another file."
        ) from error
    data = content.get("data") if isinstance(content, dict) else None
    records = data.get(task) if isinstance(data, dict) else None
    if not isinstance(records, list) or not records:
        raise InputError(
            f"`path` is expected to be a StereoSet file, but {path} lacks a list of clusters under 'data', {task!r}. "
            "Give another file or task."
        )
    return records


def _cluster(record: Any, index: int, path: Path, task: str) -> Cluster:
    problem = _problem(record, task)
    if problem:
        name = repr(record["id"]) if isinstance(record, dict) and "id" in record else f"number {index}"
        raise InputError(
            f"`path` is expected to be a StereoSet file, but in {path} the {task} cluster {name} {problem}. "
            "Repair the file, or give another."
        )
    by_label = {sentence["gold_label"]: sentence for sentence in record["sentences"]}
    first, second, third = (by_label[label] for label in LABELS)
    return Cluster(
        id=record["id"],
        target=record["target"],
        domain=record["bias_type"],
        context=record["context"],
        sentences=(first["sentence"], second["sentence"], third["sentence"]),
        sentence_ids=(first["id"], second["id"], third["id"]),
    )


def _problem(record: Any, task: str) -> str:
    """Say what is wrong with a cluster; an empty string if nothing is."""
    if not isinstance(record, dict):
        return "is no mapping"
    for key in ("id", "target", "bias_type", "context"):
        if not _is_text(record.get(key)):
            return f"lacks a text under {key!r}"
    if record["bias_type"] not in DOMAINS:
        return f"has the bias_type {record['bias_type']!r}, not one of {', '.join(DOMAINS)}"
    if task == "intrasentence" and BLANK not in record["context"]:
        return f"lacks {BLANK} in its context {record['context']!r}"
    return _problem_of_sentences(record.get("sentences"))


def _problem_of_sentences(sentences: Any) -> str:
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        return "lacks a list of sentences under 'sentences'"
    for key in ("sentence", "id", "gold_label"):
        if not all(_is_text(sentence.get(key)) for sentence in sentences):
            return f"has a sentence that lacks a text under {key!r}"
    labels = [sentence["gold_label"] for sentence in sentences]
    if sorted(labels) != sorted(LABELS):
        return f"has sentences labelled {', '.join(labels) or 'nothing'}, not one each of {', '.join(LABELS)}"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def candidate_word(context: str, sentence: str) -> str:
    """Return the word of the sentence that stands in BLANK's place in the context, without punctuation.

    Both are split at single spaces. Where BLANK comes twice, the first counts.

    Raises:
        InputError: if the context has no BLANK, or the sentence no word there.

    >>> candidate_word("The doctor was BLANK.", "The doctor was kind.")
    'kind'
    """
    place = next((place for place, word in enumerate(context.split(" ")) if BLANK in word), None)
    if place is None:
        raise InputError(f"`context` is expected to hold {BLANK} but got {context!r}.")
    word = "".join(sentence.split(" ")[place : place + 1]).translate(_NO_PUNCTUATION)
    if not word:
        raise InputError(
            f"`sentence` is expected to have a word in {BLANK}'s place of {context!r} but got {sentence!r}."
        )
    return word


def _whole_clusters(queries: Sequence[Sequence[Query]], tokens_per_batch: int) -> list[list[int]]:
    """Group the indices of clusters, the short ones first, into batches of at most ``tokens_per_batch`` tokens."""
    inputs = [
        [len(input_ids) for input_ids in {query.input_ids for word in queries[start : start + 3] for query in word}]
        for start in range(0, len(queries), 3)
    ]
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(inputs)), key=lambda index: max(inputs[index])):
        cost = sum(inputs[index])
        if cost > room:
            batches.append([])
            room = tokens_per_batch
        batches[-1].append(index)
        room -= cost
    return batches


def half_of(term: str) -> str:
    """Return to which half of the target terms one belongs, by a hash: "find" (neurons) or "choose" (settings)."""
    return ("find", "choose")[hashlib.sha256(term.encode()).digest()[0] % 2]


class StereoSetDataModule(LightningDataModule):
    """StereoSet's clusters as batches of inputs; the tokenizer says which kind of model they are for.

    A batch is made of whole clusters: ``rule`` ("authors", "pll" or "causal"), ``inputs`` (see
    :func:`biaslab.data.queries.group_queries`; a candidate's index is 3 · cluster + column), ``pieces`` (queries a
    candidate, ``[cluster, 3]``), ``terms``, ``domains`` and ``examples`` (ids, ``[cluster]``), and for a causal model
    ``start_id``. :func:`biaslab.evaluation.scoring.score_clusters` scores it.

    Args:
        model_name: whose tokenizer is used.
        task: "intrasentence". ("intersentence" needs a next-sentence head, which the supported models lack.)
        split: "dev" or "test".
        path: a file of StereoSet's form instead.
        rule: of a masked model: "authors" (mean of the probabilities of a word's pieces, left to right) or "pll" (mean
            log-probability of the pieces, each masked in turn).
        tokens_per_batch: batches are as large as this allows.
        limit: only the first so many clusters.
        every: of these every N-th, which leaves some of each domain.
        terms: "all" target terms, or those of a half: "find" or "choose" (see :func:`half_of`).

    Raises:
        InputError: if an argument has another value.
    """

    domain_names = DOMAINS
    term_names: tuple[str, ...]

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        task: Literal["intrasentence", "intersentence"] = "intrasentence",
        split: Literal["dev", "test"] = "dev",
        path: str | None = None,
        rule: Literal["authors", "pll"] = "authors",
        tokens_per_batch: int = 4096,
        limit: int | None = None,
        every: int = 1,
        terms: Literal["all", "find", "choose"] = "all",
    ) -> None:
        super().__init__()
        if task == "intersentence":
            raise InputError(
                '`task` is expected to be "intrasentence" but got "intersentence", which needs a next-sentence head: '
                "no supported model has one, so it is skipped. Choose the other task."
            )
        _require("task", task, "intrasentence")
        _require("split", split, "dev", "test")
        _require("rule", rule, "authors", "pll")
        _require("terms", terms, "all", "find", "choose")
        for name, number in (("tokens_per_batch", tokens_per_batch), ("limit", limit), ("every", every)):
            if number is not None and number < 1:
                raise InputError(f"`{name}` is expected to be a positive integer but got {number}.")
        self.save_hyperparameters()

    def prepare_data(self) -> None:
        """Fetch the data set where no path is given."""
        if self.hparams["path"] is None:
            assets.fetch("stereoset")

    def setup(self, stage: str) -> None:
        """Read the clusters and tokenize them; once, however many trainers ask."""
        if hasattr(self, "batches"):
            return
        clusters = read_clusters(self.hparams["path"] or self.hparams["split"], self.hparams["task"])
        self.term_names = tuple(sorted({cluster.target for cluster in clusters}))  # of all: `limit` changes no id
        half = self.hparams["terms"]
        chosen = [cluster for cluster in clusters if half in ("all", half_of(cluster.target))]
        self.clusters = chosen[: self.hparams["limit"] : self.hparams["every"]]
        self.batches = self._batches(load_tokenizer(self.hparams["model_name"]))

    def _batches(self, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
        candidates = [(cluster.context, sentence) for cluster in self.clusters for sentence in cluster.sentences]
        kind: dict[str, Any] = {"rule": self.hparams["rule"]}
        if tokenizer.mask_token_id is None:
            _require("rule", self.hparams["rule"], "authors")
            start_id = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
            kind = {"rule": "causal", "start_id": start_id}
            queries = causal_queries(tokenizer, [sentence for _, sentence in candidates])
        else:
            words = [(context, candidate_word(context, sentence)) for context, sentence in candidates]
            queries = masked_queries(tokenizer, words, self.hparams["rule"])
        members = _whole_clusters(queries, self.hparams["tokens_per_batch"])
        return [kind | self._batch(clusters, queries) for clusters in members]

    def _batch(self, indices: list[int], queries: list[list[Query]]) -> dict[str, Any]:
        candidates = [queries[3 * index + column] for index in indices for column in range(3)]
        clusters = [self.clusters[index] for index in indices]
        return {
            "inputs": group_queries(candidates),
            "pieces": torch.tensor([len(candidate) for candidate in candidates]).view(-1, 3),
            "terms": torch.tensor([self.term_names.index(cluster.target) for cluster in clusters]),
            "domains": torch.tensor([DOMAINS.index(cluster.domain) for cluster in clusters]),
            "examples": torch.tensor(indices),
        }

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the batches."""
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]  # a list serves as a data set


def _require(name: str, value: str, *known: str) -> None:
    if value not in known:
        raise InputError(f"`{name}` is expected to be {' or '.join(known)} but got {value!r}.")
