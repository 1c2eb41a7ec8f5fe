"""The one exception that a user's input can cause, and the checks that raise it most often."""

import csv
import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike


class InputError(ValueError):
    """An argument, a file or a name is not what was expected.

    The message is one line: the argument in back-ticks, what was expected, what came, and what to do. The command line
    prints it and ends with exit code 2; from Python it is an ordinary ``ValueError``.
    """


def require_positive(**numbers: int | None) -> None:
    """Check that arguments are positive integers, or not given.

    Raises:
        InputError: if one is not.

    >>> require_positive(steps=6, limit=None)
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise InputError(f"`{name}` is expected to be a positive integer but got {number}.")


def require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Check that an argument is one of the known values.

    Raises:
        InputError: if it is not; it names the nearest one.

    >>> require_one_of("split", "dev", ["dev", "test"])
    """
    if value not in known:
        *others, last = known
        names = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"`{name}` is expected to be {names} but got {value!r}.{did_you_mean(value, known)}")


def require_all_of(name: str, values: Iterable[object], known: Iterable[str]) -> None:
    """Check that a list is not empty, and holds known values alone.

    Raises:
        InputError: if not; it names the nearest value to the first that is not known.

    >>> require_all_of("kinds", ["positive"], ["positive", "negative"])
    """
    values, known = list(values), list(known)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        hint = did_you_mean(unknown[0], known) if unknown else ""
        got = ", ".join(map(str, unknown)) or "none"
        raise InputError(f"`{name}` is expected to be of {', '.join(known) or 'nothing'} but got {got}.{hint}")


def require_name_or_file(name: str, value: str, known: Iterable[str]) -> None:
    """Check that what is no known value, and so names a file, is not a typing error of one.

    Raises:
        InputError: if there is no such file, and a known value is near.

    >>> require_name_or_file("text", "bold", ["bold", "bug"])
    """
    known = list(known)
    if value not in known and not os.path.exists(os.path.expanduser(value)) and (hint := did_you_mean(value, known)):
        raise InputError(f"`{name}` is expected to be of {', '.join(known)}, or a file, but got {value!r}.{hint}")


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return a question that names the known value that is nearest to another one; "" if none is near.

    >>> did_you_mean("promts", ["prompts", "contrast"])
    " Did you mean 'prompts'?"
    """
    near = difflib.get_close_matches(str(value).lower(), list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


@contextmanager
def reading(
    argument: str, expected: str, path: str | PathLike[str], advice: str = "Give another file."
) -> Iterator[None]:
    """Within the block a file is read; what goes wrong with that is the user's to know.

    Args:
        argument: that names the file.
        expected: what the file is expected to be.
        path: of the file.
        advice: what to do.

    Raises:
        InputError: if the file is not there, can't be read, or is no text, JSON or CSV as expected.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # of text and of JSON: ValueError
        raise InputError(
            f"`{argument}` is expected to be {expected}, but {path} can't be read or is cut off: {error}. {advice}"
        ) from error
