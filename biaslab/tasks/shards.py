"""Checkpoints of a long run: finished items, in a folder shared by several processes, so that a run can resume."""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from biaslab.errors import InputError
from biaslab.store import acquired, write_atomically, writing

_CONFIGURATION, _LOCK = "configuration.json", ".lock"
_SHARD = re.compile(r"shard-(\d+)-[0-9a-f]+\.safetensors")
_OWN = re.compile(rf"{_SHARD.pattern}|\.(shard-.+|configuration\.json)\.\w+\.tmp")
_SHARE = 0.02  # minimum interval between shards as a share of the elapsed time, which limits their number
_Content = TypeVar("_Content")


class Shards:
    """A folder of shards; each holds the numbers of some finished items and their tensors.

    Shards have unique names, so any number of processes can write concurrently and be killed at any time.

    Args:
        folder: folder of the shards, created by :meth:`open`.
        report: called with a message about a corrupt shard, or a folder that can't be removed.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     shards = Shards(folder)
    ...     shards.open({"steps": 4})
    ...     shards.write([3, 4], {"sums": torch.tensor([0.5, 1.5])})
    ...     list(shards.read())
    [([3, 4], {'sums': tensor([0.5000, 1.5000])})]
    """

    def __init__(self, folder: str | Path, report: Callable[[str], None] = print) -> None:
        self._folder, self._report, self._held = Path(folder), report, ExitStack()

    def open(self, configuration: Mapping[str, Any]) -> None:
        """Create the folder for a configuration (serializable as JSON), or check that it belongs to the same one.

        Raises:
            InputError: if the folder belongs to another configuration, holds files but no configuration, or can't be
                read or written.
        """
        path, text = self._folder / _CONFIGURATION, json.dumps(configuration, indent=1)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        others = [name for name in self._names() if not name.startswith(".")]
        # read after listing the folder: other processes write their configuration before their shards
        if (content := _read(Path.read_bytes, path)) is None and not others:
            write_atomically(path, text.encode())
            content = _read(Path.read_bytes, path)  # another process may have replaced it
        if problem := f"holds {min(others)} but no {_CONFIGURATION}" if content is None else _problem(content, text):
            raise InputError(
                f"`folder` is expected to be new or to belong to the same configuration but {self._folder} {problem}. "
                "Use another folder, or remove this one."
            )

    def lock(self) -> bool:
        """Lock the folder while this process lives; call after :meth:`open`. Return False if another run holds it."""
        with writing(self._folder):
            lock = acquired(self._folder / _LOCK)
        if lock is not None:
            self._held.callback(lock.release)
        return lock is not None

    def write(self, items: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write a shard atomically and durably: after this returns, it survives a crash or power failure.

        Args:
            items: unique numbers of finished items, from 0.
            tensors: tensors by name.

        Raises:
            InputError: if ``items`` is empty, or a number is negative or occurs twice.
        """
        if not items or min(items) < 0 or len(set(items)) < len(items):
            raise InputError(f"`items` is expected to hold one or more unique numbers from 0 but got {items}.")
        copies = {  # safetensors needs contiguous tensors that don't share memory
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        digest = _digest(items, copies)
        content = safetensors.torch.save(copies, {"items": json.dumps(items), "sha256": digest})
        write_atomically(self._folder / f"shard-{items[0]:06d}-{digest[:12]}.safetensors", content)

    def read(self) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield the items and tensors of each shard, sorted and without duplicates; remove and report corrupt shards.

        Raises:
            InputError: if the folder can't be read, or the items of two shards overlap partly.
        """
        owners: dict[int, str] = {}
        for name in sorted(filter(_SHARD.fullmatch, self._names()), key=lambda name: (int(name.split("-")[1]), name)):
            shard = self._load(self._folder / name)
            shared = [] if shard is None else [item for item in shard[0] if item in owners]
            if shard is None or len(shared) == len(shard[0]):
                continue
            if shared:
                raise InputError(
                    f"`folder` is expected to hold each item in one shard but in {self._folder} both "
                    f"{owners[shared[0]]} and {name} hold item {shared[0]}. Remove one of them; its items will be "
                    "recomputed."
                )
            owners |= dict.fromkeys(shard[0], name)
            yield shard

    def finished(self) -> set[int]:
        """Return the numbers of all items in valid shards; corrupt ones are removed as in :meth:`read`."""
        return {item for items, _ in self.read() for item in items}

    def clear(self) -> None:
        """Remove the shards and, if it is then empty, the folder; call this after the result was written."""
        try:
            own = [name for name in self._names() if _OWN.fullmatch(name)]
            for name in [*own, _CONFIGURATION]:  # configuration last: shards without it would be rejected
                (self._folder / name).unlink(missing_ok=True)
            self._held.close()  # not earlier: another run would lose its shards
            (self._folder / _LOCK).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._folder.rmdir()
        except (OSError, InputError) as error:
            self._report(f"{self._folder} is no longer needed but can't be removed: {error}")
        finally:
            self._held.close()

    def _names(self) -> list[str]:
        return _read(os.listdir, self._folder) or []

    def _load(self, path: Path) -> tuple[list[int], dict[str, Tensor]] | None:
        """Read a shard; remove and report it if it is corrupt."""
        content = _read(Path.read_bytes, path)
        if content is None:  # already removed by another process
            return None
        items, problem = None, "checksum mismatch"
        try:
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            items = json.loads(metadata["items"])
            tensors = safetensors.torch.load(content)
            if metadata["sha256"] == _digest(items, tensors):
                return items, tensors
        except (SafetensorError, ValueError, TypeError, KeyError, RecursionError):  # not a lack of memory
            problem = "truncated or not a safetensors file"
        with writing(path):
            path.unlink(missing_ok=True)
        count = f"{len(items)} item{'s' * (len(items) != 1)}" if isinstance(items, list) else "its items"
        self._report(f"{path.name} is corrupt ({problem}); recomputing {count}")
        return None


def is_locked(folder: Path) -> bool:
    """Return whether a run is using a folder of shards."""
    if not (path := folder / _LOCK).exists():
        return False
    if (lock := acquired(path)) is not None:
        lock.release()
    return lock is None


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return a description of differing settings, such as "steps is 4 there and 6 here"; empty if none differ."""
    return ", ".join(
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    )


def _read(read: Callable[[Path], _Content], path: Path) -> _Content | None:
    """Read a path; return None if it doesn't exist."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"`folder` is expected to be readable but {path} can't be read: {error.strerror or error}. Make it "
            "readable, or remove it and run the same command again to recompute its items."
        ) from error


def _digest(items: Any, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the items and of each tensor's name, dtype, shape and bytes, sorted by name."""
    ordered = sorted(tensors.items())
    digest = hashlib.sha256(json.dumps([items, [(n, str(t.dtype), t.shape) for n, t in ordered]]).encode())
    for _, tensor in ordered:
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _problem(there: bytes, here: str) -> str:
    """Return how a folder's configuration differs from this one; empty if they are the same."""
    try:
        differing = differences(_settings(json.loads(there.decode())), _settings(json.loads(here)))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return f"has a corrupt {_CONFIGURATION}"
    return f"belongs to another configuration: {differing}" if differing else ""


def _settings(value: Any, name: str = "") -> dict[str, str]:
    """Return the values as JSON by dotted name, so that NaN equals NaN and true differs from 1."""
    if not isinstance(value, dict) or (name and not value):
        return {name: json.dumps(value, ensure_ascii=False, sort_keys=True)}
    parts = (_settings(part, f"{name}.{key}" if name else key) for key, part in value.items())
    return {dotted: text for part in parts for dotted, text in part.items()}


class Collector(Protocol):
    """A metric whose data can be exported in parts and merged."""

    def part(self) -> dict[str, Tensor]:
        """Return the collected data."""

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add the data of another instance."""

    def reset(self) -> None:
        """Discard the collected data."""


class Ledger:
    """Saves the data that metrics collect from numbered items in shards, at most one per ``every`` seconds."""

    def __init__(self, collectors: Mapping[str, Collector], shards: Shards, every: float) -> None:
        self.collectors, self.shards, self.every = collectors, shards, every
        self.started = self.written = time.monotonic()
        self.pending: list[int] = []
        self._whole = True

    @contextmanager
    def item(self, number: int) -> Iterator[None]:
        """Track an item while the metrics are updated within the block; then write a shard if one is due."""
        self._whole = False
        yield
        self.pending.append(number)
        self._whole = True
        now = time.monotonic()
        if now - self.written >= max(self.every, _SHARE * (now - self.started)):
            self.write()

    def write(self) -> None:
        """Write pending items to a shard; they are discarded if an item was interrupted halfway."""
        if self.pending and self._whole:
            parts = {name: collector.part() for name, collector in self.collectors.items()}
            tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
            self.shards.write(self.pending, tensors)
        for collector in self.collectors.values():
            collector.reset()
        self.pending, self.written, self._whole = [], time.monotonic(), True

    def gather(self) -> None:
        """Load the data of all shards into the metrics."""
        for _, tensors in self.shards.read():
            for name, collector in self.collectors.items():
                start = f"{name}."
                collector.add_part({key[len(start) :]: t for key, t in tensors.items() if key.startswith(start)})
