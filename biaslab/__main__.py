"""The `biaslab` command: a quick front, which imports what a subcommand needs only when it is called."""

from __future__ import annotations

import errno
import os
import sys

from biaslab import __version__
from biaslab.errors import InputError

_CANNOT_WRITE = (errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
COMMANDS = {
    "debias": "find, suppress, judge: the whole method on one model",
    "table": "the paper's results table: baselines, suppression, controls",
    "sweep": "choose how neurons are selected and suppressed",
    "predict": "attribute prompts to neurons   (-c configs/attribute.yaml)",
    "test": "judge a model   (-c configs/stereoset.yaml, crows_pairs.yaml)",
    "fit": "train           (-c configs/dpce.yaml, cda.yaml, …)",
    "validate": "measure the validation loss of what fit trains",
    "probe": "black-box template probing, before and after suppression",
    "compare": "two neuron sets or models: what they share, in which layers",
    "side-effects": "suppress one dimension's neurons and measure all",
    "cards": "what excites each neuron, and which words it promotes",
    "report": "one page that tells what runs found, without a network",
    "search-prompts": "find the prompts that AutoDebias trains on",
    "bake": "write what was suppressed or trained as a checkpoint",
    "fetch": "bring a model or data set by name",
}
_USAGE = """usage: biaslab [-h] [--version] COMMAND ...

Find the neurons that carry a language model's social bias, switch them off,
and measure what that did.

commands:
{commands}

biaslab COMMAND --help tells a command's options."""


def main() -> None:
    """Run the command of ``sys.argv``; bad input ends with one line and exit code 2."""
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(_USAGE.format(commands="\n".join(f"  {name:16}{text}" for name, text in COMMANDS.items())))
    elif first == "--version":
        print(f"biaslab {__version__}")
    elif first not in COMMANDS:
        _fail(f"`COMMAND` is expected to be one of {', '.join(COMMANDS)} but got {first!r}. See biaslab --help.")
    else:
        # Intel's matrix products then have the same bits with any number of threads, so of processes too.
        os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
        from biaslab import cli

        try:
            cli.run(first)
        except OSError as error:
            if error.errno not in _CANNOT_WRITE:
                raise
            _fail(f"`output` is expected to be a folder that can be written, but got {error}. Choose another.")
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            sys.exit(130)
        except ValueError as error:
            cause = _input_error(error)
            if cause is None:
                raise
            _fail(str(cause))


def _input_error(error: BaseException | None) -> InputError | None:
    """Return the input error behind another error: jsonargparse wraps what a class's constructor raises."""
    while error is not None and not isinstance(error, InputError):
        error = error.__cause__ or error.__context__
    return error


def _fail(message: str) -> None:
    print(f"biaslab: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
