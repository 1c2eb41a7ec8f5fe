"""Probabilities and their gradients as functions of α, along the paths on which a layer's neurons grow from zero."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.recording import record
from biaslab.attribution.replay import go_on
from biaslab.errors import InputError
from biaslab.models.architectures import down_weight, ffn_modules

_log = logging.getLogger("biaslab")


class TokenBudget:
    """How many tokens, times the layers that they pass through, travel together.

    Args:
        tokens: that many; 8,192 take some 400 MB for BERT-base.
    """

    def __init__(self, tokens: int = 8192) -> None:
        if tokens < 1:
            raise InputError(f"`token_budget` is expected to be a positive integer but got {tokens}.")
        self.tokens = tokens

    def halve(self, least: int) -> None:
        """Go on with half of it, after memory ran out.

        Args:
            least: tokens of a single sequence.

        Raises:
            InputError: if it was for a single sequence only.
        """
        if self.tokens <= least:
            raise InputError(
                f"`model_name` is expected to fit into memory, but one sequence of {least} tokens does not. Take a "
                "smaller model or type, shorter prompts, or another machine."
            )
        self.tokens = max(least, self.tokens // 2)
        _log.warning("out of memory: going on with a token budget of %d, half of what it was", self.tokens)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any device."""
    words = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


class Inputs(NamedTuple):
    """A batch of prompts.

    A word of several tokens has as many slots in a sequence.

    Attributes:
        input_ids: ``[batch, sequence]``.
        position: of the slots, ``[batch, slot]``.
        target_ids: a token a slot, ``[batch, target, slot]``.
        attention_mask: ``[batch, sequence]``, or None.
    """

    input_ids: Tensor
    position: Tensor
    target_ids: Tensor
    attention_mask: Tensor | None = None

    def with_slots(self) -> Inputs:
        """Return a batch of words of one token, ``[batch]`` and ``[batch, target]``, with an axis of slots."""
        if self.position.ndim == 2:
            return self
        return self._replace(position=self.position[:, None], target_ids=self.target_ids[..., None])

    def rows(self, part: slice) -> Inputs:
        """Return some of the prompts."""
        ids, position, targets, mask = self
        return Inputs(ids[part], position[part], targets[part], None if mask is None else mask[part])


class Paths:
    """The paths of each layer of a recorded batch.

    Args:
        model: a model of the table.
        inputs: the batch.
        directions: sums of the targets' probabilities that are differentiated, ``[direction, target]``.
        budget: how much travels together.
        with_one: also record the gradients at α = 1, which takes one backward pass for all layers.
    """

    def __init__(
        self, model: PreTrainedModel, inputs: Inputs, directions: Tensor, budget: TokenBudget, with_one: bool
    ) -> None:
        self.model, self.budget, self.target_ids, self.directions = model, budget, inputs.target_ids, directions
        self.length = inputs.input_ids.shape[1]
        self.recording, self.at_one, self.gradients_at_one = record(
            model, inputs.input_ids, inputs.position, inputs.attention_mask, inputs.target_ids,
            directions if with_one else None,
        )  # fmt: skip
        self.weights = [down_weight(module).detach() for module in ffn_modules(model)]
        outputs = [values @ weight.T for values, weight in zip(self.recording.activations, self.weights, strict=True)]
        self.outputs = torch.stack(outputs, 1)  # of the neurons at α = 1, [batch, layer, slot, hidden]
        biases = [getattr(module, "bias", None) for module in ffn_modules(model)]
        self.biases = torch.stack([self.outputs.new_zeros(outputs[0].shape[-1]) if b is None else b for b in biases])

    def evaluate(self, row: Tensor, layer: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, Tensor]:
        """Evaluate at the same values of α on several paths.

        Args:
            row: the sequence of each path, ``[path]``.
            layer: the layer of each path, ``[path]``.
            alpha: ``[node]``.
            gradients: whether they are wanted.

        Returns:
            Probabilities ``[path, node, target]``, and the gradients of each direction with respect to the layer's
            feed-forward output at the slots, ``[path, node, direction, slot, hidden]`` (empty if not wanted).
        """
        has_one = bool(len(self.gradients_at_one)) or not gradients
        known = (alpha == 1).tolist() if has_one else [False] * len(alpha)
        probabilities = self.at_one.new_empty(len(row), len(alpha), self.target_ids.shape[1])
        shape = (len(row), len(alpha), len(self.directions), *self.outputs.shape[2:])
        slopes = self.at_one.new_empty(shape if gradients else 0)
        if any(known):
            one = known.index(True)
            probabilities[:, one] = self.at_one[row]
            if gradients:
                slopes[:, one] = self.gradients_at_one[:, row, layer].transpose(0, 1)
        nodes = torch.tensor([not value for value in known]).nonzero()[:, 0].to(row.device)
        path = torch.arange(len(row), device=row.device).repeat_interleave(len(nodes))
        node = nodes.repeat(len(row))
        for part in self._parts(layer[path]):
            at = path[part], node[part]
            p, g = self._evaluate(row[at[0]], layer[at[0]], alpha.to(row.device)[at[1]], gradients)
            probabilities[at] = p
            if gradients:
                slopes[at] = g.transpose(0, 1)
        return probabilities, slopes

    def _parts(self, layer: Tensor) -> list[Tensor]:
        """Divide evaluations into parts that keep the budget, each in the order of the layers."""
        if not len(layer):
            return []
        cost = (len(self.weights) - layer.cpu()) * self.recording.states[0].shape[1]
        part = (cost.cumsum(0) - cost) // self.budget.tokens
        order = torch.argsort(part * len(self.weights) + layer.cpu(), stable=True)
        sizes = torch.unique_consecutive(part, return_counts=True)[1]
        return list(order.to(layer.device).split(sizes.tolist()))

    def _evaluate(self, row: Tensor, layer: Tensor, alpha: Tensor, gradients: bool) -> tuple[Tensor, Tensor]:
        values = alpha[:, None, None].to(self.outputs.dtype) * self.outputs[row, layer] + self.biases[layer][:, None]
        directions = self.directions if gradients else None
        return go_on(self.model, self.recording, layer.cpu(), row, values, self.target_ids[row], directions)

    def scores(self, integrals: Tensor, row: Tensor, layer: int) -> Tensor:
        """Return w̄·W₂ᵀ(integral) of paths of one layer, summed over the slots, ``[path, pair, neuron]``.

        Args:
            integrals: of the gradients, ``[path, pair, slot, hidden]``.
            row: the sequence of each path, ``[path]``.
            layer: the layer.
        """
        activations = self.recording.activations[layer][row].to(integrals.dtype)  # [path, slot, neuron]
        return (activations[:, None] * (integrals @ self.weights[layer].to(integrals.dtype))).sum(2)
