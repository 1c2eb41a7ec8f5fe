"""RedditBias: comments about a stereotyped group, the same comments about another group, and their batches."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from biaslab.data.crows_pairs import CrowsPair, sentence_queries
from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import whole_examples
from biaslab.data.records import table_records
from biaslab.errors import InputError, read_text, reading
from biaslab.models import assets
from biaslab.models.positions import require_room, say_once
from biaslab.models.tokens import Bos, require_bos

DIMENSIONS = {  # the stereotyped group and its counterpart, as in the file names
    "gender": ("female", "male"),
    "orientation": ("lgbtq", "straight"),
    "race": ("black", "white"),
    "religion1": ("jews", "christians"),
    "religion2": ("muslims", "christians"),
}
_FILE = "reddit_comments_{}_{}_biased_test_reduced.csv"  # the test set of a dimension and a group
_COLUMNS = {"first": ("comments_processed",), "second": ("comments", "comments_processed")}


class RedditPair(NamedTuple):
    """A comment that stereotypes a group, and the same comment with the words for another group."""

    dimension: str  # one of DIMENSIONS
    more: str  # the comment
    less: str  # the comment with the other group's words
    comment: str  # id of the original comment, or its line if the file has no ids
    place: str  # line and file of the other group's sentence, for messages


def read_reddit_pairs(folder: str | Path | None = None) -> list[RedditPair]:
    """Return the pairs of RedditBias' test sets, or of a folder with such files, by dimension and line.

    The folder contains both files of at least one dimension, with the authors' file names, directly or in a subfolder
    named after the dimension. Each line of the counterpart's file corresponds to the same line of the group's file,
    which its column "comments" repeats. Pairs of identical sentences and duplicate pairs are skipped.

    Raises:
        InputError: if there are no such files, one cannot be read, or they do not match; the message gives the line.
    """
    source = assets.fetch("redditbias") if folder is None else Path(folder)
    pairs: list[RedditPair] = []
    for dimension, groups in DIMENSIONS.items():
        files = [_find(source, dimension, group) for group in groups]
        if any(file.is_file() for file in files):
            pairs += _paired(dimension, *files)
    if not pairs:
        raise InputError(
            f"`path` is expected to be a folder with RedditBias' test sets, but {source} has no pairs in files such as "
            f"{_FILE.format('gender', 'female')}. Give another folder."
        )
    return _distinct(pairs)


def _find(folder: Path, dimension: str, group: str) -> Path:
    name = _FILE.format(dimension, group)
    own = folder / dimension / name
    return own if own.is_file() else folder / name


def _paired(dimension: str, first: Path, second: Path) -> Iterator[RedditPair]:
    """Yield the pairs of the group's and the counterpart's file."""
    comments, others = _lines(first, _COLUMNS["first"]), _lines(second, _COLUMNS["second"])
    if len(comments) != len(others):
        raise InputError(
            f"`path` is expected to contain RedditBias' pairs line by line, but {first} has {len(comments)} comments "
            f"and {second} {len(others)}. Fix the files, or give others."
        )
    for (line, comment), (other_line, other) in zip(comments, others, strict=True):
        if other["comments"].strip() != comment["comments_processed"].strip():
            raise InputError(
                f"`path` is expected to contain RedditBias' pairs line by line, but line {other_line} of {second} does "
                f"not match the comment in line {line} of {first}. Fix the files, or give others."
            )
        name = str(comment.get("id") or "").strip() or f"line {line}"
        more, less = (record["comments_processed"].strip() for record in (comment, other))
        yield RedditPair(dimension, more, less, name, f"line {other_line} of {second.name}")


def _lines(path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the records of a file with the numbers of the lines in which they end."""
    with reading("path", "a folder with RedditBias' test sets (CSV)", path, "Give another folder."):
        records = list(table_records(read_text(path), columns))
    for line, record in records:
        if wrong := problem(record, columns, {}):
            raise InputError(
                f"`path` is expected to contain RedditBias' test sets, but line {line} of {path} {wrong}. Fix the "
                "file, or give another folder."
            )
    return records


def _distinct(pairs: Sequence[RedditPair]) -> list[RedditPair]:
    """Skip pairs of identical sentences and duplicates; report how many."""
    first: dict[tuple[str, ...], RedditPair] = {}
    for pair in pairs:
        if pair.more != pair.less:
            first.setdefault(pair[:3], pair)
    same = sum(pair.more == pair.less for pair in pairs)
    if len(first) < len(pairs):
        say_once(
            f"RedditBias: skipping {len(pairs) - len(first)} of {len(pairs)} pairs: {same} with identical sentences, "
            f"{len(pairs) - len(first) - same} duplicates."
        )
    return list(first.values())


class RedditBiasDataModule(EvaluationData):
    """RedditBias as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole pairs, in the format of :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`, a pair's
    stereotyping sentence first, and ``tokens`` (number of queried tokens of a sentence, ``[pair, 2]``).
    :func:`biaslab.evaluation.redditbias.score_comments` computes its scores.

    A masked model is queried for the tokens that both sentences share, each masked in turn, as with CrowS-Pairs, so
    that the rarity and the number of tokens of the groups' words do not matter. A causal model is queried for all
    tokens, as in the paper.

    Args:
        model_name: the model whose tokenizer is used.
        path: a folder with files in RedditBias' format, used instead of RedditBias; see :func:`read_reddit_pairs`.
        limit: use only the first N pairs, which belong to the first dimensions.
        tokens_per_batch: maximum number of tokens in a batch.
        every: use every N-th pair, which keeps some of each dimension.
        bos: for causal models, what sentences are conditioned on; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.

    Reference:
        Barikeri et al. 2021, sections 2 and 3.
    """

    asset = "redditbias"
    dimension_names = tuple(DIMENSIONS)

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        limit: int | None = None,
        tokens_per_batch: int = 4096,
        every: int = 1,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs and return their batches."""
        h = self.hparams
        self.pairs = read_reddit_pairs(h["path"])[: h["limit"] : h["every"]]
        tokenizer = self.load_tokenizer()
        sentences = [CrowsPair(pair.more, pair.less, pair.dimension, "stereo") for pair in self.pairs]
        kind, queries = sentence_queries(tokenizer, sentences, h["bos"])
        masked = kind["rule"] == "masked"
        counts = [len(each) if masked else len(each[0].input_ids) - kind["front"] for each in queries]
        if 0 in counts:
            raise InputError(
                "`path` is expected to contain pairs that share tokens other than the groups' words, but "
                f"{self.pairs[counts.index(0) // 2].place} shares none. Remove it."
            )
        lengths = (max(len(query.input_ids) for query in sentence) for sentence in queries)
        require_room(tokenizer, lengths, lambda number: self.pairs[number // 2].place)
        batches = whole_examples(queries, 2, h["tokens_per_batch"], lambda lengths: sorted(set(lengths)))
        tokens = torch.tensor(counts).view(-1, 2)
        return [kind | batch | {"tokens": tokens[batch["examples"]]} for batch in batches]
