"""The texts of prompts: generated from word lists, or read from a file in the paper authors' format."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from biaslab.data import words
from biaslab.data.own_words import OwnDimension
from biaslab.data.records import json_content
from biaslab.errors import InputError, read_text, reading, require_all_of, require_one_of, require_positive
from biaslab.models.tokens import SLOT

Part = Literal["find", "held_out"]
Pair = tuple[str, str]


class Prompt(NamedTuple):
    """A sentence with a slot."""

    text: str  # contains {slot} once
    dimension: str  # its demographics fill the slot
    kind: str  # kind of the modifier
    group: int  # the same for all wordings of a statement


def make_prompts(
    dimensions: Sequence[str],
    kinds: Sequence[str],
    modifiers: int,
    part: Part,
    masked: bool = True,
    templates: Sequence[words.Template] | None = None,
    own: Mapping[str, OwnDimension] | None = None,
) -> list[Prompt]:
    """Generate the prompts for dimensions and kinds, keys of the tables in :mod:`biaslab.data.words` or of ``own``.

    Each kind has at most ``modifiers`` modifiers, evenly spaced in its list. The part "held_out" uses other modifiers
    and wordings than "find". The slot is last unless the prompts are for a masked language model.

    Raises:
        InputError: for an unknown dimension, kind or part.
    """
    nouns = words.DIMENSION_NOUNS | {name: dimension.noun for name, dimension in (own or {}).items()}
    for name, values, known in (("dimensions", dimensions, nouns), ("kinds", kinds, words.MODIFIERS)):
        require_all_of(name, values, known)
    require_one_of("part", part, ["find", "held_out"])
    require_positive(modifiers=modifiers)
    held_out = part == "held_out"
    if templates is None:
        templates = [t for index, t in enumerate(words.TEMPLATES) if (index in words.HELD_OUT_TEMPLATES) == held_out]
    texts = [template.masked if masked else template.causal for template in templates]
    prompts = []
    for dimension, kind in product(dimensions, kinds):
        every = words.part_of_modifiers(kind, held_out)
        step = max(1.0, len(every) / modifiers)
        for group in (int(place * step) for place in range(min(modifiers, len(every)))):
            fields = {"dimension": nouns[dimension], "modifier": every[group], "slot": SLOT}
            prompts += [Prompt(text.format(**fields), dimension, kind, group) for text in texts]
    return prompts


def read_prompts(path: str | Path) -> tuple[list[Prompt], dict[str, list[Pair]]]:
    """Read the format of the paper's authors: a JSON list of groups, each a list of [sentence, demographic, id].

    The slot is written [MASK]. The file defines one dimension, named after it, with the demographics of its sentences;
    consecutive demographics form the pairs.

    Raises:
        InputError: if the file has another format (the message gives the group), or a sentence does not have exactly
            one slot.
    """
    path = Path(path)
    with reading("path", "a JSON file of prompt groups", path):
        groups = json_content(read_text(path))
    if not isinstance(groups, list) or not groups:
        raise InputError(f"`path` is expected to contain a list of groups, but {path} is a {type(groups).__name__}.")
    prompts: dict[tuple[int, str], Prompt] = {}
    demographics: dict[str, None] = {}
    for number, group in enumerate(groups):
        if not isinstance(group, list) or not all(map(_is_triple, group)):
            raise InputError(
                f"`path` is expected to contain groups of [sentence, demographic, id], but group {number} of {path} "
                "has another format. Fix the file."
            )
        for sentence, demographic, _ in group:
            if sentence.count("[MASK]") != 1:
                raise InputError(
                    f"`prompt` is expected to have exactly one slot, [MASK], but group {number} of {path} has "
                    f"{sentence.count('[MASK]')} in {sentence!r}."
                )
            text = sentence.replace("[MASK]", SLOT)
            prompts.setdefault((number, text), Prompt(text, path.stem, path.stem, number))
            demographics.setdefault(demographic)
    if len(demographics) < 2:
        raise InputError(
            f"`path` is expected to contain at least two demographics, but {path} has {', '.join(demographics)}."
        )
    return list(prompts.values()), {path.stem: list(pairwise(demographics))}


def _is_triple(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and all(isinstance(value, str) for value in entry[:2])
