"""Integrated gradients of probabilities, and of the gap between two of them, for feed-forward neurons (IG²).

All neurons of a layer at the slot are scaled together by α. The layer's FFN output at the slot is then α·W₂w̄ + b, so
gradients are accumulated in hidden space and multiplied by W₂ᵀ once; earlier layers are never run again. The gap at
α = 1 is taken from the recorded pass, and a single backward pass through it serves all layers. None of this is an
approximation.

A word of several tokens has one slot per token, in a sequence of its own, and its probability is the product of the
tokens' probabilities. The neurons at all its slots are then scaled together, a pair's gap is the difference between two
sequences, and a neuron's score is the sum over its slots.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.budget import TokenBudget, out_of_memory
from biaslab.attribution.integration import GapAttribution, Integration, wanted_sums
from biaslab.attribution.quadrature import Steps, integration_rule
from biaslab.attribution.replay import Inputs
from biaslab.errors import InputError, require_one_of
from biaslab.models.architectures import ffn_shape

Gap = Literal["absolute", "signed"]
Of = Literal["probability", "log_odds"]


def integrated_gradients(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None = None,
    steps: Steps = 6,
    quadrature: str = "gauss_legendre",
    tolerance: float = 0.01,
    of: Of = "probability",
) -> Tensor:
    r"""Attribute each target's probability at the slot to every feed-forward neuron (integrated gradients).

    .. math:: IG(w_j) = \bar w_j \int_0^1 \partial P(d | \alpha \bar w) / \partial w_j \, d\alpha

    Takes the arguments of :func:`integrated_gap_gradients` and raises the same errors, except that ``target_ids`` are
    the tokens whose probabilities are attributed, ``[batch, target]``. With ``of="log_odds"``, log P (in nats) is
    attributed instead of P.

    Returns:
        Scores, ``[batch, target, layer, neuron]``; positive if the neuron raises the target's probability. The scores
        of a layer sum to P(target) minus P(target) with the layer's neurons set to zero.

    Reference:
        Sundararajan et al. 2017; Dai et al. 2022, equation 2.
    """
    each = torch.arange(target_ids.shape[-1])[:, None]
    return attribute_gaps(
        model, input_ids, position, target_ids, each, attention_mask, steps, quadrature, "signed", tolerance, of=of
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
    of: Of = "probability",
) -> Tensor:
    r"""Attribute the gap between two demographics' probabilities at the slot to every feed-forward neuron (IG²).

    Integrates the gradient of the gap while all neurons of a layer are scaled from zero to their actual activations.

    .. math::
        IG^2(w_j) = \bar w_j \int_0^1
            \partial |P(d_1 | \alpha \bar w) - P(d_2 | \alpha \bar w)| / \partial w_j \, d\alpha

    Args:
        model: a masked or causal language model of a supported architecture.
        input_ids: token ids, ``[batch, sequence]``.
        position: index of the slot, ``[batch]``: the mask token of a masked model, or the last token before the slot
            of a causal model.
        target_ids: token ids of the two demographics, ``[batch, 2]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None if nothing is padded.
        steps: number of quadrature nodes, or "auto" for a nested rule (Clenshaw-Curtis with 3, 5, 9, … nodes) that is
            refined only for sequences and layers whose completeness residual exceeds ``tolerance``.
        quadrature: quadrature rule for a fixed number of steps; see
            :func:`biaslab.attribution.quadrature.nodes_and_weights`.
        gap: "absolute" as in the paper, or "signed" for IG(first) - IG(second), as in the authors' released code.
        tolerance: for steps="auto", the largest residual allowed, relative to the sum of a layer's absolute scores.
        of: "probability" attributes P(d1) - P(d2), as in the paper; "log_odds" attributes log P(d1) - log P(d2), in
            nats. |P(d1) - P(d2)| also falls if both demographics become less likely; the log-odds measure the
            preference only.

    Returns:
        Scores, ``[batch, layer, neuron]``; positive if the neuron widens the gap. The scores of a layer sum to the gap
        minus the gap with the layer's neurons set to zero.

    Raises:
        InputError: if an argument has the wrong shape or is out of range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), equation 3.
    """
    _require_shape("target_ids", "[batch, 2]", target_ids, target_ids.ndim == 2 and target_ids.shape[1] == 2)
    pair = torch.tensor([[0, 1]], device=target_ids.device)
    return attribute_gaps(
        model, input_ids, position, target_ids, pair, attention_mask, steps, quadrature, gap, tolerance, of=of
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
    of: Of = "probability",
) -> GapAttribution:
    """Compute IG² for several pairs of the same targets, with one forward pass for all and n - 1 backward passes.

    n is the number of targets. Takes the arguments of :func:`integrated_gap_gradients` and a few more. If an absolute
    gap changes sign, the interval is split at the root.

    - position: ``[batch, slot]`` for words of several tokens; ``target_ids`` are then ``[batch, target, slot]``.
    - pairs: indices into the target axis of the two targets of each pair, ``[pair, 2]``; or of single targets,
      ``[pair, 1]``, whose own probabilities are attributed (IG, no gap).
    - layers: layers to attribute; the scores of the others are 0. All by default.
    - budget: how many tokens are computed at once; halved when memory runs out.
    - longer: the same prompts with other numbers of slots, for demographics with that many tokens. Their targets are
      appended to the target axis in this order.
    """
    require_one_of("gap", gap, get_args(Gap))
    require_one_of("of", of, get_args(Of))
    every = [Inputs(input_ids, position, target_ids, attention_mask), *longer]
    for inputs in every:
        _check(model, inputs)
    rule = integration_rule(steps, quadrature, tolerance)
    sums = wanted_sums(pairs, [inputs.target_ids.shape[1] for inputs in every])
    depth, length = ffn_shape(model)[0], max(inputs.input_ids.shape[1] for inputs in every)
    wanted = torch.tensor(sorted(range(depth) if layers is None else layers), dtype=torch.long).to(input_ids.device)
    budget = budget or TokenBudget()
    results: list[GapAttribution] = []
    start = 0
    while start < len(input_ids):
        rows = slice(start, start + max(1, budget.tokens // (length * depth)))
        memory_ran_out = False
        try:
            parts = [(each.rows(rows), s) for each, s in zip(every, sums, strict=True)]
            results.append(Integration(model, parts, wanted, rule, gap == "absolute", budget, of == "log_odds").run())
            start = rows.stop
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            memory_ran_out = True
        if memory_ran_out:  # outside the handler, which still references the tensors of the failed attempt
            budget.halve(least=length)
    return GapAttribution(*(torch.cat(tensors) for tensors in zip(*results, strict=True)))


def attribute_batch(model: PreTrainedModel, batch: Mapping[str, Any], **options: Any) -> GapAttribution:
    """Compute IG² for a batch of :class:`biaslab.data.prompts.PromptDataModule`: each prompt and each of its pairs.

    Args:
        model: the model whose tokenizer made the batch, on the batch's device.
        batch: one of the data module's ``batches``.
        options: ``steps``, ``quadrature``, ``gap``, ``of`` and so on, as of :func:`attribute_gaps`.

    Returns:
        Among others ``scores``, ``[prompt, pair, layer, neuron]``; the batch's ``pair`` says which pairs they are.
    """
    inputs = {name: batch[name] for name in ("input_ids", "position", "target_ids", "pairs")}
    longer = [Inputs(**each) for each in batch.get("longer", ())]
    return attribute_gaps(model, **inputs, longer=longer, **options)


def _check(model: PreTrainedModel, inputs: Inputs) -> None:
    input_ids, position, target_ids, attention_mask = inputs
    _require_shape("input_ids", "[batch, sequence]", input_ids, input_ids.ndim == 2)
    batch, sequence = input_ids.shape
    if not batch:
        raise InputError("`input_ids` is expected to hold at least one sequence but is empty.")
    fits = position.ndim in (1, 2) and len(position) == batch
    _require_shape("position", f"[batch] = [{batch}] or [batch, slot]", position, fits)
    slots = position.shape[1:]
    sizes = ", ".join(map(str, (batch, "target", *slots)))
    fits = target_ids.ndim == 2 + len(slots) and len(target_ids) == batch and target_ids.shape[2:] == slots
    _require_shape("target_ids", f"[batch, target{', slot' if slots else ''}] = [{sizes}]", target_ids, fits)
    if attention_mask is not None:
        fits = attention_mask.shape == input_ids.shape
        _require_shape("attention_mask", f"[batch, sequence] = [{batch}, {sequence}]", attention_mask, fits)
    if not (int(position.min()) >= 0 and int(position.max()) < sequence):
        raise InputError(f"`position` is expected to be within the {sequence} tokens but got {position.tolist()}.")
    ffn_shape(model)  # raises InputError for an unsupported architecture
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attribution needs gradients, which inference mode disables. Use torch.no_grad() or "
            "Trainer(inference_mode=False) instead."
        )


def _require_shape(name: str, expected: str, tensor: Tensor, fits: bool) -> None:
    if not fits:
        raise InputError(f"`{name}` is expected to be of shape {expected} but got {list(tensor.shape)}.")
