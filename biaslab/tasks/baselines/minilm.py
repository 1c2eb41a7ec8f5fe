"""Training of minilm-mlm's adapter: masked language modelling with a frozen encoder and low-rank updates."""

from torch import Tensor
from torch.nn import functional as F

from biaslab.errors import require_ranges
from biaslab.models import minilm as adapter
from biaslab.tasks.base import run_folder
from biaslab.tasks.baselines.training import Training


class AdapterTraining(Training):
    """Train the language-model head and low-rank updates of MiniLM's encoder; write them to ``adapter.safetensors``.

    Args:
        rank: rank of the updates of the encoder's linear layers.
        lr: peak learning rate, after linear warm-up and before linear decay to zero.
        weight_decay: weight decay of matrices; biases and norms have none.
        warmup: share of the steps with linear warm-up of the learning rate.
    """

    def __init__(self, rank: int = 64, lr: float = 1e-3, weight_decay: float = 0.01, warmup: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_ranges(self.hparams)
        # Eager attention is fastest for short sentences. No dropout, because the corpus is seen less than twice.
        self.model = adapter.untrained(rank, attention="eager")

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean negative log-likelihood of the masked tokens, in nats."""
        hidden = self.model.bert(batch["input_ids"]).last_hidden_state  # [batch, sequence, hidden]
        masked = batch["labels"] != -100
        return F.cross_entropy(self.model.cls(hidden[masked]).float(), batch["labels"][masked])

    def weight(self, batch: dict[str, Tensor]) -> int:
        """Return the number of sentences."""
        return len(batch["input_ids"])

    def on_fit_end(self) -> None:
        """Write the adapter to the run's folder."""
        path = run_folder(self.trainer) / "adapter.safetensors"  # must be called by all ranks
        if self.trainer.is_global_zero:
            adapter.save(self.model, path)
            print(f"Adapter written to {path}.")
