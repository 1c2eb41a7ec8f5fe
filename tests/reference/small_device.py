"""A device without float64, as Apple's GPUs are: tensors on it are the CPU's in disguise."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "small"
_setup_privateuseone_for_python_backend(NAME)
DEVICE = torch.device(NAME, 0)
aten = torch.ops.aten
MIXED = (aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Small(torch.Tensor):
    """A tensor on the device; refuses float64, and arithmetic with tensors of the CPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Small:
        if inner.dtype == torch.float64:
            raise TypeError("this device has no float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        """As of any tensor; torch has none for disguised ones."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        wanted = kwargs.get("device", DEVICE)
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        packet = function.overloadpacket
        if packet not in MIXED:
            tree_map(_refuse, args)
        results = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if packet is aten.copy_ and not isinstance(args[0], Small):
            return args[0]
        if function._schema.is_mutable and isinstance(args[0] if args else None, Small):
            return kwargs.get("out", args[0])
        return tree_map(_wrapped, results) if torch.device(wanted).type == NAME else results


def _refuse(value: Any) -> None:
    if isinstance(value, torch.Tensor) and not isinstance(value, Small) and value.ndim:
        raise RuntimeError("expected all tensors to be on the same device")


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, Small) else value


def _wrapped(value: Any) -> Any:
    return Small(value) if isinstance(value, torch.Tensor) and not isinstance(value, Small) else value


_library = torch.library.Library("aten", "IMPL")


def _empty(size: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, **_: Any) -> torch.Tensor:
    return Small(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> torch.Tensor:
    return Small(torch.empty_strided(size, stride, dtype=dtype))


_library.impl("empty.memory_format", _empty, "PrivateUse1")
_library.impl("empty_strided", _empty_strided, "PrivateUse1")


def _copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    _inner(target).copy_(_inner(source))
    return target


_library.impl("_copy_from", _copy_from, "PrivateUse1")
