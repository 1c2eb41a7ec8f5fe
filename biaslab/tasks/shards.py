"""What of a long run is done, in a folder that several processes share and that outlives a kill."""

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
_SHARE = 0.02  # of the time so far: the longer a run, the rarer its shards, so that there are never many
_Content = TypeVar("_Content")


class Shards:
    """A folder of shards: each has the numbers of some finished items, and the tensors that belong to them.

    Each shard has a name of its own, so that any number of processes write at once, and may be killed at any moment.

    Args:
        folder: where the shards are; :meth:`open` makes it.
        report: gets a line for a damaged shard, or a folder that can't be removed.

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
        """Make the folder of a configuration that JSON can hold, or check that it is this very one's.

        Raises:
            InputError: if the folder holds another configuration, or files but none, or can't be read or written.
        """
        path, text = self._folder / _CONFIGURATION, json.dumps(configuration, indent=1)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        others = [name for name in self._names() if not name.startswith(".")]
        # read after the listing: other processes' shards come after their configuration
        if (content := _read(Path.read_bytes, path)) is None and not others:
            write_atomically(path, text.encode())
            content = _read(Path.read_bytes, path)  # it may be that of another process, which was later
        if problem := f"holds {min(others)} and no {_CONFIGURATION}" if content is None else _problem(content, text):
            raise InputError(
                f"`folder` is expected to be new, or that of the same configuration, but {self._folder} {problem}. "
                "Choose another folder, or remove that one."
            )

    def lock(self) -> bool:
        """Keep other runs away while this process lives; call it after :meth:`open`. Return False if another has it."""
        with writing(self._folder):
            lock = acquired(self._folder / _LOCK)
        if lock is not None:
            self._held.callback(lock.release)
        return lock is not None

    def write(self, items: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
        """Write a shard, all of it or nothing; once this returns, it outlives a kill and a power failure.

        It has the numbers of finished items, from 0 and each once (else an InputError), and tensors by name.
        """
        if not items or min(items) < 0 or len(set(items)) < len(items):
            raise InputError(f"`items` is expected to be one or more different numbers from 0 but got {items}.")
        copies = {  # safetensors refuses tensors that share memory, or that are not contiguous
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        }
        digest = _digest(items, copies)
        content = safetensors.torch.save(copies, {"items": json.dumps(items), "sha256": digest})
        write_atomically(self._folder / f"shard-{items[0]:06d}-{digest[:12]}.safetensors", content)

    def read(self) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield each shard's items and tensors by first item, the same items once; remove and report damaged shards.

        Raises:
            InputError: if the folder can't be read, or two shards share only some of their items.
        """
        owners: dict[int, str] = {}
        for name in sorted(filter(_SHARD.fullmatch, self._names()), key=lambda name: (int(name.split("-")[1]), name)):
            shard = self._load(self._folder / name)
            shared = [] if shard is None else [item for item in shard[0] if item in owners]
            if shard is None or len(shared) == len(shard[0]):
                continue
            if shared:
                raise InputError(
                    f"`folder` is expected to have each item in one shard, but in {self._folder} both "
                    f"{owners[shared[0]]} and {name} have item {shared[0]}. Remove one of the two: its items are done "
                    "again."
                )
            owners |= dict.fromkeys(shard[0], name)
            yield shard

    def finished(self) -> set[int]:
        """Return the numbers of all items in sound shards; damaged ones are removed as in :meth:`read`."""
        return {item for items, _ in self.read() for item in items}

    def clear(self) -> None:
        """Remove the shards and, where nothing else is in it, the folder; call it when the result is written."""
        try:
            own = [name for name in self._names() if _OWN.fullmatch(name)]
            for name in [*own, _CONFIGURATION]:  # that one last: shards without it would be refused
                (self._folder / name).unlink(missing_ok=True)
            self._held.close()  # only now: another run would find its shards removed
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
        """Read a shard, or remove and report it if it is damaged."""
        content = _read(Path.read_bytes, path)
        if content is None:  # another process found it damaged, too
            return None
        items, problem = None, "checksum mismatch"
        try:
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            items = json.loads(metadata["items"])
            tensors = safetensors.torch.load(content)
            if metadata["sha256"] == _digest(items, tensors):
                return items, tensors
        except (SafetensorError, ValueError, TypeError, KeyError, RecursionError):  # not a lack of memory
            problem = "truncated, or no safetensors file"
        with writing(path):
            path.unlink(missing_ok=True)
        count = f"{len(items)} " if isinstance(items, list) else ""
        self._report(f"{path.name} is corrupt ({problem}); recomputing its {count}items")
        return None


def is_locked(folder: Path) -> bool:
    """Return whether a run works in a folder of shards."""
    if not (path := folder / _LOCK).exists():
        return False
    if (lock := acquired(path)) is not None:
        lock.release()
    return lock is None


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return the settings that differ, such as "steps is 4 there and 6 here"; nothing where none does."""
    return ", ".join(
        f"{name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    )


def _read(read: Callable[[Path], _Content], path: Path) -> _Content | None:
    """Return what is read of a path; None where there is none."""
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"`folder` is expected to be readable, but {path} can't be read: {error.strerror or error}. Make it "
            "readable, or remove it; the same command then recomputes its items."
        ) from error


def _digest(items: Any, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the items and of each tensor's name, dtype, shape and bytes, in the order of the names."""
    ordered = sorted(tensors.items())
    digest = hashlib.sha256(json.dumps([items, [(n, str(t.dtype), t.shape) for n, t in ordered]]).encode())
    for _, tensor in ordered:
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _problem(there: bytes, here: str) -> str:
    """Return what keeps a folder's configuration from being this one; nothing if they are the same."""
    try:
        differing = differences(_settings(json.loads(there.decode())), _settings(json.loads(here)))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return f"has a damaged {_CONFIGURATION}"
    return f"belongs to another one: {differing}" if differing else ""


def _settings(value: Any, name: str = "") -> dict[str, str]:
    """Return the values by dotted name, as JSON: in it NaN is NaN, and true is not 1."""
    if not isinstance(value, dict) or (name and not value):
        return {name: json.dumps(value, ensure_ascii=False, sort_keys=True)}
    parts = (_settings(part, f"{name}.{key}" if name else key) for key, part in value.items())
    return {dotted: text for part in parts for dotted, text in part.items()}


class Collector(Protocol):
    """A metric that can be taken apart and put together."""

    def part(self) -> dict[str, Tensor]:
        """Return what was collected."""

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add what another one collected."""

    def reset(self) -> None:
        """Forget everything."""


class Ledger:
    """Keeps what metrics, by name, collect from numbered items: a shard after so many seconds, or later."""

    def __init__(self, collectors: Mapping[str, Collector], shards: Shards, every: float) -> None:
        self.collectors, self.shards, self.every = collectors, shards, every
        self.started = self.written = time.monotonic()
        self.pending: list[int] = []
        self._whole = True

    @contextmanager
    def item(self, number: int) -> Iterator[None]:
        """Within the block, the metrics are updated with an item; after it, what is due is written."""
        self._whole = False
        yield
        self.pending.append(number)
        self._whole = True
        now = time.monotonic()
        if now - self.written >= max(self.every, _SHARE * (now - self.started)):
            self.write()

    def write(self) -> None:
        """Write what is not yet in a shard; an item that was broken off in between spoils what is pending."""
        if self.pending and self._whole:
            parts = {name: collector.part() for name, collector in self.collectors.items()}
            tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
            self.shards.write(self.pending, tensors)
        for collector in self.collectors.values():
            collector.reset()
        self.pending, self.written, self._whole = [], time.monotonic(), True

    def gather(self) -> None:
        """Fill the metrics with all that the shards hold."""
        for _, tensors in self.shards.read():
            for name, collector in self.collectors.items():
                start = f"{name}."
                collector.add_part({key[len(start) :]: t for key, t in tensors.items() if key.startswith(start)})
