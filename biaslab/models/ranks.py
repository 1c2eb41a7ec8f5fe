"""Communication between the processes of a command, one per device; works without torch.distributed too."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed

from biaslab.errors import InputError

_T = TypeVar("_T")


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process, starting at 0."""
    return distributed.get_rank() if size() > 1 else 0


def is_first() -> bool:
    """Return whether this is the process that reads and writes files and prints."""
    return rank() == 0


def dealt(items: Sequence[_T]) -> Sequence[_T]:
    """Return this process's share of the items, which are distributed round-robin.

    >>> dealt(["a", "b"])  # one process
    ['a', 'b']
    """
    return items[rank() :: size()]


def gathered(own: Sequence[_T]) -> list[_T]:
    """Return the items of all processes in their order before :func:`dealt`; every process must call it.

    >>> gathered(["a", "b"])
    ['a', 'b']
    """
    if size() == 1:
        return list(own)
    parts: list[Sequence[_T]] = [[] for _ in range(size())]
    distributed.all_gather_object(parts, list(own))
    return [part[turn] for turn in range(max(map(len, parts))) for part in parts if turn < len(part)]


def of_first(make: Callable[[], _T]) -> _T:
    """Return the first process's result of ``make`` in all processes; every process must call it.

    Raises:
        InputError: in all processes, if the first process raises it.

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
    """Send a picklable message from the first process to all others, which receive it with :func:`heard`."""
    if size() > 1:
        distributed.broadcast_object_list([message])
    return message


def heard() -> _T:  # type: ignore[type-var]
    """Return the first process's message.

    Raises:
        InputError: if the message is an ``InputError``.
    """
    box: list[_T | InputError | None] = [None]
    distributed.broadcast_object_list(box)
    if isinstance(box[0], InputError):
        raise box[0]
    return box[0]  # type: ignore[return-value]
