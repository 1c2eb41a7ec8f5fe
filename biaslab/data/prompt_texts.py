"""The texts of prompts: written from words, or read from a file of the paper's authors."""

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

    text: str  # with {slot} once
    dimension: str  # whose demographics fill the slot
    kind: str  # of the modifier
    group: int  # the same for all wordings of one statement


def make_prompts(
    dimensions: Sequence[str],
    kinds: Sequence[str],
    modifiers: int,
    part: Part,
    masked: bool = True,
    templates: Sequence[words.Template] | None = None,
    own: Mapping[str, OwnDimension] | None = None,
) -> list[Prompt]:
    """Write the prompts of the given dimensions and kinds, keys of :mod:`biaslab.data.words`' tables or of own ones.

    Of each kind there are at most so many modifiers, spread over its list. The part "held_out" has other modifiers in
    other wordings than "find". The slot stands last, unless they are for a masked language model.

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

    The slot is written [MASK]. The file becomes a dimension named after it, whose demographics are those that its
    sentences are asked about; consecutive ones form the pairs.

    Raises:
        InputError: if the file is of another form, naming the group; or if a sentence has not exactly one slot.
    """
    path = Path(path)
    with reading("path", "a JSON file of prompt groups", path):
        groups = json_content(read_text(path))
    if not isinstance(groups, list) or not groups:
        raise InputError(f"`path` is expected to hold a list of groups, but {path} holds {type(groups).__name__}.")
    prompts: dict[tuple[int, str], Prompt] = {}
    demographics: dict[str, None] = {}
    for number, group in enumerate(groups):
        if not isinstance(group, list) or not all(map(_is_triple, group)):
            raise InputError(
                f"`path` is expected to hold groups of [sentence, demographic, id], but group {number} of {path} isn't."
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
            f"`path` is expected to ask about two demographics or more, but {path} has {', '.join(demographics)}."
        )
    return list(prompts.values()), {path.stem: list(pairwise(demographics))}


def _is_triple(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and all(isinstance(value, str) for value in entry[:2])
