"""Reads, validates and writes the JSON of a neuron file."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biaslab.errors import InputError
from biaslab.models.hub import download, hub_file
from biaslab.neurons.neuron_set import Neuron, NeuronSet, checked_neuron, checked_shape, checked_strength
from biaslab.store import slug

NEURONS = "neurons.json"  # the file's name in a folder or a repository of the hub
FORMAT_VERSION = 1
_KEYS = ("format_version", "shape", "neurons", "subsets", "provenance")
_OPTIONAL = {"values", "strengths"}


def neuron_file(name: str | Path, beside: Sequence[str] = ()) -> Path:
    """Return the path of a neuron file that is given as a path, as the folder it is in, or as a hub id.

    Args:
        name: a path or, as text, ``ORG/NAME``, ``ORG/NAME/FILE.json`` or ``ORG/NAME@REVISION`` on the hub. A path that
            exists is never taken for a hub id.
        beside: names of files in the same folder that are downloaded with it from the hub, where they exist.

    Raises:
        InputError: if it can't be downloaded. Whether a path exists is not checked.
    """
    if not isinstance(name, str) or (file := hub_file(name, NEURONS)) is None:
        path = os.path.expanduser(name)  # unlike Path.expanduser, it never raises
        return Path(path, NEURONS) if os.path.isdir(path) else Path(path)
    found = download(file, name)
    for other in beside:
        with suppress(InputError):
            download(file._replace(name=str(PurePosixPath(file.name).with_name(other))), name)
    return found


def results_folder(name: str) -> Path:
    """Return where results on a neuron file go by default: its folder, or ``runs/ORG--NAME`` for a hub id.

    >>> results_folder("org/model@v1").as_posix()
    'runs/org--model'
    """
    file = hub_file(name, NEURONS)
    return neuron_file(name).parent if file is None else Path("runs", slug(file.repo))


def text_of(neurons: NeuronSet) -> str:
    """Return the content of a neuron file."""
    subsets = neurons.subsets
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "shape": neurons.shape,
        "neurons": list(neurons),
        "subsets": {name: list(subset) for name, subset in subsets.items()},
        "provenance": dict(neurons.provenance),
    }
    if neurons.values is not None:
        content["values"] = base64.b64encode(neurons.values.astype("<f4").tobytes()).decode()
    own = {} if neurons.strengths is None else {"neurons": list(neurons.strengths.values())}
    of = {name: list(subset.strengths.values()) for name, subset in subsets.items() if subset.strengths is not None}
    if own or of:
        content["strengths"] = own | ({"subsets": of} if of else {})
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    return re.sub(r"\[\n\s+(\d+),\n\s+(\d+)\n\s+\]", r"[\1, \2]", text) + "\n"  # one pair per line


def parsed(content: Any) -> NeuronSet:
    """Return the set of neurons in the JSON of a neuron file.

    Raises:
        InputError: if the JSON is not a valid neuron file; the message names the place.
    """
    if not isinstance(content, dict):
        raise InputError(f"`neurons` is expected to be a JSON object but got {type(content).__name__}.")
    if content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise InputError(f"`format_version` is expected to be {FORMAT_VERSION} but got {content['format_version']!r}.")
    for problem, keys in (("lacks", set(_KEYS) - content.keys()), ("has", content.keys() - {*_KEYS, *_OPTIONAL})):
        if keys:
            raise InputError(f"`neurons` is expected to have the keys {', '.join(_KEYS)} but {problem} {sorted(keys)}.")
    for key in ("subsets", "provenance"):
        if not isinstance(content[key], dict):
            raise InputError(f"`{key}` is expected to be a JSON object but got {type(content[key]).__name__}.")
    if not isinstance(content["provenance"].get("model", {}), dict):
        got = type(content["provenance"]["model"]).__name__
        raise InputError(f"`provenance.model` is expected to be a JSON object but got {got}.")
    shape = None if content["shape"] is None else checked_shape(content["shape"])
    places = {f"subsets.{name}": pairs for name, pairs in content["subsets"].items()} | {"neurons": content["neurons"]}
    pairs = {place: _parse_neurons(given, shape, place) for place, given in places.items()}
    strengths = _parse_strengths(content.get("strengths"), pairs)
    sets = {place: NeuronSet(own, shape).with_strengths(strengths.get(place)) for place, own in pairs.items()}
    subsets = {name: sets[f"subsets.{name}"] for name in content["subsets"]}
    neurons = sets["neurons"].with_details(subsets, content["provenance"])
    return neurons.with_values(_parse_values(content.get("values"), shape))


def _parse_strengths(content: Any, pairs: Mapping[str, list[Neuron]]) -> dict[str, dict[Neuron, float]]:
    """Return the strengths of the sets that have any, keyed like ``pairs`` by "neurons" or "subsets.NAME"."""
    if content is None:
        return {}
    if not isinstance(content, dict) or content.keys() - {"neurons", "subsets"}:
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"`strengths` is expected to be a JSON object with the keys `neurons` and `subsets` but got {got}."
        )
    subsets = content.get("subsets", {})
    if not isinstance(subsets, dict):
        raise InputError(f"`strengths.subsets` is expected to be a JSON object but got {type(subsets).__name__}.")
    given = {f"subsets.{name}": numbers for name, numbers in subsets.items()}
    given |= {"neurons": content["neurons"]} if "neurons" in content else {}
    found = {}
    for place, numbers in given.items():
        if place not in pairs:
            raise InputError(f"`strengths.{place}` is expected to name a subset in `subsets`, but there is none.")
        if not isinstance(numbers, list) or len(numbers) != len(pairs[place]):
            got = f"{len(numbers)} of them" if isinstance(numbers, list) else type(numbers).__name__
            raise InputError(
                f"`strengths.{place}` is expected to be a list of {len(pairs[place])} numbers, one for each pair of "
                f"`{place}`, but got {got}."
            )
        checked = [checked_strength(value, f"`strengths.{place}[{number}]`") for number, value in enumerate(numbers)]
        found[place] = dict(zip(pairs[place], checked, strict=True))
    return found


def _parse_values(text: Any, shape: tuple[int, int] | None) -> NDArray[np.float32] | None:
    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape or (0, 0))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`values` is expected to hold one float32 per neuron in base64 but can't be decoded: {error}."
        ) from error


def _parse_neurons(pairs: Any, shape: tuple[int, int] | None, place: str) -> list[Neuron]:
    if not isinstance(pairs, list):
        raise InputError(f"`{place}` is expected to be a list of [layer, index] but got {type(pairs).__name__}.")
    found: dict[Neuron, int] = {}
    for number, pair in enumerate(pairs):
        neuron = checked_neuron(pair, shape, f"`{place}[{number}]`")
        if (first := found.setdefault(neuron, number)) != number:
            raise InputError(
                f"`{place}[{number}]` is expected to occur once but {list(neuron)} is also at index {first}."
            )
    return list(found)
