"""Attention of the last tokens of a sequence over recorded keys and values of the tokens before them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

_LAST_TOKENS = "biaslab_last_tokens"  # name of an attention function


class Prefix:
    """One layer of a key/value cache of the preceding tokens, ``[row, head, token, size]``, shared by a row's items."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        used, number, counts = rows.unique(return_inverse=True, return_counts=True)
        self.keys, self.values = (x if len(used) == len(x) else x[used] for x in (keys, values))
        # items as a grid [row, place]; rows with fewer items are filled with an arbitrary one
        self.width = int(counts.max())
        order = number.argsort(stable=True)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[number[order]]
        cell = number[order] * self.width + place
        self.item = cell.new_zeros(len(used) * self.width).index_put((cell,), order)
        self.cell = cell.new_empty(len(rows)).index_put((order,), cell)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the new tokens' keys and values only: :func:`_attend` adds the recorded ones."""
        return keys, values

    def times(self, items: Tensor, matrices: Tensor) -> Tensor:
        """Multiply items ``[item, head, query, a]`` by their rows' matrices ``[row, head, a, b]``.

        Returns:
            ``[item, head, query, b]``.
        """
        queries = items.shape[2]
        grid = items[self.item].unflatten(0, (-1, self.width)).transpose(1, 2).flatten(2, 3)
        product: Tensor = (grid @ matrices).unflatten(2, (self.width, queries)).transpose(1, 2)
        return product.flatten(0, 1)[self.cell]

    @contextmanager
    def attended(self, model: PreTrainedModel) -> Iterator[None]:
        """Make the model use :func:`_attend` with this object within the block.

        A context variable holds the object, because not every attention module passes its cache on.
        """
        before, model.config._attn_implementation = model.config._attn_implementation, _LAST_TOKENS
        token = _recorded.set(self)
        try:
            yield
        finally:
            _recorded.reset(token)
            model.config._attn_implementation = before


_recorded: ContextVar[Prefix] = ContextVar("recorded")


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    softcap: float | None = None,
    **__: Any,
) -> tuple[Tensor, None]:
    """Attention of the last tokens, with the interface of transformers' attention functions.

    Each token attends to all tokens before it, which need no gradient. ``query`` is ``[item, head, token, size]``;
    ``key`` and ``value`` have one head per key/value head. The output is ``[item, token, head, size]``.
    """
    recorded, dtype = _recorded.get(), query.dtype
    items, tokens, size = len(query), *query.shape[2:]
    kind = torch.promote_types(dtype, torch.float32)  # bfloat16 would be off by 0.1 at a score of 30
    query, key, value = query.to(kind), key.to(kind), value.to(kind)
    query = query.reshape(items, key.shape[1], -1, size)  # [item, key/value head, group · token, size]
    among = (query[..., None, :] * key[:, :, None]).sum(-1)  # [item, key/value head, group · token, token]
    scores = torch.cat([recorded.times(query, recorded.keys.to(kind).transpose(2, 3)), among], -1) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if tokens > 1:
        later = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
        later = later.repeat(query.shape[2] // tokens, 1)
        scores[..., -tokens:] = scores[..., -tokens:].masked_fill(later, -torch.inf)
    weights = scores.softmax(-1)
    output = recorded.times(weights[..., :-tokens], recorded.values.to(kind))
    output = output + (weights[..., -tokens:, None] * value[:, :, None]).sum(-2)
    return output.reshape(items, -1, tokens, size).transpose(1, 2).to(dtype), None


AttentionInterface.register(_LAST_TOKENS, _attend)
