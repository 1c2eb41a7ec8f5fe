"""Selection rules for bias neurons: votes of prompts (the paper's), or the largest scores, with or without a guard."""

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from biaslab.errors import InputError, require_ranges
from biaslab.neurons.neuron_set import NeuronSet

MIN_PROMPTS = 3  # prompts of a group that must vote for a neuron
MIN_GROUPS = 0.1  # share of the groups that must keep a neuron
FEWEST, MOST = 2, 5  # mean number of neurons per group between which the share is not adapted
SHARE_STEP, ROUNDS = 0.05, 6
_HALVINGS = 60  # of an interval
_TINY = 1e-9  # 0.28 * 25 is 7.000000000000001, but 7 of 25 prompts are enough


class Votes(NamedTuple):
    """The result of the paper's selection rule.

    Attributes:
        neurons: selected neurons by pair.
        shares: share used, by pair and kind of modifier.
    """

    neurons: dict[str, NeuronSet]
    shares: dict[str, dict[str, float]]


def paper(
    prompts: Tensor,
    votes: Tensor,
    pairs: Sequence[str],
    kinds: Sequence[str],
    shape: tuple[int, int],
    share: float = 0.7,
) -> Votes:
    """Select the neurons of each pair by the paper's voting rule, and merge those of all kinds of modifiers.

    A group keeps a neuron if at least ``share`` of its prompts, and at least 3, vote for it. A kind of modifier keeps a
    neuron if at least 10 % of its groups do. The share is lowered (raised) while the groups keep fewer than 2 (more
    than 5) neurons on average.

    Args:
        prompts: pair, kind and group of each prompt, ``[prompt, 3]``.
        votes: pair, kind, group and neuron (layer * width + index) of each vote, ``[vote, 4]``.
        pairs: names of the demographic pairs.
        kinds: names of the kinds of modifiers.
        shape: (layers, neurons per layer).
        share: initial share of a group's prompts that must vote for a neuron.

    Raises:
        InputError: if ``share`` is out of range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.2; voting as in Dai et al. 2022, section 3.3.

    >>> prompts, votes = torch.zeros(4, 3).int(), torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]]).repeat(4, 1)
    >>> paper(prompts, votes, ["gender/female-male"], ["negative"], shape=(2, 2)).neurons
    {'gender/female-male': NeuronSet([(0, 0), (0, 1)], shape=(2, 2))}
    """
    if not 0 < share <= 1:
        raise InputError(f"`share` is expected to be in (0, 1] but got {share}.")
    chosen: dict[str, set[int]] = {name: set() for name in pairs}
    shares: dict[str, dict[str, float]] = {name: {} for name in pairs}
    cells = (_split(rows.cpu(), len(pairs), len(kinds)) for rows in (prompts, votes))
    for (pair, kind), asked, cast in zip(product(pairs, kinds), *cells, strict=True):
        if len(asked):
            kept, shares[pair][kind] = _keep(asked[:, 0], cast, share, shape[0] * shape[1])
            chosen[pair].update(kept)
    sets = {name: NeuronSet([divmod(number, shape[1]) for number in flat], shape) for name, flat in chosen.items()}
    return Votes(sets, shares)


def _split(rows: Tensor, pairs: int, kinds: int) -> tuple[Tensor, ...]:
    """Split rows (pair, kind, …) by pair and kind, and drop these two columns."""
    cell = rows[:, 0].long() * kinds + rows[:, 1]
    sizes = torch.bincount(cell, minlength=pairs * kinds).tolist()
    return torch.split(rows[cell.argsort(), 2:], sizes)


def _keep(prompts: Tensor, votes: Tensor, share: float, neurons: int) -> tuple[list[int], float]:
    """Return the neurons kept and the share used, given prompt groups, ``[prompt]``, and (group, neuron) votes."""
    groups, sizes = torch.unique(prompts, return_counts=True)
    group = torch.searchsorted(groups, votes[:, 0].contiguous())
    keys, counts = torch.unique(group * neurons + votes[:, 1], return_counts=True)
    sizes = sizes[keys // neurons]  # prompts of each candidate's group
    for _ in range(ROUNDS):
        mean = int(_kept(counts, sizes, share).sum()) / len(groups)  # neurons per group
        if mean < FEWEST and share - SHARE_STEP > _TINY:
            share = round(share - SHARE_STEP, 6)
        elif mean > MOST:
            share = min(1.0, round(share + SHARE_STEP, 6))
    kept, by_groups = torch.unique(keys[_kept(counts, sizes, share)] % neurons, return_counts=True)
    return kept[by_groups >= math.ceil(MIN_GROUPS * len(groups))].tolist(), share


def _kept(counts: Tensor, sizes: Tensor, share: float) -> Tensor:
    return counts >= (share * sizes.double() - _TINY).ceil().clamp_min(MIN_PROMPTS)


def ranked(scores: Tensor, count: int) -> NeuronSet:
    """Select the neurons with the largest scores.

    Args:
        scores: scores, ``[layer, neuron]``. Ties are broken by (layer, index).
        count: number of neurons to select.

    Raises:
        InputError: if a score is NaN, or ``count`` is not between 1 and the number of neurons.

    >>> ranked(torch.tensor([[0.1, 0.9], [0.9, 0.9]]), count=2)
    NeuronSet([(0, 1), (1, 0)], shape=(2, 2))
    """
    _check_scores("scores", scores)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= scores.numel():
        raise InputError(f"`count` is expected to be between 1 and the {scores.numel()} neurons but got {count}.")
    best = scores.flatten().sort(descending=True, stable=True).indices[:count].tolist()
    return NeuronSet([divmod(neuron, scores.shape[1]) for neuron in best], shape=(scores.shape[0], scores.shape[1]))


def guarded(scores: Tensor, guard: Tensor, count: int, weight: float = 1.0) -> NeuronSet:
    r"""Select the neurons with the largest bias scores, penalizing those that ordinary sentences need.

    .. math:: b(n) / \max b - \lambda \max(g(n), 0) / \max g

    Args:
        scores: b(n), mean scores of the demographic gap, ``[layer, neuron]``.
        guard: g(n), mean scores of the gap between fitting and unfitting words, ``[layer, neuron]``; positive if a
            neuron helps to tell them apart. If none is positive, the guard has no effect.
        count: number of neurons to select.
        weight: λ, the weight of the guard.

    Raises:
        InputError: if a score is NaN, no score is positive, the shapes differ, or an argument is out of range.

    >>> scores, guard = torch.tensor([[1.0, 0.9], [0.8, 0.0]]), torch.tensor([[4.0, 1.0], [-3.0, 0.0]])
    >>> guarded(scores, guard, count=2)
    NeuronSet([(0, 1), (1, 0)], shape=(2, 2))
    """
    _check_scores("scores", scores)
    _check_scores("guard", guard)
    if guard.shape != scores.shape:
        raise InputError(f"`guard` is expected to be of shape {list(scores.shape)} but got {list(guard.shape)}.")
    require_ranges({"weight": weight})
    if scores.max() <= 0:
        raise InputError(f"`scores` is expected to have a positive score but its largest is {float(scores.max())}.")
    need = guard.clamp_min(0)
    return ranked(scores / scores.max() - weight * need / need.max().clamp_min(torch.finfo(need.dtype).tiny), count)


def fisher(
    scores: Tensor,
    guard: Tensor,
    information: Tensor,
    count: int | None = None,
    weight: float = 0.25,
    perplexity_percent: float | None = None,
) -> NeuronSet:
    r"""Select the neurons with the most bias relative to the predicted cost of suppressing them on ordinary text.

    .. math:: \max(b(n) - \mu g(n), 0) / (F(n)/2 + \epsilon)

    ε is the median of F/2, so that neurons that text hardly needs are not ranked by noise.

    Args:
        scores: b(n), effect on bias, ``[layer, neuron]``.
        guard: g(n), effect on fitting words, in the same unit, ``[layer, neuron]``; negative if a neuron makes them
            less likely.
        information: F(n), Fisher information, ``[layer, neuron]``; see
            :func:`biaslab.attribution.importance.fisher_information`.
        count: maximum number of neurons; by default it is determined by ``perplexity_percent``.
        weight: μ, the weight of the guard.
        perplexity_percent: select as many neurons as keep the predicted rise of perplexity, exp(ΣF/2) - 1, at or below
            this, in percent.

    Raises:
        InputError: if a score is NaN, no neuron is left, the shapes differ, or an argument is missing or out of range.

    >>> scores, information = torch.tensor([[4.0, 3.0], [3.0, -1.0]]), torch.tensor([[8.0, 1.0], [2.0, 1.0]])
    >>> fisher(scores, torch.zeros(2, 2), information, count=2)
    NeuronSet([(0, 1), (1, 0)], shape=(2, 2))
    """
    if count is None and perplexity_percent is None:
        raise InputError("`count` or `perplexity_percent` is expected to be given but neither is.")
    if perplexity_percent is not None:
        _check_budget(perplexity_percent)
    worth = bias_for_cost(scores, guard, information, weight)
    order = worth.flatten().sort(descending=True, stable=True).indices
    positive = fits = int((worth > 0).sum())
    if perplexity_percent is not None:
        cost = information.flatten()[order].cumsum(0) / 2
        fits = int((cost <= math.log1p(perplexity_percent / 100)).sum())
    if not (number := min(positive, fits, positive if count is None else count)):
        raise InputError(
            "`scores` is expected to have a neuron whose bias outweighs the guard within the allowed rise of "
            "perplexity, but none does. Use more prompts or pairs, a smaller guard weight, or allow more perplexity."
        )
    return ranked(worth, number)


def balanced(
    scores: Tensor,
    guard: Tensor,
    information: Tensor,
    count: int,
    weight: float = 0.25,
    perplexity_percent: float = 3.0,
) -> NeuronSet:
    r"""Select neurons to suppress and neurons that counteract bias to amplify, each with its own strength.

    .. math:: x(n) = clip( t (b(n) - \mu g(n)) / (F(n)/2 + \epsilon), -1, 1)

    To second order, this removes the most bias for a given cost on ordinary text: it maximizes Σ x (b - μg) at a given
    Σ x² F/2. The strengths x (see :meth:`biaslab.neurons.neuron_set.NeuronSet.with_strengths`) state how far a neuron
    is suppressed (1: switched off), or amplified if negative (-1: doubled).

    Args:
        scores: b(n), effect on bias, ``[layer, neuron]``.
        guard: g(n), as in :func:`fisher`.
        information: F(n), as in :func:`fisher`; ε is the median of F/2 here as well.
        count: number of neurons to select, those with the largest |x|.
        weight: μ, the weight of the guard.
        perplexity_percent: predicted rise of perplexity, exp(Σ x² F/2) - 1, in percent, which determines t. If it can't
            be reached, all strengths are 1 or -1.

    Raises:
        InputError: as :func:`fisher`.

    >>> scores, information = torch.tensor([[4.0, -3.0], [3.0, -1.0]]), torch.tensor([[0.1, 0.1], [0.1, 0.1]])
    >>> chosen = balanced(scores, torch.zeros(2, 2), information, count=3, perplexity_percent=4.0)
    >>> [round(strength, 3) for strength in chosen.strengths.values()]
    [0.608, -0.456, 0.456]
    """
    _check_budget(perplexity_percent)
    worth = bias_for_cost(scores, guard, information, weight, signed=True).double().flatten()
    chosen = ranked(worth.abs().view(scores.shape), count)
    places = torch.tensor([neuron.layer * scores.shape[1] + neuron.index for neuron in chosen])
    worth, cost = worth[places], information.double().flatten()[places] / 2
    if not worth.any():
        raise InputError(
            "`scores` is expected to have a neuron whose bias and guard don't cancel out but has none. Use more "
            "prompts or pairs, or another guard weight."
        )
    limit, low, high = math.log1p(perplexity_percent / 100), 0.0, float(1 / worth.abs()[worth != 0].min())
    for _ in range(_HALVINGS if float(cost.sum()) > limit else 0):
        middle = (low + high) / 2
        within = float((cost * (middle * worth).clamp(-1, 1).square()).sum()) <= limit
        low, high = (middle, high) if within else (low, middle)
    strengths = ((low or high) * worth).clamp(-1, 1).tolist()
    return chosen.with_strengths(dict(zip(chosen, strengths, strict=True)))


def bias_for_cost(scores: Tensor, guard: Tensor, information: Tensor, weight: float, signed: bool = False) -> Tensor:
    """Return the criterion of :func:`fisher`, ``[layer, neuron]``; unless ``signed``, negative values become 0."""
    for name, values in (("scores", scores), ("guard", guard), ("information", information)):
        _check_scores(name, values)
        if values.shape != scores.shape:
            raise InputError(f"`{name}` is expected to be of shape {list(scores.shape)} but got {list(values.shape)}.")
    require_ranges({"weight": weight})
    cost, worth = information / 2, scores - weight * guard
    return (worth if signed else worth.clamp_min(0)) / (cost + cost.median()).clamp_min(torch.finfo(cost.dtype).tiny)


def _check_budget(perplexity_percent: float) -> None:
    require_ranges({"perplexity_percent": perplexity_percent})


BY_SCORES: dict[str, Callable[..., NeuronSet]] = {"ranked": ranked, "guarded": guarded}  # of (scores, count=...)


def _check_scores(name: str, scores: Tensor) -> None:
    if scores.ndim != 2 or not scores.numel():
        raise InputError(f"`{name}` is expected to be of shape [layer, neuron] but got {list(scores.shape)}.")
    if scores.isnan().any():
        hint = "A pair without prompts has no scores; attribute prompts of all pairs."
        raise InputError(f"`{name}` is expected to hold numbers but has {int(scores.isnan().sum())} NaN. {hint}")
