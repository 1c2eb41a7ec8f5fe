"""Training of minilm-mlm's adapter: masked language modelling with a frozen encoder and low-rank updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from biaslab.models import minilm as adapter
from biaslab.tasks.baselines.training import scheduled_adamw


class AdapterTraining(LightningModule):
    """Train the language-model head and low-rank updates of MiniLM's encoder; the result is ``adapter.safetensors``.

    Args:
        rank: of the updates of the encoder's linear maps.
        lr: peak learning rate, after a linear warm-up and before a linear decay to zero.
        weight_decay: of the matrices; biases and norms have none.
        warmup: share of the steps.
    """

    def __init__(self, rank: int = 64, lr: float = 1e-3, weight_decay: float = 0.01, warmup: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        # Eager attention is the quickest for short sentences on a CPU. The model stays in evaluation mode, without
        # dropout: the corpus is seen less than twice.
        self.model = adapter.untrained(rank, attention="eager")

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.model.bert(batch["input_ids"]).last_hidden_state  # [batch, sequence, hidden]
        asked = batch["labels"] != -100
        return F.cross_entropy(self.model.cls(hidden[asked]).float(), batch["labels"][asked])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean negative log-likelihood of the hidden tokens, in nats."""
        loss = self._loss(batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["input_ids"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the same on held-out sentences."""
        self.log("val/loss", self._loss(batch), prog_bar=True, sync_dist=True, batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> Any:
        """Return AdamW with a linear warm-up and a linear decay."""
        h, total = self.hparams, int(self.trainer.estimated_stepping_batches)
        return scheduled_adamw(self.model.parameters(), total, h["lr"], h["weight_decay"], h["warmup"])

    def on_fit_end(self) -> None:
        """Write the adapter beside the logs."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)  # asks all ranks
        if self.trainer.is_global_zero:
            adapter.save(self.model, folder / "adapter.safetensors")
            print(f"The adapter lies in {folder / 'adapter.safetensors'}.")
