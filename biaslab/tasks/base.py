"""Shared by all tasks: the language model, the run's folder, and a trainer for jobs outside the LightningCLI."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from transformers import PreTrainedModel

from biaslab.errors import InputError, require_ranges
from biaslab.models.loading import as_dtype, load_model
from biaslab.models.placement import DeviceMap, is_dispatched

DTYPES = ("float32", "float64", "bfloat16", "float16")


class LanguageModelTask(LightningModule):
    """Base class of LightningModules with a language model, available as ``model``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        dtype: dtype of the weights: "float32", "float64", "bfloat16", "float16", or "auto" for the checkpoint's own.
        trust_remote_code: allow a checkpoint to run its own Python code.
        device_map: None, or "auto" to split the layers over several devices; see
            :func:`biaslab.models.loading.load_model`.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        dtype: str = "float32",
        trust_remote_code: bool = False,
        device_map: DeviceMap | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_ranges(self.hparams)
        options: Any = {"dtype": as_dtype(dtype), "device_map": device_map, "trust_remote_code": trust_remote_code}
        model, self.tokenizer = load_model(model_name, **options)
        if is_dispatched(model):
            object.__setattr__(self, "model", model)  # not a submodule, which Lightning would move to one device
        else:
            self.model = model

    def setup(self, stage: str) -> None:
        """Check that the trainer's precision does not change the dtype of the weights recorded in the results."""
        chosen = str(self.trainer.precision)
        if chosen != "32-true" and not (stage == "fit" and chosen.endswith("-mixed")):
            raise InputError(
                f"`precision` is expected to be 32-true, the default, but got {chosen!r}: results record the dtype of "
                "the weights as `dtype`. Set that instead, for example --model.dtype bfloat16."
            )

    @property
    def folder(self) -> Path:
        """The run's folder; must be called by all processes."""
        return run_folder(self.trainer)

    @property
    def data(self) -> Any:
        """The run's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]


def run_folder(trainer: Trainer) -> Path:
    """Return the folder that the logger writes to, else the trainer's root; must be called by all processes."""
    return logger_folder(trainer) or Path(trainer.log_dir or trainer.default_root_dir)


def logger_folder(trainer: Trainer) -> Path | None:
    """Return a folder for a run whose logger (such as that of a tracking server) has no ``log_dir``; else None."""
    logger = trainer.logger
    if logger is None or getattr(logger, "log_dir", None):
        return None
    return Path(logger.save_dir or trainer.default_root_dir, str(logger.name or "run"), str(logger.version or 0))


def single_trainer(logger: TensorBoardLogger | bool, *callbacks: Callback, **options: Any) -> Trainer:
    """Return a trainer for jobs outside the LightningCLI, with one device by default and gradients enabled."""
    options = {
        "devices": 1,
        **options,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "inference_mode": False,
    }
    return Trainer(logger=logger, callbacks=[TQDMProgressBar(), *callbacks], **options)
