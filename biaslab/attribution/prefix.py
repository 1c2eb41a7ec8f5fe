"""The last tokens' attention of a causal model, where the keys and values of the tokens before them never change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_NAME = "biaslab_last_tokens"


class Prefix:
    """Keys and values of the tokens before the last ones, for items that share them by row; stands for a cache layer.

    Args:
        keys: of the tokens before, ``[row, head, token, size]``.
        values: likewise.
        rows: the row of each item, ``[item]``.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        used, number, counts = rows.unique(return_inverse=True, return_counts=True)
        self.keys, self.values = (x if len(used) == len(x) else x[used] for x in (keys, values))
        # items as a grid [row, place]; where a row has fewer than others, any item fills it
        self.width = int(counts.max())
        order = number.argsort(stable=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[number[order]]
        cell = number[order] * self.width + place
        self.item = cell.new_zeros(len(used) * self.width).index_put((cell,), order)
        self.cell = cell.new_empty(len(rows)).index_put((order,), cell)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the new tokens' keys and values alone: :func:`attend` knows the others."""
        return keys, values

    def times(self, items: Tensor, matrices: Tensor) -> Tensor:
        """Return ``[item, head, query, a]`` times its row's ``[row, head, a, b]``: ``[item, head, query, b]``."""
        queries = items.shape[2]
        grid = items[self.item].unflatten(0, (-1, self.width)).transpose(1, 2).flatten(2, 3)
        product: Tensor = (grid @ matrices).unflatten(2, (self.width, queries)).transpose(1, 2)
        return product.flatten(0, 1)[self.cell]

    @contextmanager
    def attended(self, model: PreTrainedModel, arguments: dict[str, Any]) -> Iterator[None]:
        """Within the block, the model's attention is :func:`attend`, which finds this object among the arguments.

        Args:
            model: whose layers are to be called.
            arguments: by name, that they are to be called with.
        """
        before, model.config._attn_implementation = model.config._attn_implementation, _NAME
        arguments["recorded"] = self
        try:
            yield
        finally:
            model.config._attn_implementation = before


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    recorded: Prefix,
    softcap: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attention of the last tokens: each sees all tokens before them, whose keys and values need no gradient.

    An attention function as transformers calls it: ``query`` is ``[item, head, token, size]``, ``key`` and ``value``
    have the key/value heads; the output is ``[item, token, head, size]``.
    """
    items, tokens, size = len(query), *query.shape[2:]
    query = query.reshape(items, key.shape[1], -1, size)  # [item, key/value head, group · token, size]
    own = (query[..., None, :] * key[:, :, None]).sum(-1)  # [item, key/value head, group · token, token]
    scores = torch.cat([recorded.times(query, recorded.keys.transpose(2, 3)), own], -1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if tokens > 1:
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
        later = later.repeat(query.shape[2] // tokens, 1)
        scores[..., -tokens:] = scores[..., -tokens:].masked_fill(later, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    output = recorded.times(weights[..., :-tokens], recorded.values)
    output = output + (weights[..., -tokens:, None] * value[:, :, None]).sum(-2)
    return output.reshape(items, -1, tokens, size).transpose(1, 2), None


AttentionInterface.register(_NAME, attend)
