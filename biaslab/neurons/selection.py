"""Which neurons are bias neurons, of their scores: the largest, or the largest that ordinary sentences can spare."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet


def ranked(scores: Tensor, count: int) -> NeuronSet:
    """Return the neurons with the largest scores; of equal ones those that come first in the order of (layer, index).

    Args:
        scores: ``[layer, neuron]``.
        count: how many neurons.

    Raises:
        InputError: if a score is NaN, or ``count`` is not between 1 and the number of neurons.

    >>> ranked(torch.tensor([[0.1, 0.9], [0.9, 0.9]]), count=2)
    NeuronSet([(0, 1), (1, 0)], shape=(2, 2))
    """
    _check_scores("scores", scores)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= scores.numel():
        raise InputError(f"`count` is expected to lie between 1 and the {scores.numel()} neurons but got {count}.")
    best = scores.flatten().sort(descending=True, stable=True).indices[:count].tolist()
    return NeuronSet([divmod(neuron, scores.shape[1]) for neuron in best], shape=(scores.shape[0], scores.shape[1]))


def guarded(scores: Tensor, guard: Tensor, count: int, weight: float = 1.0) -> NeuronSet:
    r"""Return the neurons with the largest bias scores, sparing those that ordinary sentences need.

    .. math:: b(n) / \max b - \lambda \max(g(n), 0) / \max g

    Args:
        scores: b(n), mean scores of the demographic gap, ``[layer, neuron]``.
        guard: g(n), mean scores of the gap between fitting and unfitting words, ``[layer, neuron]``; positive where a
            neuron helps to tell them apart. Where none does, there is nothing to spare.
        count: how many neurons.
        weight: λ, how much the guard counts.

    Raises:
        InputError: if a score is NaN, no score is positive, the shapes differ, or an argument is out of its range.

    >>> scores, guard = torch.tensor([[1.0, 0.9], [0.8, 0.0]]), torch.tensor([[4.0, 1.0], [-3.0, 0.0]])
    >>> guarded(scores, guard, count=2)
    NeuronSet([(0, 1), (1, 0)], shape=(2, 2))
    """
    _check_scores("scores", scores)
    _check_scores("guard", guard)
    if guard.shape != scores.shape:
        raise InputError(f"`guard` is expected to be of shape {list(scores.shape)} but got {list(guard.shape)}.")
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(f"`weight` is expected to be finite and not negative but got {weight}.")
    if scores.max() <= 0:
        raise InputError(f"`scores` is expected to have a positive score but its largest is {float(scores.max())}.")
    need = guard.clamp_min(0)
    return ranked(scores / scores.max() - weight * need / need.max().clamp_min(torch.finfo(need.dtype).tiny), count)


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.ndim != 2 or not scores.numel():
        raise InputError(f"`{name}` is expected to be of shape [layer, neuron] but got {list(scores.shape)}.")
    if scores.isnan().any():
        raise InputError(
            f"`{name}` is expected to hold numbers but has {int(scores.isnan().sum())} NaN. A pair without prompts has "
            "no scores: attribute all of them."
        )
