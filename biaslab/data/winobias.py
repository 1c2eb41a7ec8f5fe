"""WinoBias: sentences about two occupations, with a pro- and an anti-stereotypical pronoun, and their batches."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from biaslab.data.module import EvaluationData
from biaslab.data.pronouns import Gender, PronounPair, pronoun_batches, pronoun_pair
from biaslab.errors import InputError, read_text, reading, require_one_of
from biaslab.models import assets
from biaslab.models.positions import say_once
from biaslab.models.tokens import Bos, require_bos

PARTS = ("dev", "test")
KINDS = ("type 1", "type 2")  # the referent follows from the meaning; from syntax alone
Part = Literal["dev", "test", "all"]
_PRONOUNS = ("he", "she", "him", "her", "his", "hers", "himself", "herself")
_ADVICE = "Fix the file, or give another folder."


class WinoBiasPair(NamedTuple):
    """A sentence with the pro-stereotypical pronoun, and with the anti-stereotypical one."""

    kind: str  # one of KINDS
    occupation: str  # referent of the pronoun, without an article
    stereotype: Gender  # the gender of the pro-stereotypical pronoun
    pronouns: PronounPair  # the pro-stereotypical sentence first
    place: str  # line and file name


class _Line(NamedTuple):
    number: str
    text: str  # without the coreference brackets
    occupations: list[str]  # what is in brackets other than pronouns


def read_pairs(
    folder: str | Path | None = None, part: Part = "test", limit: int | None = None, every: int = 1
) -> tuple[list[WinoBiasPair], int]:
    """Return the pairs of a folder with WinoBias' files, in order; without a folder, those of the asset.

    The pro- and the anti-stereotypical files have the same sentence in the same line. Lines that differ in more than
    their pronouns, due to errors in the data, are skipped. Errors in both lines are kept.

    Args:
        folder: a folder with ``{pro,anti}_stereotyped_type{1,2}.txt.{dev,test}`` for the part.
        part: "dev", "test", or "all" for both.
        limit: use only the first N lines of each type and part.
        every: use every N-th of these.

    Returns:
        The pairs, and the number of skipped lines.

    Raises:
        InputError: if a file cannot be read or is not WinoBias; the message gives the line and the problem.

    Reference:
        Zhao et al. 2018.
    """
    require_one_of("part", part, [*PARTS, "all"])
    source = assets.fetch("winobias") if folder is None else Path(folder)
    pairs, left_out = [], 0
    for kind in KINDS:
        for name in PARTS if part == "all" else [part]:
            ending = f"stereotyped_{kind.replace(' ', '')}.txt.{name}"
            found = _read(source / f"pro_{ending}", source / f"anti_{ending}", kind)[:limit:every]
            pairs += [pair for pair in found if pair is not None]
            left_out += sum(pair is None for pair in found)
    _require_both(pairs, source)
    return pairs, left_out


def _read(pro: Path, anti: Path, kind: str) -> list[WinoBiasPair | None]:
    """Return the pairs of two files, line by line; None where the lines differ in more than pronouns."""
    lines = [_lines(path) for path in (pro, anti)]
    if len(lines[0]) != len(lines[1]):
        raise InputError(
            f"`path` is expected to contain WinoBias' files, whose lines match, but {pro} has {len(lines[0])} lines "
            f"and {anti.name} {len(lines[1])}. {_ADVICE}"
        )
    pairs = []
    for number, (first, second) in enumerate(zip(*lines, strict=True), 1):
        if first.number != second.number:
            raise InputError(
                f"`path` is expected to contain WinoBias' files, whose lines match, but line {number} is sentence "
                f"{first.number} in {pro} and sentence {second.number} in {anti.name}. {_ADVICE}"
            )
        pronouns = pronoun_pair(first.text, second.text)
        alike = first.occupations == second.occupations and pronouns is not None
        place = f"line {number} of {pro.name}"
        own = WinoBiasPair(kind, first.occupations[0], pronouns.gender, pronouns, place) if alike and pronouns else None
        pairs.append(own)
    return pairs


def _lines(path: Path) -> list[_Line]:
    with reading("path", "a folder of WinoBias' files", path, "Give another folder."):
        lines = read_text(path).rstrip("\n").split("\n")
    return [_line(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def _line(line: str, place: str) -> _Line:
    number, _, sentence = line.strip().partition(" ")
    marked = [" ".join(each.lower().split()) for each in re.findall(r"\[([^\[\]]*)\]", sentence)]
    occupations = [re.sub(r"^(the|an?) ", "", each) for each in marked if each not in _PRONOUNS]
    text = " ".join(re.sub(r"[\[\]]", "", sentence).split())
    wrong = ""
    if not number.isdecimal() or not text:
        wrong = "is not a number and a sentence"
    elif len(occupations) != 1 or not occupations[0]:
        wrong = f"has {len(occupations)} occupations in brackets instead of one"
    if wrong:
        raise InputError(f"`path` is expected to contain WinoBias' files, but {place} {wrong}. {_ADVICE}")
    return _Line(number, text, occupations)


def _require_both(pairs: Iterable[WinoBiasPair], source: Path) -> None:
    """Reject pairs if an occupation has both stereotypes, or one stereotype has no occupation."""
    known: dict[str, WinoBiasPair] = {}
    for pair in pairs:
        first = known.setdefault(pair.occupation, pair)
        if first.stereotype != pair.stereotype:
            raise InputError(
                f"`path` is expected to contain WinoBias' files, but in {source} the pro-stereotypical pronoun of "
                f"{pair.occupation!r} is {first.stereotype} in {first.place} and {pair.stereotype} in {pair.place}. "
                f"{_ADVICE}"
            )
    lacking = {"female", "male"} - {pair.stereotype for pair in known.values()}
    if lacking:
        raise InputError(
            f"`path` is expected to contain occupations with both stereotypes, but the sentences selected from "
            f"{source} have none whose stereotype is {' or '.join(sorted(lacking))}. Give another folder, or select "
            "more with `limit` and `every`."
        )


class WinoBiasDataModule(EvaluationData):
    """WinoBias as batches of inputs, for a masked or a causal model depending on the tokenizer.

    Batches come from :func:`biaslab.data.pronouns.pronoun_batches`, the pro-stereotypical sentence first.

    Args:
        model_name: the model whose tokenizer is used.
        path: a folder with WinoBias' files, used instead of WinoBias.
        part: "dev", "test", or "all" for both.
        limit: use only the first N sentences of each type and part.
        every: use every N-th of these.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, what sentences are conditioned on; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    asset = "winobias"

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        part: Part = "test",
        limit: int | None = None,
        every: int = 1,
        tokens_per_batch: int = 4096,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_one_of("part", part, [*PARTS, "all"])
        require_bos(bos)

    def read(self) -> list[dict[str, Any]]:
        """Read the pairs and return their batches."""
        h = self.hparams
        self.pairs, self.left_out = read_pairs(h["path"], h["part"], h["limit"], h["every"])
        if self.left_out:
            total = self.left_out + len(self.pairs)
            say_once(f"WinoBias: skipping {self.left_out} of {total} pairs that differ in more than pronouns.")
        pronouns = [pair.pronouns for pair in self.pairs]
        return pronoun_batches(self.load_tokenizer(), pronouns, h["tokens_per_batch"], h["bos"], self._place)

    def _place(self, number: int) -> str:
        return f"{self.pairs[number].place} in {self.hparams['path'] or self.asset}"
