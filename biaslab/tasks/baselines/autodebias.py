"""Auto-Debias: a masked model learns to answer the same for both words of a pair, after prompts that bring out bias."""

from typing import Any

from torch import Tensor

from biaslab.errors import require_one_of
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.tasks.baselines.divergence import DIVERGENCES, DivergenceName
from biaslab.tasks.baselines.training import DebiasingTask


class AutoDebias(DebiasingTask):
    """Bring the model's answers for the two words of a pair together, over the whole vocabulary.

    Nothing holds the model to what it knows of language: a fall of LMS is expected.

    Args:
        model_name: an asset's name, a folder or a hub id; of a masked language model.
        divergence: "jensen_shannon", or the authors' released code's "reversed".
        lr: learning rate of AdamW.
        decay: whether it falls to zero.
        **options: see :class:`biaslab.tasks.baselines.training.DebiasingTask`.

    Reference:
        Guo, Yang and Abbasi 2022 ("Auto-Debias: Debiasing Masked Language Models with Automated Biased Prompts").
    """

    masked_only = True

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        divergence: DivergenceName = "jensen_shannon",
        lr: float = 5e-6,
        decay: bool = False,
        **options: Any,
    ) -> None:
        require_one_of("divergence", divergence, list(DIVERGENCES))
        super().__init__(model_name, lr=lr, decay=decay, **options)
        self.divergence = DIVERGENCES[divergence]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean divergence of the answers for both words, in nats."""
        input_ids, position = batch["input_ids"].flatten(0, 1), batch["position"].repeat_interleave(2)
        answers = slot_log_probabilities(self.model, input_ids, position).unflatten(0, (-1, 2))
        return self.divergence(answers[:, 0], answers[:, 1]).mean()
