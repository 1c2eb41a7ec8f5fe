"""Auto-Debias: a masked model learns to answer the same for both words of a pair, after prompts that bring out bias."""

from __future__ import annotations

from torch import Tensor

from biaslab.errors import InputError
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.tasks.baselines.divergence import DIVERGENCES, DivergenceName
from biaslab.tasks.baselines.training import DebiasingTask


class AutoDebias(DebiasingTask):
    """Bring the model's answers for the two words of a pair together, over the whole vocabulary.

    The prompts come from :func:`biaslab.commands.search_prompts.search_prompts`. Nothing holds the model to what it
    knows of language: a fall of LMS is expected.

    Args:
        model_name: an asset's name, a folder or a hub id; of a masked language model.
        divergence: "jensen_shannon", or the authors' released code's "reversed".
        lr: learning rate of AdamW; all arguments from here on are those of
            :class:`biaslab.tasks.baselines.training.DebiasingTask`, with the paper's values.
        weight_decay: of the matrices.
        warmup: share of the steps.
        decay: whether the learning rate falls to zero.
        dtype: the weights' type.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if the model is causal, or an argument is out of its range.

    Reference:
        Guo, Yang and Abbasi 2022 ("Auto-Debias: Debiasing Masked Language Models with Automated Biased Prompts").
    """

    masked_only = True

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        divergence: DivergenceName = "jensen_shannon",
        lr: float = 5e-6,
        weight_decay: float = 0.0,
        warmup: float = 0.0,
        decay: bool = False,
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        if divergence not in DIVERGENCES:
            raise InputError(f"`divergence` is expected to be {' or '.join(DIVERGENCES)} but got {divergence!r}.")
        super().__init__(model_name, lr, weight_decay, warmup, decay, dtype, trust_remote_code)
        self.save_hyperparameters()
        self.divergence = DIVERGENCES[divergence]

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean divergence of the answers for both words, in nats.

        Args:
            batch: of :class:`biaslab.data.prompt_pairs.PromptPairDataModule`.
        """
        input_ids, position = batch["input_ids"].flatten(0, 1), batch["position"].repeat_interleave(2)
        answers = slot_log_probabilities(self.model, input_ids, position).unflatten(0, (-1, 2))
        return self.divergence(answers[:, 0], answers[:, 1]).mean()
