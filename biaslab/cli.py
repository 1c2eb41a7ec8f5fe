"""The subcommands: Lightning's own, with our defaults and links, and plain functions beside them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from jsonargparse import auto_cli
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from biaslab import assets, callbacks, tasks  # noqa: F401  short class names in the configs resolve to what is imported
from biaslab.data import corpus, prompts, stereoset  # noqa: F401
from biaslab.debias import debias


def fetch(name: str) -> None:
    """Bring a model or data set into the cache, and print its folder.

    Args:
        name: of an asset.
    """
    print(assets.fetch(name))


PLAIN: dict[str, Callable[..., Any]] = {"debias": debias, "fetch": fetch}


class BiaslabCLI(LightningCLI):
    """LightningCLI with one model name for task and data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the data follow the model's name."""
        parser.link_arguments("model.init_args.model_name", "data.init_args.model_name")


def quiet() -> None:
    """Silence advice and deprecations that come from Lightning's own code: a user can't act on them."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")  # the adapter trains without dropout
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def run(command: str) -> None:
    """Run one subcommand with the arguments that follow it in ``sys.argv``.

    Args:
        command: its name.

    Raises:
        InputError: if an argument is not what is expected.
    """
    quiet()
    if command in PLAIN:
        auto_cli(PLAIN[command], args=sys.argv[2:], prog=f"biaslab {command}")
        return
    BiaslabCLI(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        parser_kwargs={"prog": "biaslab", command: {"prog": f"biaslab {command}"}},
        trainer_defaults={"inference_mode": False},  # attribution needs gradients while it predicts
    )
