"""Auto-Debias: trains a masked model to answer the same for both words of a pair after biased prompts."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from biaslab.errors import require_one_of
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.tasks.baselines.training import DebiasingTask

DivergenceName = Literal["jensen_shannon", "reversed"]
Divergence = Callable[[Tensor, Tensor], Tensor]

_LINEAR = 20.0  # above this, tanh x is ±1 and log cosh x is |x| - log 2, to float64 precision


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute the Jensen–Shannon divergence ½KL(p‖m) + ½KL(q‖m) with m = (p + q)/2.

    With x = ½(log p - log q), it equals Σ m·(x·tanh x - log cosh x), which avoids cancellation if p and q are close.

    Args:
        log_p: finite log-probabilities, ``[..., outcome]``; use at least float32 if small values matter.
        log_q: log-probabilities of the other distribution.

    Returns:
        Divergence in nats, ``[...]``, from 0 (equal) to log 2 (disjoint); symmetric.

    Reference:
        Lin 1991; as a loss, Guo, Yang and Abbasi 2022 ("Auto-Debias"), equation 2.

    >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    >>> round(float(jensen_shannon(p.log(), q.log())), 4)
    0.1017
    """
    mean, x = (log_p.exp() + log_q.exp()) / 2, (log_p - log_q) / 2
    x = x.clamp(-_LINEAR, _LINEAR)  # beyond, the difference of both terms is constant
    return (mean * (x * torch.tanh(x) - _log_cosh(x))).sum(-1)


def reversed_jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute ½KL(m‖p) + ½KL(m‖q) = Σ m·log cosh x, with the arguments, m and x of :func:`jensen_shannon`.

    This is the divergence in the authors' released code: in nats, symmetric, 0 for equal distributions, and unbounded.
    The sum of both divergences is ¼(KL(p‖q) + KL(q‖p)).

    >>> p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    >>> round(float(reversed_jensen_shannon(p.log(), q.log())), 4)
    0.118
    """
    return ((log_p.exp() + log_q.exp()) / 2 * _log_cosh((log_p - log_q) / 2)).sum(-1)


DIVERGENCES: dict[str, Divergence] = {"jensen_shannon": jensen_shannon, "reversed": reversed_jensen_shannon}


def _log_cosh(x: Tensor) -> Tensor:
    """Return log cosh x = log(1 + 2 sinh²(x/2)), precise near 0 and without overflow for large x."""
    size = x.abs()
    near = size.clamp(max=_LINEAR)
    return torch.log1p(2 * torch.sinh(near / 2) ** 2) + (size - near)


class AutoDebias(DebiasingTask):
    """Minimize the divergence between a model's answers for the two words of a pair, over the whole vocabulary.

    No term of the loss preserves language modelling, so LMS is expected to fall.

    Args:
        model_name: an asset's name, a folder or a hub id of a masked language model.
        divergence: "jensen_shannon", or "reversed" as in the authors' released code.
        lr: learning rate of AdamW.
        decay: whether the learning rate decays to zero.
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
