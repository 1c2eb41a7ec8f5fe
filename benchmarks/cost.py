"""The arithmetic that attribution can't do without, in floating-point operations.

A multiplication and an addition count as two. Matrix products and attention are counted; norms and activation
functions, which are a few per cent, are not.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from transformers import PreTrainedModel

from biaslab.models.architectures import architecture, attention_modules, down_weight, ffn_modules, layers


class Sizes(NamedTuple):
    """Multiplications of a model's parts, for one token."""

    layers: int
    attention: int  # of a layer's projections
    feed_forward: int  # of a layer
    neuron_map: int  # of a layer's down-projection alone
    head: int  # of what is done at the slot after the last layer, without the vocabulary
    vocabulary: int  # of the output embeddings
    hidden: int  # width of the stream
    masked: bool  # whether tokens after the slot see it


def sizes(model: PreTrainedModel) -> Sizes:
    """Read the sizes off a model's weights."""
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
    """Return the least that a batch of equally long prompts takes.

    Each (layer, node) goes through the layers above it: forward once, backward once a direction. Of a masked model's
    last layer all tokens need keys and values, the rest only the slots need; of a causal one they need every layer.

    Args:
        size: of the model.
        prompts: how many.
        length: tokens of each.
        nodes: of the quadrature; of those at α = 1 with ``with_one`` none.
        directions: probabilities, or differences of them, that are differentiated.
        pairs: that are attributed.
        with_one: whether the gradients at α = 1 are taken from the recorded pass.
        slots: of each prompt.
    """
    tokens, passes = (length if size.masked else slots), 1 + directions
    weights = size.attention + size.feed_forward
    looks = 2 * length * size.hidden * (1 + 2 * directions)  # of a token at all others; backward twice as many
    whole = tokens * (weights * passes + looks)
    last = ((tokens + slots) * size.attention // 2 + slots * size.feed_forward) * passes + slots * looks
    above = [max(0, size.layers - 2 - layer) * whole + (layer < size.layers - 1) * last for layer in range(size.layers)]
    # the vocabulary is multiplied forward, and once backward for all directions together
    head = slots * (size.head * passes + 2 * size.vocabulary)
    inner = nodes - 1 if with_one else nodes
    per_prompt = inner * (sum(above) + size.layers * head)
    per_prompt += length * size.layers * weights + slots * size.vocabulary  # the recorded pass
    if with_one:
        per_prompt += directions * ((size.layers - 1) * tokens * weights + slots * size.head) + slots * size.vocabulary
    per_prompt += slots * (pairs + 1) * size.layers * size.neuron_map
    return 2.0 * prompts * per_prompt
