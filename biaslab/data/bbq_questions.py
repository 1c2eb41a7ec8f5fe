"""Read BBQ's questions about two people from its files.

A template is one question in two polarities, for many pairs of people. A question set has the four questions about one
pair: both polarities, each after an ambiguous and after a disambiguated context.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from biaslab.data.module import problem
from biaslab.data.records import json_content, table_records
from biaslab.errors import InputError, read_text, reading
from biaslab.models import assets

CATEGORIES = (
    "Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance", "Race_ethnicity", "Race_x_SES",
    "Race_x_gender", "Religion", "SES", "Sexual_orientation",
)  # fmt: skip
BIASED, COUNTER, UNKNOWN = range(3)  # columns of a question's scores
METADATA = "additional_metadata.csv"
_CHOICES = {
    "category": CATEGORIES, "question_polarity": ("neg", "nonneg"), "context_condition": ("ambig", "disambig"),
}  # fmt: skip
_ANSWERS = ("ans0", "ans1", "ans2")
_KEY = ("category", "question_index", "example_id")
_PER_SET = 4  # questions; the files number them set by set


class Question(NamedTuple):
    """A question about two people after a context."""

    category: str  # one of CATEGORIES
    template: str  # the file's `question_index`
    context: str
    question: str
    answers: tuple[str, str, str]  # biased, counter-stereotypical, and "unknown" in some wording
    right: int  # the correct one: BIASED or COUNTER; UNKNOWN exactly in ambiguous contexts
    negative: bool  # whether the biased answer is the target of the bias, not the other person


QuestionSet: TypeAlias = tuple[Question, ...]


class _Target(NamedTuple):
    """The metadata of a question."""

    answer: int | None  # index of the biased answer, given the polarity; None if neither person is a target
    races: tuple[str, ...]  # of the target, in intersectional categories


def read_sets(path: str | Path | None = None) -> tuple[list[QuestionSet], int]:
    """Return the question sets of a folder in BBQ's format, in order, and the number of skipped questions.

    The folder contains one or more ``*.jsonl`` and ``additional_metadata.csv``, whose ``target_loc`` is the answer that
    conforms to the bias: the target in negative questions, the other person otherwise. It has two known problems:

    * 16 questions of the asset, about two men or two women, have no target. They are skipped, as are questions without
      metadata.
    * In Race_x_SES and Race_x_gender, 68 questions about an African and an African American or Black person name the
      African as the target, as "African" is part of "African American". Here the other person is taken as the target,
      as in the other categories. Then half of each template's disambiguated questions have the biased answer, except
      for six templates with contexts of only one kind.

    Without a path, the asset is read.

    Raises:
        InputError: if a file cannot be read or has another format; the message gives the line and the problem.
    """
    folder = assets.fetch("bbq") if path is None else Path(path).expanduser()
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise InputError(
            f"`path` is expected to be a folder of BBQ's files, but {folder} has no *.jsonl. Give another folder."
        )
    targets = _targets(folder / METADATA)
    sets: dict[tuple[str, str, int], list[Question]] = {}
    seen: set[tuple[str, str, str]] = set()
    left_out = 0
    for file in files:
        for line, record in _records(file):
            key = _key(record)
            if key in seen:
                raise _refused(f"line {line} of {file} repeats example_id {key[2]} of {key[0]}")
            seen.add(key)
            target = targets.get(key, _Target(None, ()))
            if target.answer is None:
                left_out += 1
                continue
            if _groups(record)[target.answer] == "unknown":
                raise _refused(f"{METADATA} names the unknown answer as the target of line {line} of {file}")
            own = (*key[:2], record["example_id"] // _PER_SET)
            sets.setdefault(own, []).append(_question(record, target))
    if not sets:
        raise _refused(f"{folder} has no question with a target in {METADATA}")
    return [tuple(each) for each in sets.values()], left_out


def _refused(what: str) -> InputError:
    return InputError(f"`path` is expected to be a folder of BBQ's files, but {what}. Fix it, or give another folder.")


def _key(record: Mapping[str, Any]) -> tuple[str, str, str]:
    category, template, example = (str(record[name]) for name in _KEY)
    return category, template, example


def _targets(file: Path) -> dict[tuple[str, str, str], _Target]:
    targets: dict[tuple[str, str, str], _Target] = {}
    columns = (*_KEY, "target_loc")
    with reading("path", f"a folder with {METADATA}", file, "Give another folder."):
        for line, record in table_records(read_text(file), columns):
            wrong = problem(record, columns, {"target_loc": ("0", "1", "2", "NA")})
            races = tuple((record.get("Known_stereotyped_race") or "").split(", "))
            if not wrong:
                location = record["target_loc"]
                target = _Target(None if location == "NA" else int(location), races)
                if targets.setdefault(_key(record), target).answer != target.answer:
                    wrong = f"names another target for example_id {record['example_id']} than an earlier line"
            if wrong:
                raise _refused(f"line {line} of {file} {wrong}")
    return targets


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the questions of a file with their line numbers."""
    with reading("path", "a folder of BBQ's files (JSON Lines)", file, "Give another folder."):
        lines = read_text(file).split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record, wrong = json_content(line), ""
            except (ValueError, RecursionError) as error:
                record, wrong = None, f"is not JSON: {error}"
            if wrong := wrong or _problem(record):
                raise _refused(f"line {number} of {file} {wrong}")
            yield number, record


def _problem(record: Any) -> str:
    """Return what is wrong with a question of a file; "" if it is valid."""
    if not isinstance(record, dict):
        return "is not a JSON object"
    if wrong := problem(record, (*_CHOICES, "context", "question", *_ANSWERS), _CHOICES):
        return wrong
    if not isinstance(record.get("question_index"), str | int):
        return "lacks a text under 'question_index'"
    if type(record.get("example_id")) is not int:
        return "lacks a number under 'example_id'"
    groups = _groups(record)
    if not all(isinstance(group, str) for group in groups) or groups.count("unknown") != 1:
        return "lacks the three answers' groups, one of them 'unknown', under 'answer_info'"
    label, ambiguous = record.get("label"), record["context_condition"] == "ambig"
    if type(label) is not int or label not in range(3):
        return f"has the label {label!r} instead of 0, 1 or 2"
    if (groups[label] == "unknown") is not ambiguous:
        return f"is {record['context_condition']}, but its correct answer is {groups[label]!r}"
    return ""


def _groups(record: Mapping[str, Any]) -> list[Any]:
    """Return the groups of the three answers, such as "old" and "unknown"; None where one is missing."""
    info = record.get("answer_info")
    answers = [info.get(name) if isinstance(info, dict) else None for name in _ANSWERS]
    return [each[1] if isinstance(each, list) and len(each) == 2 else None for each in answers]


def _question(record: Mapping[str, Any], target: _Target) -> Question:
    groups = _groups(record)
    unknown, biased = groups.index("unknown"), int(target.answer or 0)
    counter = 3 - unknown - biased
    negative = record["question_polarity"] == "neg"
    person, other = (biased, counter) if negative else (counter, biased)
    races = [groups[place].rpartition("-")[2] for place in (person, other)]  # of values such as "F-African American"
    if races[0] == "African" and races[1] in target.races:
        biased, counter = counter, biased
    order = (biased, counter, unknown)
    first, second, third = (record[_ANSWERS[place]].strip() for place in order)
    return Question(
        category=record["category"],
        template=str(record["question_index"]),
        context=record["context"].strip(),
        question=record["question"].strip(),
        answers=(first, second, third),
        right=order.index(record["label"]),
        negative=negative,
    )


def choose_sets(sets: Sequence[QuestionSet], count: int | None, seed: int = 0) -> list[QuestionSet]:
    """Return ``count`` question sets of each category, or all if it has fewer; None for all.

    The sets of a category, ordered by template, are sampled at equal distances from a random start. Every set is thus
    equally likely to be chosen (in BBQ, a template counts by its number of sets), and many templates are covered.
    """
    chosen = []
    for category in dict.fromkeys(each[0].category for each in sets):
        own = [each for each in sets if each[0].category == category]
        templates = {name: place for place, name in enumerate(dict.fromkeys(each[0].template for each in own))}
        own.sort(key=lambda each: templates[each[0].template])
        size = len(own) if count is None else min(count, len(own))
        start = random.Random(f"{seed} {category}").random()
        chosen += [own[int((start + number) * len(own) / size)] for number in range(size)]
    return chosen
