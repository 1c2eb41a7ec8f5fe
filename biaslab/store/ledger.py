"""What of a long run is done, and what came out of it so far: metrics whose parts are kept in shards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from biaslab.store.shards import Shards

_SHARE = 0.02  # of the time so far: the longer a run, the rarer its shards, so that there are never many


class Collector(Protocol):
    """A metric that can be taken apart and put together."""

    def part(self) -> dict[str, Tensor]:
        """Return what was collected."""

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add what another one collected."""

    def reset(self) -> None:
        """Forget everything."""


class Ledger:
    """Keeps what metrics collect from numbered items in shards, so that it survives the process.

    Args:
        collectors: the metrics, by name.
        shards: where their parts go.
        every: seconds between two shards, at least.
    """

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
