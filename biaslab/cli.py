"""The table of commands, and how a command is run."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, get_type_hints


class Command(NamedTuple):
    """A command: its line in the help and its function, imported when it is called (empty for Lightning's commands)."""

    summary: str
    function: str = ""
    own_options: bool = True  # False: the function parses its arguments itself


COMMANDS = {
    "debias": Command("find and suppress bias neurons, then evaluate the model", "debias:debias"),
    "table": Command("compute the paper's table: baselines, suppression, controls", "table:table"),
    "sweep": Command("choose settings for the selection and suppression of neurons", "sweep:sweep"),
    "predict": Command("find bias neurons by attribution (-c attribute)"),
    "test": Command("evaluate a model (-c stereoset, -c crows_pairs, -c bbq, …)"),
    "fit": Command("train a model (-c dpce, -c cda, …)"),
    "validate": Command("compute the validation loss of a model trained with fit"),
    "probe": Command("probe a model with templates, before and after suppression", "probe:probe"),
    "compare": Command("compare two neuron sets or models: overlap, layers", "compare:compare"),
    "side-effects": Command("suppress one dimension's neurons and measure all dimensions", "side_effects:side_effects"),
    "cards": Command("show what activates each neuron and which words it promotes", "cards:cards"),
    "report": Command("write the results of runs as one self-contained HTML page", "report:report"),
    "search-prompts": Command("search for the prompts that AutoDebias trains on", "search_prompts:search_prompts"),
    "bake": Command("save a suppressed or trained model as an ordinary checkpoint", "bake:bake"),
    "lm-eval": Command("run lm-evaluation-harness tasks with neurons suppressed", "lm_eval:lm_eval", own_options=False),
    "models": Command("list the supported model types, and why others are not", "models:models"),
    "fetch": Command("download a model or data set by name", "fetch:fetch"),
}
_LIGHTNING = """usage: biaslab {command} -c CONFIG [-c CONFIG ...] [--ckpt_path PATH]
       [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]

{summary}

options:
  -c, --config CONFIG     a YAML file, or a configuration shipped with biaslab:
                          {configs}
  --model.OPTION VALUE    an option of the model: --model.model_name NAME, …
  --data.OPTION VALUE     an option of the data: --data.path FILE, …
  --trainer.OPTION VALUE  an option of Lightning's Trainer: --trainer.devices 4
  --ckpt_path PATH        checkpoint of `biaslab fit`: class, settings, weights;
                          also give --model.model_name{more}
  --seed_everything SEED  the random seed (default: 0)
  --print_config          print the configuration and exit
  --help_all              list all options of the trainer (loads Lightning)
  --model.help CLASS, --data.help CLASS
                          list all options of a model or data module"""
_PREDICTIONS = "\n  --predictions FILE      write StereoSet scores in its authors' format"
_PLAN = "\n  --plan                  estimate the time and memory of the run, and exit"
_MORE = {"predict": _PLAN, "test": _PREDICTIONS}
# Lightning's subpackages that log advice; the packages themselves set their loggers back to INFO when imported.
_INFORMING = (
    "lightning_fabric.utilities",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.trainer",
    "pytorch_lightning.utilities",
)


def run(command: str) -> None:
    """Run a command by its name with the arguments that follow it in ``sys.argv``.

    Raises:
        InputError: if an argument is invalid.
    """
    function = COMMANDS[command].function
    if not function:
        if sys.argv[2:] in (["--help"], ["-h"]):
            print(_lightning_help(command))
            return
        sys.argv = ["--help" if argument == "--help_all" else argument for argument in sys.argv]
        quiet()
        import_module("biaslab.commands.lightning").run(command)
        return
    module, _, name = function.partition(":")
    commands = import_module(f"biaslab.commands.{module}")
    if not COMMANDS[command].own_options:
        getattr(commands, name)(sys.argv[2:])
        return
    from jsonargparse import ArgumentError, auto_cli

    from biaslab.errors import InputError, usage

    arguments = commands.joined(sys.argv[2:]) if command == "report" else sys.argv[2:]
    quiet()
    called = getattr(commands, name)
    called.__annotations__ = get_type_hints(called)  # else jsonargparse imports everything under TYPE_CHECKING
    arguments = _with_flags(arguments, [name for name, kind in called.__annotations__.items() if kind is bool])
    try:
        auto_cli(called, args=arguments, prog=f"biaslab {command}", exit_on_error=False)
    except ArgumentError as error:
        raise InputError(usage(str(error), command)) from error


def _with_flags(arguments: list[str], names: list[str]) -> list[str]:
    """Return arguments in which an option that is true or false, and comes without a value, is true.

    >>> _with_flags(["--private", "--factor", "0"], ["private"])
    ['--private=true', '--factor', '0']
    """
    flags = {f"--{name}" for name in names}
    following = [*arguments, "--"][1:]
    return [
        f"{argument}=true" if argument in flags and after.startswith("--") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def _lightning_help(command: str) -> str:
    """Return the help of a Lightning command, without importing Lightning."""
    from biaslab.commands.configs import names

    configs = textwrap.fill(", ".join(names()), 54).replace("\n", "\n" + 26 * " ")
    summary, more = " ".join(COMMANDS[command].summary.split()), _MORE.get(command, "")
    return _LIGHTNING.format(command=command, summary=f"{summary[:1].upper()}{summary[1:]}", configs=configs, more=more)


def quiet() -> None:
    """Silence advice and deprecation warnings from Lightning's own code: users cannot act on them."""
    for name in _INFORMING:
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*predict returned None.*")  # for a batch finished by an earlier run
    warnings.filterwarnings("ignore", ".*called before the ``update`` method.*")  # if another rank has all shards
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # training's
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")  # a resumed run has its own folder
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the adapter trains without dropout
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    if threading.excepthook is not thread_failed:
        threading.excepthook = thread_failed


def thread_failed(error: threading.ExceptHookArgs, report: Callable[..., Any] = threading.excepthook) -> None:
    """Report an error in a thread, unless TensorBoard's writer failed: the main thread reports that."""
    of_tensorboard = type(error.thread).__module__.startswith("tensorboard")
    if not (of_tensorboard and isinstance(error.exc_value, OSError)):
        report(error)
