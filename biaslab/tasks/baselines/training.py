"""Base classes of debiasing baselines, which train a language model to be evaluated later."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from biaslab.models.tokens import require_masked
from biaslab.tasks.evaluation import StereoSetEvaluation


class Training(LightningModule, ABC):
    """Minimize the loss of a subclass with AdamW; hyper-parameters are ``lr``, ``weight_decay`` and ``warmup``."""

    model: Any  # a language model

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch, a scalar."""

    def weight(self, batch: Any) -> int:
        """Return the weight of a batch in the logged mean loss of an epoch."""
        return 1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute and log the loss."""
        loss = self.loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=self.weight(batch))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log the loss on held-out sentences."""
        self.log("val/loss", self.loss(batch), prog_bar=True, sync_dist=True, batch_size=self.weight(batch))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its learning rate schedule."""
        names = ("lr", "weight_decay", "warmup", "decay")
        options = {name: self.hparams[name] for name in names if name in self.hparams}
        return scheduled_adamw(self.model.parameters(), int(self.trainer.estimated_stepping_batches), **options)


class DebiasingTask(Training, StereoSetEvaluation):
    """Train a language model with the loss of a subclass; evaluate it on StereoSet with ``biaslab test --ckpt_path``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices; biases and norms have none.
        warmup: share of the steps with linear warm-up of the learning rate.
        decay: whether the learning rate then decays linearly to zero.
        **options: see :class:`biaslab.tasks.base.LanguageModelTask`.

    Raises:
        InputError: if an argument is out of range, or the model is causal and the subclass is ``masked_only``.
    """

    masked_only: ClassVar[bool] = False

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        lr: float = 5e-5,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        decay: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(model_name, **options)
        if self.masked_only:
            require_masked(self.tokenizer)
        self.model.requires_grad_(True)

    def on_fit_start(self) -> None:
        """Enable dropout, since models are loaded in evaluation mode."""
        self.model.train()


def scheduled_adamw(
    parameters: Iterable[nn.Parameter], steps: int, lr: float, weight_decay: float, warmup: float, decay: bool = True
) -> dict[str, Any]:
    """Return AdamW and its learning rate schedule in the format of ``configure_optimizers``.

    Args:
        parameters: parameters of the model; those that require no gradient are skipped.
        steps: total number of training steps.
        lr: see :class:`DebiasingTask`.
        weight_decay: see :class:`DebiasingTask`.
        warmup: see :class:`DebiasingTask`.
        decay: see :class:`DebiasingTask`.
    """
    trained = [p for p in parameters if p.requires_grad]
    matrices, others = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        fall = max(0.0, (steps - step) / (steps - rise + 1)) if decay else 1.0
        return min((step + 1) / rise, fall)

    optimizer = torch.optim.AdamW(groups, lr=lr, eps=1e-8)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
