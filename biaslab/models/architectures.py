"""Look up a model's modules and properties in the table of architectures."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.models.placement import changed
from biaslab.models.table import ARCHITECTURES, EXPERTS, REFUSED, Architecture


def architecture(model_or_config: Any) -> Architecture:
    """Return the table's entry for a model or its config.

    Raises:
        InputError: if the model type is not in the table, or the model computes its feed-forward layers in chunks.
    """
    config = getattr(model_or_config, "config", model_or_config)
    kind = config.model_type
    if kind not in ARCHITECTURES:
        why = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise InputError(
            f"`model_name` is expected to have a model type that `biaslab models` lists but got {kind!r}, which is not "
            f"supported{why}. Choose another model, or add its type to biaslab/models/table.py."
        )
    if getattr(config, "enable_moe_block", False):  # the larger Gemma 4 models
        raise InputError(f"`model_name` is expected to be a dense model but got a {kind}: {EXPERTS}. Choose another.")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise InputError(
            "`chunk_size_feed_forward` is expected to be 0 but got "
            f"{config.chunk_size_feed_forward}: chunking changes what a position means. Set it to 0 in config.json."
        )
    return ARCHITECTURES[kind]


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the model's transformer layers."""
    modules = model.base_model.get_submodule(architecture(model).ffn.partition(".{}")[0])
    assert isinstance(modules, nn.ModuleList)
    return modules


def ffn_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's FFN down-projection; its input holds the layer's neurons, ``[batch, sequence, neuron]``.

    Some models merge the first two axes: see :func:`by_token`.
    """
    path = architecture(model).ffn
    return [model.base_model.get_submodule(path.format(layer)) for layer in range(len(layers(model)))]


def by_token(values: Tensor, sequences: int) -> Tensor:
    """Return a down-projection's input or output as ``[batch, sequence, feature]``, splitting merged axes."""
    return values if values.ndim == 3 else values.unflatten(0, (sequences, -1))


@contextmanager
def sequences_of(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Yield a function that returns the batch size of the current forward pass, for :func:`by_token`."""
    seen = [0]

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[0] = len(args[0] if args else kwargs["hidden_states"])

    with layers(model)[0].register_forward_pre_hook(note, with_kwargs=True):
        yield lambda: seen[0]


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's attention; its output is ``[batch, sequence, hidden]`` or a tuple that starts with it."""
    path = architecture(model).attention
    return [layer.get_submodule(path) for layer in layers(model)]


def down_weight(module: nn.Module) -> Tensor:
    """Return a down-projection's weight as ``[hidden, neuron]``; a view, whatever its storage layout."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D stores [neuron, hidden]


def ffn_width(module: nn.Module) -> int:
    """Return the number of input neurons of a down-projection; works for packed, quantised weights."""
    width = getattr(module, "in_features", None)
    return width if isinstance(width, int) else down_weight(module).shape[1]


def down_matrix(module: nn.Module) -> Tensor:
    """Return the matrix of a down-projection, ``[hidden, neuron]``: its weight, dequantised if necessary.

    A quantised matrix is recovered from the module's outputs for one-hot inputs, so any method works.
    """
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.ndim == 2:
        return down_weight(module).detach()
    with torch.no_grad():
        dtype = getattr(module, "compute_dtype", None) or torch.float32
        device = next(itertools.chain(module.parameters(), module.buffers())).device
        single = torch.eye(ffn_width(module), dtype=dtype, device=device)
        matrix: Tensor = module(single) - module(single[:1] * 0)
        return matrix.T


def has_bias(model: PreTrainedModel) -> bool:
    """Return whether the down-projections have, or can be given, a bias that can absorb replaced neurons' outputs.

    Llama's config has ``mlp_bias``: with it, any program that loads the weights creates the biases.
    """
    own = getattr(ffn_modules(model)[0], "bias", None) is not None
    return own or getattr(model.config, "mlp_bias", None) is False


def add_biases(model: PreTrainedModel) -> None:
    """Add zero biases to all FFN projections that lack them; for models that :func:`has_bias` accepts."""
    if ffn_modules(model)[0].bias is not None:
        return
    model.config.mlp_bias = True
    path = architecture(model).ffn.rpartition(".")[0]
    for layer in range(len(layers(model))):
        for module in model.base_model.get_submodule(path.format(layer)).children():
            if isinstance(module, nn.Linear):
                with changed(module):
                    module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))


def ffn_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Return (layers, neurons per layer)."""
    modules = ffn_modules(model)
    return len(modules), ffn_width(modules[0])


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return the forward arguments that turn off a causal model's key-value cache."""
    return {} if architecture(model).masked else {"use_cache": False}


def window(model: PreTrainedModel) -> float:
    """Return the size of the attention window, including the token itself; infinite without a sliding window."""
    sizes = [getattr(model.config, name, None) for name in ("sliding_window", "window_size")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=math.inf)


def takes_own_mask(model: PreTrainedModel, length: int) -> bool:
    """Return whether a causal model follows a 4-D attention mask exactly, for positions up to ``length``.

    Custom code and other attention kernels may interpret the mask differently, and a 4-D mask does not include a
    sliding window that is shorter than the sequence.
    """
    native = architecture(model).own_mask and type(model).__module__.startswith("transformers.models.")
    return native and model.config._attn_implementation in ("eager", "sdpa") and length <= window(model)
