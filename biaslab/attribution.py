"""Integrated gradients of probabilities, and of the gap between two, with respect to feed-forward neurons (IG²).

All neurons of one layer at the slot are scaled together by α. Since the layer's FFN output there is α·W₂w̄ + b, the
gradients are gathered in hidden space and multiplied by W₂ᵀ once; what comes before it is never run again. The gap at
α = 1 is that of the recorded pass, whose one backward pass serves all layers. All of this is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.architectures import ffn_shape
from biaslab.errors import InputError
from biaslab.paths import Inputs, Paths, TokenBudget, out_of_memory
from biaslab.quadrature import INTERPOLATORY, nodes_and_weights, signed_weights

Gap = Literal["absolute", "signed"]
Steps = int | Literal["auto"]
FEWEST_NODES, MOST_NODES = 3, 129  # of steps="auto"
_KINK = 0.1  # of the tolerance: with fixed steps, how exact an integral must be that is divided where the gap is zero
_NOISE = 16  # times the resolution of the probabilities: a residual below it says nothing


class GapAttribution(NamedTuple):
    """IG² of a batch, and what a run reports about it.

    Attributes:
        scores: ``[batch, pair, layer, neuron]``.
        gap: the gap that is attributed, with the neurons as they are, ``[batch, pair]``.
        residual: sum of a layer's scores minus (gap at α = 1 minus gap at α = 0), ``[batch, pair, layer]``; 0 if exact.
        nodes: of the quadrature, ``[batch, layer]``.
    """

    scores: Tensor
    gap: Tensor
    residual: Tensor
    nodes: Tensor


def integrated_gradients(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None = None,
    steps: Steps = 6,
    quadrature: str = "gauss_legendre",
    tolerance: float = 0.01,
) -> Tensor:
    r"""Attribute each target's probability at the slot to every feed-forward neuron.

    .. math:: IG(w_j) = \bar w_j \int_0^1 \partial P(d | \alpha \bar w) / \partial w_j \, d\alpha

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``: a masked model's mask token, a causal model's last token before the slot.
        target_ids: token ids whose probabilities are attributed, ``[batch, target]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
        steps: number of nodes; or "auto": a nested rule (Clenshaw-Curtis: 3, 5, 9, … nodes), finer only for the
            sequences and layers whose completeness residual is above the tolerance.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`; for a fixed number of steps.
        tolerance: of steps="auto": the largest residual, relative to the sum of a layer's absolute scores.

    Returns:
        Scores, ``[batch, target, layer, neuron]``; positive where the neuron raises the target's probability. A layer's
        scores sum to P(target) minus P(target) with the layer's neurons at zero.

    Raises:
        InputError: if an argument has another shape or range.

    Reference:
        Sundararajan et al. 2017; Dai et al. 2022, equation 2.
    """
    each = torch.eye(target_ids.shape[-1], dtype=torch.float64)
    inputs = Inputs(input_ids, position, target_ids, attention_mask)
    return _attribute(model, inputs, (each, each), integration_rule(steps, quadrature, tolerance), "signed").scores


def integrated_gap_gradients(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None = None,
    steps: Steps = 6,
    quadrature: str = "gauss_legendre",
    gap: Gap = "absolute",
    tolerance: float = 0.01,
) -> Tensor:
    r"""Attribute the gap between two demographics' probabilities at the slot to every feed-forward neuron (IG²).

    .. math::
        IG^2(w_j) = \bar w_j \int_0^1
            \partial |P(d_1 | \alpha \bar w) - P(d_2 | \alpha \bar w)| / \partial w_j \, d\alpha

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``: a masked model's mask token, a causal model's last token before the slot.
        target_ids: token ids of the two demographics, ``[batch, 2]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
        steps: number of nodes, or "auto"; see :func:`integrated_gradients`.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`; for a fixed number of steps.
        gap: "absolute", the paper's; or "signed", which is IG(first) - IG(second), as in the authors' released code.
        tolerance: of steps="auto".

    Returns:
        Scores, ``[batch, layer, neuron]``; positive where the neuron widens the gap. A layer's scores sum to the gap
        minus the gap with the layer's neurons at zero.

    Raises:
        InputError: if an argument has another shape or range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), equation 3.
    """
    if target_ids.ndim != 2 or target_ids.shape[1] != 2:
        raise InputError(f"`target_ids` is expected to be of shape [batch, 2] but got {list(target_ids.shape)}.")
    pairs = torch.tensor([[0, 1]], device=target_ids.device)
    return attribute_gaps(
        model, input_ids, position, target_ids, pairs, attention_mask, steps, quadrature, gap, tolerance
    ).scores[:, 0]


def attribute_gaps(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    pairs: Tensor,
    attention_mask: Tensor | None = None,
    steps: Steps = 6,
    quadrature: str = "gauss_legendre",
    gap: Gap = "absolute",
    tolerance: float = 0.01,
    layers: Sequence[int] | None = None,
    budget: TokenBudget | None = None,
) -> GapAttribution:
    """Compute IG² for several pairs of the same targets: one forward serves all, one backward each target but one.

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``.
        target_ids: token ids of the demographics, ``[batch, target]``.
        pairs: which two targets form a pair, ``[pair, 2]``, indices into the target axis; or single targets,
            ``[pair, 1]``, whose own probabilities are attributed (IG, no gap).
        attention_mask: as in :func:`integrated_gap_gradients`; so are ``steps``, ``quadrature`` and ``gap``.
        steps: number of nodes, or "auto".
        quadrature: the rule.
        gap: "absolute" or "signed". Where an absolute gap changes its sign within the interval, it is divided there.
        tolerance: of steps="auto".
        layers: those that are attributed; the scores of the others are 0. All by default.
        budget: how much travels together; halved where memory runs out.

    Returns:
        Scores, gaps, the completeness residual, and how many nodes were needed.
    """
    if gap not in ("absolute", "signed"):
        raise InputError(f'`gap` is expected to be "absolute" or "signed" but got {gap!r}.')
    inputs = Inputs(input_ids, position, target_ids, attention_mask)
    rule = integration_rule(steps, quadrature, tolerance)
    return _attribute(model, inputs, differences(pairs, target_ids.shape[-1]), rule, gap, layers, budget)


class Rule(NamedTuple):
    """Where the gradients are taken, and with which weights they are summed.

    Attributes:
        quadrature: name of the rule.
        nodes: float64, ``[node]``.
        weights: float64, ``[node]``.
        tolerance: the largest residual that is let be, relative to a layer's L1 norm.
        adaptive: whether that holds for all integrals, not only for divided ones.
    """

    quadrature: str
    nodes: Tensor
    weights: Tensor
    tolerance: float
    adaptive: bool

    def nested(self, steps: int) -> Rule:
        """Return the rule whose nodes at even places are those of the next coarser one."""
        return Rule("clenshaw_curtis", *nodes_and_weights("clenshaw_curtis", steps), self.tolerance, adaptive=True)

    def signs(self, gaps: Tensor, at_zero: Tensor, at_one: Tensor) -> Tensor:
        """Return weights that carry the sign of the gap, ``[path, pair, node]``.

        Args:
            gaps: at the nodes, ``[path, pair, node]``.
            at_zero: ``[path, pair]``.
            at_one: ``[path, pair]``.
        """
        if self.quadrature not in INTERPOLATORY:
            return self.weights.to(gaps) * gaps.sign()
        inner = (self.nodes > 0) & (self.nodes < 1)
        points = torch.cat([self.nodes.new_zeros(1), self.nodes[inner], self.nodes.new_ones(1)])
        values = torch.cat([at_zero[..., None], gaps[..., inner.to(gaps.device)], at_one[..., None]], -1)
        weights = signed_weights(self.nodes, points, values.flatten(0, 1).double().cpu())
        return weights.to(gaps).view_as(gaps)


def integration_rule(steps: Steps, quadrature: str = "gauss_legendre", tolerance: float = 0.01) -> Rule:
    """Return the rule that the arguments name; see :func:`integrated_gap_gradients`.

    Raises:
        InputError: if an argument is out of its range.
    """
    if not 0 < tolerance < 1:
        raise InputError(f"`tolerance` is expected to lie between 0 and 1 but got {tolerance}.")
    if steps == "auto":
        nodes = nodes_and_weights("clenshaw_curtis", FEWEST_NODES)
        return Rule("clenshaw_curtis", *nodes, tolerance, adaptive=True)
    return Rule(quadrature, *nodes_and_weights(quadrature, steps), _KINK * tolerance, adaptive=False)


def differences(pairs: Tensor, targets: int) -> tuple[Tensor, Tensor]:
    """Return as few differences of targets as make up all pairs, and how each pair is their sum.

    Of ten targets nine differences will do for all 45 pairs. Single targets are no differences, and stay as they are.

    Returns:
        Differences ``[difference, target]`` and pairs ``[pair, difference]``, float64, of -1, 0 and 1.
    """
    one_hot = torch.eye(targets, dtype=torch.float64)
    if pairs.shape[1] == 1:
        return one_hot[pairs[:, 0].cpu()], torch.eye(len(pairs), dtype=torch.float64)
    group, edges = list(range(targets)), []
    for first, second in pairs.tolist():
        if group[first] != group[second]:
            edges.append((first, second))
            group = [group[first] if other == group[second] else other for other in group]
    differences = torch.stack([one_hot[a] - one_hot[b] for a, b in edges] or [one_hot[0] * 0])
    wanted = one_hot[pairs[:, 0].cpu()] - one_hot[pairs[:, 1].cpu()]
    return differences, (wanted @ torch.linalg.pinv(differences)).round()


def _attribute(
    model: PreTrainedModel,
    inputs: Inputs,
    sums: tuple[Tensor, Tensor],
    rule: Rule,
    gap: Gap,
    layers: Sequence[int] | None = None,
    budget: TokenBudget | None = None,
) -> GapAttribution:
    """Attribute a batch in parts that keep the budget.

    Args:
        model: a model of the table.
        inputs: the batch.
        sums: what is differentiated, ``[direction, target]``, and what is attributed, ``[pair, direction]``.
        rule: the quadrature.
        gap: whether it is the size of the pairs that is attributed.
        layers: which.
        budget: of tokens.
    """
    _check(model, inputs)
    depth, length = ffn_shape(model)[0], inputs.input_ids.shape[1]
    budget = budget or TokenBudget()
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    directions, pairs = (tensor.to(model.device, dtype) for tensor in sums)
    wanted = torch.tensor(range(depth) if layers is None else sorted(layers), device=model.device)
    parts: list[GapAttribution] = []
    start = 0
    while start < len(inputs.input_ids):
        size = max(1, budget.tokens // (length * depth))
        try:
            paths = Paths(model, inputs.rows(slice(start, start + size)), directions, budget, 1.0 in rule.nodes)
            parts.append(_Integration(paths, pairs, wanted, gap == "absolute").run(rule))
            start += size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            memory_ran_out = True
        else:
            memory_ran_out = False
        paths = None  # type: ignore[assignment]  # and outside of the handler: nothing of a failed attempt is kept alive
        if memory_ran_out:
            budget.halve(least=length)
    return GapAttribution(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class _Integration:
    """The integrals of a recorded batch; a path is one sequence and layer.

    Args:
        paths: of the batch.
        pairs: each as a sum of the directions, ``[pair, direction]``.
        layers: that are attributed, ``[layer]``.
        absolute: whether the size of a pair's gap is attributed.
    """

    def __init__(self, paths: Paths, pairs: Tensor, layers: Tensor, absolute: bool) -> None:
        self.paths, self.pairs, self.absolute = paths, pairs, absolute
        self.of_targets = pairs @ paths.directions  # [pair, target]
        batch = len(paths.at_one)
        self.layer = layers.repeat_interleave(batch)  # of each path
        self.row = torch.arange(batch, device=layers.device).repeat(len(layers))
        self.gap_at_one = paths.at_one @ self.of_targets.T  # [batch, pair]
        depth, width = len(paths.weights), paths.weights[0].shape[1]
        self.scores = paths.at_one.new_zeros(batch, len(pairs), depth, width)
        self.residual = paths.at_one.new_zeros(batch, len(pairs), depth)
        self.nodes = torch.zeros(batch, depth, dtype=torch.long, device=layers.device)

    def run(self, rule: Rule) -> GapAttribution:
        """Integrate by the rule, and by finer ones where its tolerance asks for it."""
        path = torch.arange(len(self.row), device=self.row.device)
        probabilities, gradients = self.paths.evaluate(self.row, self.layer, rule.nodes)
        if rule.nodes[0] == 0:
            at_zero = probabilities[:, 0]
        else:
            at_zero = self.paths.evaluate(self.row, self.layer, rule.nodes.new_zeros(1), gradients=False)[0][:, 0]
        while True:
            left = self._integrate(rule, path, probabilities, gradients, at_zero)
            if not len(left) or len(rule.nodes) >= MOST_NODES:
                break
            path, at_zero = path[left], at_zero[left]
            old = rule
            rule = rule.nested(2 * len(rule.nodes) - 1 if rule.adaptive else _nested_steps(len(rule.nodes)))
            wanted = rule.nodes[1::2] if old.adaptive else rule.nodes
            found = self.paths.evaluate(self.row[path], self.layer[path], wanted)
            if old.adaptive:
                known = probabilities[left], gradients[left]
                found = _interleaved(known[0], found[0]), _interleaved(known[1], found[1])
            probabilities, gradients = found
        gap = self.gap_at_one.abs() if self.absolute else self.gap_at_one
        return GapAttribution(self.scores, gap, self.residual, self.nodes)

    def _integrate(self, rule: Rule, path: Tensor, probabilities: Tensor, gradients: Tensor, at_zero: Tensor) -> Tensor:
        """Integrate some paths; return which of them have a residual above the rule's tolerance."""
        row, layer = self.row[path], self.layer[path]
        gaps = (probabilities @ self.of_targets.T).transpose(1, 2)  # [path, pair, node]
        ends = at_zero @ self.of_targets.T, self.gap_at_one[row]  # [path, pair]
        weights = rule.signs(gaps, *ends) if self.absolute else rule.weights.to(gaps).expand_as(gaps)
        change = ends[1].abs() - ends[0].abs() if self.absolute else ends[1] - ends[0]
        shares = weights[..., None] * self.pairs[:, None]  # [path, pair, node, direction]
        integrals = shares.flatten(2) @ gradients.flatten(1, 2)  # [path, pair, hidden]
        residual, size = torch.empty_like(change), torch.empty_like(change)
        for index in layer.unique().tolist():
            here = layer == index
            scores = self.paths.scores(integrals[here], row[here], index)
            self.scores[row[here], :, index] = scores
            residual[here], size[here] = scores.sum(-1) - change[here], scores.abs().sum(-1)
        self.residual[row, :, layer] = residual
        self.nodes[row, layer] = len(rule.nodes)
        noise = _NOISE * torch.finfo(self.paths.outputs.dtype).eps * (probabilities.amax(1) @ self.of_targets.abs().T)
        coarse = residual.abs() > torch.maximum(rule.tolerance * size, noise)
        if not rule.adaptive:
            divided = (weights.sign() != weights[..., :1].sign()).any(-1)
            coarse &= divided & (rule.quadrature in INTERPOLATORY)
        return coarse.any(1).nonzero()[:, 0]


def _nested_steps(steps: int) -> int:
    """Return the size of the first nested rule with more nodes than a fixed one."""
    nested = FEWEST_NODES
    while nested <= steps:
        nested = 2 * nested - 1
    return nested


def _interleaved(old: Tensor, new: Tensor) -> Tensor:
    """Put the nodes of a nested rule in order, ``[path, node, ...]``: the new ones lie between the old ones."""
    joined = old.new_empty(len(old), old.shape[1] + new.shape[1], *old.shape[2:])
    joined[:, 0::2], joined[:, 1::2] = old, new
    return joined


def _check(model: PreTrainedModel, inputs: Inputs) -> None:
    input_ids, position, target_ids, attention_mask = inputs
    if input_ids.ndim != 2:
        raise InputError(f"`input_ids` is expected to be of shape [batch, sequence] but got {list(input_ids.shape)}.")
    batch, sequence = input_ids.shape
    if not batch:
        raise InputError("`input_ids` is expected to hold a sequence or more but is empty.")
    if position.shape != (batch,):
        raise InputError(f"`position` is expected to be of shape [batch] = [{batch}] but got {list(position.shape)}.")
    if target_ids.ndim != 2 or len(target_ids) != batch:
        raise InputError(
            f"`target_ids` is expected to be of shape [batch, target] = [{batch}, target] but got "
            f"{list(target_ids.shape)}."
        )
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise InputError(
            f"`attention_mask` is expected to be of shape [batch, sequence] = [{batch}, {sequence}] but got "
            f"{list(attention_mask.shape)}."
        )
    if not (int(position.min()) >= 0 and int(position.max()) < sequence):
        raise InputError(f"`position` is expected to lie within the {sequence} tokens but got {position.tolist()}.")
    ffn_shape(model)  # refuses an architecture that is not in the table
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attribution needs gradients: use torch.no_grad, or Trainer(inference_mode=False), not inference_mode."
        )
