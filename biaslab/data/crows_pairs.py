"""CrowS-Pairs: sentence pairs, and batches of inputs that score the tokens that both sentences share."""

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import Queries, causal_queries, masked_in_turn, say_unknown_words, whole_examples
from biaslab.data.records import json_content, table_records
from biaslab.errors import InputError, read_text, reading
from biaslab.models import assets
from biaslab.models.positions import require_room
from biaslab.models.tokens import Bos, beginning, is_masked, require_bos

CATEGORIES = (
    "age", "disability", "gender", "nationality", "physical-appearance", "race-color", "religion",
    "sexual-orientation", "socioeconomic",
)  # fmt: skip
DIRECTIONS = ("stereo", "antistereo")  # in the order of the hub's label ids, like _HUB_CATEGORIES
_HUB_CATEGORIES = (
    "race-color", "socioeconomic", "gender", "disability", "nationality", "sexual-orientation", "physical-appearance",
    "religion", "age",
)  # fmt: skip
Categories: TypeAlias = "str | Sequence[str]"
_COLUMNS = ("sent_more", "sent_less", "bias_type", "stereo_antistereo")


class CrowsPair(NamedTuple):
    """Two sentences that differ in the group they are about."""

    more: str  # the more stereotyping sentence
    less: str
    category: str  # one of CATEGORIES, or another category of the file
    direction: str  # "stereo" if the disadvantaged group's sentence is the more stereotyping one, else "antistereo"


def read_pairs(path: str | Path | None = None, categories: Categories = ()) -> list[CrowsPair]:
    """Return the pairs of a CSV file in CrowS-Pairs' format, in order; without a path, those of the asset.

    Also reads the hub's format (CSV or JSON with directions and bias types as numbers) and other delimiters.
    ``categories`` are additional bias types that the file may contain; "any" allows all.

    Raises:
        InputError: if the file cannot be read or is not CrowS-Pairs; the message gives the line and the problem.
    """
    return list(pairs_by_line(path, categories).values())


def pairs_by_line(path: str | Path | None = None, categories: Categories = ()) -> dict[int, CrowsPair]:
    """Return the pairs of :func:`read_pairs` by the number of the line in which they end."""
    source = assets.fetch("crows-pairs") / "crows_pairs_anonymized.csv" if path is None else Path(path)
    with reading("path", "a CrowS-Pairs file (CSV)", source):
        text = read_text(source)
        content = json_content(text) if text.lstrip()[:1] in ("[", "{") else None
        records = table_records(text, _COLUMNS) if content is None else _numbered(content)
        further, pairs = [categories] if isinstance(categories, str) else list(categories), {}
        for line, record in records:
            named = _plain(record)
            more = [str(named.get("bias_type"))] if categories == "any" else further
            known = [*CATEGORIES, *more]
            if wrong := problem(named, _COLUMNS, {"bias_type": known, "stereo_antistereo": DIRECTIONS}):
                unknown = "not one of" in wrong and "bias_type" in wrong
                raise InputError(
                    f"`path` is expected to be a CrowS-Pairs file, but line {line} of {source} {wrong}. "
                    f"Fix the file, give another one{', or allow more bias types with `categories`' * unknown}."
                )
            pairs[line] = CrowsPair(*(named[column] for column in _COLUMNS))
    if not pairs:
        raise InputError(f"`path` is expected to be a CrowS-Pairs file, but {source} has no pairs. Give another file.")
    return pairs


def _numbered(content: Any) -> Iterator[tuple[int, Any]]:
    """Yield the records of JSON content with their numbers, starting at 1."""
    records = content.get("data", content) if isinstance(content, dict) else content
    if isinstance(records, dict):  # stored by column
        columns = {key: values for key, values in records.items() if isinstance(values, list)}
        records = [dict(zip(columns, values, strict=False)) for values in zip(*columns.values(), strict=False)]
    if isinstance(records, list):
        yield from enumerate(records, 1)


def _plain(record: Any) -> dict[str, Any]:
    """Return a record with the hub's label ids replaced by names."""
    named = dict(record) if isinstance(record, dict) else {}
    for column, names in (("bias_type", _HUB_CATEGORIES), ("stereo_antistereo", DIRECTIONS)):
        value = named.get(column)
        number = int(value) if isinstance(value, str) and value.strip() in map(str, range(len(names))) else value
        if type(number) is int and 0 <= number < len(names):
            named[column] = names[number]
    return named


def sentence_queries(
    tokenizer: PreTrainedTokenizerBase, pairs: list[CrowsPair], bos: Bos = "tokenizer"
) -> tuple[dict[str, Any], Queries]:
    """Return the queries of each sentence, ``[2 · pair + column][query]``, and the common fields of the batches.

    Masked models use :func:`shared_queries`, causal models whole sentences. The fields are ``rule`` ("masked" or
    "causal") and, for a causal model, ``start_id`` and ``front`` (see
    :func:`biaslab.evaluation.sentences.sequence_log2_probabilities`).
    """
    if is_masked(tokenizer):
        queries = shared_queries(tokenizer, pairs)
        say_unknown_words(tokenizer, queries, "sentences")
        return {"rule": "masked"}, queries
    start = beginning(tokenizer, bos)
    kind = {"rule": "causal", "start_id": start.start_id, "front": len(start.front)}
    return kind, causal_queries(tokenizer, [text for pair in pairs for text in (pair.more, pair.less)], start)


def shared_queries(tokenizer: PreTrainedTokenizerBase, pairs: list[CrowsPair]) -> Queries:
    """Return a masked language model's queries for each sentence: each token that the pair shares, masked in turn.

    The first and last shared tokens, CLS and SEP, are not queried. The set of shared tokens can depend on the order of
    the two sentences: as in the authors' script (Nangia et al. 2020, section 3), the disadvantaged group's comes first.

    Returns:
        ``[2 · pair + column][token]``, the more stereotyping sentence in column 0; both query the same tokens.
    """
    more, less = (tokenizer([pair[column] for pair in pairs])["input_ids"] for column in range(2))
    queries = []
    for pair, *sentences in zip(pairs, more, less, strict=True):
        order = 1 if pair.direction == "stereo" else -1  # ordered by group, not by stereotype
        places = shared_places(*sentences[::order])[::order]
        queries += [masked_in_turn(tokenizer, *both) for both in zip(sentences, places, strict=True)]
    return queries


def shared_places(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """Return the positions of the shared tokens in each of two sentences, without the first and last.

    >>> shared_places([101, 7, 8, 102], [101, 5, 6, 8, 102])
    ([2], [3])
    """
    blocks = SequenceMatcher(None, first, second).get_matching_blocks()
    places = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)][1:-1]
    return [place for place, _ in places], [place for _, place in places]


class CrowsPairsDataModule(EvaluationData):
    """CrowS-Pairs as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole pairs: ``inputs`` and ``examples`` of :func:`biaslab.data.queries.whole_examples` (a
    pair's more stereotyping sentence first), ``rule`` ("masked" or "causal"), ``categories`` (indices into
    ``category_names``, ``[pair]``), and for a causal model ``start_id``.
    :func:`biaslab.evaluation.scoring.score_pairs` computes its scores.

    Args:
        model_name: the model whose tokenizer is used.
        path: a file in CrowS-Pairs' format, used instead of CrowS-Pairs.
        limit: use only the first N pairs.
        tokens_per_batch: maximum number of tokens in a batch.
        categories: bias types that the file may have besides the nine; "any" allows all.
        every: use every N-th pair of the file, which keeps some of each category.
        bos: for causal models, what sentences are conditioned on. "tokenizer": all tokens on what the tokenizer
            prepends, such as BOS. If it prepends nothing, and for "authors" (StereoSet's rule): the first token on the
            start token only, later tokens on the sentence only.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    asset = "crows-pairs"
    category_names: tuple[str, ...] = CATEGORIES

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        limit: int | None = None,
        tokens_per_batch: int = 4096,
        every: int = 1,
        categories: str | Sequence[str] = (),
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs and return their batches."""
        h = self.hparams
        lines = list(pairs_by_line(h["path"], h["categories"]).items())[: h["limit"] : h["every"]]
        self.pairs = [pair for _, pair in lines]
        found = {pair.category for _, pair in lines}
        self.category_names = (*CATEGORIES, *sorted(found - set(CATEGORIES)))
        tokenizer = self.load_tokenizer()
        kind, queries = sentence_queries(tokenizer, self.pairs, h["bos"])
        lengths = (max((len(query.input_ids) for query in sentence), default=0) for sentence in queries)
        file = h["path"] or self.asset
        require_room(tokenizer, lengths, lambda number: f"line {lines[number // 2][0]} of {file}")
        batches = whole_examples(queries, 2, h["tokens_per_batch"], lambda lengths: sorted(set(lengths)))
        categories = torch.tensor([self.category_names.index(pair.category) for pair in self.pairs])
        return [kind | batch | {"categories": categories[batch["examples"]]} for batch in batches]
