"""Path integrals of gradients, along which a layer's neurons are scaled up from zero, for a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.budget import TokenBudget
from biaslab.attribution.paths import Sums
from biaslab.attribution.proof import paths_of
from biaslab.attribution.quadrature import INTERPOLATORY, MOST_NODES, Rule
from biaslab.attribution.replay import Inputs
from biaslab.models.architectures import ffn_shape

_NOISE = 16  # times the floating-point resolution of the values: a residual below this is rounding noise


class GapAttribution(NamedTuple):
    """IG² of a batch, and figures on its accuracy.

    Attributes:
        scores: attribution scores, ``[batch, pair, layer, neuron]``.
        gap: the attributed gap, with the neurons unchanged, ``[batch, pair]``.
        residual: completeness residual, ``[batch, pair, layer]``: the sum of a layer's scores minus
            (gap at α = 1 - gap at α = 0); 0 if exact.
        nodes: number of quadrature nodes, ``[batch, layer]``.
    """

    scores: Tensor
    gap: Tensor
    residual: Tensor
    nodes: Tensor


def wanted_sums(pairs: Tensor, targets: Sequence[int]) -> list[Sums]:
    """Return the fewest sums of targets from which all pairs can be composed, for each input.

    Nine differences are enough for all 45 pairs of ten targets. Targets that are paired across inputs, or single, are
    each needed on their own.

    Args:
        pairs: indices of targets, ``[pair, 2]`` or ``[pair, 1]``.
        targets: number of targets of each input, over which the target axis is split.

    >>> [sums.directions.tolist() for sums in wanted_sums(torch.tensor([[0, 1], [1, 2]]), [2, 1])]
    [[[1.0, -1.0], [0.0, 1.0]], [[-1.0]]]
    """
    one_hot = torch.eye(sum(targets) + 1, dtype=torch.float64)[:, :-1]  # the last row is no target
    ends = torch.cat([pairs, torch.full_like(pairs, sum(targets))], 1)[:, :2].cpu()
    sums = []
    for columns in torch.arange(sum(targets)).split(list(targets)):
        gaps = (one_hot[ends[:, 0]] - one_hot[ends[:, 1]])[:, columns]  # [pair, target]
        directions = gaps[_independent(gaps)]
        sums.append(Sums(directions, (gaps @ torch.linalg.pinv(directions)).round()))
    return sums


def _independent(gaps: Tensor) -> list[int]:
    """Return a basis of the rows: each connects two targets, or a target and nothing, not connected before."""
    nothing = gaps.shape[1]
    group, chosen = list(range(nothing + 1)), []
    for number, row in enumerate(gaps):
        first, second = [*row.nonzero()[:, 0].tolist(), nothing, nothing][:2]
        if group[first] != group[second]:
            chosen.append(number)
            group = [group[first] if other == group[second] else other for other in group]
    return chosen


class Integration:
    """Computes the integrals of a batch; a path is one prompt and layer.

    Args:
        model: a model of a supported architecture.
        parts: inputs with their sums of targets; each part has its own number of slots.
        layers: layers to attribute, ``[layer]``.
        rule: the quadrature rule to start with.
        absolute: attribute the absolute value of the gap.
        budget: how many tokens are computed at once.
        logarithms: a gap is a difference of log-probabilities.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        parts: Sequence[tuple[Inputs, Sums]],
        layers: Tensor,
        rule: Rule,
        absolute: bool,
        budget: TokenBudget,
        logarithms: bool,
    ) -> None:
        self.rule, self.absolute = rule, absolute
        asked = [(inputs, sums) for inputs, sums in parts if len(sums.directions)]
        with_one = 1.0 in rule.nodes
        self.paths = [paths_of(model, inputs, sums, budget, with_one, logarithms) for inputs, sums in asked]
        self.of_targets = torch.cat([p.pairs @ p.directions for p in self.paths], 1)  # [pair, target]
        at_one = torch.cat([p.at_one for p in self.paths], 1)  # [batch, target]
        batch = len(at_one)
        self.layer = layers.repeat_interleave(batch)  # of each path
        self.row = torch.arange(batch, device=layers.device).repeat(len(layers))
        self.gap_at_one = at_one @ self.of_targets.T  # [batch, pair]
        depth, width = ffn_shape(model)
        self.scores = at_one.new_zeros(batch, len(self.of_targets), depth, width)
        self.residual = at_one.new_zeros(batch, len(self.of_targets), depth)
        self.nodes = torch.zeros(batch, depth, dtype=torch.long, device=layers.device)

    def run(self) -> GapAttribution:
        """Integrate with the first rule, then with finer ones where the residual exceeds the tolerance."""
        rule, path = self.rule, torch.arange(len(self.row), device=self.row.device)
        values, gradients = self._evaluate(path, rule.nodes)
        zero = rule.nodes.new_zeros(1)
        at_zero = (values if rule.nodes[0] == 0 else self._evaluate(path, zero, gradients=False)[0])[:, 0]
        while len(left := self._integrate(rule, path, values, gradients, at_zero)):
            if len(rule.nodes) >= MOST_NODES:
                break
            path, at_zero = path[left], at_zero[left]
            nested, rule = rule.adaptive, rule.finer()
            new_values, new_gradients = self._evaluate(path, rule.nodes[1::2] if nested else rule.nodes)
            if nested:
                new_values = _interleaved(values[left], new_values)
                new_gradients = [_interleaved(g[left], new) for g, new in zip(gradients, new_gradients, strict=True)]
            values, gradients = new_values, new_gradients
        gap = self.gap_at_one.abs() if self.absolute else self.gap_at_one
        return GapAttribution(self.scores, gap, self.residual, self.nodes)

    def _evaluate(self, path: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, list[Tensor]]:
        """Return the values of all targets, ``[path, node, target]``, and the gradients for each input."""
        parts = [p.evaluate(self.row[path], self.layer[path], alpha, gradients) for p in self.paths]
        return torch.cat([values for values, _ in parts], 2), [slopes for _, slopes in parts]

    def _integrate(
        self, rule: Rule, path: Tensor, values: Tensor, gradients: Sequence[Tensor], at_zero: Tensor
    ) -> Tensor:
        """Integrate paths; return the indices of those whose residual exceeds the rule's tolerance."""
        row, layer = self.row[path], self.layer[path]
        gaps = (values @ self.of_targets.T).transpose(1, 2)  # [path, pair, node]
        ends = at_zero @ self.of_targets.T, self.gap_at_one[row]  # [path, pair]
        weights = rule.weights_of(gaps, *ends, self.absolute)
        change = ends[1].abs() - ends[0].abs() if self.absolute else ends[1] - ends[0]
        integrals = []  # [path, pair, slot, hidden]
        for paths, slopes in zip(self.paths, gradients, strict=True):
            shares = weights[..., None] * paths.pairs[:, None]  # [path, pair, node, direction]
            integrals.append((shares.flatten(2) @ slopes.flatten(1, 2).flatten(2)).unflatten(2, slopes.shape[3:]))
        residual, size = torch.empty_like(change), torch.empty_like(change)
        for index in layer.unique().tolist():
            here = layer == index
            parts = [p.scores(i[here], row[here], index) for p, i in zip(self.paths, integrals, strict=True)]
            scores = torch.stack(parts).sum(0)
            self.scores[row[here], :, index] = scores
            residual[here], size[here] = scores.sum(-1) - change[here], scores.abs().sum(-1)
        self.residual[row, :, layer] = residual
        self.nodes[row, layer] = len(rule.nodes)
        resolution = torch.finfo(self.paths[0].weights[0].dtype).eps
        noise = _NOISE * resolution * (values.abs().amax(1) @ self.of_targets.abs().T)
        coarse = residual.abs() > torch.maximum(rule.tolerance * size, noise)
        if not rule.adaptive:
            divided = (weights.sign() != weights[..., :1].sign()).any(-1)
            coarse &= divided & (rule.quadrature in INTERPOLATORY)
        return coarse.any(1).nonzero()[:, 0]


def _interleaved(old: Tensor, new: Tensor) -> Tensor:
    """Merge the nodes of a nested rule in order, ``[path, node, ...]``: the new ones lie between the old ones."""
    joined = old.new_empty(len(old), old.shape[1] + new.shape[1], *old.shape[2:])
    joined[:, 0::2], joined[:, 1::2] = old, new
    return joined
