"""Parts of a transformer's forward pass: recorded once, and run again from any layer on.

Nothing here knows an architecture. A layer is called with the very arguments that the model itself passed to it (masks,
rotary embeddings, position biases), and the final norm and head are the model's own, run on chosen places only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.architectures import architecture, down_weight, ffn_modules, layers


class Recording(NamedTuple):
    """One forward pass of a batch.

    Attributes:
        states: what each layer got, ``[batch, sequence, hidden]`` a layer.
        arguments: the further arguments of each layer, positional and by name.
        activations: of the neurons at the slot, ``[batch, neuron]`` a layer.
        logits: at the slot, ``[batch, vocabulary]``.
        tuples: whether the layers return tuples.
    """

    states: list[Tensor]
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]
    activations: list[Tensor]
    logits: Tensor
    tuples: bool


@torch.no_grad()
def record(model: PreTrainedModel, input_ids: Tensor, position: Tensor, attention_mask: Tensor | None) -> Recording:
    """Run the model once and keep what :func:`run_layer` and :func:`head` need to go on from any layer.

    Args:
        model: a model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot in each sequence, ``[batch]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.
    """
    states: list[Tensor] = []
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    activations: list[Tensor] = []
    rows = torch.arange(len(input_ids), device=input_ids.device)

    def keep_call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = dict(kwargs)
        states.append(args[0] if args else kwargs.pop("hidden_states"))
        arguments.append((args[1:], kwargs))

    with ExitStack() as stack:
        for layer in layers(model):
            stack.enter_context(layer.register_forward_pre_hook(keep_call, with_kwargs=True))
        for module in ffn_modules(model):
            # after every other pre-hook, so that a suppressed neuron is recorded as suppressed
            hook = module.register_forward_pre_hook(lambda _, args: activations.append(args[0][rows, position]))
            stack.enter_context(hook)
        outputs: list[Any] = []
        stack.enter_context(layers(model)[-1].register_forward_hook(lambda _, __, output: outputs.append(output)))
        stack.enter_context(slot_only(model, position))
        logits = model(input_ids=input_ids, attention_mask=attention_mask, **_no_cache(model)).logits[:, 0]
    return Recording(states, arguments, activations, logits, tuples=isinstance(outputs[0], tuple))


def run_layer(
    model: PreTrainedModel, recording: Recording, layer: int, hidden: Tensor, rows: Tensor | None = None
) -> Tensor:
    """Call one layer with new hidden states and the recorded arguments.

    Args:
        model: the model that was recorded.
        recording: from :func:`record`.
        layer: which one.
        hidden: ``[item, sequence, hidden]``.
        rows: the recorded sequence that each item belongs to, ``[item]``.

    Returns:
        The layer's output, ``[item, sequence, hidden]`` (or with more leading axes where a hook added them).
    """
    args, kwargs = recording.arguments[layer]
    batch = len(recording.logits)
    args, kwargs = _select((args, kwargs), rows, batch)
    output = layers(model)[layer](hidden, *args, **kwargs)
    return output if isinstance(output, Tensor) else output[0]


def _select(value: Any, rows: Tensor | None, batch: int) -> Any:
    """Pick ``rows`` of each tensor that has a batch axis, within tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        batched = rows is not None and batch > 1 and value.ndim > 1 and len(value) == batch
        return value.index_select(0, rows) if batched else value  # type: ignore[arg-type]
    if isinstance(value, tuple | list):
        return type(value)(_select(part, rows, batch) for part in value)
    if isinstance(value, dict):
        return {key: _select(part, rows, batch) for key, part in value.items()}
    return value


@contextmanager
def ffn_output(model: PreTrainedModel, layer: int, position: Tensor, values: Tensor) -> Iterator[None]:
    """Within the block, layer ``layer`` has another FFN output at the slot, once for each node of an integral.

    What follows the down-projection in the layer (residual sum, norm) broadcasts over the new leading axis, so that
    attention and up-projection are computed once a sequence, not once a node.

    Args:
        model: a model of the table.
        layer: which layer.
        position: of the slot, ``[batch]``.
        values: the new outputs, ``[node, batch, hidden]``; gradients flow to them.
    """
    rows = torch.arange(values.shape[1], device=values.device)

    def replace(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        expanded = output.expand(len(values), *output.shape)  # [node, batch, sequence, hidden]
        index = torch.arange(len(values), device=values.device)[:, None]
        return expanded.index_put((index, rows, position), values.to(output.dtype))

    with ffn_modules(model)[layer].register_forward_hook(replace):
        yield


@contextmanager
def slot_only(model: PreTrainedModel, position: Tensor) -> Iterator[None]:
    """Within the block, the model projects one position a sequence: logits are ``[batch, 1, vocabulary]``.

    Args:
        model: a language model.
        position: of the slot, ``[batch]``.
    """

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        return (hidden[torch.arange(len(hidden), device=hidden.device), position][:, None],)

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        yield


def head(model: PreTrainedModel, recording: Recording, hidden: Tensor) -> Tensor:
    """Run the model's own final norm and language-model head.

    Args:
        model: the model that was recorded.
        recording: from :func:`record`.
        hidden: output of the last layer at the slot, ``[item, hidden]``.

    Returns:
        Logits, ``[item, vocabulary]``.
    """
    state = hidden[:, None]
    with _bypassed(layers(model), (state,) if recording.tuples else state):
        placeholder = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)
        logits: Tensor = model(input_ids=placeholder, **_no_cache(model)).logits
        return logits[:, 0]


@contextmanager
def _bypassed(modules: nn.ModuleList, output: Any) -> Iterator[None]:
    """Let each layer return ``output`` without being run."""
    for module in modules:
        module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _no_cache(model: PreTrainedModel) -> dict[str, bool]:
    return {} if architecture(model).masked else {"use_cache": False}


def unbiased_output(module: nn.Module, activation: Tensor) -> tuple[Tensor, Tensor | float]:
    """Return a down-projection's output without its bias, ``[batch, hidden]``, and the bias (0.0 where it has none)."""
    bias = getattr(module, "bias", None)
    return activation @ down_weight(module).T, 0.0 if bias is None else bias
