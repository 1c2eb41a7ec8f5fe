"""What tasks share: the language model, the run's folder, and a trainer for jobs beside the LightningCLI."""

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
    """A LightningModule around a language model, which is found at ``model``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        dtype: the weights' type: "float32", "float64", "bfloat16", "float16", or "auto" for the checkpoint's own.
        trust_remote_code: let a checkpoint bring its own Python code.
        device_map: None, or "auto": layers on several devices, as :func:`biaslab.models.loading.load_model`.
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
            object.__setattr__(self, "model", model)  # no submodule: Lightning would move it to one device
        else:
            self.model = model

    def setup(self, stage: str) -> None:
        """Refuse a precision of the trainer's by which other weights would run than those that the files name."""
        chosen = str(self.trainer.precision)
        if chosen != "32-true" and not (stage == "fit" and chosen.endswith("-mixed")):
            raise InputError(
                f"`precision` is expected to be left at 32-true but got {chosen!r}: results name the weights' type by "
                "`dtype`. Choose that instead, such as --model.dtype bfloat16."
            )

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


def single_trainer(logger: TensorBoardLogger | bool, *callbacks: Callback, **options: Any) -> Trainer:
    """Return a trainer, on one device unless told, for jobs beside the LightningCLI; gradients work in it."""
    options = {
        "devices": 1,
        **options,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "inference_mode": False,
    }
    return Trainer(logger=logger, callbacks=[TQDMProgressBar(), *callbacks], **options)
