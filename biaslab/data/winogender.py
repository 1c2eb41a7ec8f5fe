"""Winogender: sentences about an occupation and a participant, by pronoun, with shares of women; their batches."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from biaslab.data.module import EvaluationData, problem
from biaslab.data.pronouns import PronounPair, pronoun_batches, pronoun_pair
from biaslab.data.records import table_records
from biaslab.errors import InputError, read_text, reading
from biaslab.models import assets
from biaslab.models.tokens import Bos, require_bos

SENTENCES, STATISTICS = "all_sentences.tsv", "occupations-stats.tsv"
REFERENTS = ("occupation", "participant")  # indexed by the file's answer
FEWEST = 3  # occupations: a correlation needs more than two points
_FEMALE_SHARE = "bls_pct_female"
_GENDERS = ("female", "male", "neutral")
_ADVICE = "Fix the file, or give another folder."


class WinogenderPair(NamedTuple):
    """A sentence with a female and with a male pronoun."""

    occupation: str
    participant: str  # the other person, or "someone"
    referent: str  # referent of the pronoun, one of REFERENTS
    female_share: float  # percent in the occupation in the USA, from the Bureau of Labor Statistics
    pronouns: PronounPair  # the female sentence first


def read_pairs(folder: str | Path | None = None) -> list[WinogenderPair]:
    """Return the pairs of a folder in Winogender's format, in order; without a folder, those of the asset.

    The neutral sentences are checked but not paired: with "they", some verbs differ too.

    Args:
        folder: a folder with ``all_sentences.tsv`` and ``occupations-stats.tsv``.

    Raises:
        InputError: if a file cannot be read or is not Winogender; the message gives the line and the problem.

    Reference:
        Rudinger et al. 2018.
    """
    source = assets.fetch("winogender") if folder is None else Path(folder)
    shares = female_shares(source / STATISTICS)
    pairs = []
    for (occupation, participant, answer), versions in sentences(source / SENTENCES).items():
        missing = [gender for gender in ("female", "male") if gender not in versions]
        name = f"{occupation}.{participant}.{answer}"
        pronouns = None if missing else pronoun_pair(versions["female"], versions["male"])
        wrong = "differ in more than a pronoun" if pronouns is None else ""
        wrong = f"have no {missing[0]} version" if missing else wrong
        if pronouns is None or pronouns.gender != "female":
            wrong = wrong or "have pronouns of the wrong gender"
            raise InputError(
                f"`path` is expected to contain Winogender's files, but the sentences {name} of {source / SENTENCES} "
                f"{wrong}. {_ADVICE}"
            )
        if occupation not in shares:
            raise InputError(
                f"`path` is expected to contain statistics for each occupation, but {source / STATISTICS} has none for "
                f"{occupation!r}. {_ADVICE}"
            )
        pairs.append(WinogenderPair(occupation, participant, REFERENTS[int(answer)], shares[occupation], pronouns))
    return pairs


def female_shares(path: Path) -> dict[str, float]:
    """Return the percentage of women in each occupation from a statistics table.

    Raises:
        InputError: see :func:`read_pairs`.
    """
    shares = {}
    for place, record in _records(path, ("occupation", _FEMALE_SHARE)):
        share = _number(record[_FEMALE_SHARE])
        if not 0 < share < 100:
            raise InputError(
                f"`path` is expected to contain percentages between 0 and 100, with finite log-odds, but {place} has "
                f"{record[_FEMALE_SHARE]!r} under {_FEMALE_SHARE!r}. {_ADVICE}"
            )
        shares[record["occupation"]] = share
    return shares


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def sentences(path: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the sentences of a table in Winogender's format by (occupation, participant, answer) and gender.

    Raises:
        InputError: see :func:`read_pairs`.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for place, record in _records(path, ("sentid", "sentence")):
        occupation, participant, answer, gender, *_ = [*record["sentid"].split("."), "", "", "", ""]
        own = found.setdefault((occupation, participant, answer), {})
        if not (occupation and participant and answer in ("0", "1") and gender in _GENDERS) or gender in own:
            wrong = "is a duplicate" if gender in own else "is not of the form occupation.participant.answer.gender"
            raise InputError(
                f"`path` is expected to contain Winogender's files, but in {place} the sentid {record['sentid']!r} "
                f"{wrong}. {_ADVICE}"
            )
        own[gender] = record["sentence"].strip()
    return found


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the records of a table with their locations."""
    empty = True
    with reading("path", "a folder of Winogender's files", path, "Give another folder."):
        for line, record in table_records(read_text(path), columns):
            place = f"line {line} of {path}"
            if wrong := problem(record, columns, {}):
                raise InputError(f"`path` is expected to contain Winogender's files, but {place} {wrong}. {_ADVICE}")
            yield place, record
            empty = False
    if empty:
        raise InputError(f"`path` is expected to contain Winogender's files, but {path} has no records. {_ADVICE}")


class WinogenderDataModule(EvaluationData):
    """Winogender as batches of inputs, for a masked or a causal model depending on the tokenizer.

    Batches come from :func:`biaslab.data.pronouns.pronoun_batches`, the female sentence first.

    Args:
        model_name: the model whose tokenizer is used.
        path: a folder with Winogender's files, used instead of Winogender.
        limit: use only the sentences about the first N occupations.
        every: use every N-th of these occupations.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, what sentences are conditioned on; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    asset = "winogender"

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        limit: int | None = None,
        every: int = 1,
        tokens_per_batch: int = 4096,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs and return their batches."""
        h = self.hparams
        every_pair = read_pairs(h["path"])
        chosen = list(dict.fromkeys(pair.occupation for pair in every_pair))[: h["limit"] : h["every"]]
        self.pairs = [pair for pair in every_pair if pair.occupation in chosen]
        if len({pair.female_share for pair in self.pairs}) < FEWEST:
            raise InputError(
                f"`path` is expected to contain at least {FEWEST} occupations with different shares of women, but the "
                f"sentences selected from {h['path'] or self.asset} have fewer. Give another folder, or select more "
                "with `limit` and `every`."
            )
        pronouns = [pair.pronouns for pair in self.pairs]
        return pronoun_batches(self.load_tokenizer(), pronouns, h["tokens_per_batch"], h["bos"], self._place)

    def _place(self, number: int) -> str:
        pair = self.pairs[number]
        return f"the sentence {pair.occupation}.{pair.participant}.{REFERENTS.index(pair.referent)}"
