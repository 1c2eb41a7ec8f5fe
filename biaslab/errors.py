"""The exception raised for invalid user input, and the checks that raise it most often."""

import csv
import difflib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

_TYPES = {
    "<class 'int'>": "an integer", "<class 'float'>": "a number", "<class 'bool'>": "true or false",
    "<class 'str'>": "text", "<class 'NoneType'>": "null", "<class 'dict'>": "a mapping", "<class 'list'>": "a list",
    "<class 'collections.abc.Sequence'>": "a list",
}  # fmt: skip


class InputError(ValueError):
    """Invalid input: an argument, a file or a name is not what was expected.

    The message is one line: the argument in back-ticks, what was expected, what was given, and what to do. The command
    line prints it and exits with code 2; in Python it is an ordinary ``ValueError``.
    """


class NotApplicableError(InputError):
    """A benchmark cannot be run on this model. If several benchmarks are requested, it is skipped with a message."""


class Range(NamedTuple):
    """The values that an argument accepts."""

    text: str  # completes "is expected to …"
    low: float = -math.inf
    high: float = math.inf  # for integers, at most sys.maxsize, the largest slice index
    whole: bool = False
    ends: tuple[bool, bool] = (True, True)  # whether low and high are included
    words: tuple[str, ...] = ()  # accepted in place of a number

    def holds(self, value: object) -> bool:
        """Return whether a value is accepted; NaN and booleans never are."""
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above, below = (value >= self.low, value <= self.high)
        if not self.whole:
            value = float(value) if abs(value) <= sys.float_info.max else math.inf
        inner = (self.ends[0] or value != self.low) and (self.ends[1] or value != self.high)
        return above and below and inner and (self.whole or math.isfinite(value)) and abs(value) <= _LARGEST[self.whole]


_LARGEST = (sys.float_info.max, sys.maxsize)  # for real numbers and for integers
_COUNT = Range("be a positive integer", 1, whole=True)
_SHARE = Range("be in (0, 1]", 0, 1, ends=(False, True))
NOT_NEGATIVE = Range("be finite and non-negative", 0)
_POSITIVE = Range("be positive", 0, ends=(False, True))
_FINITE = Range("be a finite number")
_COUNTS = """
    batch_size beam contrast_limit count counts devices draws every limit max_nodes modifiers resamples sentences size
    sets_per_category token_budget tokens_per_batch validation_limit vocabulary
"""
_WEIGHTS = """
    alpha beta domain_weights fisher_weights guard_weight guard_weights knowledge_weight knowledge_weights save_every
    source_weights weight weight_decay
"""
RANGES = {  # by argument name, for commands, data modules, tasks, callbacks and functions
    **dict.fromkeys(_COUNTS.split(), _COUNT),
    **dict.fromkeys(_WEIGHTS.split(), NOT_NEGATIVE),
    **dict.fromkeys(("share", "shares", "threshold", "thresholds"), _SHARE),
    **dict.fromkeys(("factor", "factors"), _FINITE),
    **dict.fromkeys(("lr", "perplexity_percent"), _POSITIVE),
    "depth": Range("be a positive integer", 1, 64, whole=True),
    "masked": Range("be in (0, 1)", 0, 1, ends=(False, False)),
    "max_length": Range("be an integer of at least 3", 3, whole=True),  # two special tokens, one of the text
    "rank": Range("be an integer from 1 to 4096", 1, 4096, whole=True),
    "seed": Range("be an integer from 0 to 4294967295", 0, 2**32 - 1, whole=True),
    "seeds": Range("be a positive integer", 1, 10_000, whole=True),
    "steps": Range("be a positive integer", 1, 10_000, whole=True, words=("auto",)),
    "top_k": Range("be an integer from 1 to 1000", 1, 1000, whole=True),
    "wordings": Range("be 1, 2 or 3", 1, 3, whole=True),
    "tolerance": Range("be between 0 and 1", 0, 1, ends=(False, False)),
    "warmup": Range("be in [0, 1)", 0, 1, ends=(True, False)),
}


def require_ranges(arguments: Mapping[str, Any], **others: Range) -> None:
    """Check each argument that has a range in :data:`RANGES` or in ``others``; None is skipped.

    In lists and mappings, every number is checked.

    Raises:
        InputError: if a value is out of range, NaN, infinite or not a number.

    >>> require_ranges({"limit": None, "factor": 0.5, "source_weights": {"prompts": 1.0}, "model": "a"})
    """
    for name, given in arguments.items():
        if (expected := others.get(name, RANGES.get(name))) is not None:
            for place, value in _numbers("", given):
                if not expected.holds(value):
                    too_many = expected.whole and type(value) is int and value > expected.high
                    text = f"be at most {expected.high}" if too_many else expected.text
                    where = place and f" at {place}"
                    raise InputError(f"`{name}` is expected to {text} but got {value!r}{where}.")


def _numbers(place: str, given: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield from _numbers(f"{place}[{name!r}]", value)
    elif isinstance(given, list | tuple):
        for number, value in enumerate(given):
            yield from _numbers(f"{place}[{number}]", value)
    elif given is not None:
        yield place, given


def require_positive(**numbers: int | None) -> None:
    """Check that arguments are positive integers or None.

    Raises:
        InputError: if one of them is not.

    >>> require_positive(steps=6, limit=None)
    """
    require_ranges(numbers, **dict.fromkeys(numbers, _COUNT))


def require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Check that an argument is one of the known values.

    Raises:
        InputError: if it is not; the message suggests the closest known value.

    >>> require_one_of("split", "dev", ["dev", "test"])
    """
    if value not in known:
        *others, last = known
        names = f"{', '.join(others)} or {last}" if others else last
        raise InputError(f"`{name}` is expected to be {names} but got {value!r}.{did_you_mean(value, known)}")


def require_device_map(device_map: str | None) -> None:
    """Check the device map.

    Raises:
        InputError: if it is not one of accelerate's placement strategies.
    """
    if device_map is not None:
        require_one_of("device_map", device_map, ["auto", "balanced", "sequential"])


def require_all_of(name: str, values: Iterable[object], known: Iterable[str]) -> None:
    """Check that a list is not empty and contains only known values.

    Raises:
        InputError: if not; the message suggests the known value that is closest to the first unknown one.

    >>> require_all_of("kinds", ["positive"], ["positive", "negative"])
    """
    values, known = list(values), list(known)
    unknown = [value for value in values if value not in known]
    if unknown or not values:
        hint = did_you_mean(unknown[0], known) if unknown else ""
        got = ", ".join(map(str, unknown)) or "none"
        names = ", ".join(known) or "nothing"
        raise InputError(f"`{name}` is expected to be one or more of {names} but got {got}.{hint}")


def require_name_or_file(name: str, value: str, known: Iterable[str]) -> None:
    """Check that a value is a known name or a file, and not a misspelled name.

    Raises:
        InputError: if it is not a known name, no such file exists, and a known name is similar.

    >>> require_name_or_file("text", "bold", ["bold", "bug"])
    """
    known = list(known)
    if value not in known and not os.path.exists(os.path.expanduser(value)) and (hint := did_you_mean(value, known)):
        raise InputError(f"`{name}` is expected to be one of {', '.join(known)}, or a file, but got {value!r}.{hint}")


def did_you_mean(value: object, known: Iterable[str]) -> str:
    """Return a "Did you mean" question with the closest known value; "" if none is similar.

    >>> did_you_mean("promts", ["prompts", "contrast"])
    " Did you mean 'prompts'?"
    """
    near = difflib.get_close_matches(str(value).lower(), list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


@contextmanager
def reading(
    argument: str, expected: str, path: str | PathLike[str], advice: str = "Give another file."
) -> Iterator[None]:
    """Turn errors that occur while a file is read in the block into an ``InputError``.

    Args:
        argument: the argument that names the file.
        expected: what the file is expected to be.
        path: the file.
        advice: what to do.

    Raises:
        InputError: if the file does not exist, cannot be read, or is not valid text, JSON or CSV.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # text and JSON raise ValueError
        raise InputError(
            f"`{argument}` is expected to be {expected}, but {path} can't be read or is truncated: {error}. {advice}"
        ) from error


def read_text(path: str | PathLike[str], may_be_empty: bool = False) -> str:
    r"""Return the text of a UTF-8 file, without a byte order mark and with ``\n`` line ends.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is empty, has another encoding or contains NUL bytes; the message gives the line.
            :func:`reading` turns both into an ``InputError``.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # text mode converts all line ends
    except UnicodeDecodeError as error:
        if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("it is UTF-16 text; save it as UTF-8") from error
        line, byte = error.object.count(10, 0, error.start) + 1, error.object[error.start]
        raise ValueError(f"line {line} is not UTF-8 text (byte 0x{byte:02x}); save it as UTF-8") from error
    if (place := text.find("\0")) >= 0:
        raise ValueError(f"line {text.count(chr(10), 0, place) + 1} has a NUL byte; save it as UTF-8 text")
    if not text.strip() and not may_be_empty:
        raise ValueError("it is empty")
    return text


def usage(error: str, command: str) -> str:
    r"""Return a multi-line error message of jsonargparse about an option in one line.

    >>> usage('Parser key "limit":\n  Expected a <class \'int\'>. Got value: abc', "debias")
    "`limit` is expected to be an integer but got 'abc'. See biaslab debias --help."
    """
    if unknown := re.search(r"Option '([^']+)' is not accepted", error):
        return f"`{unknown[1]}` is not an option of biaslab {command}. See biaslab {command} --help."
    keys = re.findall(r'[Kk]ey "([^"]+)"', error)
    types = dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", error, re.MULTILINE))
    given = re.findall(r"G(?:iven|ot) value: (.*)", error)
    if not (keys and types and given):
        return f"{' '.join(error.split()).rstrip('.')}. See biaslab {command} --help."
    wanted = [_TYPES.get(name, name.removeprefix("typing.Literal").strip("[]")) for name in types]
    value = re.sub(r"^NestedArg\(key='.*?', val=(.*)\)$", r"\1", given[0]).strip("'\"")
    wanted = [name for name in wanted if name != "null" or len(wanted) == 1]
    return f"`{keys[-1]}` is expected to be {' or '.join(wanted)} but got {value!r}. See biaslab {command} --help."
