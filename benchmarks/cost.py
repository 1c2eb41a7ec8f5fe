"""The minimum number of floating-point operations that attribution needs.

A multiplication and an addition count as two operations. Matrix products and attention are counted; norms and
activation functions, which are a few percent, are not.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from biaslab.models.architectures import architecture, attention_modules, down_weight, ffn_modules, layers


class Sizes(NamedTuple):
    """Numbers of multiplications per token in the parts of a model."""

    layers: int  # number of layers
    attention: int  # attention projections of a layer
    feed_forward: int  # feed-forward network of a layer
    neuron_map: int  # down-projection of a layer
    head: int  # head at the slot, without the output embeddings
    vocabulary: int  # output embeddings
    hidden: int  # hidden size
    masked: bool  # whether tokens after the slot attend to it


def sizes(model: PreTrainedModel) -> Sizes:
    """Compute the sizes from a model's weights."""
    layer, attention = layers(model)[0], attention_modules(model)[0]
    down = down_weight(ffn_modules(model)[0])
    vocabulary = model.get_output_embeddings().weight
    inside = {id(p) for p in model.base_model.parameters()} | {id(vocabulary)}
    return Sizes(
        layers=len(layers(model)),
        attention=_matrices(attention),
        feed_forward=_matrices(layer) - _matrices(attention),
        neuron_map=down.numel(),
        head=sum(p.numel() for p in model.parameters() if p.ndim == 2 and id(p) not in inside),
        vocabulary=vocabulary.numel(),
        hidden=down.shape[0],
        masked=architecture(model).masked,
    )


def _matrices(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.ndim == 2)


def attribution_flops(
    size: Sizes,
    prompts: int,
    length: int,
    nodes: float,
    directions: int,
    pairs: int,
    with_one: bool = True,
    slots: int = 1,
) -> float:
    """Return the minimum number of operations for a batch of prompts of equal length.

    Each (layer, node) passes through the layers above it: forward once, and backward once per direction. In the last
    layer of a masked model, all tokens need keys and values, but only the slots need the rest; in a causal model, only
    the slots need any layer.

    Args:
        size: sizes of the model.
        prompts: number of prompts.
        length: tokens per prompt.
        nodes: quadrature nodes; with ``with_one``, the node at α = 1 is free.
        directions: number of differentiated probabilities or differences of them.
        pairs: number of attributed pairs.
        with_one: whether the gradients at α = 1 are taken from the recorded pass.
        slots: slots per prompt.
    """
    tokens, passes = (length if size.masked else slots), 1 + directions
    weights = size.attention + size.feed_forward
    looks = 2 * length * size.hidden * (1 + 2 * directions)  # attention of a token to all others; backward doubles it
    whole = tokens * (weights * passes + looks)
    last = ((tokens + slots) * size.attention // 2 + slots * size.feed_forward) * passes + slots * looks
    above = [max(0, size.layers - 2 - layer) * whole + (layer < size.layers - 1) * last for layer in range(size.layers)]
    # output embeddings: once forward, and once backward for all directions together
    head = slots * (size.head * passes + 2 * size.vocabulary)
    inner = nodes - 1 if with_one else nodes
    per_prompt = inner * (sum(above) + size.layers * head)
    per_prompt += length * size.layers * weights + slots * size.vocabulary  # the recorded pass
    if with_one:
        per_prompt += directions * ((size.layers - 1) * tokens * weights + slots * size.head) + slots * size.vocabulary
    per_prompt += slots * (pairs + 1) * size.layers * size.neuron_map
    return 2.0 * prompts * per_prompt
