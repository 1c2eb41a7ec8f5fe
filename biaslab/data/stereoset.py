"""StereoSet: clusters from its files, and batches of inputs that score their candidates."""

import hashlib
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import BLANK, causal_queries, masked_queries, say_unknown_words, whole_examples
from biaslab.data.records import json_content
from biaslab.errors import InputError, read_text, reading, require_one_of
from biaslab.models import assets
from biaslab.models.positions import require_room, say_once
from biaslab.models.tokens import Bos, beginning, is_masked, require_bos

DOMAINS = ("gender", "profession", "race", "religion")
TEST_TERMS = {"gender": 30, "profession": 90, "race": 113, "religion": 9}  # in the test split
_HUB_LABELS = ("anti-stereotype", "stereotype", "unrelated")  # by label id of the hub's data set
LABELS = ("stereotype", "anti-stereotype", "unrelated")
Task = Literal["intrasentence", "intersentence"]
Terms = Literal["all", "find", "choose"]
_HALVES = ("find", "choose")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Cluster(NamedTuple):
    """A context and three candidates."""

    id: str
    target: str  # term
    domain: str  # one of DOMAINS
    context: str  # the sentence with BLANK (intrasentence), or the preceding sentence (intersentence)
    sentences: tuple[str, ...]  # three, in the order of LABELS
    sentence_ids: tuple[str, ...]


def read_clusters(source: str | Path = "dev", task: str = "intrasentence") -> list[Cluster]:
    """Return the clusters of a task from the asset ("dev" or "test") or from a file in its format, in order.

    A file may also have the hub's format: a list or lines of clusters, with sentences as columns and label ids.

    Raises:
        InputError: if the file cannot be read, is truncated or is not StereoSet; the message gives the cluster and the
            problem.
    """
    path = assets.fetch("stereoset") / f"{source}.json" if source in ("dev", "test") else Path(source)
    with reading("path", "a StereoSet file (JSON)", path):
        content = json_content(read_text(path))
    data = content.get("data", content) if isinstance(content, dict) else {task: content}
    records = data.get(task) if isinstance(data, dict) else data
    if not isinstance(records, list) or not records:
        raise InputError(
            f"`path` is expected to be a StereoSet file, but {path} lacks a list of clusters under 'data', {task!r}. "
            "Give another file or task."
        )
    return [_cluster(_plain(record), index, path, task) for index, record in enumerate(records)]


def _plain(record: Any) -> Any:
    """Convert a record from the hub's format (sentences as columns, label ids) to the file's."""
    sentences = record.get("sentences") if isinstance(record, dict) else None
    if isinstance(sentences, dict):
        columns = {key: values for key, values in sentences.items() if isinstance(values, list)}
        sentences = [dict(zip(columns, values, strict=False)) for values in zip(*columns.values(), strict=False)]
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        return record
    labels = [sentence.get("gold_label") for sentence in sentences]
    named = [_HUB_LABELS[n] if type(n) is int and 0 <= n < len(_HUB_LABELS) else n for n in labels]
    return record | {"sentences": [s | {"gold_label": n} for s, n in zip(sentences, named, strict=True)]}


def predictions(
    clusters: Sequence[Cluster], scores: Tensor, examples: Tensor, task: Task = "intrasentence"
) -> dict[str, list[dict[str, Any]]]:
    """Return scores in the StereoSet authors' prediction format, which their scorer and others read.

    Args:
        clusters: clusters of a data module.
        scores: scores of the sentences, ``[example, 3]``, in the order of LABELS.
        examples: index of each row's cluster, ``[example]``.
        task: task of the clusters; the other task's list is empty.
    """
    found = [
        {"id": sentence, "score": score}
        for number, row in zip(examples.tolist(), scores.tolist(), strict=True)
        for sentence, score in zip(clusters[number].sentence_ids, row, strict=True)
    ]
    return {"intrasentence": [], "intersentence": []} | {task: found}


def half_of(term: str) -> str:
    """Return the half of the target terms to which a term belongs, by a hash: "find" (neurons) or "choose" (settings).

    >>> [half_of(term) for term in ("doctor", "mother")]
    ['find', 'choose']
    """
    return _HALVES[hashlib.sha256(term.encode()).digest()[0] % 2]


def _cluster(record: Any, index: int, path: Path, task: str) -> Cluster:
    if wrong := _problem(record, task):
        name = repr(record["id"]) if isinstance(record, dict) and "id" in record else f"number {index}"
        raise InputError(
            f"`path` is expected to be a StereoSet file, but in {path} the {task} cluster {name} {wrong}. "
            "Fix the file, or give another one."
        )
    candidates = sorted(record["sentences"], key=lambda sentence: LABELS.index(sentence["gold_label"]))
    sentences, ids = (tuple(candidate[key] for candidate in candidates) for key in ("sentence", "id"))
    return Cluster(record["id"], record["target"], record["bias_type"], record["context"], sentences, ids)


def _problem(record: Any, task: str) -> str:
    if not isinstance(record, dict):
        return "is not a mapping"
    if wrong := problem(record, ("id", "target", "bias_type", "context"), {"bias_type": DOMAINS}):
        return wrong
    if task == "intrasentence" and BLANK not in record["context"]:
        return f"lacks {BLANK} in its context {record['context']!r}"
    sentences = record.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(sentence, dict) for sentence in sentences):
        return "lacks a list of sentences under 'sentences'"
    for sentence in sentences:
        if wrong := problem(sentence, ("sentence", "id", "gold_label"), {}):
            return f"has a sentence that {wrong}"
    labels = [sentence["gold_label"] for sentence in sentences]
    if sorted(labels) != sorted(LABELS):
        return f"has sentences labelled {', '.join(labels) or 'nothing'} instead of {', '.join(LABELS)}"
    return ""


def spread(clusters: Iterable[Cluster]) -> Iterator[Cluster]:
    """Yield shuffled clusters, alternating between domains, so that any prefix is balanced while clusters last."""
    shuffled = list(clusters)
    random.Random(0).shuffle(shuffled)
    by_domain = [[cluster for cluster in shuffled if cluster.domain == domain] for domain in DOMAINS]
    return filter(None, chain.from_iterable(zip_longest(*by_domain)))


def candidate_word(context: str, sentence: str) -> str:
    """Return the word of the sentence at BLANK's place in the context, without punctuation.

    Both are split at single spaces. If BLANK occurs twice, the first one counts.

    Raises:
        InputError: if the context has no BLANK, or the sentence has no word there.

    >>> candidate_word("The doctor was BLANK.", "The doctor was kind.")
    'kind'
    """
    place = next((place for place, word in enumerate(context.split(" ")) if BLANK in word), None)
    if place is None:
        raise InputError(f"`context` is expected to contain {BLANK} but got {context!r}.")
    word = "".join(sentence.split(" ")[place : place + 1]).translate(_NO_PUNCTUATION)
    if not word:
        raise InputError(
            f"`sentence` is expected to have a word at the place of {BLANK} in {context!r} but got {sentence!r}."
        )
    return word


class ClusterData(EvaluationData):
    """Base class of both tasks: clusters of the asset or a file, selected by ``limit``, ``every`` and ``terms``."""

    asset = "stereoset"
    domain_names = DOMAINS
    task: ClassVar[Task]
    term_names: tuple[str, ...]
    clusters: list[Cluster]

    def require_options(self) -> None:
        """Raise an ``InputError`` for invalid choices."""
        require_one_of("split", self.hparams["split"], ["dev", "test"])
        require_one_of("terms", self.hparams["terms"], ["all", *_HALVES])
        require_bos(self.hparams["bos"])

    def choose(self) -> None:
        """Read and select the clusters."""
        h = self.hparams
        clusters = read_clusters(h["path"] or h["split"], self.task)
        self.term_names = tuple(sorted({cluster.target for cluster in clusters}))  # before `limit`, so ids don't change
        chosen = [cluster for cluster in clusters if h["terms"] in ("all", half_of(cluster.target))]
        self.clusters = chosen[: h["limit"] : h["every"]]

    def place(self, cluster: Cluster) -> str:
        """Return the location of a cluster, for messages."""
        return f"the cluster {cluster.id!r} of {self.hparams['path'] or self.hparams['split']}"

    def labels(self) -> dict[str, Tensor]:
        """Return the indices of terms and domains, ``[cluster]``."""
        return {
            "terms": torch.tensor([self.term_names.index(cluster.target) for cluster in self.clusters]),
            "domains": torch.tensor([DOMAINS.index(cluster.domain) for cluster in self.clusters]),
        }


class StereoSetDataModule(ClusterData):
    """StereoSet's clusters as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole clusters: ``inputs`` and ``examples`` of :func:`biaslab.data.queries.whole_examples`,
    ``rule`` ("authors", "pll" or "causal"), ``pieces`` (queries per candidate, ``[cluster, 3]``), ``terms`` and
    ``domains`` (indices, ``[cluster]``), and for a causal model ``start_id`` and ``front``
    (see :func:`biaslab.evaluation.sentences.sequence_log2_probabilities`).
    :func:`biaslab.evaluation.scoring.score_clusters` computes its scores.

    Args:
        model_name: the model whose tokenizer is used.
        task: "intrasentence"; for "intersentence" use :class:`biaslab.data.intersentence.IntersentenceDataModule`.
        split: "dev" or "test".
        path: a file in StereoSet's format, used instead.
        rule: for masked models: "authors" (mean probability of a word's pieces, left to right) or "pll" (mean
            log-probability of the pieces, each masked in turn).
        tokens_per_batch: maximum number of tokens in a batch.
        limit: use only the first N clusters.
        every: use every N-th of these, which keeps some of each domain.
        terms: "all", or only the clusters of half of the target terms: "find" or "choose".
        bos: for causal models, what sentences are conditioned on. "tokenizer": all tokens on what the tokenizer
            prepends, such as BOS. If it prepends nothing, and for "authors": the first token on the start token only,
            later tokens on the sentence only.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    task = "intrasentence"

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        task: Task = "intrasentence",
        split: Literal["dev", "test"] = "dev",
        path: str | None = None,
        rule: Literal["authors", "pll"] = "authors",
        tokens_per_batch: int = 4096,
        limit: int | None = None,
        every: int = 1,
        terms: Terms = "all",
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        if task == "intersentence":
            raise InputError(
                '`task` is expected to be "intrasentence" but got "intersentence", which is a separate benchmark '
                "(masked models need a next-sentence head). Run `biaslab test -c stereoset_intersentence`."
            )
        require_one_of("task", task, ["intrasentence"])
        require_one_of("rule", rule, ["authors", "pll"])
        self.require_options()

    def _say_same(self, words: Sequence[str]) -> None:
        same = sum(first == second for first, second in zip(words[::3], words[1::3], strict=True))
        if same:
            say_once(
                f"{same} of {len(words) // 3} clusters have the same word at the place of {BLANK} in the stereotype "
                "and the anti-stereotype (such as the first of several words): they tie and count as not preferred."
            )

    def read(self) -> list[dict[str, Any]]:
        """Read the clusters and return their batches."""
        h = self.hparams
        self.choose()
        candidates = [(cluster.context, sentence) for cluster in self.clusters for sentence in cluster.sentences]
        tokenizer = self.load_tokenizer()
        kind: dict[str, Any] = {"rule": h["rule"]}
        if is_masked(tokenizer):
            words = [(context, candidate_word(context, sentence)) for context, sentence in candidates]
            queries = masked_queries(tokenizer, words, h["rule"])
            say_unknown_words(tokenizer, queries, "candidate words")
            self._say_same([word for _, word in words])
        else:
            require_one_of("rule", h["rule"], ["authors"])
            start = beginning(tokenizer, h["bos"])
            kind = {"rule": "causal", "start_id": start.start_id, "front": len(start.front)}
            queries = causal_queries(tokenizer, [sentence for _, sentence in candidates], start)
        lengths = (max(len(query.input_ids) for query in candidate) for candidate in queries)
        require_room(tokenizer, lengths, lambda number: self.place(self.clusters[number // 3]))
        labels = {"pieces": torch.tensor([len(candidate) for candidate in queries]).view(-1, 3)} | self.labels()
        batches = whole_examples(queries, 3, h["tokens_per_batch"], max)
        return [kind | batch | {name: each[batch["examples"]] for name, each in labels.items()} for batch in batches]
