"""DPCE: fine-tunes a model to make the hidden states of target words orthogonal to those of attribute words."""

import copy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from biaslab.data.attribute_sentences import GROUPS, TARGET
from biaslab.errors import require_one_of
from biaslab.tasks.baselines.training import DebiasingTask

Layers = Literal["first", "last", "all"]
Unit = Literal["token", "sentence"]
Form = Literal["released", "paper"]
_CHOSEN = {"first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}


class DPCE(DebiasingTask):
    """Debias contextual embeddings while keeping them close to the original ones; the head is not trained.

    For a batch of target words, the loss is ``alpha`` times the squared inner product of their hidden states with the
    mean hidden state of each group. For a batch of sentences with attribute words, it is ``beta`` times the mean
    squared distance of all hidden states from those of a frozen copy of the original model.

    Args:
        alpha: weight of the orthogonality loss.
        beta: weight of the distance loss.
        layers: layers of the orthogonality loss: "first" (the embeddings), "last", or "all" (including the embeddings).
        unit: tokens of the orthogonality loss: the target word ("token"), or all tokens of its sentence ("sentence").
        form: "released" squares the mean of the inner products over batch and layers; "paper" averages their squares,
            so that products of opposite signs do not cancel.
        **options: see :class:`biaslab.tasks.baselines.training.DebiasingTask`.

    Reference:
        Kaneko and Bollegala, Debiasing Pre-trained Contextualised Embeddings, EACL 2021, equations 1 to 4.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        beta: float = 0.8,
        layers: Layers = "all",
        unit: Unit = "token",
        form: Form = "released",
        **options: Any,
    ) -> None:
        for name, value, known in (("layers", layers, Layers), ("unit", unit, Unit), ("form", form, Form)):
            require_one_of(name, value, get_args(known))
        super().__init__(**options)
        self.model.requires_grad_(False)
        self.model.base_model.requires_grad_(True)  # the loss does not reach the head
        original = copy.deepcopy(self.model.base_model).eval().requires_grad_(False)
        self._original = (original,)  # in a tuple, so that it is not saved in checkpoints
        self.vectors: Tensor | None = None  # of the groups, at the start of the epoch

    def on_train_epoch_start(self) -> None:
        """Recompute the groups' vectors."""
        self.vectors = self.group_vectors()

    def on_validation_start(self) -> None:
        """Compute the groups' vectors if no training epoch has done so."""
        if self.vectors is None:
            self.on_train_epoch_start()

    @torch.no_grad()
    def group_vectors(self) -> Tensor:
        """Return the groups' mean hidden states of attribute words on all ranks, ``[group, layer, hidden]``."""
        training = self.model.training
        self.model.eval()
        config = self.model.config
        sums = torch.zeros(len(GROUPS), config.num_hidden_layers + 1, config.hidden_size, device=self.device)
        counts = torch.zeros(len(GROUPS), device=self.device)
        for batch in self.data.attribute_batches(self.global_rank, self.trainer.world_size):
            batch = self.transfer_batch_to_device(batch, self.device, 0)
            group = GROUPS.index(batch["kind"])
            sums[group] += torch.einsum("lbsh,bs->lh", _hidden(self.model.base_model, batch).float(), batch["weights"])
            counts[group] += batch["weights"].sum()
        self.model.train(training)
        reduce = self.trainer.strategy.reduce
        return reduce(sums, reduce_op="sum") / reduce(counts, reduce_op="sum")[:, None, None]

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch of one kind, from :func:`biaslab.data.attribute_sentences.collate`."""
        hidden = _hidden(self.model.base_model, batch)
        if batch["kind"] == TARGET:
            return self._association(hidden, batch) * float(self.hparams["alpha"])
        with torch.no_grad():
            before = _hidden(self._original[0].to(self.device), batch)
        tokens = batch["attention_mask"].bool()
        return nn.functional.mse_loss(hidden[:, tokens], before[:, tokens]) * float(self.hparams["beta"])

    def _association(self, hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the squared inner products with the groups' vectors, averaged, and summed over the groups."""
        assert self.vectors is not None
        chosen = _CHOSEN[self.hparams["layers"]]
        vectors = self.vectors[:, chosen].to(hidden.dtype)
        products = torch.einsum("lbsh,glh->glbs", hidden[chosen], vectors)
        if self.hparams["unit"] == "token":
            products = (products * batch["weights"]).sum(-1)  # the mean over a word's tokens
        else:
            products = products[..., batch["attention_mask"].bool()]
        products = products.flatten(1)
        averaged = products.mean(1) ** 2 if self.hparams["form"] == "released" else (products**2).mean(1)
        return averaged.sum() + 0 * hidden[-1].sum()  # DDP needs gradients in all layers, even if few are chosen


def _hidden(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the hidden states, starting with the embeddings, ``[layer, batch, sequence, hidden]``."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return torch.stack(model(**inputs, output_hidden_states=True).hidden_states)
