"""Records a transformer's forward pass once, and resumes it from the feed-forward output of any layer.

Only module paths are architecture-specific. Each layer is called with the arguments that the model itself passed to it
(masks, rotary embeddings, position biases); the final norm and head are the model's own, run at the slots only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from biaslab.attribution.prefix import Prefix
from biaslab.attribution.readout import Readout, backward, read_slots
from biaslab.models.architectures import (
    architecture,
    attention_modules,
    by_token,
    ffn_modules,
    layers,
    window,
    without_cache,
)
from biaslab.models.heads import replaced_forward

_LOGITS_AT_ONCE = 2**23  # 32 MB in float32: a few dozen slots of a large vocabulary


class Inputs(NamedTuple):
    """A batch of prompts; a word of several tokens has one slot per token.

    Attributes:
        input_ids: token ids, ``[batch, sequence]``.
        position: positions of the slots, ``[batch, slot]``.
        target_ids: one token per slot, ``[batch, target, slot]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None if nothing is padded.
    """

    input_ids: Tensor
    position: Tensor
    target_ids: Tensor
    attention_mask: Tensor | None = None

    def rows(self, part: slice) -> Inputs:
        """Return a slice of the prompts; adds the slot axis if positions are ``[batch]`` (words of one token)."""
        ids, position, targets, mask = self
        if position.ndim == 1:
            position, targets = position[:, None], targets[..., None]
        return Inputs(ids[part], position[part], targets[part], None if mask is None else mask[part])


class Recording(NamedTuple):
    """One recorded forward pass of a batch.

    If the slots are the last tokens of a causal model, the tokens before them never change. Only the last tokens are
    then recorded (``sequence`` is their number), against cached keys and values of the tokens before them.
    """

    model: PreTrainedModel
    states: list[Tensor]  # input of each layer, [batch, sequence, hidden]
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]  # other positional and keyword arguments of each layer
    attended: list[Any]  # attention output of each layer at the slots, [batch, slot, hidden], or a tuple
    activations: list[Tensor]  # of the neurons at the slots, [batch, slot, neuron] for each layer
    position: Tensor  # of the slots, [batch, slot]
    prefix: list[tuple[Tensor, Tensor]]  # cached keys and values, [batch, head, token, size] for each layer
    output: Any  # structure of a layer's output: a tensor, or a tuple that starts with one
    logarithms: bool  # whether the targets' values are log-probabilities


def record(
    model: PreTrainedModel, inputs: Inputs, directions: Tensor | None, logarithms: bool = False, keys: bool = True
) -> tuple[Recording, Tensor, Tensor]:
    """Run the model once and keep what :func:`go_on` needs to resume from any layer.

    Args:
        model: a model of a supported architecture.
        inputs: prompts.
        directions: sums of targets to differentiate, ``[direction, target]``; None for no gradients.
        logarithms: the targets' values are log-probabilities instead of probabilities.
        keys: compute keys and values of the tokens before the slots once, if :func:`reuses_keys` allows it.

    Returns:
        The recording, the values ``[batch, target]``, and each direction's gradient with respect to each layer's
        feed-forward output at the slots, ``[direction, batch, layer, slot, hidden]`` (empty without directions).
    """
    input_ids, position, target_ids, attention_mask = inputs
    options: dict[str, Any] = without_cache(model)
    slots = position.shape[1]
    if keys and reuses_keys(model, inputs):
        with torch.no_grad():
            before = model.base_model(input_ids=input_ids[:, :-slots], use_cache=True)
        options = {"past_key_values": before.past_key_values, "use_cache": True}
        input_ids, position = input_ids[:, -slots:], position - (input_ids.shape[1] - slots)
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outputs: list[Any] = []
    states, attended, activations, leaves = ([], [], [], [])
    sequences = len(input_ids)
    rows = torch.arange(sequences, device=input_ids.device)[:, None]

    def keep_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = dict(kwargs)
        states.append((args[0] if args else kwargs.pop("hidden_states")).detach())
        arguments.append((args[1:], kwargs))

    def add_leaf(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if directions is None:
            return None
        tokens = by_token(output, sequences)
        leaves.append(torch.zeros_like(tokens[rows, position]).requires_grad_())
        return tokens.index_put((rows, position), leaves[-1], accumulate=True).view_as(output)

    def keep_attended(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        attended.append(_with_first(output, _first(output)[rows, position].detach()))

    def keep_activations(module: nn.Module, args: tuple[Any, ...]) -> None:
        activations.append(by_token(args[0], sequences)[rows, position].detach())

    with ExitStack() as stack, torch.set_grad_enabled(directions is not None):
        enter = stack.enter_context
        for layer, attention, ffn in zip(layers(model), attention_modules(model), ffn_modules(model), strict=True):
            enter(layer.register_forward_pre_hook(keep_call, with_kwargs=True))
            enter(attention.register_forward_hook(keep_attended))
            # registered after all other pre-hooks, so that suppressed neurons are recorded as suppressed
            enter(ffn.register_forward_pre_hook(keep_activations))
            enter(ffn.register_forward_hook(add_leaf))
        enter(layers(model)[-1].register_forward_hook(lambda _, __, output: outputs.append(output)))
        run = partial(model, input_ids=input_ids, attention_mask=attention_mask, **options)
        readout = read_slots(model, run, position, target_ids, directions, logarithms)
        empty = readout.values.new_empty(0)
        gradients = empty if directions is None else torch.stack(backward(readout, leaves), 2)
    cached: Any = options["past_key_values"].layers if "past_key_values" in options else []
    prefix = [(layer.keys[:, :, :-slots], layer.values[:, :, :-slots]) for layer in cached]
    output = _with_first(outputs[0], position)  # only its structure is used
    recording = Recording(model, states, arguments, attended, activations, position, prefix, output, logarithms)
    return recording, readout.values, gradients


def reuses_keys(model: PreTrainedModel, inputs: Inputs) -> bool:
    """Return whether the slots are the last tokens of a causal model that accepts cached keys of earlier tokens."""
    input_ids, position, _, attention_mask = inputs
    length, slots = input_ids.shape[1], position.shape[1]
    paths = architecture(model)
    # a sliding-window cache keeps one token fewer than the window
    fits = not paths.masked and paths.keys and attention_mask is None and slots < length < window(model)
    last = torch.arange(length - slots, length, device=position.device)
    return fits and bool((position == last).all())


def _first(output: Any) -> Tensor:
    """Return the hidden states from the output of an attention module or layer."""
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first


def _with_first(output: Any, first: Tensor) -> Any:
    """Return other hidden states in the structure of the output, with None for its other parts."""
    return first if isinstance(output, Tensor) else (first, *[None] * (len(output) - 1))


def go_on(
    recording: Recording, layer: Tensor, row: Tensor, values: Tensor, target_ids: Tensor, directions: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Replace the feed-forward output of a layer at the slots, and run the rest of the model from there.

    Items of all layers share one batch that grows from layer to layer, so this takes one forward pass, and one backward
    pass for each direction.

    Args:
        recording: from :func:`record`.
        layer: the layer of each item, ascending, on the CPU, ``[item]``.
        row: the recorded sequence of each item, ``[item]``.
        values: the new feed-forward output of the layer at the slots, ``[item, slot, hidden]``.
        target_ids: token ids, ``[item, target, slot]``.
        directions: as in :func:`record`.

    Returns:
        The targets' values ``[item, target]``, as in :func:`record`, and each direction's gradient with respect to
        ``values``, ``[direction, item, slot, hidden]`` (empty without directions).
    """
    counts = torch.bincount(layer, minlength=len(recording.states)).tolist()
    with torch.set_grad_enabled(directions is not None):
        leaves = [part.detach().requires_grad_(directions is not None) for part in values.split(counts)]
        slot = _slot_states(recording, counts, row, leaves)
        readout = _head(recording, slot, target_ids, directions)
        if directions is None:
            return readout.values, readout.values.new_empty(0)
        used = [leaf for leaf in leaves if len(leaf)]
        return readout.values, torch.cat(backward(readout, used), 1)


def _slot_states(recording: Recording, counts: Sequence[int], row: Tensor, leaves: Sequence[Tensor]) -> Tensor:
    """Return the last layer's output at the slots, ``[item, slot, hidden]``."""
    hidden: Tensor | None = None
    start = 0
    for index, (count, leaf) in enumerate(zip(counts, leaves, strict=True)):
        last = index == len(counts) - 1
        before, new = row[:start], row[start : start + count]
        parts = []
        if hidden is not None:
            run = _run_layer_at_slot if last else _run_layer
            parts.append(run(recording, index, hidden, before))
        if count:
            values = _after_ffn(recording, index, leaf, new)
            if not last:  # the input of the next layer, with these values at the slots
                state, items = recording.states[index + 1][new], torch.arange(count, device=new.device)[:, None]
                values = state.index_put((items, recording.position[new]), values.to(state.dtype))
            parts.append(values)
        if parts:
            hidden = torch.cat(parts) if len(parts) > 1 else parts[0]
        start += count
    assert hidden is not None
    return hidden


def _run_layer(recording: Recording, index: int, hidden: Tensor, rows: Tensor) -> Tensor:
    """Call a layer with new hidden states ``[item, sequence, hidden]`` and the recorded arguments of their rows."""
    prefix = Prefix(*recording.prefix[index], rows) if recording.prefix else None
    args, kwargs = _select(recording.arguments[index], rows, len(recording.position), prefix)
    with nullcontext() if prefix is None else prefix.attended(recording.model):
        return _first(layers(recording.model)[index](hidden, *args, **kwargs))


class _AttentionDone(Exception):  # noqa: N818  not an error
    """Raised to leave a layer after its attention."""


def _run_layer_at_slot(recording: Recording, index: int, hidden: Tensor, rows: Tensor) -> Tensor:
    """Call a layer whose output is needed at the slots only: keys and values for all tokens, the rest at the slots."""
    items, position = torch.arange(len(hidden), device=hidden.device)[:, None], recording.position[rows]
    if hidden.shape[1] == position.shape[1]:
        return _run_layer(recording, index, hidden, rows)
    paths, attention = architecture(recording.model), attention_modules(recording.model)[index]
    attended: list[Any] = []

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        attended.append(_with_first(output, _first(output)[items, position]))
        raise _AttentionDone

    with ExitStack() as stack:
        stack.enter_context(suppress(_AttentionDone))
        stack.enter_context(attention.register_forward_hook(stop))
        for path in filter(None, (paths.query, paths.output)):
            stack.enter_context(_at_slots(attention.get_submodule(path), items, position))
        _run_layer(recording, index, hidden, rows)
    with _bypassed([attention], attended[0]):
        return _run_layer(recording, index, hidden[items, position], rows)


def _at_slots(module: nn.Module, items: Tensor, position: Tensor) -> AbstractContextManager[None]:
    """Run a projection at the slots only; other tokens get zeros, or the result of the single slot."""
    project = module.forward

    def forward(hidden: Tensor) -> Tensor:
        projected: Tensor = project(hidden[items, position])
        if position.shape[1] == 1:
            return projected.expand(-1, hidden.shape[1], -1)
        zeros = projected.new_zeros(*hidden.shape[:2], projected.shape[-1])
        return zeros.index_put((items, position), projected)

    return replaced_forward(module, forward)


def _after_ffn(recording: Recording, index: int, values: Tensor, rows: Tensor) -> Tensor:
    """Return a layer's output at the slots, ``[item, slot, hidden]``, given its feed-forward output ``values``."""
    # attention is replaced by the recorded output; the result of the up-projections is not used
    attention, down = attention_modules(recording.model)[index], ffn_modules(recording.model)[index]
    state = recording.states[index][rows[:, None], recording.position[rows]]
    inside = {*attention.modules(), down}
    modules = [module for module in layers(recording.model)[index].modules() if module not in inside]
    up = [module for module in modules if getattr(module, "weight", state).ndim == 2]
    attended = _with_first(recording.attended[index], _first(recording.attended[index])[rows])
    nothing, width = state.new_zeros(1), recording.activations[index].shape[2]

    def no_neurons(hidden: Tensor) -> Tensor:
        return nothing.expand(*hidden.shape[:-1], width)

    def new_values(neurons: Tensor) -> Tensor:  # a clone, because a layer may add to it in place
        return values.to(state.dtype).reshape(*neurons.shape[:-1], -1).clone()

    with ExitStack() as stack:
        stack.enter_context(_bypassed([attention], attended))
        for module in up:
            stack.enter_context(replaced_forward(module, no_neurons))
        stack.enter_context(replaced_forward(down, new_values))
        return _run_layer(recording, index, state, rows)


def _select(value: Any, rows: Tensor, batch: int, prefix: Prefix | None, name: str = "") -> Any:
    """Select ``rows`` of each tensor with a batch axis, also within tuples, lists and dicts; replace a cache."""
    if isinstance(value, Tensor):
        if name == "alibi" and value.ndim == 3:  # the first axis combines sequences and heads
            return value.unflatten(0, (batch, -1)).index_select(0, rows).flatten(0, 1)
        if name == "rel_embeddings" or (name == "position_bias" and value.ndim == 3):  # shared by all sequences
            return value
        return value.index_select(0, rows) if batch > 1 and value.ndim > 1 and len(value) == batch else value
    if isinstance(value, Cache):
        return prefix
    if isinstance(value, tuple | list):
        return type(value)(_select(part, rows, batch, prefix) for part in value)
    if isinstance(value, dict):
        return {key: _select(part, rows, batch, prefix, key) for key, part in value.items()}
    return value


def _head(recording: Recording, slot: Tensor, target_ids: Tensor, directions: Tensor | None) -> Readout:
    """Run the model's own final norm and language-model head on ``slot`` ``[item, slot, hidden]``."""
    model = recording.model
    size = max(1, _LOGITS_AT_ONCE // (model.config.vocab_size * slot.shape[1]))
    parts = []
    for hidden, ids in zip(slot.split(size), target_ids.split(size), strict=True):
        placeholder = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        position = torch.arange(hidden.shape[1], device=hidden.device).expand(len(hidden), -1)
        run = partial(model, input_ids=placeholder, **without_cache(model))
        with _bypassed(layers(model), _with_first(recording.output, hidden)):
            parts.append(read_slots(model, run, position, ids, directions, recording.logarithms))
    return Readout(
        torch.cat([part.values for part in parts]),
        [hidden for part in parts for hidden in part.hidden],
        [gradient for part in parts for gradient in part.gradients],
    )


def _bypassed(modules: Iterable[nn.Module], output: Any) -> ExitStack:
    """Make each module return ``output`` without running, until the stack is closed."""
    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(replaced_forward(module, lambda *_, **__: output))
        return stack.pop_all()
