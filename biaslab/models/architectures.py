"""The modules that the table of architectures names, and what it says of a model."""

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
        InputError: if the model type is not in the table, or if the model splits its feed-forward pass into chunks.
    """
    config = getattr(model_or_config, "config", model_or_config)
    kind = config.model_type
    if kind not in ARCHITECTURES:
        why = f": {REFUSED[kind]}" if kind in REFUSED else ""
        raise InputError(
            "`model_name` is expected to be a model of a type that `biaslab models` lists, but got type "
            f"{kind!r}: it is not in the table of architectures{why}. Choose another model, or add a line to "
            "biaslab/models/table.py."
        )
    if getattr(config, "enable_moe_block", False):  # Gemma 4's larger ones
        raise InputError(f"`model_name` is expected to be a dense model, but got a {kind}: {EXPERTS}. Choose another.")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise InputError(
            "`chunk_size_feed_forward` is expected to be 0 but got "
            f"{config.chunk_size_feed_forward}: a position then means another token. Set it to 0 in the model's config."
        )
    return ARCHITECTURES[kind]


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the model's transformer layers."""
    modules = model.base_model.get_submodule(architecture(model).ffn.partition(".{}")[0])
    assert isinstance(modules, nn.ModuleList)
    return modules


def ffn_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's FFN down-projection; its input holds the layer's neurons, ``[batch, sequence, neuron]``.

    Some join the first two axes: see :func:`by_token`.
    """
    path = architecture(model).ffn
    return [model.base_model.get_submodule(path.format(layer)) for layer in range(len(layers(model)))]


def by_token(values: Tensor, sequences: int) -> Tensor:
    """Return a down-projection's input or output as ``[batch, sequence, feature]``, where two axes were joined."""
    return values if values.ndim == 3 else values.unflatten(0, (sequences, -1))


@contextmanager
def sequences_of(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Within the block, the function says how many sequences the forward pass that runs has: for :func:`by_token`."""
    seen = [0]

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[0] = len(args[0] if args else kwargs["hidden_states"])

    with layers(model)[0].register_forward_pre_hook(note, with_kwargs=True):
        yield lambda: seen[0]


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's attention; its output is or begins with ``[batch, sequence, hidden]``."""
    path = architecture(model).attention
    return [layer.get_submodule(path) for layer in layers(model)]


def down_weight(module: nn.Module) -> Tensor:
    """Return a down-projection's weight as ``[hidden, neuron]``; a view, whichever way the module stores it."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D stores [neuron, hidden]


def ffn_width(module: nn.Module) -> int:
    """Return how many neurons a down-projection takes; a quantised one's weight may be packed."""
    width = getattr(module, "in_features", None)
    return width if isinstance(width, int) else down_weight(module).shape[1]


def down_matrix(module: nn.Module) -> Tensor:
    """Return what a down-projection multiplies by, ``[hidden, neuron]``: its weight, or what a quantised one means.

    The latter is read off the outputs of the single neurons, however its method packs them.
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
    """Return whether the down-projections have a bias, which can hold what replaced neurons add, or can be given one.

    Llama's configuration can say ``mlp_bias``, so that any program that loads the weights makes the biases.
    """
    own = getattr(ffn_modules(model)[0], "bias", None) is not None
    return own or getattr(model.config, "mlp_bias", None) is False


def add_biases(model: PreTrainedModel) -> None:
    """Give all projections of the FFNs that have none a bias of 0, of a model that :func:`has_bias` accepts."""
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
    """Return (layers, neurons a layer)."""
    modules = ffn_modules(model)
    return len(modules), ffn_width(modules[0])


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return the argument of a forward pass that keeps a causal model from storing its keys and values."""
    return {} if architecture(model).masked else {"use_cache": False}


def window(model: PreTrainedModel) -> float:
    """Return how many tokens a token of any layer sees, itself among them; infinite without a sliding window."""
    sizes = [getattr(model.config, name, None) for name in ("sliding_window", "window_size")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=math.inf)


def takes_own_mask(model: PreTrainedModel, length: int) -> bool:
    """Return whether a causal model attends just as a 4-D mask says, in a sequence whose positions end at ``length``.

    Code that came with a checkpoint, or other attention kernels, may take their own view of it, and a sliding window
    that is shorter is none of it.
    """
    native = architecture(model).own_mask and type(model).__module__.startswith("transformers.models.")
    return native and model.config._attn_implementation in ("eager", "sdpa") and length <= window(model)
