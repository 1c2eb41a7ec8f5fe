"""BBQ's questions about two people, as its files have them.

A template is one question in two polarities, about many pairs of people; a question set is what is asked of one pair:
four questions, of both polarities, each after an ambiguous and after a disambiguated context.
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
BIASED, COUNTER, UNKNOWN = range(3)  # the columns of an example's scores
METADATA = "additional_metadata.csv"
_CHOICES = {
    "category": CATEGORIES, "question_polarity": ("neg", "nonneg"), "context_condition": ("ambig", "disambig"),
}  # fmt: skip
_ANSWERS = ("ans0", "ans1", "ans2")
_KEY = ("category", "question_index", "example_id")
_PER_SET = 4  # questions: the files number them one set after the other


class Question(NamedTuple):
    """A question about two people after a context."""

    category: str  # one of CATEGORIES
    template: str  # the file's `question_index`
    context: str
    question: str
    answers: tuple[str, str, str]  # the biased one, that which goes against the bias, and "unknown" in some wording
    right: int  # which of them: BIASED, COUNTER or, in ambiguous contexts and there alone, UNKNOWN
    negative: bool  # whether the biased answer names the target of the bias, not the other person


QuestionSet: TypeAlias = tuple[Question, ...]


class _Target(NamedTuple):
    """What the metadata say of a question."""

    answer: int | None  # the biased one, in its polarity; None where neither person is a target
    races: tuple[str, ...]  # of an intersectional category, the target's


def read_sets(path: str | Path | None = None) -> tuple[list[QuestionSet], int]:
    """Return the question sets of a folder of BBQ's form in its order, and how many questions are left out.

    The folder has one or more ``*.jsonl`` and ``additional_metadata.csv``, whose ``target_loc`` is the answer that
    conforms to the bias: in negative questions the target, in the others the other person. Two things are known of it:

    * Without a target are 16 questions of the asset, about two men or two women. They are left out, as are questions
      of which the metadata have no line.
    * In Race_x_SES and Race_x_gender, 68 questions about an African and an African American or Black person name the
      African as the target, as "African" is part of "African American". Here the other person is the target, as the
      authors have it in the other categories. Of each template's disambiguated questions, then, half are answered by
      the bias, except for six templates whose contexts go one way.

    Without a path, it is the asset.

    Raises:
        InputError: if a file can't be read or is not of that form; it names the line and what it lacks.
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
                raise _refused(f"{METADATA} has the unknown answer as the target of line {line} of {file}")
            own = (*key[:2], record["example_id"] // _PER_SET)
            sets.setdefault(own, []).append(_question(record, target))
    if not sets:
        raise _refused(f"{folder} has no question of which {METADATA} has a target")
    return [tuple(each) for each in sets.values()], left_out


def _refused(what: str) -> InputError:
    return InputError(f"`path` is expected to be a folder of BBQ's files, but {what}. Repair it, or give another one.")


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
                    wrong = f"names another target of example_id {record['example_id']} than a line before"
            if wrong:
                raise _refused(f"line {line} of {file} {wrong}")
    return targets


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the questions of a file with the numbers of their lines."""
    with reading("path", "a folder of BBQ's files (JSON Lines)", file, "Give another folder."):
        lines = read_text(file).split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                record, wrong = json_content(line), ""
            except (ValueError, RecursionError) as error:
                record, wrong = None, f"is no JSON: {error}"
            if wrong := wrong or _problem(record):
                raise _refused(f"line {number} of {file} {wrong}")
            yield number, record


def _problem(record: Any) -> str:
    """Say what is wrong with a question of a file; "" if nothing is."""
    if not isinstance(record, dict):
        return "is no JSON object"
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
        return f"has the label {label!r}, not one of 0, 1, 2"
    if (groups[label] == "unknown") is not ambiguous:
        return f"is {record['context_condition']}, but its right answer is {groups[label]!r}"
    return ""


def _groups(record: Mapping[str, Any]) -> list[Any]:
    """Return what the three answers are about, a list of such as "old" and "unknown"; None where it is missing."""
    info = record.get("answer_info")
    answers = [info.get(name) if isinstance(info, dict) else None for name in _ANSWERS]
    return [each[1] if isinstance(each, list) and len(each) == 2 else None for each in answers]


def _question(record: Mapping[str, Any], target: _Target) -> Question:
    groups = _groups(record)
    unknown, biased = groups.index("unknown"), int(target.answer or 0)
    counter = 3 - unknown - biased
    negative = record["question_polarity"] == "neg"
    person, other = (biased, counter) if negative else (counter, biased)
    races = [groups[place].rpartition("-")[2] for place in (person, other)]  # of such as "F-African American"
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
    """Return so many question sets of each category, or all of one that has fewer; None for all.

    A category's sets are taken at equal distances from a random start on, in the order of its templates. So each set is
    as likely to be chosen as any other, as in BBQ a template counts by its number of sets; and many templates are met.
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
