"""Slow and obvious effects: one query and one layer at a time, with gradients at the neurons, summed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biaslab.models.architectures import ffn_modules


def query_effects(model: nn.Module, ids: Tensor, position: int, target: int) -> tuple[Tensor, Tensor]:
    """Σ_positions a·∂ log P(target)/∂a of one sequence, ``[layer, neuron]``, and log P."""
    effects = []
    for module in ffn_modules(model):
        leaves = []

        def cut(module, args, leaves=leaves):
            leaves.append(args[0].detach().requires_grad_())
            return (leaves[0],)

        with module.register_forward_pre_hook(cut):
            log = model(input_ids=ids[None]).logits[0, position].log_softmax(-1)[target]
        (gradient,) = torch.autograd.grad(log, leaves)
        effects.append((leaves[0] * gradient).flatten(0, -2).sum(0).detach())
    return torch.stack(effects), log.detach()
