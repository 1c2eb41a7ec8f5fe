"""From attribution scores to neurons: votes, mean scores, and mean scores guarded by what ordinary sentences need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from biaslab.errors import InputError
from biaslab.neurons import NeuronSet

# The paper's refinement: how many neurons a group should keep on average, and how the share adapts to that.
FEWEST, MOST, SHARE_STEP, ROUNDS = 2, 5, 0.05, 6
LEAST_PROMPTS = 3  # of a group, that must keep a neuron
SHARE_OF_GROUPS = 0.1  # of a pair and kind, that must keep a neuron


class NeuronSelection(Metric):
    """Gather what selection needs from the scores of single prompts: sums, and the votes as sparse rows.

    Memory grows with the neurons that prompts vote for, not with prompts times neurons. All states add up or are
    concatenated, so that batches, their order and ranks make no difference.

    Args:
        pairs: names of the demographic pairs.
        kinds: names of the kinds of modifiers.
        shape: (layers, neurons a layer).
        threshold: a prompt votes for the neurons that reach this share of its largest score over all layers.
        share: a prompt group keeps the neurons that at least this share of its prompts, and at least 3, vote for.

    Raises:
        InputError: if threshold or share lies outside (0, 1].

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.2; Dai et al. 2022, section 3.3.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor
    silent: Tensor
    prompts: list[Tensor]
    votes: list[Tensor]

    def __init__(
        self,
        pairs: Sequence[str],
        kinds: Sequence[str],
        shape: tuple[int, int],
        threshold: float = 0.2,
        share: float = 0.7,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("threshold", threshold), ("share", share)):
            if not 0 < value <= 1:
                raise InputError(f"`{name}` is expected to lie in (0, 1] but got {value}.")
        self.pairs, self.kinds, self.shape = list(pairs), list(kinds), tuple(shape)
        self.threshold, self.share = threshold, share
        self.add_state("sums", torch.zeros(len(pairs), *shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(pairs), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("silent", torch.zeros(len(pairs), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("prompts", [], dist_reduce_fx="cat")  # [prompt, 3]: pair, kind, group
        self.add_state("votes", [], dist_reduce_fx="cat")  # [vote, 4]: pair, kind, group, neuron

    def update(self, scores: Tensor, pairs: Tensor, kinds: Tensor, groups: Tensor) -> None:
        """Take in the scores of some prompts.

        Args:
            scores: ``[prompt, layer, neuron]``.
            pairs: index of the pair that was attributed, ``[prompt]``.
            kinds: index of the modifier's kind, ``[prompt]``.
            groups: the same for all wordings of one statement, ``[prompt]``.

        Raises:
            InputError: if a score is not finite.
        """
        flat = scores.flatten(1)
        bad = (~flat.isfinite()).any(1)
        if bool(bad.any()):
            first = int(bad.nonzero()[0, 0])
            raise InputError(
                f"`scores` are expected to be finite, but those of group {int(groups[first])}, pair "
                f"{self.pairs[int(pairs[first])]} are not. Use a wider type, or leave the prompt out."
            )
        largest, strongest = flat.amax(1), flat.abs().amax(1)
        normalised = flat.double() / strongest.double().clamp_min(1e-300)[:, None]
        self.sums.index_add_(0, pairs, normalised.unflatten(1, self.shape))
        self.counts += torch.bincount(pairs, minlength=len(self.pairs))
        self.silent += torch.bincount(pairs[largest <= 0], minlength=len(self.pairs))
        keys = torch.stack([pairs, kinds, groups], dim=1)
        prompt, neuron = ((flat >= self.threshold * largest[:, None]) & (largest > 0)[:, None]).nonzero().unbind(1)
        self.prompts.append(keys)
        self.votes.append(torch.cat([keys[prompt], neuron[:, None]], dim=1))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes; one that saw nothing takes part with empty states of the right shape."""
        if not self._is_synced and not self.prompts:
            self.prompts.append(torch.zeros(0, 3, dtype=torch.long, device=self.device))
            self.votes.append(torch.zeros(0, 4, dtype=torch.long, device=self.device))
        super().sync(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Return all states, of all ranks: ``sums``, ``counts``, ``silent``, ``prompts`` and ``votes``."""
        lists = {name: dim_zero_cat(getattr(self, name)) for name in ("prompts", "votes")}
        return {"sums": self.sums, "counts": self.counts, "silent": self.silent, **lists}

    def pair_scores(self) -> Tensor:
        """Return each pair's mean normalised score, ``[pair, layer, neuron]``; zero for a pair without prompts."""
        state = self.compute()
        return (state["sums"] / state["counts"].clamp_min(1)[:, None, None]).cpu()

    def mean_scores(self) -> Tensor:
        """Return b(n): each pair that has prompts weighs the same, ``[layer, neuron]``."""
        return self.pair_scores()[(self.compute()["counts"] > 0).cpu()].mean(0)

    def paper(self) -> tuple[dict[str, NeuronSet], dict[str, float]]:
        """Select by votes.

        Returns:
            The neurons of each pair (the union over its kinds), and the share that was used for each "pair/kind".
        """
        state = self.compute()
        votes, prompts = state["votes"].cpu(), state["prompts"].cpu()
        chosen, shares = {}, {}
        for p, pair in enumerate(self.pairs):
            kept: list[int] = []
            for k, kind in enumerate(self.kinds):
                of_votes = votes[(votes[:, 0] == p) & (votes[:, 1] == k)][:, 2:]
                of_prompts = prompts[(prompts[:, 0] == p) & (prompts[:, 1] == k)][:, 2]
                if len(of_prompts):
                    neurons, shares[f"{pair}/{kind}"] = _refine(of_votes, of_prompts, self.share)
                    kept += neurons
            chosen[pair] = _from_flat(kept, self.shape)
        return chosen, shares


def _refine(votes: Tensor, prompts: Tensor, share: float) -> tuple[list[int], float]:
    """Select the neurons of one pair and kind.

    Args:
        votes: group and flat neuron, ``[vote, 2]``.
        prompts: group of each prompt, ``[prompt]``.
        share: to begin with.
    """
    groups, sizes = prompts.unique(return_counts=True)
    rows, counts = votes.unique(dim=0, return_counts=True) if len(votes) else (votes, votes.new_zeros(0))
    of_group = sizes[torch.searchsorted(groups, rows[:, 0].contiguous())]

    def kept(share: float) -> Tensor:
        # a hair below, since 0.7 · 10 is 7.000000000000001 in floating point
        return rows[(counts >= share * of_group - 1e-9) & (counts >= LEAST_PROMPTS), 1]

    for _ in range(ROUNDS):
        mean = len(kept(share)) / len(groups)
        if FEWEST <= mean <= MOST:
            break
        share = round(min(1.0, max(SHARE_STEP, share + (SHARE_STEP if mean > MOST else -SHARE_STEP))), 10)
    neurons, times = kept(share).unique(return_counts=True)
    return neurons[times >= SHARE_OF_GROUPS * len(groups) - 1e-9].tolist(), share


def _from_flat(indices: Sequence[int], shape: tuple[int, ...]) -> NeuronSet:
    layers, width = shape
    return NeuronSet([divmod(int(index), width) for index in indices], shape=(layers, width))


def ranked(scores: Tensor, count: int) -> NeuronSet:
    """Return the neurons with the largest scores; a tie goes to the lower layer and index.

    Args:
        scores: b(n), ``[layer, neuron]``.
        count: how many.

    Raises:
        InputError: if the count is not between 1 and the number of neurons, or a score is not finite.

    Example:
        >>> list(ranked(torch.tensor([[0.1, 0.5], [0.5, 0.2]]), 2))
        [Neuron(layer=0, index=1), Neuron(layer=1, index=0)]
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= scores.numel():
        raise InputError(f"`count` is expected to be an integer from 1 to {scores.numel()} but got {count!r}.")
    if not bool(scores.isfinite().all()):
        raise InputError("`scores` is expected to be finite but has NaN or infinite entries.")
    return _from_flat(scores.flatten().sort(descending=True, stable=True).indices[:count].tolist(), tuple(scores.shape))


def guarded(scores: Tensor, guard: Tensor, count: int, weight: float = 1.0) -> NeuronSet:
    """Return the neurons with the largest b/max(b) - λ·max(g, 0)/max(g): biased, and not needed by ordinary sentences.

    Args:
        scores: b(n), ``[layer, neuron]``.
        guard: g(n), ``[layer, neuron]``: what a neuron adds to P(fitting word) - P(unfitting word).
        count: how many.
        weight: λ.

    Raises:
        InputError: as :func:`ranked`; and if no score, or no guard, is positive.
    """
    for name, value in (("scores", scores), ("guard", guard)):
        if not float(value.max()) > 0:
            raise InputError(f"`{name}` is expected to have a positive maximum but got {float(value.max())}.")
    return ranked(scores / scores.max() - weight * guard.clamp_min(0) / guard.max(), count)
