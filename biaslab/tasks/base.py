"""What tasks share: the language model, and passes that may be broken off, which the same command goes on with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger

from biaslab.errors import InputError
from biaslab.models.loading import load_model
from biaslab.tasks.shards import Collector, Ledger, Shards


class LanguageModelTask(LightningModule):
    """A LightningModule around a language model, which is found at ``model``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        dtype: the weights' type: "float32", "float64", "bfloat16" or "float16".
        trust_remote_code: let a checkpoint bring its own Python code.
    """

    def __init__(self, model_name: str = "minilm-mlm", dtype: str = "float32", trust_remote_code: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        weights = getattr(torch, dtype)
        self.model, self.tokenizer = load_model(model_name, dtype=weights, trust_remote_code=trust_remote_code)

    @property
    def folder(self) -> Path:
        """The run's folder; all processes ask together."""
        return run_folder(self.trainer)

    @property
    def data(self) -> Any:
        """The run's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """Return the run's folder: where the logger writes, else the trainer's root; all processes ask together."""
    return logger_folder(trainer) or Path(trainer.log_dir or trainer.default_root_dir)


def logger_folder(trainer: Trainer) -> Path | None:
    """Return a folder for a run whose logger, such as a tracking server's, has no ``log_dir``; else None."""
    logger = trainer.logger
    if logger is None or getattr(logger, "log_dir", None):
        return None
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name or "run"), str(logger.version or 0))


class ResumableTask(LanguageModelTask, ABC):
    """Keep what a prediction pass collects from its batches in shards, where a logger gives the run a folder.

    A subclass opens the ledger when it has its metrics, leaves out the batches that are ``finished``, and gathers at
    the end. See :class:`biaslab.tasks.base.LanguageModelTask` for the arguments.
    """

    last_file: ClassVar[str]  # that a run writes into its folder; one that has it is finished
    ledger: Ledger | None = None  # none without a logger
    finished: set[int]  # numbers of the batches that an earlier run has finished

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Return all that the result depends on; the data is set up."""

    def prepare_data(self) -> None:
        """Refuse a folder of another run, before the logger writes into it."""
        if not self.trainer.is_global_zero or self.trainer.logger is None:
            return
        folder = logger_folder(self.trainer) or Path(getattr(self.trainer.logger, "log_dir", ""))
        if (folder / "shards").exists():
            self.data.setup("predict")
            Shards(folder / "shards").open(self.configuration())
        elif (folder / self.last_file).exists():
            raise InputError(
                f"`version` is expected to name a folder for a new run, but {folder} holds a finished one. Choose "
                "another, or remove that one."
            )

    def open_ledger(self, collectors: Mapping[str, Collector], every: float) -> None:
        """Find what is finished in the run's folder; the arguments are those of a ledger."""
        self.ledger = None
        self.finished = set()
        self.run_folder = folder = self.folder  # asked for once, by all processes together
        if self.trainer.logger is None:
            return
        shards = Shards(folder / "shards")
        if self.trainer.is_global_zero:
            shards.open(self.configuration())
            if not shards.lock():
                raise InputError(
                    f"`version` is expected to name a folder that no other run works in, but one works in {folder}. "
                    "Wait for it, or choose another."
                )
            self.finished = shards.finished()
            if self.finished:
                print(f"Resuming in {folder}: {len(self.finished)} of {self.batches()} batches are finished.")
        self.finished = self.trainer.strategy.broadcast(self.finished)
        if not (folder / "shards").exists():
            raise InputError(
                f"`save_dir` is expected to lie on a file system that all nodes share, but node "
                f"{self.trainer.node_rank} does not see {folder}. Choose another."
            )
        self.ledger = Ledger(collectors, shards, every)

    def batches(self) -> int:
        """Return how many batches there are, of the prompts and the contrast set."""
        return len(self.data.batches) + len(self.data.contrast_batches)

    def gather_finished(self) -> None:
        """Fill the main process's metrics with what all processes have finished, those of earlier runs too."""
        if self.ledger is not None:
            self.ledger.write()
            self.trainer.strategy.barrier()
            if self.trainer.is_global_zero:
                self.ledger.gather()

    def configure_callbacks(self) -> list[Callback]:
        """Let a broken-off run end at a clean place, and say how to go on."""
        return [_Interruption()]


class _Interruption(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is finished; of an interruption by the user, say how to go on."""
        assert isinstance(pl_module, ResumableTask)
        ledger = pl_module.ledger
        if ledger is None or (isinstance(exception, InputError) and "`folder`" in str(exception)):
            return
        ledger.write()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            done = len(ledger.shards.finished())
            print(
                f"\nStopped after {done} of {pl_module.batches()} batches, kept in {pl_module.run_folder}. Run the "
                "same command to resume."
            )


def single_trainer(logger: TensorBoardLogger | bool, *callbacks: Callback) -> Trainer:
    """Return a trainer on one device, for jobs beside the LightningCLI; it keeps no checkpoint, and gradients work.

    Args:
        logger: gives the run its folder; False for none.
        callbacks: beside the progress bar.
    """
    options: dict[str, Any] = {"enable_checkpointing": False, "enable_model_summary": False, "inference_mode": False}
    return Trainer(devices=1, logger=logger, callbacks=[TQDMProgressBar(), *callbacks], **options)
