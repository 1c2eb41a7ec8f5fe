"""The commands: what each does, where its function lives, and how it is run."""

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
    """A command: a line for the help, and its function, imported when it is called; none of Lightning's own."""

    summary: str
    function: str = ""
    own_options: bool = True  # False: the function takes what follows the command's name as it is


COMMANDS = {
    "debias": Command("find, suppress, judge: the whole method on one model", "debias:debias"),
    "table": Command("the paper's results table: baselines, suppression, controls", "table:table"),
    "sweep": Command("choose how neurons are selected and suppressed", "sweep:sweep"),
    "predict": Command("attribute prompts to neurons   (-c attribute)"),
    "test": Command("judge a model   (-c stereoset, -c crows_pairs, -c bbq, …)"),
    "fit": Command("train           (-c dpce, -c cda, …)"),
    "validate": Command("measure the validation loss of what fit trains"),
    "probe": Command("black-box template probing, before and after suppression", "probe:probe"),
    "compare": Command("two neuron sets or models: what they share, in which layers", "compare:compare"),
    "side-effects": Command("suppress one dimension's neurons and measure all", "side_effects:side_effects"),
    "cards": Command("what excites each neuron, and which words it promotes", "cards:cards"),
    "report": Command("one page that tells what runs found, without a network", "report:report"),
    "search-prompts": Command("find the prompts that AutoDebias trains on", "search_prompts:search_prompts"),
    "bake": Command("write what was suppressed or trained as a checkpoint", "bake:bake"),
    "lm-eval": Command("lm-evaluation-harness's tasks, with neurons suppressed", "lm_eval:lm_eval", own_options=False),
    "models": Command("list the supported types of models, and why others are not", "models:models"),
    "fetch": Command("download a model or data set by name", "fetch:fetch"),
}
_LIGHTNING = """usage: biaslab {command} -c CONFIG [-c CONFIG ...] [--ckpt_path PATH]
       [--model.OPTION VALUE] [--data.OPTION VALUE] [--trainer.OPTION VALUE]

{summary}

options:
  -c, --config CONFIG     a file, or a configuration that ships with biaslab:
                          {configs}
  --model.OPTION VALUE    of the model, such as --model.model_name NAME
  --data.OPTION VALUE     of the data, such as --data.path FILE
  --trainer.OPTION VALUE  of Lightning's Trainer, such as --trainer.devices 4
  --ckpt_path PATH        what `biaslab fit` wrote: class, settings, weights;
                          give the model's name by --model.model_name{more}
  --seed_everything SEED  of all random numbers (default: 0)
  --print_config          print the configuration and exit
  --help_all              every option of the trainer; loads Lightning
  --model.help CLASS, --data.help CLASS
                          every option of a model or a data module"""
_PREDICTIONS = "\n  --predictions FILE      write StereoSet's scores in its authors' form"
_PLAN = "\n  --plan                  print what the run would take, and exit"
_MORE = {"predict": _PLAN, "test": _PREDICTIONS}


def run(command: str) -> None:
    """Run a command by its name with the arguments that follow it in ``sys.argv``.

    Raises:
        InputError: if an argument is not what is expected.
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
    """Return the help of a command of Lightning's, without loading it."""
    from biaslab.commands.configs import names

    configs = textwrap.fill(", ".join(names()), 54).replace("\n", "\n" + 26 * " ")
    summary, more = " ".join(COMMANDS[command].summary.split()), _MORE.get(command, "")
    return _LIGHTNING.format(command=command, summary=f"{summary[:1].upper()}{summary[1:]}", configs=configs, more=more)


def quiet() -> None:
    """Silence advice and deprecations that come from Lightning's own code: a user can't act on them."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*predict returned None.*")  # of a batch that an earlier run has finished
    warnings.filterwarnings("ignore", ".*called before the ``update`` method.*")  # where another rank has all shards
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # a test needs no training's
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")  # a resumed run lies in a folder of its own
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the adapter trains without dropout
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    if threading.excepthook is not thread_failed:
        threading.excepthook = thread_failed


def thread_failed(error: threading.ExceptHookArgs, report: Callable[..., Any] = threading.excepthook) -> None:
    """Report what went wrong in a thread, unless it is TensorBoard's: the main thread tells what can't be written."""
    of_tensorboard = type(error.thread).__module__.startswith("tensorboard")
    if not (of_tensorboard and isinstance(error.exc_value, OSError)):
        report(error)
