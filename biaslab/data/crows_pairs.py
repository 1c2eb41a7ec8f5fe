"""CrowS-Pairs: pairs of sentences from its file, and batches of inputs that score what both share."""

import csv
import io
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import Queries, causal_queries, masked_in_turn, whole_examples
from biaslab.errors import InputError, read_text, reading
from biaslab.models import assets
from biaslab.models.positions import require_room
from biaslab.models.tokens import is_masked, start_token

CATEGORIES = (
    "age", "disability", "gender", "nationality", "physical-appearance", "race-color", "religion",
    "sexual-orientation", "socioeconomic",
)  # fmt: skip
DIRECTIONS = ("stereo", "antistereo")
_COLUMNS = ("sent_more", "sent_less", "bias_type", "stereo_antistereo")


class CrowsPair(NamedTuple):
    """Two sentences that differ in the group that they speak about."""

    more: str  # the more stereotyping sentence
    less: str
    category: str  # one of CATEGORIES
    direction: str  # "stereo" where the disadvantaged group's sentence is the more stereotyping one, else "antistereo"


def read_pairs(path: str | Path | None = None) -> list[CrowsPair]:
    """Return the pairs of a CSV file of CrowS-Pairs' form, in its order; without a path, of the asset's.

    Raises:
        InputError: if the file can't be read or is no CrowS-Pairs; it names the line and what it lacks.
    """
    return list(pairs_by_line(path).values())


def pairs_by_line(path: str | Path | None = None) -> dict[int, CrowsPair]:
    """Return what :func:`read_pairs` does, by the number of the line that a pair ends in."""
    source = assets.fetch("crows-pairs") / "crows_pairs_anonymized.csv" if path is None else Path(path)
    with reading("path", "a CrowS-Pairs file (CSV)", source):
        reader = csv.DictReader(io.StringIO(read_text(source), newline=""), strict=True)
        pairs = {}
        for record in reader:
            if wrong := problem(record, _COLUMNS, {"bias_type": CATEGORIES, "stereo_antistereo": DIRECTIONS}):
                raise InputError(
                    f"`path` is expected to be a CrowS-Pairs file, but line {reader.line_num} of {source} {wrong}. "
                    "Repair the file, or give another."
                )
            pairs[reader.line_num] = CrowsPair(*(record[column] for column in _COLUMNS))
    if not pairs:
        raise InputError(f"`path` is expected to be a CrowS-Pairs file, but {source} has no pairs. Give another file.")
    return pairs


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
        every: of the file's pairs only every so many-th, which leaves some of each category.
        trust_remote_code: let a checkpoint bring its own Python code.
    """

    asset = "crows-pairs"
    category_names = CATEGORIES

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        limit: int | None = None,
        tokens_per_batch: int = 4096,
        every: int = 1,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs, and return their batches."""
        h = self.hparams
        lines = list(pairs_by_line(h["path"]).items())[: h["limit"] : h["every"]]
        self.pairs = [pair for _, pair in lines]
        tokenizer = self.load_tokenizer()
        kind: dict[str, Any] = {"rule": "masked"}
        if is_masked(tokenizer):
            queries = shared_queries(tokenizer, self.pairs)
        else:
            kind = {"rule": "causal", "start_id": start_token(tokenizer)}
            queries = causal_queries(tokenizer, [text for pair in self.pairs for text in (pair.more, pair.less)])
        lengths = (max((len(query.input_ids) for query in sentence), default=0) for sentence in queries)
        file = h["path"] or self.asset
        require_room(tokenizer, lengths, lambda number: f"line {lines[number // 2][0]} of {file}")
        batches = whole_examples(queries, 2, h["tokens_per_batch"], lambda lengths: sorted(set(lengths)))
        categories = torch.tensor([CATEGORIES.index(pair.category) for pair in self.pairs])
        return [kind | batch | {"categories": categories[batch["examples"]]} for batch in batches]
