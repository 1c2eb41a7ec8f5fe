"""Counterfactual data augmentation: continues masked language modelling on text with swapped demographics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from biaslab.tasks.baselines.training import DebiasingTask


class CounterfactualAugmentation(DebiasingTask):
    """Continue the training of a masked language model on passages and their counterfactuals.

    The data module selects the passages; as a control, train with the same budget on the originals only.

    Args:
        model_name: an asset's name, a folder or a hub id of a masked language model.
        lr: peak learning rate of AdamW.
        weight_decay: weight decay of matrices; biases and norms have none.
        warmup: share of the steps with linear warm-up of the learning rate.
        **options: see :class:`biaslab.tasks.baselines.training.DebiasingTask`.

    Reference:
        Qian et al. 2022 (PANDA) for the data. They train a model from scratch, which differs from this baseline.
    """

    masked_only = True

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        lr: float = 2e-5,
        weight_decay: float = 0.01,
        warmup: float = 0.06,
        **options: Any,
    ) -> None:
        super().__init__(model_name, lr, weight_decay, warmup, **options)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean negative log-likelihood, in nats, of the tokens that have a label other than -100."""
        masked = batch["labels"] != -100
        with _projected(self.model, masked):
            logits = self.model(input_ids=batch["input_ids"]).logits[0]  # [masked, vocabulary]
        return F.cross_entropy(logits.float(), batch["labels"][masked])


@contextmanager
def _projected(model: PreTrainedModel, tokens: Tensor) -> Iterator[None]:
    """Compute logits for some tokens only, ``[1, token, vocabulary]``, within the block (for speed)."""

    def gather(module: nn.Module, args: Any, output: BaseModelOutput) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=output["last_hidden_state"][tokens][None])

    with model.base_model.register_forward_hook(gather):
        yield
