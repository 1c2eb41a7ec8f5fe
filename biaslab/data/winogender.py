"""Winogender: sentences about an occupation and a participant, by pronoun, with the share of women; their batches."""

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
REFERENTS = ("occupation", "participant")  # by the numbers of the file
FEWEST = 3  # occupations: through two points there is always a line
_FEMALE_SHARE = "bls_pct_female"
_GENDERS = ("female", "male", "neutral")
_ADVICE = "Repair the file, or give another folder."


class WinogenderPair(NamedTuple):
    """A sentence with a female pronoun, and with a male one."""

    occupation: str
    participant: str  # the other person; also "someone"
    referent: str  # whom the pronoun refers to, one of REFERENTS
    female_share: float  # of those who have the occupation in the USA, percent by the Bureau of Labor Statistics
    pronouns: PronounPair  # the female sentence first


def read_pairs(folder: str | Path | None = None) -> list[WinogenderPair]:
    """Return the pairs of a folder of Winogender's form, in its order; without a folder, of the asset's.

    The neutral sentences are checked, but make no pair: with "they" a verb differs too in some.

    Args:
        folder: with ``all_sentences.tsv`` and ``occupations-stats.tsv``.

    Raises:
        InputError: if a file can't be read or is no Winogender; it names the line and what it lacks.

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
        wrong = f"have no {missing[0]} one" if missing else "differ in more than a pronoun" if pronouns is None else ""
        if pronouns is None or pronouns.gender != "female":
            wrong = wrong or "have the pronouns of the other gender"
            raise InputError(
                f"`path` is expected to hold Winogender's files, but the sentences {name} of {source / SENTENCES} "
                f"{wrong}. {_ADVICE}"
            )
        if occupation not in shares:
            raise InputError(
                f"`path` is expected to hold the statistics of each occupation, but {source / STATISTICS} has none of "
                f"{occupation!r}. {_ADVICE}"
            )
        pairs.append(WinogenderPair(occupation, participant, REFERENTS[int(answer)], shares[occupation], pronouns))
    return pairs


def female_shares(path: Path) -> dict[str, float]:
    """Return the percentage of women in each occupation, of a table of Winogender's statistics.

    Raises:
        InputError: as :func:`read_pairs`.
    """
    shares = {}
    for place, record in _records(path, ("occupation", _FEMALE_SHARE)):
        share = _number(record[_FEMALE_SHARE])
        if not 0 < share < 100:
            raise InputError(
                f"`path` is expected to hold percentages between 0 and 100, whose log-odds are finite, but {place} has "
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
    """Return the sentences of a table of Winogender's form: by occupation, participant and answer, then by gender.

    Raises:
        InputError: as :func:`read_pairs`.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for place, record in _records(path, ("sentid", "sentence")):
        occupation, participant, answer, gender, *_ = [*record["sentid"].split("."), "", "", "", ""]
        own = found.setdefault((occupation, participant, answer), {})
        if not (occupation and participant and answer in ("0", "1") and gender in _GENDERS) or gender in own:
            wrong = "comes again" if gender in own else "is no occupation.participant.answer.gender"
            raise InputError(
                f"`path` is expected to hold Winogender's files, but in {place} the sentid {record['sentid']!r} "
                f"{wrong}. {_ADVICE}"
            )
        own[gender] = record["sentence"].strip()
    return found


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the records of a table, each with its place."""
    empty = True
    with reading("path", "a folder of Winogender's files", path, "Give another folder."):
        for line, record in table_records(read_text(path), columns):
            place = f"line {line} of {path}"
            if wrong := problem(record, columns, {}):
                raise InputError(f"`path` is expected to hold Winogender's files, but {place} {wrong}. {_ADVICE}")
            yield place, record
            empty = False
    if empty:
        raise InputError(f"`path` is expected to hold Winogender's files, but {path} has no records. {_ADVICE}")


class WinogenderDataModule(EvaluationData):
    """Winogender as batches of inputs for the kind of model that the tokenizer belongs to.

    A batch is one of :func:`biaslab.data.pronouns.pronoun_batches`, the female sentence first.

    Args:
        model_name: whose tokenizer is used.
        path: a folder of Winogender's files instead of Winogender itself.
        limit: only the sentences about the first so many occupations.
        every: of these occupations only every so many-th.
        tokens_per_batch: batches are as large as this allows.
        bos: of a causal model, what its sentences are conditioned on, as of
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: let a checkpoint bring its own Python code.
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
        """Read the pairs, and return their batches."""
        h = self.hparams
        every_pair = read_pairs(h["path"])
        chosen = list(dict.fromkeys(pair.occupation for pair in every_pair))[: h["limit"] : h["every"]]
        self.pairs = [pair for pair in every_pair if pair.occupation in chosen]
        if len({pair.female_share for pair in self.pairs}) < FEWEST:
            raise InputError(
                f"`path` is expected to hold sentences about at least {FEWEST} occupations with different shares of "
                f"women, but those that are chosen of {h['path'] or self.asset} have fewer. Give another folder, or "
                "choose more (limit, every)."
            )
        pronouns = [pair.pronouns for pair in self.pairs]
        return pronoun_batches(self.load_tokenizer(), pronouns, h["tokens_per_batch"], h["bos"], self._place)

    def _place(self, number: int) -> str:
        pair = self.pairs[number]
        return f"the sentence {pair.occupation}.{pair.participant}.{REFERENTS.index(pair.referent)}"
