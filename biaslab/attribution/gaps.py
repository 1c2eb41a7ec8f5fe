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
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.integration import (
    GapAttribution,
    Inputs,
    Integration,
    Paths,
    Sums,
    TokenBudget,
    out_of_memory,
    wanted_sums,
)
from biaslab.attribution.quadrature import Steps, integration_rule
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_shape

Gap = Literal["absolute", "signed"]


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
    rule = integration_rule(steps, quadrature, tolerance)
    device, dtype = input_ids.device, torch.float64 if model.dtype == torch.float64 else torch.float32
    sums = wanted_sums(pairs, [inputs.target_ids.shape[1] for inputs in every])
    used = [
        (inputs.with_slots(), Sums(*(tensor.to(dtype).to(device) for tensor in parts)))
        for inputs, parts in zip(every, sums, strict=True)
        if len(parts.directions)
    ]
    depth, length = ffn_shape(model)[0], max(inputs.input_ids.shape[1] for inputs in every)
    wanted = torch.tensor(sorted(range(depth) if layers is None else layers), dtype=torch.long).to(device)
    budget = budget or TokenBudget()
    results: list[GapAttribution] = []
    start = 0
    while start < len(input_ids):
        rows = slice(start, start + max(1, budget.tokens // (length * depth)))
        memory_ran_out = False
        try:
            paths = [Paths(model, part.rows(rows), s.directions, budget, 1.0 in rule.nodes) for part, s in used]
            results.append(Integration(paths, [s.pairs for _, s in used], wanted, gap == "absolute").run(rule))
            start = rows.stop
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            memory_ran_out = True
        paths = []  # and outside of the handler: nothing of a failed attempt is kept alive
        if memory_ran_out:
            budget.halve(least=length)
    return GapAttribution(*(torch.cat(tensors) for tensors in zip(*results, strict=True)))


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
