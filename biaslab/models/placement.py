"""Where the layers of a model lie, if one device has no room for them all."""

import atexit
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

DeviceMap = str | dict[str, Any]  # a device, "cpu" or "disk" of each module


def is_dispatched(model: nn.Module) -> bool:
    """Return whether accelerate has put the layers on several devices: such a model stays where it is."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def placement(device_map: DeviceMap | None) -> dict[str, Any]:
    """Return arguments of ``from_pretrained``; what has no room elsewhere lies in a folder that the process removes."""
    return {} if device_map is None else {"device_map": device_map, "offload_folder": _offload_folder()}


@cache
def _offload_folder() -> str:
    folder = TemporaryDirectory(prefix="biaslab-", ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return folder.name
