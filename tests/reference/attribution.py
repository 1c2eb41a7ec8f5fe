"""Slow and obvious IG²: one prompt, layer and node at a time, through the whole model, gradients at the neurons."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from biaslab.models.architectures import ffn_modules


def target_probabilities(model: nn.Module, ids: Tensor, position: int, targets: Tensor, layer: int, scale) -> Tensor:
    """Probabilities of the targets when the layer's neurons at the slot become ``scale(neurons)``."""

    def change(module, args):
        activation = args[0].clone()
        tokens = activation.view(-1, activation.shape[-1])  # of one sequence
        tokens[position] = scale(tokens[position])
        return (activation,)

    handle = ffn_modules(model)[layer].register_forward_pre_hook(change)
    try:
        return model(input_ids=ids[None]).logits[0, position].softmax(-1)[targets]
    finally:
        handle.remove()


def neurons_of(model: nn.Module, ids: Tensor, position: int, layer: int) -> Tensor:
    seen = []
    handle = ffn_modules(model)[layer].register_forward_pre_hook(
        lambda _, args: seen.append(args[0].view(-1, args[0].shape[-1])[position].detach())
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


def word_probability(
    model: nn.Module, ids: Tensor, slots: Tensor, tokens: Tensor, layer: int, scaled: Tensor
) -> Tensor:
    """Product of the probabilities of a word's tokens, when the layer's neurons at its slots are ``scaled``."""

    def change(module, args):
        activation = args[0].clone()
        activation.view(-1, activation.shape[-1])[slots] = scaled  # of one sequence
        return (activation,)

    with ExitStack() as stack:
        stack.enter_context(ffn_modules(model)[layer].register_forward_pre_hook(change))
        logits = model(input_ids=ids[None]).logits[0]
    probability = logits.new_ones(())
    for slot, token in zip(slots.tolist(), tokens.tolist(), strict=True):
        probability = probability * logits[slot].softmax(-1)[token]
    return probability


def word_gap_gradients(model, words, row, layer, nodes, weights, gap, of) -> tuple[Tensor, Tensor]:
    """IG² of two words, each in its own sequence, at the given nodes, and their gap; a word is (inputs, target)."""
    cases = []
    for inputs, target in words:
        ids, slots, tokens = inputs.input_ids[row], inputs.position[row], inputs.target_ids[row, target]
        cases.append((ids, slots, tokens, neurons_of(model, ids, slots, layer)))

    def difference(scaled):
        first, second = (word_probability(model, *case[:3], layer, w) for case, w in zip(cases, scaled, strict=True))
        if of == "log_odds":
            first, second = first.log(), second.log()
        return (first - second).abs() if gap == "absolute" else first - second

    total = torch.zeros_like(cases[0][3][0])
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        leaves = [(node * case[3]).requires_grad_() for case in cases]
        gradients = torch.autograd.grad(difference(leaves), leaves)
        for case, gradient in zip(cases, gradients, strict=True):
            total += weight * (case[3] * gradient).sum(0)
    return total, difference([case[3] for case in cases]).detach()
