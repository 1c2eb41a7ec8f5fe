"""Integrated gradients of probabilities, and of the gap between two, with respect to feed-forward neurons (IG²).

All neurons of one layer at the slot are scaled together by α. Since the layer's FFN output there is α·W₂w̄ + b, the
gradients are gathered in hidden space and multiplied by W₂ᵀ once; what comes before it is never run again. The gap at
α = 1 is that of the recorded pass, whose one backward pass serves all layers. All of this is exact.

A word of several tokens has as many slots, in a sequence of its own, and its probability is the product of theirs:
then the neurons of all its slots are scaled together, a pair's gap is that between two sequences, and a neuron's score
is the sum over its slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.integration import Inputs, Paths, TokenBudget, out_of_memory
from biaslab.attribution.quadrature import INTERPOLATORY, nodes_and_weights, signed_weights
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_shape

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
        quadrature: see :func:`biaslab.attribution.quadrature.nodes_and_weights`; for a fixed number of steps.
        tolerance: of steps="auto": the largest residual, relative to the sum of a layer's absolute scores.

    Returns:
        Scores, ``[batch, target, layer, neuron]``; positive where the neuron raises the target's probability. A layer's
        scores sum to P(target) minus P(target) with the layer's neurons at zero.

    Raises:
        InputError: if an argument has another shape or range.

    Reference:
        Sundararajan et al. 2017; Dai et al. 2022, equation 2.
    """
    each = torch.arange(target_ids.shape[-1])[:, None]
    return attribute_gaps(
        model, input_ids, position, target_ids, each, attention_mask, steps, quadrature, "signed", tolerance
    ).scores


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
        quadrature: see :func:`biaslab.attribution.quadrature.nodes_and_weights`; for a fixed number of steps.
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
    longer: Sequence[Inputs] = (),
) -> GapAttribution:
    """Compute IG² for several pairs of the same targets: one forward serves all, one backward each target but one.

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``; of the slots of words of several tokens, ``[batch, slot]``.
        target_ids: token ids of the demographics, ``[batch, target]``, or ``[batch, target, slot]``.
        pairs: which two targets form a pair, ``[pair, 2]``, indices into the target axis; or single targets,
            ``[pair, 1]``, whose own probabilities are attributed (IG, no gap).
        attention_mask: as in :func:`integrated_gap_gradients`; so are ``steps``, ``quadrature`` and ``gap``.
        steps: number of nodes, or "auto".
        quadrature: the rule.
        gap: "absolute" or "signed". Where an absolute gap changes its sign within the interval, it is divided there.
        tolerance: of steps="auto".
        layers: those that are attributed; the scores of the others are 0. All by default.
        budget: how much travels together; halved where memory runs out.
        longer: the same prompts with other numbers of slots, for demographics of so many tokens: their targets follow
            on the target axis, in this order.

    Returns:
        Scores, gaps, the completeness residual, and how many nodes were needed.
    """
    if gap not in ("absolute", "signed"):
        raise InputError(f'`gap` is expected to be "absolute" or "signed" but got {gap!r}.')
    every = [Inputs(input_ids, position, target_ids, attention_mask), *longer]
    for inputs in every:
        _check(model, inputs)
    sums = wanted_sums(pairs, [inputs.target_ids.shape[1] for inputs in every])
    every = [inputs.with_slots() for inputs in every]
    return _attribute(model, every, sums, integration_rule(steps, quadrature, tolerance), gap, layers, budget)


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


class Sums(NamedTuple):
    """What is attributed of the targets of some inputs, as sums of what is differentiated.

    Attributes:
        directions: sums of targets that are differentiated, ``[direction, target]``, float64, of -1, 0 and 1.
        pairs: each pair's part of these targets as a sum of directions, ``[pair, direction]``, likewise.
    """

    directions: Tensor
    pairs: Tensor


def wanted_sums(pairs: Tensor, targets: Sequence[int]) -> list[Sums]:
    """Return as few sums of targets as make up all pairs, for each of the inputs that the targets are divided among.

    Of ten targets of the same inputs nine differences will do for all 45 pairs; of a pair whose targets belong to two
    inputs, or of a single target, each needs its target alone.

    Args:
        pairs: indices of targets, ``[pair, 2]`` or ``[pair, 1]``.
        targets: how many each of the inputs has.

    >>> [sums.directions.tolist() for sums in wanted_sums(torch.tensor([[0, 1], [1, 2]]), [2, 1])]
    [[[1.0, -1.0], [0.0, 1.0]], [[-1.0]]]
    """
    one_hot = torch.eye(sum(targets) + 1, dtype=torch.float64)[:, :-1]  # the last row is no target
    ends = torch.cat([pairs, torch.full_like(pairs, sum(targets))], 1)[:, :2].cpu()
    found = []
    for own in torch.arange(sum(targets)).split(list(targets)):
        wanted = (one_hot[ends[:, 0]] - one_hot[ends[:, 1]])[:, own]  # [pair, target]
        directions = wanted[_independent(wanted)]
        found.append(Sums(directions, (wanted @ torch.linalg.pinv(directions)).round()))
    return found


def _independent(wanted: Tensor) -> list[int]:
    """Return rows that make up all others: each joins two targets, or a target and none, that were not joined."""
    nothing = wanted.shape[1]
    group, chosen = list(range(nothing + 1)), []
    for number, row in enumerate(wanted):
        first, second = [*row.nonzero()[:, 0].tolist(), nothing, nothing][:2]
        if group[first] != group[second]:
            chosen.append(number)
            group = [group[first] if other == group[second] else other for other in group]
    return chosen


def _attribute(
    model: PreTrainedModel,
    inputs: Sequence[Inputs],
    sums: Sequence[Sums],
    rule: Rule,
    gap: Gap,
    layers: Sequence[int] | None = None,
    budget: TokenBudget | None = None,
) -> GapAttribution:
    """Attribute a batch in parts that keep the budget.

    Args:
        model: a model of the table.
        inputs: the batch, with one number of slots after another.
        sums: of the targets of each of them.
        rule: the quadrature.
        gap: whether it is the size of the pairs that is attributed.
        layers: which.
        budget: of tokens.
    """
    depth, length = ffn_shape(model)[0], max(each.input_ids.shape[1] for each in inputs)
    budget = budget or TokenBudget()
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    sums = [Sums(*(tensor.to(model.device, dtype) for tensor in each)) for each in sums]
    used = [(each, own) for each, own in zip(inputs, sums, strict=True) if len(own.directions)]
    wanted = torch.tensor(range(depth) if layers is None else sorted(layers), device=model.device)
    parts: list[GapAttribution] = []
    start = 0
    while start < len(inputs[0].input_ids):
        size = max(1, budget.tokens // (length * depth))
        part = slice(start, start + size)
        try:
            paths = [Paths(model, each.rows(part), own.directions, budget, 1.0 in rule.nodes) for each, own in used]
            parts.append(_Integration(paths, [own.pairs for _, own in used], wanted, gap == "absolute").run(rule))
            start += size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            memory_ran_out = True
        else:
            memory_ran_out = False
        paths = []  # and outside of the handler: nothing of a failed attempt is kept alive
        if memory_ran_out:
            budget.halve(least=length)
    return GapAttribution(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class _Integration:
    """The integrals of a recorded batch; a path is one prompt and layer.

    Args:
        paths: of the batch, with one number of slots after another.
        pairs: each as a sum of the directions, ``[pair, direction]``, for each of them.
        layers: that are attributed, ``[layer]``.
        absolute: whether the size of a pair's gap is attributed.
    """

    def __init__(self, paths: Sequence[Paths], pairs: Sequence[Tensor], layers: Tensor, absolute: bool) -> None:
        self.paths, self.pairs, self.absolute = paths, pairs, absolute
        parts = [own @ each.directions for own, each in zip(pairs, paths, strict=True)]
        self.of_targets = torch.cat(parts, 1)  # [pair, target]
        at_one = torch.cat([each.at_one for each in paths], 1)  # [batch, target]
        batch = len(at_one)
        self.layer = layers.repeat_interleave(batch)  # of each path
        self.row = torch.arange(batch, device=layers.device).repeat(len(layers))
        self.gap_at_one = at_one @ self.of_targets.T  # [batch, pair]
        depth, width = len(paths[0].weights), paths[0].weights[0].shape[1]
        self.scores = at_one.new_zeros(batch, len(pairs[0]), depth, width)
        self.residual = at_one.new_zeros(batch, len(pairs[0]), depth)
        self.nodes = torch.zeros(batch, depth, dtype=torch.long, device=layers.device)

    def run(self, rule: Rule) -> GapAttribution:
        """Integrate by the rule, and by finer ones where its tolerance asks for it."""
        path = torch.arange(len(self.row), device=self.row.device)
        probabilities, gradients = self._evaluate(path, rule.nodes)
        if rule.nodes[0] == 0:
            at_zero = probabilities[:, 0]
        else:
            at_zero = self._evaluate(path, rule.nodes.new_zeros(1), gradients=False)[0][:, 0]
        while True:
            left = self._integrate(rule, path, probabilities, gradients, at_zero)
            if not len(left) or len(rule.nodes) >= MOST_NODES:
                break
            path, at_zero = path[left], at_zero[left]
            old = rule
            rule = rule.nested(2 * len(rule.nodes) - 1 if rule.adaptive else _nested_steps(len(rule.nodes)))
            wanted = rule.nodes[1::2] if old.adaptive else rule.nodes
            new_probabilities, new_gradients = self._evaluate(path, wanted)
            if old.adaptive:
                new_probabilities = _interleaved(probabilities[left], new_probabilities)
                new_gradients = [_interleaved(g[left], new) for g, new in zip(gradients, new_gradients, strict=True)]
            probabilities, gradients = new_probabilities, new_gradients
        gap = self.gap_at_one.abs() if self.absolute else self.gap_at_one
        return GapAttribution(self.scores, gap, self.residual, self.nodes)

    def _evaluate(self, path: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, list[Tensor]]:
        """Return the probabilities of all targets, ``[path, node, target]``, and the gradients of each input."""
        found = [each.evaluate(self.row[path], self.layer[path], alpha, gradients) for each in self.paths]
        return torch.cat([probabilities for probabilities, _ in found], 2), [slopes for _, slopes in found]

    def _integrate(
        self, rule: Rule, path: Tensor, probabilities: Tensor, gradients: Sequence[Tensor], at_zero: Tensor
    ) -> Tensor:
        """Integrate some paths; return which of them have a residual above the rule's tolerance."""
        row, layer = self.row[path], self.layer[path]
        gaps = (probabilities @ self.of_targets.T).transpose(1, 2)  # [path, pair, node]
        ends = at_zero @ self.of_targets.T, self.gap_at_one[row]  # [path, pair]
        weights = rule.signs(gaps, *ends) if self.absolute else rule.weights.to(gaps).expand_as(gaps)
        change = ends[1].abs() - ends[0].abs() if self.absolute else ends[1] - ends[0]
        integrals = []  # [path, pair, slot, hidden]
        for pairs, slopes in zip(self.pairs, gradients, strict=True):
            shares = weights[..., None] * pairs[:, None]  # [path, pair, node, direction]
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
        noise = (
            _NOISE * torch.finfo(self.paths[0].outputs.dtype).eps * (probabilities.amax(1) @ self.of_targets.abs().T)
        )
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
    if position.ndim not in (1, 2) or len(position) != batch:
        raise InputError(
            f"`position` is expected to be of shape [batch] = [{batch}] or [batch, slot] but got "
            f"{list(position.shape)}."
        )
    slots = position.shape[1:]
    if target_ids.ndim != 2 + len(slots) or len(target_ids) != batch or target_ids.shape[2:] != slots:
        names, sizes = ("[batch, target, slot]", slots) if slots else ("[batch, target]", ())
        expected = ", ".join(map(str, (batch, "target", *sizes)))
        raise InputError(
            f"`target_ids` is expected to be of shape {names} = [{expected}] but got {list(target_ids.shape)}."
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
