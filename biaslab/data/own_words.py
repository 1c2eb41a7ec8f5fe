"""Own dimensions from a file: what they are called in a sentence, their demographics, and which of them are paired."""

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from biaslab.data.records import json_content
from biaslab.errors import InputError, read_text, reading

_KEYS = ("noun", "demographics", "pairs")
_RESERVED = ("all", "overall", "random")  # names of rows and scopes
_FORM = "NAME: {noun: TEXT, demographics: [WORD, WORD, …], pairs: [[WORD, WORD], …]}"


class OwnDimension(NamedTuple):
    """A dimension of a user's file."""

    noun: str  # in a sentence: "the NOUN of the rude person is ..."
    pairs: tuple[tuple[str, str], ...]  # of demographics


def read_words(path: str | Path) -> dict[str, OwnDimension]:
    """Read a JSON or YAML file of dimensions by name.

    A dimension is a list of demographics, or a mapping with ``demographics``, ``pairs`` (of these; consecutive ones by
    default) and ``noun`` (by default the name, with blanks for underscores). Of demographics and pairs one is enough.

    Raises:
        InputError: if the file can't be read or is of another form; it names the dimension.
    """
    with reading("words", "a JSON or YAML file of dimensions", path):
        text = read_text(path)
        try:
            content = json_content(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(" ".join(str(error).split())) from error
        json.dumps(content, ensure_ascii=False, default=str).encode()  # half a character is a ValueError
    if not isinstance(content, dict) or not content:
        raise InputError(f"`words` is expected to hold dimensions, {_FORM}, but {path} holds none.")
    return {name: _dimension(name, entry, path) for name, entry in content.items()}


def _dimension(name: Any, entry: Any, path: str | Path) -> OwnDimension:
    def wrong(text: str) -> InputError:
        return InputError(f"`words` is expected to hold {_FORM}, but in {path} the dimension {name!r} {text}.")

    if not isinstance(name, str) or not name.strip() or "/" in name or name in _RESERVED:
        raise wrong(f"has a name that is no text, has a slash, or is one of {', '.join(_RESERVED)}")
    entry = {"demographics": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict) or entry.keys() - set(_KEYS):
        raise wrong(f"is no list of words and no mapping with {', '.join(_KEYS)} alone")
    noun, words, pairs = entry.get("noun", name.replace("_", " ")), entry.get("demographics"), entry.get("pairs")
    if not isinstance(noun, str) or not noun.strip():
        raise wrong("has a noun that is no text")
    if words is not None and not _are_texts(words):
        raise wrong("has demographics that are no list of texts; write numbers, yes and no in quotes")
    if pairs is None:
        pairs = list(pairwise(words or ()))
    if not isinstance(pairs, list) or not all(_are_texts(pair) and len(set(pair)) == len(pair) == 2 for pair in pairs):
        raise wrong("has pairs that are no lists of two different texts")
    if unknown := [word for word in chain(*pairs) if words is not None and word not in words]:
        raise wrong(f"has pairs with {unknown[0]!r}, which is none of its demographics")
    if not pairs:
        raise wrong("has no two demographics")
    return OwnDimension(noun.strip(), tuple((first.strip(), second.strip()) for first, second in pairs))


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) and value.strip() for value in values)
