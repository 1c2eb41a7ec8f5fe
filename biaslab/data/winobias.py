"""WinoBias: sentences about two occupations, with the pronoun of the stereotype and with the other; their batches."""

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
KINDS = ("type 1", "type 2")  # who is meant follows from what happens; from the grammar alone
Part = Literal["dev", "test", "all"]
_PRONOUNS = ("he", "she", "him", "her", "his", "hers", "himself", "herself")
_ADVICE = "Repair the file, or give another folder."


class WinoBiasPair(NamedTuple):
    """A sentence with the pro-stereotypical pronoun, and with the anti-stereotypical one."""

    kind: str  # one of KINDS
    occupation: str  # that the pronoun refers to, without an article
    stereotype: Gender  # of the occupation: the gender of the pro-stereotypical pronoun
    pronouns: PronounPair  # the pro-stereotypical sentence first
    place: str  # the line and the name of the file


class _Line(NamedTuple):
    number: str
    text: str  # without the marks of what refers to whom
    occupations: list[str]  # what is marked beside the pronouns


def read_pairs(
    folder: str | Path | None = None, part: Part = "test", limit: int | None = None, every: int = 1
) -> tuple[list[WinoBiasPair], int]:
    """Return the pairs of a folder of WinoBias' files, in their order; without a folder, of the asset's.

    The pro- and the anti-stereotypical files have the same sentence in the same line. Lines that differ in more than
    their pronouns, by slips of the data, are left out. Slips that both lines have are kept.

    Args:
        folder: with ``{pro,anti}_stereotyped_type{1,2}.txt.{dev,test}``, those of the part.
        part: "dev", "test", or "all" for both.
        limit: of each type and part only the first so many lines.
        every: of these only every so many-th.

    Returns:
        The pairs, and how many were left out.

    Raises:
        InputError: if a file can't be read or is no WinoBias; it names the line and what it lacks.

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
    """Return the pairs of two files, line by line; None where the lines differ otherwise."""
    lines = [_lines(path) for path in (pro, anti)]
    if len(lines[0]) != len(lines[1]):
        raise InputError(
            f"`path` is expected to hold WinoBias' files, whose lines are pairs, but {pro} has {len(lines[0])} lines "
            f"and {anti.name} {len(lines[1])}. {_ADVICE}"
        )
    pairs = []
    for number, (first, second) in enumerate(zip(*lines, strict=True), 1):
        if first.number != second.number:
            raise InputError(
                f"`path` is expected to hold WinoBias' files, whose lines are pairs, but line {number} of {pro} is the "
                f"sentence {first.number} and that of {anti.name} {second.number}. {_ADVICE}"
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
        wrong = "is no number with a sentence"
    elif len(occupations) != 1 or not occupations[0]:
        wrong = f"marks {len(occupations)} occupations, not one, in brackets"
    if wrong:
        raise InputError(f"`path` is expected to hold WinoBias' files, but {place} {wrong}. {_ADVICE}")
    return _Line(number, text, occupations)


def _require_both(pairs: Iterable[WinoBiasPair], source: Path) -> None:
    """Refuse pairs in which an occupation has both stereotypes, or no occupation has one of the two."""
    known: dict[str, WinoBiasPair] = {}
    for pair in pairs:
        first = known.setdefault(pair.occupation, pair)
        if first.stereotype != pair.stereotype:
            raise InputError(
                f"`path` is expected to hold WinoBias' files, but in {source} the pro-stereotypical pronoun of "
                f"{pair.occupation!r} is {first.stereotype} in {first.place} and {pair.stereotype} in {pair.place}. "
                f"{_ADVICE}"
            )
    lacking = {"female", "male"} - {pair.stereotype for pair in known.values()}
    if lacking:
        raise InputError(
            f"`path` is expected to hold sentences about occupations of both stereotypes, but those that are chosen of "
            f"{source} have none whose stereotype is {' or '.join(sorted(lacking))}. Give another folder, or choose "
            "more (limit, every)."
        )


class WinoBiasDataModule(EvaluationData):
    """WinoBias as batches of inputs for the kind of model that the tokenizer belongs to.

    A batch is one of :func:`biaslab.data.pronouns.pronoun_batches`, the pro-stereotypical sentence first.

    Args:
        model_name: whose tokenizer is used.
        path: a folder of WinoBias' files instead of WinoBias itself.
        part: "dev", "test", or "all" for both.
        limit: of each type (and part) only the first so many sentences.
        every: of these only every so many-th.
        tokens_per_batch: batches are as large as this allows.
        bos: of a causal model, what its sentences are conditioned on, as of
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: let a checkpoint bring its own Python code.
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
        """Read the pairs, and return their batches."""
        h = self.hparams
        self.pairs, self.left_out = read_pairs(h["path"], h["part"], h["limit"], h["every"])
        if self.left_out:
            total = self.left_out + len(self.pairs)
            say_once(f"WinoBias: {self.left_out} of {total} pairs differ in more than pronouns and are left out.")
        pronouns = [pair.pronouns for pair in self.pairs]
        return pronoun_batches(self.load_tokenizer(), pronouns, h["tokens_per_batch"], h["bos"], self._place)

    def _place(self, number: int) -> str:
        return f"{self.pairs[number].place} in {self.hparams['path'] or self.asset}"
