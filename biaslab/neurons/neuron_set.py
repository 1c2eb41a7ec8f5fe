"""Neurons and immutable sets of them: set algebra, named subsets, provenance, and a JSON file."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import groupby, product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biaslab.errors import InputError
from biaslab.store import write_atomically

if TYPE_CHECKING:  # neuron files are read without torch
    from transformers import PreTrainedModel

FORMAT_VERSION = 1
_KEYS = ("format_version", "shape", "neurons", "subsets", "provenance")
_OPTIONAL = {"values"}


class Neuron(NamedTuple):
    """An entry of the input of a layer's FFN down-projection."""

    layer: int  # from 0, the layer next to the embeddings
    index: int  # type: ignore[assignment]  # from 0, the place within the layer; a tuple's method gives way


def _algebra(operation: Callable[[Set[Any], Set[Any]], Set[Any]]) -> Callable[[NeuronSet, Set[Any]], NeuronSet]:
    return lambda own, other: own._derived(operation(own._members, set(other)), other)


class NeuronSet(Set[Neuron]):
    """An immutable set of neurons, in the order of (layer, index).

    It has the algebra of ``frozenset``, with sets of plain tuples too. A result keeps the shape, and of the provenance
    the facts on the model where both operands agree on them.

    Args:
        neurons: (layer, index) pairs, in any order; one that comes twice counts once.
        shape: (layers, neurons a layer) of the model; None where it is not known.

    Raises:
        InputError: if a neuron is not a pair of integers, or lies outside the shape.

    >>> neurons = NeuronSet([(2, 7), (0, 5), (2, 1)], shape=(3, 8))
    >>> list(neurons)
    [Neuron(layer=0, index=5), Neuron(layer=2, index=1), Neuron(layer=2, index=7)]
    >>> neurons - {(2, 1)}
    NeuronSet([(0, 5), (2, 7)], shape=(3, 8))
    """

    __slots__ = ("_members", "_neurons", "_provenance", "_shape", "_subsets", "_values")

    def __init__(self, neurons: Iterable[tuple[int, int]] = (), shape: tuple[int, int] | None = None) -> None:
        self._shape = None if shape is None else _checked_shape(shape)
        self._members = frozenset(_neuron(n, self._shape, f"`neurons[{i}]`") for i, n in enumerate(neurons))
        self._neurons = tuple(sorted(self._members))
        self._subsets: dict[str, NeuronSet] = {}
        self._provenance: dict[str, Any] = {}
        self._values: NDArray[np.float32] | None = None

    @property
    def values(self) -> NDArray[np.float32] | None:
        """What suppression sets each neuron of the model to, ``[layer, neuron]``, such as its mean; None for 0."""
        return self._values

    def with_values(self, values: ArrayLike | None) -> NeuronSet:
        """Return the same set, whose neurons suppression sets to these values, ``[layer, neuron]``; None for 0.

        They are of all neurons of the model, so that random controls are set to theirs.

        Raises:
            InputError: if the set's shape is not known, or the values have another, or are not finite.
        """
        result = self.with_details(self._subsets, self._provenance)
        result._values = own = None if values is None else np.asarray(values, dtype=np.float32)
        if own is not None and (own.shape != self._shape or not np.isfinite(own).all()):
            raise InputError(
                f"`values` is expected to hold a finite number a neuron, of shape {self._shape}, but got {own.shape}."
            )
        return result

    @property
    def shape(self) -> tuple[int, int] | None:
        """(Layers, neurons a layer) of the model, where it is known."""
        return self._shape

    @property
    def fingerprint(self) -> str:
        """A short hash that stands for the neurons, whatever the shape, the subsets and the provenance.

        >>> NeuronSet([(2, 7), (0, 5)]).fingerprint == NeuronSet([(0, 5), (2, 7)], shape=(3, 8)).fingerprint
        True
        """
        return hashlib.sha256(json.dumps(self._neurons).encode()).hexdigest()[:16]

    @property
    def subsets(self) -> Mapping[str, NeuronSet]:
        """Sets that were found beside this one, by name: "gender" for a dimension, "gender/female-male" for a pair."""
        return MappingProxyType(self._subsets)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the set comes from: "model" (with its "name" and "fingerprint"), "settings", "data", "versions", …."""
        return MappingProxyType(self._provenance)

    def with_details(
        self,
        subsets: Mapping[str, Iterable[tuple[int, int]]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> NeuronSet:
        """Return the same neurons with these named subsets and this provenance instead of the old ones.

        Subsets have the same shape, but need not lie within this set; provenance is anything that JSON can hold.
        """
        result = NeuronSet(self, self._shape)
        result._subsets = {name: NeuronSet(neurons, self._shape) for name, neurons in (subsets or {}).items()}
        result._provenance = copy.deepcopy(dict(provenance or {}))
        result._values = self._values
        return result

    def layers(self) -> dict[int, int]:
        """Return the number of neurons a layer; where the shape is not known, of those layers that have some.

        >>> NeuronSet([(0, 5), (2, 1), (2, 7)], shape=(3, 8)).layers()
        {0: 1, 1: 0, 2: 2}
        """
        counts = {layer: len(indices) for layer, indices in self.by_layer().items()}
        return counts if self._shape is None else {layer: counts.get(layer, 0) for layer in range(self._shape[0])}

    def by_layer(self) -> dict[int, list[int]]:
        """Return the neurons' indices within each layer that has some.

        >>> NeuronSet([(2, 7), (0, 5), (2, 1)]).by_layer()
        {0: [5], 2: [1, 7]}
        """
        return {layer: [n.index for n in neurons] for layer, neurons in groupby(self, lambda neuron: neuron.layer)}

    def __contains__(self, neuron: object) -> bool:
        return neuron in self._members

    def __iter__(self) -> Iterator[Neuron]:
        return iter(self._neurons)

    def __len__(self) -> int:
        return len(self._neurons)

    def __hash__(self) -> int:
        return hash(self._members)

    def __repr__(self) -> str:
        shape = "" if self._shape is None else f", shape={self._shape}"
        return f"NeuronSet([{', '.join(f'({n.layer}, {n.index})' for n in self._neurons)}]{shape})"

    __or__ = __ror__ = _algebra(operator.or_)  # type: ignore[assignment]
    __and__ = __rand__ = _algebra(operator.and_)
    __xor__ = __rxor__ = _algebra(operator.xor)  # type: ignore[assignment]
    __sub__ = _algebra(operator.sub)
    __rsub__ = _algebra(lambda own, other: other - own)  # type: ignore[assignment]

    def _derived(self, neurons: Iterable[tuple[int, int]], other: Set[Any]) -> NeuronSet:
        """Return a set with the facts that hold for this one and the other."""
        other = other if isinstance(other, NeuronSet) else NeuronSet()
        if None not in (self._shape, other._shape) and self._shape != other._shape:
            raise InputError(
                "`other` is expected to be a set of neurons of the same model, with (layers, width) "
                f"{self._shape}, but has {other._shape}."
            )
        facts, others = self._model_facts(), other._model_facts()
        agree = not facts or not others or facts["model"].get("fingerprint") == others["model"].get("fingerprint")
        result = NeuronSet(neurons, self._shape or other._shape)
        if agree:
            result = result.with_details(provenance=facts or others)
            result._values = other._values if self._values is None else self._values
        return result

    def _model_facts(self) -> dict[str, Any]:
        return {"model": self._provenance["model"]} if "model" in self._provenance else {}

    def require_model(self, model: PreTrainedModel) -> None:
        """Check that the neurons are those of this very model; without provenance, that they exist in it.

        Raises:
            InputError: if the set was made for a model of another shape or with other weights.
        """
        from biaslab.models.architectures import ffn_shape
        from biaslab.models.loading import fingerprint

        self.require_shape(ffn_shape(model))
        made_for = self._provenance.get("model", {})
        wanted = made_for.get("fingerprint")
        if wanted is not None and (found := fingerprint(model)) != wanted:
            name = model.name_or_path or f"a {model.config.model_type}"
            raise InputError(
                f"`neurons` is expected to be made for this model, {name} (weights {found}), but was made for "
                f"other weights: {made_for.get('name', 'a model without a name')} (weights {wanted}). Find the neurons "
                "of this model, or load the other one."
            )

    def require_shape(self, shape: tuple[int, int]) -> None:
        """Check that the neurons are those of a model of this shape, (layers, neurons a layer).

        Raises:
            InputError: if the set was made for another shape, or has a neuron outside this one.
        """
        if self._shape not in (None, shape):
            raise InputError(
                f"`neurons` is expected to be made for a model of (layers, width) {shape} but was made for other "
                f"weights, of {self._shape}. Find the neurons of this model, or load the other one."
            )
        NeuronSet(self, shape)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, all of it or nothing; one that is there is replaced.

        Raises:
            InputError: if the file can't be written.
        """
        path = Path(path)
        content: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "shape": self._shape,
            "neurons": self._neurons,
            "subsets": {name: subset._neurons for name, subset in self._subsets.items()},
            "provenance": self._provenance,
        }
        if self._values is not None:
            content["values"] = base64.b64encode(self._values.astype("<f4").tobytes()).decode()
        text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
        text = re.sub(r"\[\n\s+(\d+),\n\s+(\d+)\n\s+\]", r"[\1, \2]", text)  # a pair a line
        try:
            write_atomically(path, (text + "\n").encode())
        except InputError as error:
            raise InputError(f"`path` is expected to be writable, but {path} is not: {error.__cause__}.") from error

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: if the file can't be read or holds anything else, naming the place.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            what = "is not JSON" if isinstance(error, ValueError) else "can't be read"
            raise InputError(f"`neurons` is expected to be a neuron file, but {path} {what}: {error}.") from error
        try:
            return _parse(content)
        except InputError as error:
            raise InputError(f"{error} Correct the file {path}, or make it anew.") from error


def _parse(content: Any) -> NeuronSet:
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
        raise InputError("`provenance.model` is expected to be a JSON object.")
    shape = None if content["shape"] is None else _checked_shape(content["shape"])
    subsets = {name: _parse_neurons(pairs, shape, f"subsets.{name}") for name, pairs in content["subsets"].items()}
    neurons = NeuronSet(_parse_neurons(content["neurons"], shape, "neurons"), shape)
    return neurons.with_details(subsets, content["provenance"]).with_values(_parse_values(content.get("values"), shape))


def _parse_values(text: Any, shape: tuple[int, int] | None) -> NDArray[np.float32] | None:
    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").reshape(shape or (0, 0))
    except (TypeError, ValueError) as error:
        raise InputError(f"`values` is expected to hold a float32 a neuron, in base64, but: {error}.") from error


def _parse_neurons(pairs: Any, shape: tuple[int, int] | None, place: str) -> list[Neuron]:
    if not isinstance(pairs, list):
        raise InputError(f"`{place}` is expected to be a list of [layer, index] but got {type(pairs).__name__}.")
    found: dict[Neuron, int] = {}
    for number, pair in enumerate(pairs):
        neuron = _neuron(pair, shape, f"`{place}[{number}]`")
        if (first := found.setdefault(neuron, number)) != number:
            raise InputError(f"`{place}[{number}]` is expected to come once but {list(neuron)} is also at {first}.")
    return list(found)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(number) is int for number in value)


def _checked_shape(value: Any) -> tuple[int, int]:
    if not _is_pair(value) or min(value) < 1:
        raise InputError(f"`shape` is expected to be (layers, width), two positive integers, but got {value!r}.")
    return tuple(value)


def _neuron(value: Any, shape: tuple[int, int] | None, place: str) -> Neuron:
    if not _is_pair(value):
        raise InputError(f"{place} is expected to be a pair of integers (layer, index) but got {value!r}.")
    for name, number, limit in zip(Neuron._fields, value, shape or (None, None), strict=True):
        if number < 0 or (limit is not None and number >= limit):
            allowed = "not negative" if limit is None else f"from 0 to {limit - 1}"
            raise InputError(f"{place} is expected to have a {name} {allowed} but got {number} in {tuple(value)}.")
    return Neuron(*value)


def random_like(neurons: NeuronSet, seed: int, same_layers: bool = True) -> NeuronSet:
    """Draw a control: a set of the same size and shape, of random neurons that are not in the set.

    Args:
        neurons: the set that is controlled for; its shape must be known.
        seed: the same seed draws the same neurons.
        same_layers: as many in each layer as the set has there; else anywhere.

    Raises:
        InputError: if the shape is not known, or too few other neurons are there.

    >>> random_like(NeuronSet([(0, 1), (2, 0), (2, 3)], shape=(3, 4)), seed=0).layers()
    {0: 1, 1: 0, 2: 2}
    """
    import torch

    if neurons.shape is None:
        raise InputError("`neurons` is expected to have a shape to draw from but has none. Give NeuronSet its `shape`.")
    layers, width = neurons.shape
    wanted = neurons.layers() if same_layers else {None: len(neurons)}
    generator = torch.Generator().manual_seed(seed)
    drawn: list[tuple[int, int]] = []
    for layer, count in wanted.items():
        places = product(range(layers) if layer is None else [layer], range(width))
        free = [place for place in places if place not in neurons]
        if count > len(free):
            where = "the model" if layer is None else f"layer {layer}"
            raise InputError(f"`neurons` is expected to leave {count} other neurons in {where} but leaves {len(free)}.")
        drawn += [free[place] for place in torch.randperm(len(free), generator=generator)[:count].tolist()]
    settings = {"selection": "random", "seed": seed, "same_layers": same_layers}
    facts = neurons._model_facts() | {"settings": settings}
    return NeuronSet(drawn, neurons.shape).with_details(provenance=facts).with_values(neurons.values)
