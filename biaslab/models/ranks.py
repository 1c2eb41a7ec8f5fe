"""The processes that work on a command together, one a device: torch.distributed's, or this one alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed

from biaslab.errors import InputError

_T = TypeVar("_T")


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that reads and writes what is kept, and prints."""
    return rank() == 0


def dealt(items: Sequence[_T]) -> Sequence[_T]:
    """Return this process's share of some items, which are dealt out in turn.

    >>> dealt(["a", "b"])  # one process
    ['a', 'b']
    """
    return items[rank() :: size()]


def gathered(own: Sequence[_T]) -> list[_T]:
    """Return the items of all processes, in the order that :func:`dealt` has dealt them out from; called by all.

    >>> gathered(["a", "b"])
    ['a', 'b']
    """
    if size() == 1:
        return list(own)
    parts: list[Sequence[_T]] = [[] for _ in range(size())]
    distributed.all_gather_object(parts, list(own))
    return [part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)]


def of_first(make: Callable[[], _T]) -> _T:
    """Return what the first process makes, in all of them; called by all.

    Raises:
        InputError: that of the first process, in all.

    >>> of_first(lambda: 3)
    3
    """
    if size() == 1:
        return make()
    if not is_first():
        return heard()
    try:
        made = make()
    except InputError as error:
        tell(error)
        raise
    return tell(made)


def tell(message: _T) -> _T:
    """Send a message, what pickle can hold, from the first process to all others, which listen by :func:`heard`."""
    if size() > 1:
        distributed.broadcast_object_list([message])
    return message


def heard() -> _T:  # type: ignore[type-var]
    """Return the first process's message.

    Raises:
        InputError: if that is its message.
    """
    box: list[_T | InputError | None] = [None]
    distributed.broadcast_object_list(box)
    if isinstance(box[0], InputError):
        raise box[0]
    return box[0]  # type: ignore[return-value]
