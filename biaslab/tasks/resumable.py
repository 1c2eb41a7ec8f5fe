"""A pass that may be broken off: what is finished is kept, and the same command goes on from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning import Callback, LightningModule, Trainer

from biaslab.errors import InputError
from biaslab.tasks.base import LanguageModelTask, logger_folder
from biaslab.tasks.shards import Collector, Ledger, Shards


class ResumableTask(LanguageModelTask, ABC):
    """Keep what a prediction pass collects from its batches in shards, where a logger gives the run a folder.

    A subclass opens the ledger when it has its metrics, leaves out the batches that are ``finished``, and gathers at
    the end. See :class:`biaslab.tasks.base.LanguageModelTask` for the arguments.

    Attributes:
        last_file: that a run writes into its folder; one that has it is finished.
        run_folder: once the ledger is open.
        ledger: None without a logger.
        finished: numbers of the batches that an earlier run has finished.
    """

    last_file: ClassVar[str]

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
        """Find what is finished in the run's folder.

        Args:
            collectors: the metrics that the batches update, by name.
            every: seconds after which what is finished is written.
        """
        self.ledger: Ledger | None = None
        self.finished: set[int] = set()
        self.run_folder = folder = self.folder  # asked for once, by all processes together
        if self.trainer.logger is None:
            return
        shards = Shards(folder / "shards", report=print)
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
    """Writes what is finished when a run is broken off, and says how to go on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is finished; of an interruption by the user, say so."""
        ledger = getattr(pl_module, "ledger", None)
        if not isinstance(ledger, Ledger) or (isinstance(exception, InputError) and "`folder`" in str(exception)):
            return
        ledger.write()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            assert isinstance(pl_module, ResumableTask)
            done = len(ledger.shards.finished())
            print(
                f"\nStopped after {done} of {pl_module.batches()} batches, kept in {pl_module.run_folder}. Run the "
                "same command to resume."
            )
