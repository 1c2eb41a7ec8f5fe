"""CrowS-Pairs: pairs of sentences from its file, and batches of inputs that score what both share."""

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
DIRECTIONS = ("stereo", "antistereo")  # in the order of the hub's numbers, as _HUB_CATEGORIES
_HUB_CATEGORIES = (
    "race-color", "socioeconomic", "gender", "disability", "nationality", "sexual-orientation", "physical-appearance",
    "religion", "age",
)  # fmt: skip
Categories: TypeAlias = "str | Sequence[str]"
_COLUMNS = ("sent_more", "sent_less", "bias_type", "stereo_antistereo")


class CrowsPair(NamedTuple):
    """Two sentences that differ in the group that they speak about."""

    more: str  # the more stereotyping sentence
    less: str
    category: str  # one of CATEGORIES, or another one of a user's file
    direction: str  # "stereo" where the disadvantaged group's sentence is the more stereotyping one, else "antistereo"


def read_pairs(path: str | Path | None = None, categories: Categories = ()) -> list[CrowsPair]:
    """Return the pairs of a CSV file of CrowS-Pairs' form, in its order; without a path, of the asset's.

    The hub's form is read too: CSV or JSON in which directions and bias types are numbers; and other delimiters.
    ``categories`` are bias types that the file may have beside CATEGORIES; "any" for whatever it has.

    Raises:
        InputError: if the file can't be read or is no CrowS-Pairs; it names the line and what it lacks.
    """
    return list(pairs_by_line(path, categories).values())


def pairs_by_line(path: str | Path | None = None, categories: Categories = ()) -> dict[int, CrowsPair]:
    """Return what :func:`read_pairs` does, by the number of the line that a pair ends in."""
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
                    f"Repair the file, give another{', or allow more bias types (categories)' * unknown}."
                )
            pairs[line] = CrowsPair(*(named[column] for column in _COLUMNS))
    if not pairs:
        raise InputError(f"`path` is expected to be a CrowS-Pairs file, but {source} has no pairs. Give another file.")
    return pairs


def _numbered(content: Any) -> Iterator[tuple[int, Any]]:
    """Yield the records of JSON with their numbers, the first being 1."""
    records = content.get("data", content) if isinstance(content, dict) else content
    if isinstance(records, dict):  # of columns
        columns = {key: values for key, values in records.items() if isinstance(values, list)}
        records = [dict(zip(columns, values, strict=False)) for values in zip(*columns.values(), strict=False)]
    if isinstance(records, list):
        yield from enumerate(records, 1)


def _plain(record: Any) -> dict[str, Any]:
    """Return a record with names for the numbers that the hub's data set has."""
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
    """Return what to ask about each sentence, ``[2 · pair + column][query]``, and what a batch says of how to ask.

    A masked model is asked as :func:`shared_queries`, a causal one for whole sentences. A batch says ``rule`` ("masked"
    or "causal"), and of a causal model ``start_id`` and ``front`` (as of
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
    """Return what to ask a masked language model about each sentence: each token that the pair shares, masked in turn.

    The first and the last shared token, CLS and SEP, are never asked for. Which tokens are shared can depend on the
    order of the two sentences: as with the authors (Nangia et al. 2020, section 3), the disadvantaged group's comes
    first.

    Returns:
        ``[2 · pair + column][token]``, the more stereotyping sentence in column 0; both ask for the same tokens.
    """
    more, less = (tokenizer([pair[column] for pair in pairs])["input_ids"] for column in range(2))
    queries = []
    for pair, *sentences in zip(pairs, more, less, strict=True):
        order = 1 if pair.direction == "stereo" else -1  # that of the groups, not of the stereotypes
        places = shared_places(*sentences[::order])[::order]
        queries += [masked_in_turn(tokenizer, *both) for both in zip(sentences, places, strict=True)]
    return queries


def shared_places(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """Return where the shared tokens stand in each of two sentences, without the first and the last.

    >>> shared_places([101, 7, 8, 102], [101, 5, 6, 8, 102])
    ([2], [3])
    """
    blocks = SequenceMatcher(None, first, second).get_matching_blocks()
    places = [(block.a + step, block.b + step) for block in blocks for step in range(block.size)][1:-1]
    return [place for place, _ in places], [place for _, place in places]


class CrowsPairsDataModule(EvaluationData):
    """CrowS-Pairs as batches of inputs for the kind of model that the tokenizer belongs to.

    A batch is made of whole pairs: ``inputs`` and ``examples`` as of :func:`biaslab.data.queries.whole_examples` (a
    pair's more stereotyping sentence first), ``rule`` ("masked" or "causal"), ``categories`` (indices into
    ``category_names``, ``[pair]``), and for a causal model ``start_id``.
    :func:`biaslab.evaluation.scoring.score_pairs` scores it.

    Args:
        model_name: whose tokenizer is used.
        path: a file of CrowS-Pairs' form instead of CrowS-Pairs itself.
        limit: only the first so many pairs.
        tokens_per_batch: batches are as large as this allows.
        categories: bias types that the file may have beside the nine; "any" for whatever it has.
        every: of the file's pairs only every so many-th, which leaves some of each category.
        bos: of a causal model, what its sentences are conditioned on: "tokenizer", all of each on what the tokenizer
            puts in front of it, such as BOS; where it puts nothing, and by "authors" (StereoSet's), the first token on
            the start token alone and the later ones on the sentence alone.
        trust_remote_code: let a checkpoint bring its own Python code.
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
        """Read the pairs, and return their batches."""
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
