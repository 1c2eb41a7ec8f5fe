"""The one exception that a user's input can cause, and the checks that raise it most often."""

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
    """An argument, a file or a name is not what was expected.

    The message is one line: the argument in back-ticks, what was expected, what came, and what to do. The command line
    prints it and ends with exit code 2; from Python it is an ordinary ``ValueError``.
    """


class NotApplicableError(InputError):
    """A benchmark can't be asked of this model. Where several are asked for, it is left out, and that is said."""


class Range(NamedTuple):
    """Which numbers an argument takes."""

    text: str  # what it is expected to do
    low: float = -math.inf
    high: float = math.inf  # of integers at most the largest that lists are cut by
    whole: bool = False
    ends: tuple[bool, bool] = (True, True)  # whether low and high belong to it
    words: tuple[str, ...] = ()  # that may stand instead of a number

    def holds(self, value: object) -> bool:
        """Return whether a value is one of these numbers or words; NaN and truth values are none."""
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above, below = (value >= self.low, value <= self.high)
        if not self.whole:
            value = float(value) if abs(value) <= sys.float_info.max else math.inf
        inner = (self.ends[0] or value != self.low) and (self.ends[1] or value != self.high)
        return above and below and inner and (self.whole or math.isfinite(value)) and abs(value) <= _LARGEST[self.whole]


_LARGEST = (sys.float_info.max, sys.maxsize)  # of real numbers, and of integers
_COUNT = Range("be a positive integer", 1, whole=True)
_SHARE = Range("lie in (0, 1]", 0, 1, ends=(False, True))
NOT_NEGATIVE = Range("be finite and not negative", 0)
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
RANGES = {  # of arguments by name, wherever they are: of commands, data, tasks, callbacks and functions
    **dict.fromkeys(_COUNTS.split(), _COUNT),
    **dict.fromkeys(_WEIGHTS.split(), NOT_NEGATIVE),
    **dict.fromkeys(("share", "shares", "threshold", "thresholds"), _SHARE),
    **dict.fromkeys(("factor", "factors"), _FINITE),
    **dict.fromkeys(("lr", "perplexity_percent"), _POSITIVE),
    "depth": Range("be a positive integer", 1, 64, whole=True),
    "masked": Range("lie in (0, 1)", 0, 1, ends=(False, False)),
    "max_length": Range("be an integer from 3 on", 3, whole=True),  # two special tokens, and one of the text
    "rank": Range("be an integer from 1 to 4096", 1, 4096, whole=True),
    "seed": Range("be an integer from 0 to 4294967295", 0, 2**32 - 1, whole=True),
    "seeds": Range("be a positive integer", 1, 10_000, whole=True),
    "steps": Range("be a positive integer", 1, 10_000, whole=True, words=("auto",)),
    "top_k": Range("be an integer from 1 to 1000", 1, 1000, whole=True),
    "wordings": Range("be 1, 2 or 3", 1, 3, whole=True),
    "tolerance": Range("lie between 0 and 1", 0, 1, ends=(False, False)),
    "warmup": Range("lie in [0, 1)", 0, 1, ends=(True, False)),
}


def require_ranges(arguments: Mapping[str, Any], **others: Range) -> None:
    """Check each argument whose name is in :data:`RANGES` or given a range here; those that are None are not.

    Of lists and mappings each number is checked.

    Raises:
        InputError: if a number is out of its range, NaN, infinite or no number.

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
    """Check that arguments are positive integers, or not given.

    Raises:
        InputError: if one is not.

    >>> require_positive(steps=6, limit=None)
    """
    require_ranges(numbers, **dict.fromkeys(numbers, _COUNT))


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


def require_device_map(device_map: str | None) -> None:
    """Check how layers are put on devices.

    Raises:
        InputError: if it is none of accelerate's ways.
    """
    if device_map is not None:
        require_one_of("device_map", device_map, ["auto", "balanced", "sequential"])


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
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # of text and of JSON: ValueError
        raise InputError(
            f"`{argument}` is expected to be {expected}, but {path} can't be read or is cut off: {error}. {advice}"
        ) from error


def read_text(path: str | PathLike[str], may_be_empty: bool = False) -> str:
    r"""Return a UTF-8 file's text without a byte order mark, its lines ended by ``\n`` alone.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is empty, in another encoding, or has NUL bytes; it names the line. :func:`reading` makes an
            ``InputError`` of either.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # which knows all line ends
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
    r"""Return in a line what jsonargparse says in several about an option of a command.

    >>> usage('Parser key "limit":\n  Expected a <class \'int\'>. Got value: abc', "debias")
    "`limit` is expected to be an integer but got 'abc'. See biaslab debias --help."
    """
    if unknown := re.search(r"Option '([^']+)' is not accepted", error):
        return f"`{unknown[1]}` is expected to be an option but is none here. See biaslab {command} --help."
    keys = re.findall(r'[Kk]ey "([^"]+)"', error)
    types = dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value.*)?$", error, re.MULTILINE))
    given = re.findall(r"G(?:iven|ot) value: (.*)", error)
    if not (keys and types and given):
        return f"{' '.join(error.split()).rstrip('.')}. See biaslab {command} --help."
    wanted = [_TYPES.get(name, name.removeprefix("typing.Literal").strip("[]")) for name in types]
    value = re.sub(r"^NestedArg\(key='.*?', val=(.*)\)$", r"\1", given[0]).strip("'\"")
    wanted = [name for name in wanted if name != "null" or len(wanted) == 1]
    return f"`{keys[-1]}` is expected to be {' or '.join(wanted)} but got {value!r}. See biaslab {command} --help."
