"""Effects of a model's neurons on batches of :mod:`biaslab.data.effects`, and the measured cost of suppression."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.importance import Asked, first_order_effects, log_probabilities
from biaslab.data.effects import of_prompts
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed


def effects_of(model: PreTrainedModel, batch: Mapping[str, Any], origin: Tensor | None = None) -> Tensor:
    """Compute the first-order effects for a batch, in nats, ``[part, sequence, layer, neuron]``.

    ``origin`` is the value that suppression sets the neurons to, ``[layer, neuron]``; 0 by default.
    """
    asked = Asked(*(batch[name] for name in Asked._fields))
    effects, logs = first_order_effects(model, asked, batch["weights"], origin)
    if "pair" in batch:  # the derivative of an absolute value is that of the value times its sign
        pair, differences = batch["pair"], torch.zeros(len(asked.input_ids)).to(logs)
        differences.index_add_(0, pair[asked.row], batch["weights"][0].to(logs) * logs)
        effects = effects * differences.sign()[pair][:, None, None]
    shared: Tensor = effects[batch["sum"]] * batch["share"].to(effects)[..., None, None]
    return shared


def collected_effects(
    model: PreTrainedModel, batch: Mapping[str, Any], origin: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield the arguments of :meth:`biaslab.metrics.effects.NeuronEffects.update` for a batch.

    A batch of prompts, whose log-odds are used, yields one part for each input of the demographics.
    """
    parts: Iterable[Mapping[str, Any]] = [batch]
    if "pairs" in batch:
        with torch.no_grad():
            logs = target_log_probabilities(model, batch)
        parts = of_prompts(batch, logs, batch["share"], batch["quantity"])
    for part in parts:
        found = effects_of(model, send_to_device(part, model.device), origin)
        yield found.flatten(0, 1), part["quantity"].flatten(), part.get("tokens", 0)


def measured_rise(
    model: PreTrainedModel, batches: Sequence[Mapping[str, Any]], values: Tensor | None
) -> Callable[[NeuronSet], float]:
    """Return a function that measures by how many percent suppressing neurons raises perplexity on these batches.

    ``values`` are the values that suppression sets the neurons to, ``[layer, neuron]``; None for 0.
    """

    @torch.no_grad()
    def log_likelihood() -> float:
        asked = (Asked(*(batch[name].to(model.device) for name in Asked._fields)) for batch in batches)
        logs = [log_probabilities(model, each).cpu().double() for each in asked]
        return float(torch.cat(logs).mean())

    before = log_likelihood()

    def rise(neurons: NeuronSet) -> float:
        with suppressed(model, neurons.with_values(values)):
            return 100 * math.expm1(before - log_likelihood())

    return rise
