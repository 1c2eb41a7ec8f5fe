"""Integrated gradients of probabilities, and of the gap between two, with respect to feed-forward neurons (IG²).

All neurons of one layer at the slot are scaled together by α. Since the layer's FFN output there is α·W₂w̄ + b, the
gradients are gathered in hidden space and multiplied by W₂ᵀ once; the layers below are never run again. Both are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.architectures import down_weight, ffn_modules, ffn_shape
from biaslab.errors import InputError
from biaslab.partial import Recording, ffn_output, head, record, run_layer, unbiased_output
from biaslab.quadrature import nodes_and_weights

Gap = Literal["absolute", "signed"]
_ROOT_ITERATIONS = 12
_ROOT_TOLERANCE = 1e-3  # of the gap at the bracket's ends: the kink's place is then right to some 1e-4 of the interval
_TOKEN_BUDGET = 16_384  # tokens that travel together: some 100 MB of activations for BERT-base


class GapAttribution(NamedTuple):
    """IG² of a batch, and what a run reports about it.

    Attributes:
        scores: ``[batch, pair, layer, neuron]``.
        gap: the gap that is attributed, with the neurons as they are, ``[batch, pair]``.
        residual: sum of a layer's scores minus (gap at α = 1 minus gap at α = 0), ``[batch, pair, layer]``; 0 if exact.
    """

    scores: Tensor
    gap: Tensor
    residual: Tensor


def integrated_gradients(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 6,
    quadrature: str = "gauss_legendre",
) -> Tensor:
    r"""Attribute each target's probability at the slot to every feed-forward neuron.

    .. math:: IG(w_j) = \bar w_j \int_0^1 \partial P(d | \alpha \bar w) / \partial w_j \, d\alpha

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``: a masked model's mask token, a causal model's last token before the slot.
        target_ids: token ids whose probabilities are attributed, ``[batch, target]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
        steps: number of nodes.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`.

    Returns:
        Scores, ``[batch, target, layer, neuron]``; positive where the neuron raises the target's probability. A layer's
        scores sum to P(target) minus P(target) with the layer's neurons at zero.

    Raises:
        InputError: if an argument has another shape or range.

    Reference:
        Sundararajan et al. 2017; Dai et al. 2022, equation 2.
    """
    _check(model, input_ids, position, target_ids, attention_mask)
    nodes, weights = _rule(model, quadrature, steps)

    def attribute(layer: _Layer) -> Tensor:
        _, gradients = layer.evaluate(nodes, gradients_of=range(target_ids.shape[1]))
        return torch.einsum("k,tkbh->bth", weights, gradients)

    parts = _recorded_parts(model, input_ids, position, target_ids, attention_mask, steps)
    return torch.cat([_each_layer(model, *part, attribute) for part in parts])


def integrated_gap_gradients(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 6,
    quadrature: str = "gauss_legendre",
    gap: Gap = "absolute",
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
        steps: number of nodes, on each side of a place where an absolute gap changes its sign.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`.
        gap: "absolute", the paper's; or "signed", which is IG(first) - IG(second), as in the authors' released code.

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
    return attribute_gaps(model, input_ids, position, target_ids, pairs, attention_mask, steps, quadrature, gap).scores[
        :, 0
    ]


def attribute_gaps(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    pairs: Tensor,
    attention_mask: Tensor | None = None,
    steps: int = 6,
    quadrature: str = "gauss_legendre",
    gap: Gap = "absolute",
) -> GapAttribution:
    """Compute IG² for several pairs of the same targets: one forward serves all, one backward each target.

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``.
        target_ids: token ids of the demographics, ``[batch, target]``.
        pairs: which two targets form a pair, ``[pair, 2]``, indices into the target axis.
        attention_mask: as in :func:`integrated_gap_gradients`; so are ``steps``, ``quadrature`` and ``gap``.
        steps: number of nodes.
        quadrature: the rule.
        gap: "absolute" or "signed".

    Returns:
        Scores, gaps and the completeness residual.
    """
    if gap not in ("absolute", "signed"):
        raise InputError(f'`gap` is expected to be "absolute" or "signed" but got {gap!r}.')
    _check(model, input_ids, position, target_ids, attention_mask)
    nodes, weights = _rule(model, quadrature, steps)
    parts = _recorded_parts(model, input_ids, position, target_ids, attention_mask, steps)
    found = [_attribute(model, *part, pairs, nodes, weights, gap) for part in parts]
    return GapAttribution(*(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _recorded_parts(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    target_ids: Tensor,
    attention_mask: Tensor | None,
    steps: int,
) -> Iterator[tuple[Recording, Tensor, Tensor]]:
    """Record the batch in parts that keep the token budget; yield each with its positions and targets."""
    size = max(1, _TOKEN_BUDGET // (steps * input_ids.shape[1]))
    for start in range(0, len(input_ids), size):
        part = slice(start, start + size)
        mask = None if attention_mask is None else attention_mask[part]
        yield record(model, input_ids[part], position[part], mask), position[part], target_ids[part]


def _attribute(
    model: PreTrainedModel,
    recording: Recording,
    position: Tensor,
    target_ids: Tensor,
    pairs: Tensor,
    nodes: Tensor,
    weights: Tensor,
    gap: Gap,
) -> GapAttribution:
    at_one = _gaps(_probabilities(recording.logits, target_ids), pairs)  # [batch, pair]
    size: Callable[[Tensor], Tensor] = torch.abs if gap == "absolute" else torch.clone
    at_zero: list[Tensor] = []

    def attribute(layer: _Layer) -> Tensor:
        probabilities, gradients = layer.evaluate(nodes, gradients_of=range(target_ids.shape[1]))
        origin, _ = layer.evaluate(nodes.new_zeros(1))
        at_zero.append(_gaps(origin[0], pairs))
        signed = gradients[pairs[:, 0]] - gradients[pairs[:, 1]]  # [pair, node, batch, hidden]
        if gap == "signed":
            return torch.einsum("k,pkbh->bph", weights, signed)
        gaps = torch.cat([at_zero[-1][None], _gaps(probabilities, pairs), at_one[None]])  # [node + 2, batch, pair]
        total = torch.einsum("k,kbp,pkbh->bph", weights, gaps[1:-1].sign(), signed)
        return _split_at_roots(layer, total, gaps, nodes, weights, pairs)

    scores = _each_layer(model, recording, position, target_ids, attribute)
    change = size(at_one)[..., None] - size(torch.stack(at_zero, dim=-1))  # [batch, pair, layer]
    return GapAttribution(scores, size(at_one), scores.sum(-1) - change)


def _split_at_roots(
    layer: _Layer, total: Tensor, gaps: Tensor, nodes: Tensor, weights: Tensor, pairs: Tensor
) -> Tensor:
    """Integrate anew, piece by piece, where a pair's gap changes its sign within the interval: |gap| has a kink there.

    Args:
        layer: the layer that is attributed.
        total: integrals over the whole interval, ``[batch, pair, hidden]``.
        gaps: signed gaps at 0, at the nodes and at 1, ``[node + 2, batch, pair]``.
        nodes: of the rule, ``[node]``.
        weights: of the rule, ``[node]``.
        pairs: ``[pair, 2]``.
    """
    changes = (gaps[1:] * gaps[:-1] < 0).permute(1, 2, 0)  # [batch, pair, interval]
    if not changes.any():
        return total
    grid = torch.cat([nodes.new_zeros(1), nodes, nodes.new_ones(1)])
    row, pair, interval = changes.nonzero().unbind(1)  # one entry a root
    targets = layer.target_ids[row[:, None], pairs[pair]]  # [root, 2]
    roots = _roots(layer.pick(row, targets), grid[interval], grid[interval + 1], gaps[interval, row, pair])
    # One entry a piece: from the last root (or 0) to the next root (or 1), roots in order within (row, pair).
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = (row[1:] != row[:-1]) | (pair[1:] != pair[:-1])
    last = first.roll(-1)
    last[-1] = True
    start = torch.cat([torch.where(first, 0.0, roots.roll(1)), roots[last]])
    end = torch.cat([roots, torch.ones_like(roots[last])])
    row, pair = torch.cat([row, row[last]]), torch.cat([pair, pair[last]])
    targets = layer.target_ids[row[:, None], pairs[pair]]  # [piece, 2]
    piece = layer.pick(row, targets)
    probabilities, gradients = piece.evaluate(start + (end - start) * nodes[:, None], gradients_of=None)
    sign = (probabilities[..., 0] - probabilities[..., 1]).sum(0).sign()  # [piece]: one sign within a piece
    integral = torch.einsum("k,kph,p->ph", weights, gradients[0], sign * (end - start))
    total = total.clone()
    total[row, pair] = 0.0
    return total.index_put((row, pair), integral, accumulate=True)


def _roots(bracketed: _Layer, low: Tensor, high: Tensor, gap_low: Tensor) -> Tensor:
    """Find where each gap is zero between ``low`` and ``high`` (``[root]``), by the Illinois rule (regula falsi)."""

    def gap_at(alpha: Tensor) -> Tensor:
        probabilities, _ = bracketed.evaluate(alpha[None])
        return probabilities[0, :, 0] - probabilities[0, :, 1]

    gap_high = gap_at(high)
    small = _ROOT_TOLERANCE * torch.maximum(gap_low.abs(), gap_high.abs())
    middle = high
    for _ in range(_ROOT_ITERATIONS):
        slope = gap_high - gap_low
        middle = torch.where(slope == 0, high, (low * gap_high - high * gap_low) / slope)
        gap = gap_at(middle)
        if bool((gap.abs() <= small).all()):
            break
        same_side = gap * gap_high > 0
        gap_low = torch.where(same_side, gap_low / 2, gap_high)
        low = torch.where(same_side, low, high)
        high, gap_high = middle, gap
    return middle


class _Layer:
    """One layer of a recorded batch: the probabilities, and their gradients, as functions of α.

    Args:
        model: the model that was recorded.
        recording: from :func:`biaslab.partial.record`.
        index: which layer.
        position: of the slot, ``[batch]``.
        target_ids: ``[batch, target]``.
        rows: the recorded sequence of each entry, ``[batch]``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        recording: Recording,
        index: int,
        position: Tensor,
        target_ids: Tensor,
        rows: Tensor,
    ) -> None:
        self.model, self.recording, self.index = model, recording, index
        self.position, self.target_ids, self.rows = position, target_ids, rows
        module = ffn_modules(model)[index]
        self.output, self.bias = unbiased_output(module, recording.activations[index][rows])

    def pick(self, rows: Tensor, target_ids: Tensor) -> _Layer:
        """Return the entries ``rows``, with other targets."""
        return _Layer(self.model, self.recording, self.index, self.position[rows], target_ids, self.rows[rows])

    def evaluate(self, alpha: Tensor, gradients_of: range | Literal[False] | None = False) -> tuple[Tensor, Tensor]:
        """Evaluate at ``alpha``, ``[node]`` or ``[node, batch]``.

        Args:
            alpha: scale of the layer's activations at the slot.
            gradients_of: the targets whose probabilities are differentiated; None for the difference of the first two;
                False for no gradients.

        Returns:
            Probabilities ``[node, batch, target]``, and gradients with respect to the FFN output
            ``[target, node, batch, hidden]`` (empty without gradients).
        """
        alpha = alpha if alpha.ndim == 2 else alpha[:, None]
        scaled = alpha.to(self.output)[..., None] * self.output  # [node, batch, hidden]
        leaf = (scaled + self.bias).detach().requires_grad_(gradients_of is not False)
        with torch.set_grad_enabled(gradients_of is not False):
            probabilities = self._probabilities(leaf)
            if gradients_of is False:
                return probabilities, probabilities.new_empty(0)
            if gradients_of is None:
                wanted = [probabilities[..., 0] - probabilities[..., 1]]
            else:
                wanted = [probabilities[..., target] for target in gradients_of]
            last = len(wanted) - 1
            gradients = [
                torch.autograd.grad(value.sum(), leaf, retain_graph=i < last)[0] for i, value in enumerate(wanted)
            ]
        return probabilities.detach(), torch.stack(gradients).to(probabilities.dtype)

    def _probabilities(self, leaf: Tensor) -> Tensor:
        nodes, batch, _ = leaf.shape
        states = self.recording.states[self.index].index_select(0, self.rows)
        with ffn_output(self.model, self.index, self.position, leaf):
            hidden = run_layer(self.model, self.recording, self.index, states, self.rows)
        hidden = hidden.flatten(0, 1)  # [node * batch, sequence, hidden]
        rows = self.rows.repeat(nodes)
        for later in range(self.index + 1, len(self.recording.states)):
            hidden = run_layer(self.model, self.recording, later, hidden, rows)
        slot = hidden[torch.arange(len(hidden), device=hidden.device), self.position.repeat(nodes)]
        logits = head(self.model, self.recording, slot)
        return _probabilities(logits, self.target_ids.repeat(nodes, 1)).view(nodes, batch, -1)


def _each_layer(
    model: PreTrainedModel,
    recording: Recording,
    position: Tensor,
    target_ids: Tensor,
    attribute: Callable[[_Layer], Tensor],
) -> Tensor:
    """Return w̄ · W₂ᵀ(integrated gradient in hidden space) of each layer, ``[batch, target, layer, neuron]``."""
    rows = torch.arange(len(position), device=position.device)
    scores = []
    for index, module in enumerate(ffn_modules(model)):
        integral = attribute(_Layer(model, recording, index, position, target_ids, rows))  # [batch, target, hidden]
        weight = down_weight(module).detach().to(integral.dtype)
        scores.append(recording.activations[index][:, None] * (integral @ weight))
    return torch.stack(scores, dim=2)


def _probabilities(logits: Tensor, target_ids: Tensor) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits.gather(1, target_ids) - logits.logsumexp(1, keepdim=True)).exp()


def _gaps(probabilities: Tensor, pairs: Tensor) -> Tensor:
    """Signed gaps, ``[..., pair]``."""
    return probabilities[..., pairs[:, 0]] - probabilities[..., pairs[:, 1]]


def _rule(model: PreTrainedModel, quadrature: str, steps: int) -> tuple[Tensor, Tensor]:
    nodes, weights = nodes_and_weights(quadrature, steps)
    dtype = model.dtype if model.dtype == torch.float64 else torch.float32
    return nodes.to(model.device, dtype), weights.to(model.device, dtype)


def _check(
    model: PreTrainedModel, input_ids: Tensor, position: Tensor, target_ids: Tensor, attention_mask: Tensor | None
) -> None:
    if input_ids.ndim != 2:
        raise InputError(f"`input_ids` is expected to be of shape [batch, sequence] but got {list(input_ids.shape)}.")
    batch, sequence = input_ids.shape
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
    if batch and not (int(position.min()) >= 0 and int(position.max()) < sequence):
        raise InputError(f"`position` is expected to lie within the {sequence} tokens but got {position.tolist()}.")
    ffn_shape(model)  # refuses an architecture that is not in the table
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "Attribution needs gradients: use torch.no_grad, or Trainer(inference_mode=False), not inference_mode."
        )
