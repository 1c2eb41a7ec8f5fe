"""Custom dimensions from a file: their nouns, demographics and demographic pairs."""

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from biaslab.data.records import json_content
from biaslab.errors import InputError, read_text, reading

_KEYS = ("noun", "demographics", "pairs")
_RESERVED = ("all", "overall", "random")  # used as names of rows and scopes
_FORM = "NAME: {noun: TEXT, demographics: [WORD, WORD, …], pairs: [[WORD, WORD], …]}"


class OwnDimension(NamedTuple):
    """A dimension from a user's file."""

    noun: str  # as in "the NOUN of the rude person is ..."
    pairs: tuple[tuple[str, str], ...]  # pairs of demographics


def read_words(path: str | Path) -> dict[str, OwnDimension]:
    """Read a JSON or YAML file of dimensions by name.

    A dimension is a list of demographics, or a mapping with ``demographics``, ``pairs`` (of these; default: consecutive
    ones) and ``noun`` (default: the name, with spaces for underscores). Demographics or pairs may be omitted.

    Raises:
        InputError: if the file cannot be read or has another format; the message gives the dimension.
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
        json.dumps(content, ensure_ascii=False, default=str).encode()  # a lone surrogate raises a ValueError
    if not isinstance(content, dict) or not content:
        raise InputError(f"`words` is expected to contain dimensions, {_FORM}, but {path} has none.")
    return {name: _dimension(name, entry, path) for name, entry in content.items()}


def _dimension(name: Any, entry: Any, path: str | Path) -> OwnDimension:
    def wrong(text: str) -> InputError:
        return InputError(f"`words` is expected to contain {_FORM}, but in {path} the dimension {name!r} {text}.")

    if not isinstance(name, str) or not name.strip() or "/" in name or name in _RESERVED:
        raise wrong(f"has a name that is not text, contains a slash, or is one of {', '.join(_RESERVED)}")
    entry = {"demographics": entry} if isinstance(entry, list) else entry
    if not isinstance(entry, dict) or entry.keys() - set(_KEYS):
        raise wrong(f"is neither a list of words nor a mapping with only {', '.join(_KEYS)}")
    noun, words, pairs = entry.get("noun", name.replace("_", " ")), entry.get("demographics"), entry.get("pairs")
    if not isinstance(noun, str) or not noun.strip():
        raise wrong("has a noun that is not text")
    if words is not None and not _are_texts(words):
        raise wrong("has demographics that are not a list of texts (numbers, yes and no need quotes)")
    if pairs is None:
        pairs = list(pairwise(words or ()))
    if not isinstance(pairs, list) or not all(_are_texts(pair) and len(set(pair)) == len(pair) == 2 for pair in pairs):
        raise wrong("has pairs that are not lists of two different texts")
    if unknown := [word for word in chain(*pairs) if words is not None and word not in words]:
        raise wrong(f"has pairs with {unknown[0]!r}, which is not one of its demographics")
    if not pairs:
        raise wrong("has fewer than two demographics")
    return OwnDimension(noun.strip(), tuple((first.strip(), second.strip()) for first, second in pairs))


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) and value.strip() for value in values)
