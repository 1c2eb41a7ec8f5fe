"""The subcommands: Lightning's own, with our defaults and links, and plain functions beside them."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import auto_cli
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from biaslab import tasks
from biaslab.commands.bake import bake
from biaslab.commands.cards import cards
from biaslab.commands.compare import compare
from biaslab.commands.debias import debias
from biaslab.commands.plan import plan
from biaslab.commands.probe import probe
from biaslab.commands.report import joined, report
from biaslab.commands.search_prompts import search_prompts
from biaslab.commands.side_effects import side_effects
from biaslab.commands.sweep import sweep
from biaslab.commands.table import table
from biaslab.data import (  # noqa: F401
    attribute_sentences,
    corpus,
    counterfactual,
    crows_pairs,
    prompt_pairs,
    prompts,
    stereoset,
)
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.store import is_locked
from biaslab.tasks.attribution import WITHOUT_EFFECT


def fetch(name: str) -> None:
    """Bring a model or data set into the cache, and print its folder.

    Args:
        name: of an asset.
    """
    print(assets.fetch(name))


PLAIN: dict[str, Callable[..., Any]] = {
    "debias": debias,
    "table": table,
    "sweep": sweep,
    "probe": probe,
    "compare": compare,
    "side-effects": side_effects,
    "cards": cards,
    "report": report,
    "bake": bake,
    "search-prompts": search_prompts,
    "fetch": fetch,
}


class _FirstConfig(SaveConfigCallback):
    """Saves the configuration into a run's folder, but not over that of a run that goes on there."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save it, unless there is one that is whole."""
        folder = Path(trainer.log_dir or "")
        there = _read_config(folder / self.config_filename)
        goes_on = (
            (folder / "shards").exists() or (folder / "neurons.json").exists() or bool(self.config.get("ckpt_path"))
        )
        if there and goes_on:
            return
        self.overwrite = not there  # what a kill has cut may be replaced
        super().setup(trainer, pl_module, stage)


class BiaslabCLI(LightningCLI):
    """LightningCLI with one model name for task and data, and runs that go on where they were killed."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the data follow the model's name, and whether its code is trusted."""
        for name in ("model_name", "trust_remote_code"):
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        if parser.prog.endswith(" predict"):
            parser.add_argument(
                "--plan", action="store_true", help="print what the run would take, after a short measurement, and end"
            )

    def before_instantiate_classes(self) -> None:
        """Choose the folder of an unfinished run with the very same settings, where there is one."""
        config = self.config[self.subcommand]
        settings = getattr(config.trainer.logger, "init_args", None)
        if self.subcommand != "predict" or settings is None or getattr(settings, "version", "") is not None:
            return
        runs = Path(settings.save_dir, settings.name or "").glob("version_*/shards")
        text = self._parser(self.subcommand).dump(config, skip_none=False, skip_check=True)  # as it is saved
        wanted = _of_the_result(yaml.safe_load(text))
        for folder in sorted(path.parent for path in runs):
            same = _of_the_result(_read_config(folder / "config.yaml")) == wanted
            if same and not is_locked(folder / "shards"):
                settings.version = int(folder.name.removeprefix("version_"))
                return

    def before_predict(self) -> None:
        """Print the plan, where that is all that is asked for."""
        if self.config.predict.plan:
            if not isinstance(self.model, tasks.Attribution):
                raise InputError("`plan` is expected with the model Attribution only. Leave it out.")
            plan(self.model, self.datamodule, self.trainer.world_size)
            sys.exit(0)


def _read_config(path: Path) -> dict[str, Any]:
    """Return what a configuration file holds; nothing where there is none, or none that is whole."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_the_result(config: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that the result depends on."""
    settings = (config.get("model") or {}).get("init_args") or {}
    model = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    return model, config.get("data"), config.get("seed_everything")


def quiet() -> None:
    """Silence advice and deprecations that come from Lightning's own code: a user can't act on them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*predict returned None.*")  # of a batch that an earlier run has finished
    warnings.filterwarnings("ignore", ".*called before the ``update`` method.*")  # where another rank has all shards
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # a test needs no training's
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")  # a resumed run lies in a folder of its own
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the adapter trains without dropout
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    hook = threading.excepthook  # TensorBoard writes in a thread; what it can't write, the main thread reports
    threading.excepthook = lambda error: None if isinstance(error.exc_value, OSError) else hook(error)


def run(command: str) -> None:
    """Run one subcommand with the arguments that follow it in ``sys.argv``.

    Args:
        command: its name.

    Raises:
        InputError: if an argument is not what is expected.
    """
    quiet()
    if command in PLAIN:
        arguments = joined(sys.argv[2:]) if command == "report" else sys.argv[2:]
        auto_cli(PLAIN[command], args=arguments, prog=f"biaslab {command}")
        return
    BiaslabCLI(
        LightningModule,
        LightningDataModule,
        save_config_callback=_FirstConfig,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_kwargs={"prog": "biaslab", command: {"prog": f"biaslab {command}"}},
        trainer_defaults={"inference_mode": False},  # attribution needs gradients while it predicts
    )
