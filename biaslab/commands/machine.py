"""The processes of a command, one per device, and models loaded on these devices."""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.presets import Accelerator, Dtype
from biaslab.errors import InputError, require_device_map, require_one_of, require_positive
from biaslab.models import loading, ranks
from biaslab.models.placement import is_dispatched
from biaslab.tasks.base import single_trainer

_PATIENCE = timedelta(days=7)  # the first process may train a row while the others wait


class Machine(NamedTuple):
    """The device of this process, and how models are placed."""

    device: torch.device
    nodes: int = 1
    device_map: str | None = None  # for every model

    def load(self, model_name: str, dtype: Dtype, trust: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load a model onto the device, with its tokenizer; see :func:`biaslab.models.loading.load_model`."""
        options: Any = {"dtype": loading.as_dtype(dtype), "device_map": self.device_map, "trust_remote_code": trust}
        model, tokenizer = loading.load_model(model_name, **options)
        self.take(model)
        return model, tokenizer

    def take(self, model: nn.Module) -> None:
        """Move a model to the device (Lightning leaves it on the CPU), unless it is spread over several."""
        if not is_dispatched(model):
            nn.Module.to(model, self.device)

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints: only the first one does."""
        return ranks.is_first()

    def console(self) -> Console:
        """Return a console that prints in the first process only."""
        return Console(highlight=False, quiet=not ranks.is_first())

    def trainer(self, logger: TensorBoardLogger | bool, *callbacks: Callback) -> Trainer:
        """Return a trainer for the same processes and devices, without checkpoints and with gradients enabled."""
        accelerator = "gpu" if self.device.type == "cuda" else "cpu"
        options: dict[str, Any] = {"accelerator": accelerator, "devices": 1}
        if ranks.size() > 1:
            options |= {"devices": ranks.size() // self.nodes, "num_nodes": self.nodes}
            options["strategy"] = DDPStrategy(timeout=_PATIENCE)
        return single_trainer(logger, *callbacks, **options)


def start(accelerator: Accelerator = "auto", devices: int = 1, device_map: str | None = None) -> Machine:
    """Start the processes of a command, one per device; each of them runs the whole command.

    Processes started by torchrun or a cluster scheduler are used as they are.

    Args:
        accelerator: "cpu", "gpu" (CUDA) or "auto" (a GPU if there is one).
        devices: number of devices to use on this machine.
        device_map: "auto" to spread the layers of a model over several devices, with a single process.

    Raises:
        InputError: if the device does not exist, or there are too few.
    """
    require_one_of("accelerator", accelerator, ["auto", "cpu", "gpu"])
    require_positive(devices=devices)
    require_device_map(device_map)
    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        raise InputError("`accelerator` is expected to be cpu or auto, because torch finds no GPU, but got gpu.")
    device = torch.device("cpu") if accelerator == "cpu" else loading.best_device()
    kind = device.type
    most = gpus if kind == "cuda" else os.cpu_count() or 1
    if devices > most:
        raise InputError(f"`devices` is expected to be at most {most}, the number available here, but got {devices}.")
    devices = max(devices, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # set by torchrun
    nodes = max(1, int(os.environ.get("GROUP_WORLD_SIZE", os.environ.get("SLURM_NNODES", 1))))
    if devices == 1 and nodes == 1:
        return Machine(device, device_map=device_map)
    if device_map is not None:
        raise InputError(
            "`device_map` is expected to be left out with several processes, each of which loads the model, but got "
            f"{device_map}. Leave it out, or set `devices` to 1: the map uses all devices."
        )
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy as Processes

    fabric = Fabric(accelerator=kind, strategy=Processes(timeout=_PATIENCE), devices=devices, num_nodes=nodes)
    fabric.launch()
    atexit.register(_end)
    return Machine(fabric.device, nodes)


def _end() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
