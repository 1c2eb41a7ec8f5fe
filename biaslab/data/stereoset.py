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
TEST_TERMS = {"gender": 30, "profession": 90, "race": 113, "religion": 9}  # of the test split: how many in each domain
_HUB_LABELS = ("anti-stereotype", "stereotype", "unrelated")  # that the hub's data set numbers
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
    context: str  # the sentence with BLANK (intrasentence), or the sentence that comes before (intersentence)
    sentences: tuple[str, ...]  # three, in the order of LABELS
    sentence_ids: tuple[str, ...]


def read_clusters(source: str | Path = "dev", task: str = "intrasentence") -> list[Cluster]:
    """Return the clusters of a task of the asset ("dev" or "test"), or of a file of its form, in its order.

    A file may have the hub's form, too: a list of clusters or a line each, their sentences as columns, numbered labels.

    Raises:
        InputError: if the file can't be read, is cut off or is no StereoSet; it names the cluster and what it lacks.
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
    """Return a record of the hub's form in that of the file: its sentences are columns, and its labels numbers."""
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
    """Return scores in the form of the StereoSet authors' predictions, which their and others' scorers read.

    Args:
        clusters: of a data module.
        scores: of their sentences, ``[example, 3]``, in the order of LABELS.
        examples: which cluster each row is of, ``[example]``.
        task: of the clusters; the other one's list is empty.
    """
    found = [
        {"id": sentence, "score": score}
        for number, row in zip(examples.tolist(), scores.tolist(), strict=True)
        for sentence, score in zip(clusters[number].sentence_ids, row, strict=True)
    ]
    return {"intrasentence": [], "intersentence": []} | {task: found}


def half_of(term: str) -> str:
    """Return to which half of the target terms one belongs, by a hash: "find" (neurons) or "choose" (settings).

    >>> [half_of(term) for term in ("doctor", "mother")]
    ['find', 'choose']
    """
    return _HALVES[hashlib.sha256(term.encode()).digest()[0] % 2]


def _cluster(record: Any, index: int, path: Path, task: str) -> Cluster:
    if wrong := _problem(record, task):
        name = repr(record["id"]) if isinstance(record, dict) and "id" in record else f"number {index}"
        raise InputError(
            f"`path` is expected to be a StereoSet file, but in {path} the {task} cluster {name} {wrong}. "
            "Repair the file, or give another."
        )
    candidates = sorted(record["sentences"], key=lambda sentence: LABELS.index(sentence["gold_label"]))
    sentences, ids = (tuple(candidate[key] for candidate in candidates) for key in ("sentence", "id"))
    return Cluster(record["id"], record["target"], record["bias_type"], record["context"], sentences, ids)


def _problem(record: Any, task: str) -> str:
    if not isinstance(record, dict):
        return "is no mapping"
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
        return f"has sentences labelled {', '.join(labels) or 'nothing'}, not one each of {', '.join(LABELS)}"
    return ""


def spread(clusters: Iterable[Cluster]) -> Iterator[Cluster]:
    """Yield clusters at random, in turn of each domain, so that the first ones are as many of each as there are."""
    shuffled = list(clusters)
    random.Random(0).shuffle(shuffled)
    by_domain = [[cluster for cluster in shuffled if cluster.domain == domain] for domain in DOMAINS]
    return filter(None, chain.from_iterable(zip_longest(*by_domain)))


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


class ClusterData(EvaluationData):
    """What both tasks share: clusters of the asset or of a file, chosen by ``limit``, ``every`` and ``terms``."""

    asset = "stereoset"
    domain_names = DOMAINS
    task: ClassVar[Task]
    term_names: tuple[str, ...]
    clusters: list[Cluster]

    def require_options(self) -> None:
        """Refuse what is not one of an option's choices (InputError)."""
        require_one_of("split", self.hparams["split"], ["dev", "test"])
        require_one_of("terms", self.hparams["terms"], ["all", *_HALVES])
        require_bos(self.hparams["bos"])

    def choose(self) -> None:
        """Read the clusters."""
        h = self.hparams
        clusters = read_clusters(h["path"] or h["split"], self.task)
        self.term_names = tuple(sorted({cluster.target for cluster in clusters}))  # of all: `limit` changes no id
        chosen = [cluster for cluster in clusters if h["terms"] in ("all", half_of(cluster.target))]
        self.clusters = chosen[: h["limit"] : h["every"]]

    def place(self, cluster: Cluster) -> str:
        """Return where a cluster is, for messages."""
        return f"the cluster {cluster.id!r} of {self.hparams['path'] or self.hparams['split']}"

    def labels(self) -> dict[str, Tensor]:
        """Return the indices of terms and domains, ``[cluster]``."""
        return {
            "terms": torch.tensor([self.term_names.index(cluster.target) for cluster in self.clusters]),
            "domains": torch.tensor([DOMAINS.index(cluster.domain) for cluster in self.clusters]),
        }


class StereoSetDataModule(ClusterData):
    """StereoSet's clusters as batches of inputs for the kind of model that the tokenizer belongs to.

    A batch is made of whole clusters: ``inputs`` and ``examples`` as of :func:`biaslab.data.queries.whole_examples`,
    ``rule`` ("authors", "pll" or "causal"), ``pieces`` (queries a candidate, ``[cluster, 3]``), ``terms`` and
    ``domains`` (indices, ``[cluster]``), and for a causal model ``start_id`` and ``front``
    (as of :func:`biaslab.evaluation.sentences.sequence_log2_probabilities`).
    :func:`biaslab.evaluation.scoring.score_clusters` scores it.

    Args:
        model_name: whose tokenizer is used.
        task: "intrasentence"; "intersentence" is :class:`biaslab.data.intersentence.IntersentenceDataModule`'s.
        split: "dev" or "test".
        path: a file of StereoSet's form instead.
        rule: of a masked model: "authors" (mean of the probabilities of a word's pieces, left to right) or "pll" (mean
            log-probability of the pieces, each masked in turn).
        tokens_per_batch: batches are as large as this allows.
        limit: only the first so many clusters.
        every: of these only every so many-th, which leaves some of each domain.
        terms: "all", or only the clusters of half of the target terms, "find" or "choose".
        bos: of a causal model, what its sentences are conditioned on: "tokenizer", all of each on what the tokenizer
            puts in front of it, such as BOS; where it puts nothing, and by "authors", the first token on the start
            token alone and the later ones on the sentence alone.
        trust_remote_code: let a checkpoint bring its own Python code.
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
                '`task` is expected to be "intrasentence" but got "intersentence", a benchmark of its own (a masked '
                "model needs a next-sentence head for it). Run `biaslab test -c stereoset_intersentence`."
            )
        require_one_of("task", task, ["intrasentence"])
        require_one_of("rule", rule, ["authors", "pll"])
        self.require_options()

    def _say_same(self, words: Sequence[str]) -> None:
        same = sum(first == second for first, second in zip(words[::3], words[1::3], strict=True))
        if same:
            say_once(
                f"{same} of {len(words) // 3} clusters have the same word in {BLANK}'s place of the stereotype and the "
                "anti-stereotype, such as the first of several: they tie, and count as not preferred."
            )

    def read(self) -> list[dict[str, Any]]:
        """Read the clusters, and return their batches."""
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
