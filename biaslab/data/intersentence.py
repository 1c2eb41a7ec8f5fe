"""StereoSet's intersentence task: which of three sentences a model prefers as the continuation of a context."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab.data.queries import Queries, Query, causal_queries, whole_examples
from biaslab.data.stereoset import ClusterData, Terms
from biaslab.models.loading import NextSentenceHead, load_next_sentence_head
from biaslab.models.positions import require_room
from biaslab.models.tokens import Beginning, Bos, beginning, is_masked

_ENDS = (".", "!", "?")


def following_queries(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> Queries:
    """Return pairs of context and sentence for a next-sentence head, ``[pair][1]``; positions are sentence starts."""
    read = tokenizer([context for context, _ in pairs], [sentence for _, sentence in pairs], return_token_type_ids=True)
    columns = zip(read["input_ids"], read["token_type_ids"], strict=True)
    return [[Query(tuple(ids), types.index(1), 0)] for ids, types in columns]


def continued_queries(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], start: Beginning
) -> tuple[Queries, list[int]]:
    """Return sentences after their contexts for a causal model, ``[pair][1]``, and the token count of each sentence.

    As in the authors' script, a context without a final full stop, exclamation or question mark gets a full stop, and
    is followed by a space.
    """
    contexts = [context.rstrip() for context, _ in pairs]
    contexts = [context if context.endswith(_ENDS) else f"{context}." for context in contexts]
    queries = causal_queries(tokenizer, [f"{c} {s}" for c, (_, s) in zip(contexts, pairs, strict=True)], start)
    alone = tokenizer(contexts, add_special_tokens=False)["input_ids"]
    counts = []
    for (query,), context in zip(queries, alone, strict=True):
        tokens = query.input_ids[len(start.front) :]
        same = takewhile(lambda both: both[0] == both[1], zip(tokens, context, strict=False))
        counts.append(len(tokens) - len(list(same)))
    return queries, counts


class IntersentenceDataModule(ClusterData):
    """The clusters of StereoSet's intersentence task as batches, for masked or causal models.

    A batch contains whole clusters: ``inputs`` and ``examples`` of :func:`biaslab.data.queries.whole_examples`,
    ``rule``, ``terms`` and ``domains`` (indices, ``[cluster]``). With the rule "next sentence", for masked models, an
    input is a context and a sentence, which starts at ``position``. With "ratio", for causal models, a cluster's inputs
    are the three sentences after the context and then the three sentences alone; there are also ``tokens`` (number of
    tokens of each sentence, ``[cluster, 6]``), ``start_id`` and ``front`` (see
    :func:`biaslab.evaluation.sentences.sequence_log2_probabilities`).
    :func:`biaslab.evaluation.intersentence.score_continuations` computes the scores.

    Args:
        model_name: the model whose tokenizer is used and, if it is a masked model, its next-sentence head.
        split: "dev" or "test".
        path: a file in StereoSet's format, used instead.
        tokens_per_batch: maximum number of tokens in a batch.
        limit: use only the first N clusters.
        every: use every N-th of these, which keeps some of each domain.
        terms: "all", or only the clusters of half of the target terms: "find" or "choose".
        bos: for causal models, what contexts and sentences are conditioned on; see
            :class:`biaslab.data.stereoset.StereoSetDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.

    Raises:
        InputError: in ``setup``, if a masked model's checkpoint has no trained next-sentence head.
    """

    task = "intersentence"
    head: NextSentenceHead | None = None  # for masked models, available after setup

    def __init__(
        self,
        model_name: str = "smollm2-135m",
        split: Literal["dev", "test"] = "dev",
        path: str | None = None,
        tokens_per_batch: int = 4096,
        limit: int | None = None,
        every: int = 1,
        terms: Terms = "all",
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        self.require_options()

    def read(self) -> list[dict[str, Any]]:
        """Read the clusters and return their batches."""
        h = self.hparams
        self.choose()
        tokenizer = self.load_tokenizer()
        candidates = [(cluster.context, sentence) for cluster in self.clusters for sentence in cluster.sentences]
        labels = self.labels()
        kind: dict[str, Any] = {"rule": "next sentence"}
        if is_masked(tokenizer):
            self.head = load_next_sentence_head(h["model_name"], trust_remote_code=self._trust_remote_code)
            queries = following_queries(tokenizer, candidates)
        else:
            start = beginning(tokenizer, h["bos"])
            kind = {"rule": "ratio", "start_id": start.start_id, "front": len(start.front)}
            queries, labels["tokens"] = self._both(tokenizer, candidates, start)
        each = len(queries) // len(self.clusters)
        lengths = (len(query.input_ids) for (query,) in queries)
        require_room(tokenizer, lengths, lambda number: self.place(self.clusters[number // each]))
        batches = whole_examples(queries, each, h["tokens_per_batch"], max)
        return [kind | batch | {name: one[batch["examples"]] for name, one in labels.items()} for batch in batches]

    def _both(
        self, tokenizer: PreTrainedTokenizerBase, candidates: Sequence[tuple[str, str]], start: Beginning
    ) -> tuple[Queries, Tensor]:
        """Return the queries for the sentences after their contexts and alone, by cluster, and the token counts."""
        after, counts = continued_queries(tokenizer, candidates, start)
        alone = causal_queries(tokenizer, [sentence for _, sentence in candidates], start)
        own = [len(query.input_ids) - len(start.front) for (query,) in alone]
        places = range(0, len(candidates), 3)
        queries = [query for at in places for query in (*after[at : at + 3], *alone[at : at + 3])]
        return queries, torch.cat([torch.tensor(counts).view(-1, 3), torch.tensor(own).view(-1, 3)], 1)
