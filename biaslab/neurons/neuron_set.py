"""Neurons and immutable sets of them: set algebra, named subsets, provenance, and a JSON file."""

from __future__ import annotations

import copy
import hashlib
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import groupby, product
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biaslab.errors import InputError, read_text, require_ranges
from biaslab.store import write_atomically

if TYPE_CHECKING:  # neuron files are read without torch
    from transformers import PreTrainedModel


class Neuron(NamedTuple):
    """A neuron: one entry of the input of a layer's FFN down-projection."""

    layer: int  # from 0, starting at the embeddings
    index: int  # type: ignore[assignment]  # from 0, within the layer; shadows tuple.index


def _algebra(operation: Callable[[Set[Any], Set[Any]], Set[Any]]) -> Callable[[NeuronSet, Set[Any]], NeuronSet]:
    return lambda own, other: own._derived(operation(own._members, set(other)), other)


class NeuronSet(Set[Neuron]):
    """An immutable set of neurons, sorted by (layer, index).

    Supports the operators of ``frozenset``, also with sets of plain tuples. The result keeps the shape and, if both
    operands agree, the model's provenance. A neuron keeps its strength; if both operands contain it, that of the left
    one, unless the left one is a plain set of tuples.

    Args:
        neurons: (layer, index) pairs in any order; duplicates are ignored.
        shape: (layers, neurons per layer) of the model; None if unknown.

    Raises:
        InputError: if a neuron is not a pair of integers, or is outside the shape.

    >>> neurons = NeuronSet([(2, 7), (0, 5), (2, 1)], shape=(3, 8))
    >>> list(neurons)
    [Neuron(layer=0, index=5), Neuron(layer=2, index=1), Neuron(layer=2, index=7)]
    >>> neurons - {(2, 1)}
    NeuronSet([(0, 5), (2, 7)], shape=(3, 8))
    """

    __slots__ = ("_members", "_neurons", "_provenance", "_shape", "_strengths", "_subsets", "_values")

    def __init__(self, neurons: Iterable[tuple[int, int]] = (), shape: tuple[int, int] | None = None) -> None:
        self._shape = None if shape is None else checked_shape(shape)
        self._members = frozenset(checked_neuron(n, self._shape, f"`neurons[{i}]`") for i, n in enumerate(neurons))
        self._neurons = tuple(sorted(self._members))
        self._subsets: dict[str, NeuronSet] = {}
        self._provenance: dict[str, Any] = {}
        self._values: NDArray[np.float32] | None = None
        self._strengths: dict[Neuron, float] | None = None

    @property
    def values(self) -> NDArray[np.float32] | None:
        """Value that suppression sets each neuron to, ``[layer, neuron]``, such as its mean; None for 0."""
        return self._values

    def with_values(self, values: ArrayLike | None) -> NeuronSet:
        """Return the same set with other values that suppression sets neurons to.

        Args:
            values: a value for every neuron of the model (random controls need them, too), ``[layer, neuron]``; None
                for 0.

        Raises:
            InputError: if the set's shape is unknown or differs from that of the values, or a value is not finite.
        """
        result = self.with_details(self._subsets, self._provenance)
        result._values = own = None if values is None else np.asarray(values, dtype=np.float32)
        if own is not None and (own.shape != self._shape or not np.isfinite(own).all()):
            raise InputError(
                f"`values` is expected to hold one finite number per neuron, of shape {self._shape}, but got "
                f"{own.shape}{'' if np.isfinite(own).all() else ' with NaN or infinite values'}."
            )
        return result

    @property
    def strengths(self) -> Mapping[Neuron, float] | None:
        """Strength of suppression of each neuron, in the order of the set; None if all are 1 (full suppression)."""
        return None if self._strengths is None else MappingProxyType(self._strengths)

    def with_strengths(self, strengths: Mapping[tuple[int, int], float] | Mapping[Neuron, float] | None) -> NeuronSet:
        """Return the same set with other strengths of suppression.

        A neuron of strength x (or, with values, its distance from its value) is multiplied by 1 - (1 - factor)·x. With
        factor 0, strength 1 switches it off, 0.3 weakens it by 30 percent, and -1 doubles it.

        Args:
            strengths: a number for each neuron of the set, stored as float32; None for 1 (full suppression).

        Raises:
            InputError: if a neuron is missing or not in the set, or a strength is not a finite number.

        >>> NeuronSet([(0, 5), (2, 1)]).with_strengths({(2, 1): -1, (0, 5): 0.5}).strengths[0, 5]
        0.5
        """
        result = self.with_details(self._subsets, self._provenance)
        result._strengths = None if strengths is None else self._checked_strengths(strengths)
        return result

    def _checked_strengths(self, strengths: Mapping[Any, float]) -> dict[Neuron, float]:
        if not isinstance(strengths, Mapping):
            got = type(strengths).__name__
            raise InputError(f"`strengths` is expected to map each neuron of the set to a number but got {got}.")
        lacking, foreign = self._members - strengths.keys(), strengths.keys() - self._members
        for problem, neurons in (("lacks", lacking), ("has", foreign)):
            if neurons:
                names = sorted(str(tuple(neuron) if isinstance(neuron, tuple) else neuron) for neuron in neurons)
                raise InputError(
                    f"`strengths` is expected to hold exactly the {len(self)} neurons of the set but {problem} "
                    f"{', '.join(names[:3])}."
                )
        return {n: checked_strength(strengths[n], f"`strengths[{tuple(n)}]`") for n in self._neurons}

    @property
    def shape(self) -> tuple[int, int] | None:
        """(Layers, neurons per layer) of the model; None if unknown."""
        return self._shape

    def with_shape(self, shape: tuple[int, int]) -> NeuronSet:
        """Return the same set and subsets with this shape, (layers, neurons per layer).

        Raises:
            InputError: as :meth:`require_shape`.
        """
        self.require_shape(shape)
        result = self.with_details(provenance=self._provenance)
        result._shape = checked_shape(shape)
        return result.with_details(self._subsets, self._provenance)

    @property
    def fingerprint(self) -> str:
        """A short hash of the neurons and their strengths, independent of shape, subsets and provenance.

        >>> NeuronSet([(2, 7), (0, 5)]).fingerprint == NeuronSet([(0, 5), (2, 7)], shape=(3, 8)).fingerprint
        True
        """
        strengths = "" if self._strengths is None else json.dumps(list(self._strengths.values()))
        return hashlib.sha256((json.dumps(self._neurons) + strengths).encode()).hexdigest()[:16]

    @property
    def subsets(self) -> Mapping[str, NeuronSet]:
        """Sets for parts of the data, by name: "gender" for a dimension, "gender/female-male" for a pair."""
        return MappingProxyType(self._subsets)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the set comes from: "model" (with "name" and "fingerprint"), "settings", "data", "versions", …."""
        return MappingProxyType(self._provenance)

    def with_details(
        self,
        subsets: Mapping[str, Iterable[tuple[int, int]]] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> NeuronSet:
        """Return the same neurons with other named subsets and other provenance.

        Args:
            subsets: neurons of the same shape, by name, not necessarily contained in this set. NeuronSets keep their
                strengths.
            provenance: anything that JSON can represent.
        """
        result = NeuronSet(self, self._shape)
        for name, neurons in (subsets or {}).items():
            result._subsets[name] = subset = NeuronSet(neurons, self._shape)
            subset._strengths = neurons._strengths if isinstance(neurons, NeuronSet) else None
        result._provenance = copy.deepcopy(dict(provenance or {}))
        result._values, result._strengths = self._values, self._strengths
        return result

    def layers(self) -> dict[int, int]:
        """Return the number of neurons in each layer; if the shape is unknown, only for layers with neurons.

        >>> NeuronSet([(0, 5), (2, 1), (2, 7)], shape=(3, 8)).layers()
        {0: 1, 1: 0, 2: 2}
        """
        counts = {layer: len(indices) for layer, indices in self.by_layer().items()}
        return counts if self._shape is None else {layer: counts.get(layer, 0) for layer in range(self._shape[0])}

    def by_layer(self) -> dict[int, list[int]]:
        """Return the indices of the neurons in each layer with neurons.

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
        """Return a set with the properties that this set and the other have in common."""
        other = other if isinstance(other, NeuronSet) else NeuronSet()
        if None not in (self._shape, other._shape) and self._shape != other._shape:
            raise InputError(
                "`other` is expected to be a set of neurons of the same model, of shape (layers, width) "
                f"{self._shape}, but has shape {other._shape}."
            )
        facts, others = self._model_facts(), other._model_facts()
        agree = not facts or not others or facts["model"].get("fingerprint") == others["model"].get("fingerprint")
        result = NeuronSet(neurons, self._shape or other._shape)
        if agree:
            result = result.with_details(provenance=facts or others)
            result._values = other._values if self._values is None else self._values
        if self._strengths is not None or other._strengths is not None:
            known = {**dict.fromkeys(other, 1.0), **(other._strengths or {})}
            known |= dict.fromkeys(self, 1.0) if self._strengths is None else self._strengths
            result._strengths = {neuron: known.get(neuron, 1.0) for neuron in result}
        return result

    def _model_facts(self) -> dict[str, Any]:
        return {"model": self._provenance["model"]} if "model" in self._provenance else {}

    def require_model(self, model: PreTrainedModel) -> None:
        """Check that the set was made for this model's weights; without provenance, that the neurons exist in it.

        Raises:
            InputError: if the set was made for another shape or other weights.
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
                f"other weights: {made_for.get('name', 'an unnamed model')} (weights {wanted}). Find the neurons "
                "of this model, or load the other model."
            )

    def require_shape(self, shape: tuple[int, int]) -> None:
        """Check that the set fits a model of this shape, (layers, neurons per layer).

        Raises:
            InputError: if the set was made for another shape, or has a neuron outside this one.
        """
        if self._shape not in (None, shape):
            raise InputError(
                f"`neurons` is expected to be made for a model of shape (layers, width) {shape} but was made for one "
                f"of shape {self._shape}. Find the neurons of this model, or load the other model."
            )
        NeuronSet(self, shape)

    def save(self, path: str | Path) -> None:
        """Write a JSON file atomically, replacing an existing one.

        Raises:
            InputError: if the file can't be written.
        """
        from biaslab.neurons.files import text_of

        path = Path(path)
        try:
            write_atomically(path, text_of(self).encode())
        except InputError as error:
            raise InputError(f"`path` is expected to be writable but {path} is not: {error.__cause__}.") from error

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read a file written by :meth:`save`.

        Args:
            path: of the file, or of a folder with a ``neurons.json``; as text also a hub id, ``ORG/NAME``,
                ``ORG/NAME/FILE.json`` or ``ORG/NAME@REVISION``, unless a path of that name exists.

        Raises:
            InputError: if the file can't be read or is not a valid neuron file; the message names the place.
        """
        from biaslab.neurons.files import neuron_file, parsed

        path = neuron_file(path)
        try:
            content = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            what = "is not JSON" if isinstance(error, ValueError) else "can't be read"
            raise InputError(f"`neurons` is expected to be a neuron file, but {path} {what}: {error}.") from error
        try:
            return parsed(content)
        except InputError as error:
            raise InputError(f"{error} Fix the file {path}, or create it again.") from error


def checked_strength(value: Any, place: str) -> float:
    """Return a strength rounded to float32; raise InputError if it is not a finite number."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and abs(value) <= float(np.finfo(np.float32).max)):
        raise InputError(f"{place} is expected to be a finite float32 number but got {value!r}.")
    return float(np.float32(value))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(number) is int for number in value)


def checked_shape(value: Any) -> tuple[int, int]:
    """Return a shape as a tuple (layers, width); raise InputError if it is invalid."""
    if not _is_pair(value) or min(value) < 1:
        raise InputError(f"`shape` is expected to be (layers, width), two positive integers, but got {value!r}.")
    return tuple(value)


def checked_neuron(value: Any, shape: tuple[int, int] | None, place: str) -> Neuron:
    """Return a neuron; raise InputError if it is not a pair of integers within the shape."""
    if not _is_pair(value):
        raise InputError(f"{place} is expected to be a pair of integers (layer, index) but got {value!r}.")
    for name, number, limit in zip(Neuron._fields, value, shape or (None, None), strict=True):
        if number < 0 or (limit is not None and number >= limit):
            allowed = "not negative" if limit is None else f"from 0 to {limit - 1}"
            raise InputError(f"{place} is expected to have a {name} {allowed} but got {number} in {tuple(value)}.")
    return Neuron(*value)


def random_like(neurons: NeuronSet, seed: int, same_layers: bool = True) -> NeuronSet:
    """Draw a random control: a set of the same size and shape, of neurons that are not in the given set.

    Args:
        neurons: the set to draw a control for; its shape must be known.
        seed: seed of the random generator.
        same_layers: draw as many neurons in each layer as the set has there, with their strengths; otherwise draw from
            all layers.

    Raises:
        InputError: if the shape is unknown, or too few other neurons are left.

    >>> random_like(NeuronSet([(0, 1), (2, 0), (2, 3)], shape=(3, 4)), seed=0).layers()
    {0: 1, 1: 0, 2: 2}
    """
    import torch

    require_ranges({"seed": seed})
    if neurons.shape is None:
        raise InputError("`neurons` is expected to have a shape but has none. Give NeuronSet a `shape`.")
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
    control = NeuronSet(drawn, neurons.shape).with_details(provenance=facts).with_values(neurons.values)
    if neurons.strengths is None:
        return control
    return control.with_strengths(dict(zip(drawn, neurons.strengths.values(), strict=True)))
