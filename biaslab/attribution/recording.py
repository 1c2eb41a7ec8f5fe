"""One forward pass of a transformer, with all that it takes to go on from the feed-forward output of any layer.

Only paths are known of an architecture.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from biaslab.attribution.readout import backward, read_slots
from biaslab.models.architectures import architecture, attention_modules, ffn_modules, layers, without_cache


class Recording(NamedTuple):
    """One forward pass of a batch.

    Where the slots are a causal model's last tokens, nothing before them ever changes: then the pass is that of these
    tokens alone (``sequence`` is their number) against the keys and values of the tokens before them.

    Attributes:
        states: what each layer got, ``[batch, sequence, hidden]`` a layer.
        arguments: the further arguments of each layer, positional and by name.
        attended: output of each layer's attention at the slots, ``[batch, slot, hidden]``.
        activations: of the neurons at the slots, ``[batch, slot, neuron]`` a layer.
        position: of the slots, ``[batch, slot]``.
        prefix: keys and values of the tokens before, ``[batch, head, token, size]`` a layer; empty where all are in
            the sequence.
        tuples: whether the layers return tuples.
    """

    states: list[Tensor]
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]
    attended: list[Tensor]
    activations: list[Tensor]
    position: Tensor
    prefix: list[tuple[Tensor, Tensor]]
    tuples: bool


def record(
    model: PreTrainedModel,
    input_ids: Tensor,
    position: Tensor,
    attention_mask: Tensor | None,
    target_ids: Tensor,
    directions: Tensor | None = None,
) -> tuple[Recording, Tensor, Tensor]:
    """Run the model once and keep what :func:`biaslab.attribution.replay.go_on` needs to go on from any layer.

    Args:
        model: a model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slots in each sequence, ``[batch, slot]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
        target_ids: whose probabilities are wanted, a token a slot, ``[batch, target, slot]``.
        directions: sums of probabilities to be differentiated, ``[direction, target]``; None for no gradients.

    Returns:
        The recording, the probabilities ``[batch, target]``, and each direction's gradient with respect to each layer's
        feed-forward output at the slots, ``[direction, batch, layer, slot, hidden]`` (empty without directions).
    """
    cache: Cache | None = None
    slots = position.shape[1]
    if _slots_are_last(model, input_ids, position, attention_mask):
        with torch.no_grad():
            cache = model.base_model(input_ids=input_ids[:, :-slots], use_cache=True).past_key_values
        input_ids, position = input_ids[:, -slots:], position - (input_ids.shape[1] - slots)
    states: list[Tensor] = []
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    attended: list[Tensor] = []
    activations: list[Tensor] = []
    leaves: list[Tensor] = []
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None]

    def keep_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = dict(kwargs)
        states.append((args[0] if args else kwargs.pop("hidden_states")).detach())
        arguments.append((args[1:], kwargs))

    def add_leaf(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if directions is None:
            return None
        leaves.append(torch.zeros_like(output[rows, position]).requires_grad_())
        return output.index_put((rows, position), leaves[-1], accumulate=True)

    with ExitStack() as stack, torch.set_grad_enabled(directions is not None):
        for layer, attention, ffn in zip(layers(model), attention_modules(model), ffn_modules(model), strict=True):
            stack.enter_context(layer.register_forward_pre_hook(keep_call, with_kwargs=True))
            stack.enter_context(
                attention.register_forward_hook(lambda _, __, out: attended.append(out[0][rows, position].detach()))
            )
            # after every other pre-hook, so that a suppressed neuron is recorded as suppressed
            stack.enter_context(
                ffn.register_forward_pre_hook(lambda _, args: activations.append(args[0][rows, position].detach()))
            )
            stack.enter_context(ffn.register_forward_hook(add_leaf))
        outputs: list[Any] = []
        stack.enter_context(layers(model)[-1].register_forward_hook(lambda _, __, output: outputs.append(output)))
        options = without_cache(model) if cache is None else {"past_key_values": cache, "use_cache": True}
        readout = read_slots(
            model, lambda: model(input_ids=input_ids, attention_mask=attention_mask, **options), position, target_ids,
            directions,
        )  # fmt: skip
        gradients = readout.probabilities.new_empty(0)
        if directions is not None:
            gradients = torch.stack(backward(readout, leaves), 2)
    cached: Any = [] if cache is None else cache.layers
    prefix = [(layer.keys[:, :, :-slots], layer.values[:, :, :-slots]) for layer in cached]
    tuples = isinstance(outputs[0], tuple)
    recording = Recording(states, arguments, attended, activations, position, prefix, tuples)
    return recording, readout.probabilities, gradients


def _slots_are_last(model: PreTrainedModel, input_ids: Tensor, position: Tensor, attention_mask: Tensor | None) -> bool:
    length, slots = input_ids.shape[1], position.shape[1]
    window = getattr(model.config, "sliding_window", None) or length
    fits = attention_mask is None and slots < length <= window
    last = torch.arange(length - slots, length, device=position.device)
    return not architecture(model).masked and fits and bool((position == last).all())
