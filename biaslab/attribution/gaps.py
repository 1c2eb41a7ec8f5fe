"""Integrated gradients of probabilities, and of the gap between two, with respect to feed-forward neurons (IG²).

All neurons of one layer at the slot are scaled together by α. Since the layer's FFN output there is α·W₂w̄ + b, the
gradients are gathered in hidden space and multiplied by W₂ᵀ once; what comes before it is never run again. The gap at
α = 1 is that of the recorded pass, whose one backward pass serves all layers. All of this is exact.

A word of several tokens has as many slots, in a sequence of its own, and its probability is the product of theirs:
then the neurons of all its slots are scaled together, a pair's gap is that between two sequences, and a neuron's score
is the sum over its slots.
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
    r"""Attribute each target's probability at the slot to every feed-forward neuron.

    .. math:: IG(w_j) = \bar w_j \int_0^1 \partial P(d | \alpha \bar w) / \partial w_j \, d\alpha

    Arguments and errors are those of :func:`integrated_gap_gradients`, but ``target_ids`` are the tokens whose
    probabilities are attributed, ``[batch, target]``; with ``of="log_odds"`` log P is, in nats.

    Returns:
        Scores, ``[batch, target, layer, neuron]``; positive where the neuron raises the target's probability. A layer's
        scores sum to P(target) minus P(target) with the layer's neurons at zero.

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

    .. math::
        IG^2(w_j) = \bar w_j \int_0^1
            \partial |P(d_1 | \alpha \bar w) - P(d_2 | \alpha \bar w)| / \partial w_j \, d\alpha

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``: a masked model's mask token, a causal model's last token before the slot.
        target_ids: the two demographics' token ids, ``[batch, 2]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
        steps: number of nodes; or "auto": a nested rule (Clenshaw-Curtis: 3, 5, 9, … nodes), finer only for the
            sequences and layers whose completeness residual is above the tolerance.
        quadrature: see :func:`biaslab.attribution.quadrature.nodes_and_weights`; for a fixed number of steps.
        gap: "absolute", the paper's, or "signed": IG(first) - IG(second), as in the authors' released code.
        tolerance: of steps="auto": the largest residual, relative to the sum of a layer's absolute scores.
        of: "probability", the paper's; or "log_odds": of log P(d1) - log P(d2), in nats, in place of P(d1) - P(d2).
            |P(d1) - P(d2)| falls, too, where both demographics become rare; the log-odds is the preference alone.

    Returns:
        Scores, ``[batch, layer, neuron]``; positive where the neuron widens the gap. A layer's scores sum to the gap
        minus the gap with the layer's neurons at zero.

    Raises:
        InputError: if an argument has another shape or range.

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
    """Compute IG² for several pairs of the same targets: one forward serves all, one backward each target but one.

    Arguments are those of :func:`integrated_gap_gradients`, where an absolute gap that changes its sign divides the
    interval, and:

    - position: of the slots of words of several tokens, ``[batch, slot]``; then ``target_ids`` are ``[batch, target,
      slot]``.
    - pairs: which two targets form a pair, ``[pair, 2]``, indices into the target axis; or single targets,
      ``[pair, 1]``, whose own probabilities are attributed (IG, no gap).
    - layers: those that are attributed; the scores of the others are 0. All by default.
    - budget: how much travels together; halved where memory runs out.
    - longer: the same prompts with other numbers of slots, for demographics of so many tokens: their targets follow on
      the target axis, in this order.
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
        if memory_ran_out:  # outside of the handler, which keeps what the failed attempt held
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
        raise InputError("`input_ids` is expected to hold a sequence or more but is empty.")
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
        raise InputError(f"`position` is expected to lie within the {sequence} tokens but got {position.tolist()}.")
    ffn_shape(model)  # refuses an architecture that is not in the table
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attribution needs gradients: use torch.no_grad, or Trainer(inference_mode=False), not inference_mode."
        )


def _require_shape(name: str, expected: str, tensor: Tensor, fits: bool) -> None:
    if not fits:
        raise InputError(f"`{name}` is expected to be of shape {expected} but got {list(tensor.shape)}.")
