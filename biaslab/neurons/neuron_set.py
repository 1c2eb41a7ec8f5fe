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
    """An entry of the input of a layer's FFN down-projection."""

    layer: int  # from 0, the layer next to the embeddings
    index: int  # type: ignore[assignment]  # from 0, the place within the layer; a tuple's method gives way


def _algebra(operation: Callable[[Set[Any], Set[Any]], Set[Any]]) -> Callable[[NeuronSet, Set[Any]], NeuronSet]:
    return lambda own, other: own._derived(operation(own._members, set(other)), other)


class NeuronSet(Set[Neuron]):
    """An immutable set of neurons, in the order of (layer, index).

    It has the algebra of ``frozenset``, with sets of plain tuples too. A result keeps the shape, and of the provenance
    the facts on the model where both operands agree on them. A neuron keeps its strength, the left operand's where both
    have it; plain tuples leave it to the other operand.

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
    def strengths(self) -> Mapping[Neuron, float] | None:
        """How much of suppression each neuron gets, in the neurons' order; None where each has 1, all of it."""
        return None if self._strengths is None else MappingProxyType(self._strengths)

    def with_strengths(self, strengths: Mapping[tuple[int, int], float] | Mapping[Neuron, float] | None) -> NeuronSet:
        """Return the same set, whose neurons get so much of suppression each; None for 1, all of it.

        A neuron of strength x is multiplied by 1 - (1 - factor)·x (or, with values, its distance from its value is):
        by factor 0, strength 1 switches off, 0.3 weakens by 30 percent, and -1 doubles. They are kept as float32.

        Raises:
            InputError: if they are not of this set's neurons, each of them, or are not finite numbers.

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
                    f"`strengths` is expected to have exactly the {len(self)} neurons of the set but {problem} "
                    f"{', '.join(names[:3])}."
                )
        return {n: checked_strength(strengths[n], f"`strengths[{tuple(n)}]`") for n in self._neurons}

    @property
    def shape(self) -> tuple[int, int] | None:
        """(Layers, neurons a layer) of the model, where it is known."""
        return self._shape

    def with_shape(self, shape: tuple[int, int]) -> NeuronSet:
        """Return the same set and its subsets, whose shape, (layers, neurons a layer), is known.

        Raises:
            InputError: as :meth:`require_shape`.
        """
        self.require_shape(shape)
        result = self.with_details(provenance=self._provenance)
        result._shape = checked_shape(shape)
        return result.with_details(self._subsets, self._provenance)

    @property
    def fingerprint(self) -> str:
        """A short hash that stands for the neurons and their strengths, whatever the shape, subsets and provenance.

        >>> NeuronSet([(2, 7), (0, 5)]).fingerprint == NeuronSet([(0, 5), (2, 7)], shape=(3, 8)).fingerprint
        True
        """
        strengths = "" if self._strengths is None else json.dumps(list(self._strengths.values()))
        return hashlib.sha256((json.dumps(self._neurons) + strengths).encode()).hexdigest()[:16]

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

        Subsets have the same shape, but need not lie within this set; those that are sets of neurons keep their
        strengths. Provenance is anything that JSON can hold.
        """
        result = NeuronSet(self, self._shape)
        for name, neurons in (subsets or {}).items():
            result._subsets[name] = subset = NeuronSet(neurons, self._shape)
            subset._strengths = neurons._strengths if isinstance(neurons, NeuronSet) else None
        result._provenance = copy.deepcopy(dict(provenance or {}))
        result._values, result._strengths = self._values, self._strengths
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
        if self._strengths is not None or other._strengths is not None:
            known = {**dict.fromkeys(other, 1.0), **(other._strengths or {})}
            known |= dict.fromkeys(self, 1.0) if self._strengths is None else self._strengths
            result._strengths = {neuron: known.get(neuron, 1.0) for neuron in result}
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
        from biaslab.neurons.files import text_of

        path = Path(path)
        try:
            write_atomically(path, text_of(self).encode())
        except InputError as error:
            raise InputError(f"`path` is expected to be writable, but {path} is not: {error.__cause__}.") from error

    @classmethod
    def load(cls, path: str | Path) -> NeuronSet:
        """Read a file that :meth:`save` wrote.

        Args:
            path: of the file, or of a folder with a ``neurons.json``; as text also a hub id, ``ORG/NAME``,
                ``ORG/NAME/FILE.json`` or ``ORG/NAME@REVISION``, unless a path of that name exists.

        Raises:
            InputError: if the file can't be read or holds anything else, naming the place.
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
            raise InputError(f"{error} Correct the file {path}, or make it anew.") from error


def checked_strength(value: Any, place: str) -> float:
    """Return a strength as float32 holds it, if it is a number and finite there."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and abs(value) <= float(np.finfo(np.float32).max)):
        raise InputError(f"{place} is expected to be a finite float32 number but got {value!r}.")
    return float(np.float32(value))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(type(number) is int for number in value)


def checked_shape(value: Any) -> tuple[int, int]:
    """Return a shape, (layers, width), if it is one."""
    if not _is_pair(value) or min(value) < 1:
        raise InputError(f"`shape` is expected to be (layers, width), two positive integers, but got {value!r}.")
    return tuple(value)


def checked_neuron(value: Any, shape: tuple[int, int] | None, place: str) -> Neuron:
    """Return a neuron, if it is one and lies within the shape."""
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
        same_layers: as many in each layer as the set has there, with the strengths of those; else anywhere.

    Raises:
        InputError: if the shape is not known, or too few other neurons are there.

    >>> random_like(NeuronSet([(0, 1), (2, 0), (2, 3)], shape=(3, 4)), seed=0).layers()
    {0: 1, 1: 0, 2: 2}
    """
    import torch

    require_ranges({"seed": seed})
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
    control = NeuronSet(drawn, neurons.shape).with_details(provenance=facts).with_values(neurons.values)
    if neurons.strengths is None:
        return control
    return control.with_strengths(dict(zip(drawn, neurons.strengths.values(), strict=True)))
