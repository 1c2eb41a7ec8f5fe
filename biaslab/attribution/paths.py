"""Evaluates the paths along which a layer's neurons are scaled, by replaying a recorded pass or by whole passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.attribution.budget import TokenBudget
from biaslab.attribution.replay import Inputs, go_on, record
from biaslab.models.architectures import by_token, down_matrix, ffn_modules, without_cache
from biaslab.models.placement import loaded

_LOGITS_AT_ONCE = 2**25  # of a whole pass: 128 MB in float32


class Sums(NamedTuple):
    """Sums of targets to differentiate, and the pairs composed from them: entries -1, 0 and 1, float64."""

    directions: Tensor  # sums of targets to differentiate, [direction, target]
    pairs: Tensor  # each pair as a sum of directions, [pair, direction]


class Paths(ABC):
    """The paths of each layer, for a batch of prompts with the same number of slots."""

    activations: list[Tensor]  # of the neurons at the slots, [batch, slot, neuron] for each layer
    at_one: Tensor  # the targets' values with the neurons unchanged, [batch, target]

    def __init__(self, model: PreTrainedModel, inputs: Inputs, sums: Sums, budget: TokenBudget) -> None:
        self.budget, self.target_ids = budget, inputs.target_ids
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.directions, self.pairs = (tensor.to(dtype).to(inputs.input_ids.device) for tensor in sums)
        self.weights: list[Tensor] = []
        for module in ffn_modules(model):
            with loaded(module):
                self.weights.append(down_matrix(module))

    @abstractmethod
    def evaluate(self, row: Tensor, layer: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, Tensor]:
        """Evaluate several paths at the same values of α.

        Args:
            row: the prompt of each path, ``[path]``.
            layer: the layer of each path, ``[path]``.
            alpha: values of α, ``[node]``.
            gradients: whether to compute gradients.

        Returns:
            The targets' values ``[path, node, target]``, and the gradients of each direction with respect to the
            layer's feed-forward output at the slots, ``[path, node, direction, slot, hidden]`` (empty if not computed).
        """

    def scores(self, integrals: Tensor, row: Tensor, layer: int) -> Tensor:
        """Return w̄·W₂ᵀ(integral), ``[path, pair, neuron]``, of a layer's integrals, ``[path, pair, slot, hidden]``."""
        activations = self.activations[layer][row].to(integrals.dtype)  # [path, slot, neuron]
        return (activations[:, None] * (integrals @ self.weights[layer].to(integrals.dtype))).sum(2)


class ReplayedPaths(Paths):
    """Paths replayed from one recorded pass.

    With ``with_one``, the gradients at α = 1 are recorded; with ``keys``, keys and values before the slots are reused.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: Inputs,
        sums: Sums,
        budget: TokenBudget,
        with_one: bool,
        logarithms: bool,
        keys: bool = True,
    ) -> None:
        super().__init__(model, inputs, sums, budget)
        directions = self.directions if with_one else None
        self.recording, self.at_one, self.gradients_at_one = record(model, inputs, directions, logarithms, keys)
        self.activations = self.recording.activations
        biases: list[Tensor] = []
        for module, weight in zip(ffn_modules(model), self.weights, strict=True):
            with loaded(module):
                bias = getattr(module, "bias", None)
            biases.append(weight.new_zeros(len(weight)) if bias is None else bias)
        outputs = [values @ weight.T for values, weight in zip(self.activations, self.weights, strict=True)]
        self.outputs = torch.stack(outputs, 1)  # FFN outputs without bias at α = 1, [batch, layer, slot, hidden]
        self.biases = torch.stack(biases)  # [layer, hidden]

    def evaluate(self, row: Tensor, layer: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, Tensor]:
        """Evaluate all paths in one pass through the layers; see :meth:`Paths.evaluate`."""
        known = [len(self.gradients_at_one) > 0 and value == 1 for value in alpha.tolist()]
        found = self.at_one.new_empty(len(row), len(alpha), self.target_ids.shape[1])
        directions = self.directions if gradients else None
        shape = (len(row), len(alpha), len(self.directions), *self.outputs.shape[2:])
        slopes = self.at_one.new_empty(shape if gradients else 0)
        if any(known):
            one = known.index(True)
            found[:, one] = self.at_one[row]
            if gradients:
                slopes[:, one] = self.gradients_at_one[:, row, layer].transpose(0, 1)
        nodes = torch.tensor([not value for value in known]).nonzero()[:, 0].to(row.device)
        alpha = alpha.to(self.outputs.dtype).to(row.device)  # in this order: not every device supports float64
        path = torch.arange(len(row), device=row.device).repeat_interleave(len(nodes))
        node = nodes.repeat(len(row))
        for part in self._parts(layer[path]):
            at = path[part], node[part]
            rows, place = row[at[0]], layer[at[0]]
            values = alpha[at[1], None, None] * self.outputs[rows, place] + self.biases[place][:, None]
            asked = place.cpu(), rows, values, self.target_ids[rows]
            found[at], gradient = go_on(self.recording, *asked, directions)
            if gradients:
                slopes[at] = gradient.transpose(0, 1)
        return found, slopes

    def _parts(self, layer: Tensor) -> list[Tensor]:
        """Split evaluations into parts within the token budget, each sorted by layer."""
        if not len(layer):
            return []
        cost = (len(self.weights) - layer.cpu()) * self.recording.states[0].shape[1]
        part = (cost.cumsum(0) - cost) // self.budget.tokens
        order = torch.argsort(part * len(self.weights) + layer.cpu(), stable=True)
        sizes = torch.unique_consecutive(part, return_counts=True)[1]
        return list(order.to(layer.device).split(sizes.tolist()))


class WholePaths(Paths):
    """Paths evaluated by definition: a whole forward pass for each layer and node, with scaled activations."""

    def __init__(
        self, model: PreTrainedModel, inputs: Inputs, sums: Sums, budget: TokenBudget, logarithms: bool
    ) -> None:
        super().__init__(model, inputs, sums, budget)
        self.model, self.inputs, self.logarithms = model, inputs, logarithms
        self.activations = []
        parts: list[list[Tensor]] = []
        with torch.no_grad():
            for rows in self._parts(torch.arange(len(inputs.input_ids), device=inputs.input_ids.device)):
                values, activations = self._values(rows)
                parts.append([values, *activations])
        self.at_one, *self.activations = map(torch.cat, zip(*parts, strict=True))

    def _parts(self, rows: Tensor) -> tuple[Tensor, ...]:
        numbers = self.inputs.input_ids.shape[1] * self.model.config.vocab_size
        parts: tuple[Tensor, ...] = rows.split(max(1, _LOGITS_AT_ONCE // numbers))
        return parts

    def _values(self, rows: Tensor, hooks: Sequence[tuple[nn.Module, Any, Any]] = ()) -> tuple[Tensor, list[Tensor]]:
        """Return the targets' values, ``[row, target]``, and each layer's activations at the slots."""
        ids, position, targets, mask = (None if part is None else part[rows] for part in self.inputs)
        assert ids is not None
        assert position is not None
        assert targets is not None
        item = torch.arange(len(rows), device=rows.device)[:, None]
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(by_token(args[0], len(rows))[item, position].detach())

        with ExitStack() as stack:
            for module, before, after in hooks:
                stack.enter_context(module.register_forward_pre_hook(before))
                stack.enter_context(module.register_forward_hook(after))
            for module in ffn_modules(self.model):
                stack.enter_context(module.register_forward_pre_hook(keep))
            logits = self.model(input_ids=ids, attention_mask=mask, **without_cache(self.model)).logits[item, position]
        logs = logits.to(self.directions.dtype).log_softmax(2).gather(2, targets.transpose(1, 2)).sum(1)
        return logs if self.logarithms else logs.exp(), seen

    def evaluate(self, row: Tensor, layer: Tensor, alpha: Tensor, gradients: bool = True) -> tuple[Tensor, Tensor]:
        """Evaluate one layer and node at a time; see :meth:`Paths.evaluate`."""
        slots, hidden = self.inputs.position.shape[1], len(self.weights[0])
        values = self.at_one.new_empty(len(row), len(alpha), self.target_ids.shape[1])
        shape = (len(row), len(alpha), len(self.directions), slots, hidden)
        slopes = self.at_one.new_empty(shape if gradients else 0)
        for index in layer.unique().tolist():
            for paths in self._parts((layer == index).nonzero()[:, 0]):
                for node, factor in enumerate(alpha.tolist()):
                    values[paths, node], found = self._at(row[paths], index, factor, gradients)
                    if gradients:
                        slopes[paths, node] = found
        return values, slopes

    def _at(self, rows: Tensor, layer: int, alpha: float, gradients: bool) -> tuple[Tensor, Tensor]:
        """Return the targets' values, ``[row, target]``, and gradients, ``[row, direction, slot, hidden]``."""
        item, position = torch.arange(len(rows), device=rows.device)[:, None], self.inputs.position[rows]
        leaf = self.weights[layer].new_zeros(*position.shape, len(self.weights[layer])).requires_grad_(gradients)

        def scale(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            tokens = by_token(args[0], len(rows))
            return tokens.index_put((item, position), alpha * tokens[item, position]).view_as(args[0]), *args[1:]

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return by_token(output, len(rows)).index_put((item, position), leaf, accumulate=True).view_as(output)

        with torch.set_grad_enabled(gradients):
            values, _ = self._values(rows, [(ffn_modules(self.model)[layer], scale, add)])
            if not gradients:
                return values, values.new_empty(0)
            # float16 underflows for the gradient of a probability of 1e-6, so each row is scaled to be near 1
            factor = 2.0 ** -values.detach().abs().amax(1).clamp_min(1e-30).log2().floor()  # [row]
            sums = [((values @ direction) * factor).sum() for direction in self.directions]
            found = [torch.autograd.grad(s, leaf, retain_graph=s is not sums[-1])[0] for s in sums]
        return values.detach(), torch.stack(found, 1).to(values.dtype) / factor[:, None, None, None]
