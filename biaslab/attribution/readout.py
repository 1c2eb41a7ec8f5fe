"""Probabilities or log-probabilities of the targets at the slots, and their gradients before the output embeddings."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.models.placement import loaded


class Readout(NamedTuple):
    """The targets' values at the slots, and their gradients with respect to the output embeddings' input."""

    values: Tensor  # [item, target]: probabilities (the product over the tokens), or their logarithms
    hidden: list[Tensor]  # input of the output embeddings, in the graph, [item, slot, hidden] for each chunk of items
    gradients: list[Tensor]  # of each direction with respect to it, [direction, item, slot, hidden]; may be empty


def read_slots(
    model: PreTrainedModel,
    run: Callable[[], Any],
    position: Tensor,
    target_ids: Tensor,
    directions: Tensor | None,
    logarithms: bool = False,
) -> Readout:
    r"""Run the model; return the targets' values at the slots, and their gradients before the output embeddings.

    With z = Wh + b, logits f(z) (f is the identity or a soft cap) and p = softmax(f(z)) at each slot, P is the product
    of the probabilities of the target's tokens. Its gradient at a slot with token t is
    P·(f'(z_t)·W_t - Σ_v p_v·f'(z_v)·W_v); the sum over the vocabulary is the same for every target. The gradient of
    log P lacks the factor P. DeBERTa's head continues after the module it calls output embeddings, so autograd computes
    the gradient there.

    Args:
        model: a model of a supported architecture.
        run: runs the model and returns its output.
        position: positions of the slots, ``[item, slot]``.
        target_ids: token ids, ``[item, target, slot]``.
        directions: sums of targets to differentiate, ``[direction, target]``; None for no gradients.
        logarithms: return log P in nats instead of probabilities P.
    """
    embeddings = model.get_output_embeddings()
    with loaded(embeddings):
        weight: Tensor = embeddings.weight
    if len(weight) != model.config.vocab_size:
        return _read_through(embeddings, run, position, target_ids, directions, logarithms)
    seen: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        seen.append(hidden[torch.arange(len(hidden), device=hidden.device)[:, None], position])
        return (seen[0].detach(),)

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_(directions is not None))
        return seen[1]

    with embeddings.register_forward_pre_hook(before), embeddings.register_forward_hook(after):
        logits: Tensor = run().logits
    hidden, scores = seen
    exact = logits if logits.dtype == torch.float64 else logits.float()
    every = exact.detach().softmax(2)  # [item, slot, vocabulary]
    ids = target_ids.transpose(1, 2)  # [item, slot, target]
    factors = values = every.gather(2, ids).prod(1)
    if logarithms:
        values, factors = exact.detach().log_softmax(2).gather(2, ids).sum(1), torch.ones_like(values)
    if directions is None:
        return Readout(values, [hidden], [])
    slope = None if logits is scores else torch.autograd.grad(logits.sum(), scores)[0].to(every.dtype)
    mean = (every if slope is None else every * slope).to(weight.dtype) @ weight  # [item, slot, hidden]
    rows = weight[ids].to(every.dtype)  # [item, slot, target, hidden]
    if slope is not None:
        rows = rows * slope.gather(2, ids)[..., None]
    gradients = torch.einsum("et,bt,bsth->ebsh", directions, factors, rows - mean.to(every.dtype)[:, :, None])
    return Readout(values, [hidden], [gradients])


def _read_through(
    module: nn.Module,
    run: Callable[[], Any],
    position: Tensor,
    target_ids: Tensor,
    directions: Tensor | None,
    logarithms: bool,
) -> Readout:
    """Like :func:`read_slots`, but with autograd through whatever follows ``module``."""
    seen: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        hidden: Tensor = args[0]
        seen.append(hidden[torch.arange(len(hidden), device=hidden.device)[:, None], position])
        return (seen[0].detach().requires_grad_(directions is not None),)

    with (
        module.register_forward_pre_hook(before),
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0])),
    ):
        logits: Tensor = run().logits
    hidden, leaf = seen
    exact = logits if logits.dtype == torch.float64 else logits.float()
    logs = exact.log_softmax(2).gather(2, target_ids.transpose(1, 2)).sum(1)
    values = logs if logarithms else logs.exp()
    if directions is None:
        return Readout(values, [hidden], [])
    # float16 underflows for the gradient of a probability of 1e-6, so each item is scaled to be near 1
    scale = 2.0 ** -values.detach().abs().amax(1).clamp_min(1e-30).log2().floor()
    sums = [((values @ direction) * scale).sum() for direction in directions]
    found = [torch.autograd.grad(s, leaf, retain_graph=s is not sums[-1])[0].to(values.dtype) for s in sums]
    return Readout(values.detach(), [hidden], [torch.stack(found) / scale[:, None, None]])


def backward(readout: Readout, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Return each direction's gradient with respect to each leaf of the graph, ``[direction, item, slot, hidden]``."""
    directions = len(readout.gradients[0])
    parts: list[list[Tensor]] = []
    for direction, starts in enumerate(zip(*readout.gradients, strict=True)):
        # float16 underflows for the gradient of a probability of 1e-6, so it is scaled to be near 1
        scale = 2.0 ** -torch.stack([start.abs().amax() for start in starts]).amax().clamp_min(1e-30).log2().floor()
        scaled = [(start * scale).to(hidden.dtype) for start, hidden in zip(starts, readout.hidden, strict=True)]
        kept = direction < directions - 1
        gradients = torch.autograd.grad(readout.hidden, leaves, scaled, retain_graph=kept)
        parts.append([gradient.to(scale.dtype) / scale for gradient in gradients])
    return [torch.stack(gradients) for gradients in zip(*parts, strict=True)]
