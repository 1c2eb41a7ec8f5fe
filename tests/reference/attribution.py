"""Slow and obvious IG²: one prompt, layer and node at a time, through the whole model, gradients at the neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from biaslab.architectures import ffn_modules


def target_probabilities(model: nn.Module, ids: Tensor, position: int, targets: Tensor, layer: int, scale) -> Tensor:
    """Probabilities of the targets when the layer's neurons at the slot become ``scale(neurons)``."""

    def change(module, args):
        activation = args[0].clone()
        activation[0, position] = scale(activation[0, position])
        return (activation,)

    handle = ffn_modules(model)[layer].register_forward_pre_hook(change)
    try:
        return model(input_ids=ids[None]).logits[0, position].softmax(-1)[targets]
    finally:
        handle.remove()


def neurons_of(model: nn.Module, ids: Tensor, position: int, layer: int) -> Tensor:
    seen = []
    handle = ffn_modules(model)[layer].register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0, position].detach())
    )
    model(input_ids=ids[None])
    handle.remove()
    return seen[0]


def integrated(model, ids, position, layer, nodes, weights, value) -> Tensor:
    """w̄ ∫ ∂ value(P) / ∂ w dα over the given nodes; ``value`` maps a scale function's probabilities to a number."""
    neurons = neurons_of(model, ids, position, layer)
    total = torch.zeros_like(neurons)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        leaf = (node * neurons).requires_grad_()
        (gradient,) = torch.autograd.grad(value(lambda _, leaf=leaf: leaf), leaf)
        total += weight * gradient
    return neurons * total
