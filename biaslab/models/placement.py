"""Models distributed over several devices: placement, and reading and changing offloaded weights."""

import atexit
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from accelerate.utils import align_module_device, offload_weight  # type: ignore[import-untyped]
from torch import nn

DeviceMap = str | dict[str, Any]  # a strategy, or a device, "cpu" or "disk" for each module


def is_dispatched(model: nn.Module) -> bool:
    """Return whether accelerate distributed the layers over several devices; such a model must not be moved."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def placement(device_map: DeviceMap | None) -> dict[str, Any]:
    """Return arguments of ``from_pretrained``; weights offloaded to disk use a temporary folder."""
    return {} if device_map is None else {"device_map": device_map, "offload_folder": _offload_folder()}


@cache
def _offload_folder() -> str:
    folder = TemporaryDirectory(prefix="biaslab-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name


def loaded(module: nn.Module) -> AbstractContextManager[Any]:
    """Load a module's offloaded weights onto its execution device for the block."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    block: AbstractContextManager[Any] = align_module_device(module)
    return block


@contextmanager
def changed(module: nn.Module) -> Iterator[None]:
    """Allow a module's own weights to be changed or added in the block; offloaded weights are written back."""
    with loaded(module):
        yield
        hook: Any = getattr(module, "_hf_hook", None)
        if not getattr(hook, "offload", False):
            return
        store, prefix = hook.weights_map.dataset, hook.weights_map.prefix
        for name, parameter in module.named_parameters(recurse=False):
            value = parameter.detach().cpu()
            if prefix + name in store.index:  # on disk: written next to the checkpoint's file, which stays unchanged
                store.index = offload_weight(value, prefix + name, store.save_folder, store.index)
            else:
                store.state_dict[prefix + name] = value
                if prefix + name not in store.all_keys:
                    store.all_keys.append(prefix + name)
