"""The `biaslab` command: starts quickly, because a subcommand's imports happen only when it is called."""

import errno
import os
import re
import sys
import traceback

from biaslab import __version__
from biaslab.cli import COMMANDS, run
from biaslab.errors import InputError, did_you_mean

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_REFUSED = (errno.ENOTDIR, errno.EACCES, errno.EPERM)
_MAKERS = ("makedirs", "mkdir")  # functions that create a folder
_READERS = ("biaslab.models.assets", "biaslab.models.loading", "huggingface_hub")  # modules that write only to caches
_USAGE = """usage: biaslab [-h] [--version] COMMAND ...

Find the neurons that carry a language model's social bias, suppress them,
and measure the effect.

commands:
{commands}

Run biaslab COMMAND --help for the options of a command."""


def main() -> None:
    """Run the command in ``sys.argv``; invalid input prints one line and exits with code 2."""
    try:
        "".join(sys.argv).encode()
    except UnicodeEncodeError:
        _fail(f"Arguments are expected to be UTF-8 text but got {' '.join(map(ascii, sys.argv[1:]))}.")
    _run()


def _run() -> None:
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:16}{command.summary}" for name, command in COMMANDS.items())))
    elif first == "--version":
        print(f"biaslab {__version__}")
    elif first not in COMMANDS:
        hint = did_you_mean(first, COMMANDS)
        _fail(f"`COMMAND` is expected to be one of {', '.join(COMMANDS)} but got {first!r}. See biaslab --help.{hint}")
    else:
        # MKL's matrix products are then bitwise identical for any number of threads, and hence of processes.
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        try:
            run(first)
        except OSError as error:
            if _is_of_output(error):
                _fail(f"`output` is expected to be a writable folder but got {error}. Choose another folder.")
            if error.errno in _REFUSED:
                _fail(f"A readable file is expected but got {error}. Check the path and its permissions.")
            raise
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            sys.exit(130)
        except ValueError as error:
            cause = _input_error(error)
            if cause is None:
                raise
            _fail(str(cause))


def _is_of_output(error: OSError) -> bool:
    """Return whether an error occurred while writing a result, not while reading or downloading."""
    frames = _frames(error)
    if any(module.startswith(_READERS) for module, _ in frames):
        return False
    if error.errno in _NO_ROOM or (error.errno in _REFUSED and any(name in _MAKERS for _, name in frames)):
        return True
    if error.errno not in (errno.EACCES, errno.EPERM) or not isinstance(error.filename, str):
        return False
    path = os.path.abspath(error.filename)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.access(path, os.R_OK) and not os.access(path, os.W_OK)


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Return the module and function of each frame of an error's traceback, innermost last."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames]


def _input_error(error: BaseException | None) -> InputError | None:
    """Return the input error behind another error: jsonargparse wraps errors raised by constructors."""
    while error is not None and not isinstance(error, InputError):
        wrapped = _frames(error)[-1:] and _frames(error)[-1][0].startswith("jsonargparse")
        error = error.__cause__ or (error.__context__ if wrapped else None)
    return error


def _fail(message: str) -> None:
    line = re.sub(r"\s*[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*", " ", message).strip()  # other white space stays
    print(f"biaslab: error: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
