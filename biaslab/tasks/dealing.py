"""Layers dealt out to processes, where there are fewer batches than processes."""

from __future__ import annotations


def layers_of(rank: int, processes: int, layers: int) -> list[int]:
    """Return the layers that a process attributes where all work on the same prompts.

    A layer costs the more, the more layers come after it: they are dealt out to and fro.

    >>> [layers_of(rank, 2, 6) for rank in (0, 1)]
    [[0, 3, 4], [1, 2, 5]]
    """
    return [layer for layer in range(layers) if rank == _dealt(layer, processes)]


def _dealt(card: int, players: int) -> int:
    place = card % (2 * players)
    return min(place, 2 * players - 1 - place)
