r"""First-order effects of suppressing neurons at all positions, and their importance for ordinary text (Fisher).

Suppression multiplies a neuron n by a factor at every position. Its first-order effect on a sum L of log-probabilities
is the derivative with respect to that factor, at 1:

.. math:: e(n) = \sum_{positions} a_n \, \partial L / \partial a_n

One forward and one backward pass give the effects of all neurons of all layers for a whole batch.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.models.architectures import by_token, ffn_modules, ffn_shape, without_cache


class Asked(NamedTuple):
    """Sequences, and queries for the log-probabilities of tokens at positions in them.

    Attributes:
        input_ids: token ids without padding, ``[sequence, token]``.
        row: the sequence of each query, ``[query]``.
        position: position of the mask token, or of a causal model's last token before the target, ``[query]``.
        target_ids: the token whose log-probability is asked for, ``[query]``.
    """

    input_ids: Tensor
    row: Tensor
    position: Tensor
    target_ids: Tensor


def first_order_effects(
    model: PreTrainedModel, asked: Asked, weights: Tensor, origin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Compute the first-order effect of scaling each neuron, at all positions, on weighted sums of log-probabilities.

    .. math:: e(n) = \partial \sum_q weight_q \log P(token_q) / \partial factor_n, \quad factor_n = 1

    To first order, suppression (factor 0) changes the sum by -e(n), and doubling by +e(n).

    Args:
        model: a masked or causal language model of a supported architecture.
        asked: sequences and queries.
        weights: weight of each query in each sum, ``[sum, query]``; each sum costs one backward pass.
        origin: value that factor 0 sets a neuron to, ``[layer, neuron]``, such as its mean over ordinary text; 0 by
            default.

    Returns:
        Effects in nats, ``[sum, sequence, layer, neuron]``, and the queries' log-probabilities in nats, ``[query]``;
        both float32, or float64 for a float64 model.

    Raises:
        InputError: if an argument has the wrong shape.

    Reference:
        Molchanov et al. 2019 (for a loss, and squared).
    """
    _check(asked, weights)
    kind = torch.promote_types(model.dtype, torch.float32)
    size, (_, width) = len(asked.input_ids), ffn_shape(model)
    modules = ffn_modules(model)
    leaves = [torch.ones(size, 1, width, dtype=kind, device=model.device, requires_grad=True) for _ in modules]
    zeros = torch.zeros(1, width, dtype=kind).expand(len(modules), -1) if origin is None else origin.to(kind)

    def multiplied(leaf: Tensor, zero: Tensor) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            there, base = leaf.to(args[0].device), zero.to(args[0].device)
            scaled = base + (by_token(args[0], size) - base) * there
            return scaled.to(args[0].dtype).view_as(args[0]), *args[1:]

        return hook

    with ExitStack() as stack, torch.enable_grad():
        for module, leaf, zero in zip(modules, leaves, zeros, strict=True):
            stack.enter_context(module.register_forward_pre_hook(multiplied(leaf, zero)))
        logs = log_probabilities(model, asked)
        sums = (weights.to(logs) * logs).sum(1)
        gradients = [
            torch.autograd.grad(each, leaves, retain_graph=number < len(sums) - 1) for number, each in enumerate(sums)
        ]
    return torch.stack([torch.cat(of_sum, 1) for of_sum in gradients]), logs.detach()


def log_probabilities(model: PreTrainedModel, asked: Asked) -> Tensor:
    """Return the log-probability of each query's token in nats, ``[query]``.

    Each position is projected to the vocabulary once, however many queries it has.
    """
    length = asked.input_ids.shape[1]
    places, index = torch.unique(asked.row * length + asked.position, return_inverse=True)

    def gather(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        return (args[0].flatten(0, 1)[places][None],)

    with model.get_output_embeddings().register_forward_pre_hook(gather):
        logits: Tensor = model(input_ids=asked.input_ids, **without_cache(model)).logits
    kind = torch.promote_types(logits.dtype, torch.float32)
    return logits[0].to(kind).log_softmax(-1)[index, asked.target_ids]


def _check(asked: Asked, weights: Tensor) -> None:
    queries = len(asked.row)
    for name, tensor in asked._asdict().items():
        wanted = 2 if name == "input_ids" else 1
        if tensor.ndim != wanted or (wanted == 1 and len(tensor) != queries):
            expected = "[sequence, token]" if wanted == 2 else f"[query] = [{queries}]"
            raise InputError(f"`{name}` is expected to be of shape {expected} but got {list(tensor.shape)}.")
    if weights.ndim != 2 or weights.shape[1] != queries:
        raise InputError(f"`weights` is expected to be of shape [sum, {queries}] but got {list(weights.shape)}.")


@torch.no_grad()
def mean_activations(model: PreTrainedModel, batches: Iterable[Tensor]) -> Tensor:
    """Return each neuron's mean activation over all tokens, float64 on the CPU, ``[layer, neuron]``.

    ``batches`` are token ids without padding, ``[sequence, token]``.
    """
    total, tokens = torch.zeros(ffn_shape(model), dtype=torch.float64), 0

    def add(layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        total[layer] += args[0].float().sum(tuple(range(args[0].ndim - 1))).cpu().double()

    with ExitStack() as stack:
        for layer, module in enumerate(ffn_modules(model)):
            stack.enter_context(module.register_forward_pre_hook(partial(add, layer)))
        for input_ids in batches:
            model.base_model(input_ids=input_ids.to(model.device), **without_cache(model))
            tokens += input_ids.numel()
    return total / max(1, tokens)


def squared_effects(
    model: PreTrainedModel, asked: Asked, signs: Tensor | None = None, origin: Tensor | None = None
) -> Tensor:
    r"""Return the sum of the queries' squared effects, in nats², float64 on the CPU, ``[layer, neuron]``.

    .. math:: \sum_q e_q(n)^2

    If a sequence has several queries, their effects are added with random ``signs`` (1 or -1, ``[query]``) before
    squaring. The cross terms vanish in expectation over the signs, so one backward pass serves a whole sequence. With
    one query per sequence no signs are needed, and the sum is exact.

    Raises:
        InputError: as :func:`first_order_effects`, or if signs are needed but not given.
    """
    if signs is None:
        if len(asked.row.unique()) < len(asked.row):
            raise InputError(
                "`signs` is expected to hold 1 or -1 for each query, since a sequence has several, but is None."
            )
        signs = torch.ones(len(asked.row))
    effects, _ = first_order_effects(model, asked, signs[None], origin)
    return effects[0].cpu().double().square().sum(0)


def fisher_information(
    model: PreTrainedModel, batches: Iterable[tuple[Asked, Tensor | None]], origin: Tensor | None = None
) -> Tensor:
    r"""Compute the diagonal of the empirical Fisher information on ordinary text, in nats², float64.

    .. math:: F(n) = mean_t ( \sum_{positions} a_n \, \partial \log P(t) / \partial a_n )^2

    ½·F(n) estimates, to second order, by how many nats per token the negative log-likelihood rises if neuron n is
    suppressed at all positions; see :func:`predicted_rise`.

    Args:
        model: a masked or causal language model of a supported architecture.
        batches: sequences with queries for the tokens t, each with its signs; see :func:`squared_effects`.
        origin: value that suppression sets a neuron to, ``[layer, neuron]``; 0 by default. a_n is the distance from it.

    Returns:
        F(n), ``[layer, neuron]``.

    Raises:
        InputError: as :func:`squared_effects`.

    Reference:
        Theis et al. 2018; Molchanov et al. 2019.
    """
    total, tokens = torch.zeros(ffn_shape(model), dtype=torch.float64), 0
    for asked, signs in batches:
        total += squared_effects(model, asked, signs, origin)
        tokens += len(asked.row)
    return total / max(1, tokens)


def predicted_rise(fisher: Tensor, neurons: Iterable[tuple[int, int]], factor: float = 0.0) -> float:
    """Predict the rise of the negative log-likelihood if neurons are multiplied by a factor, in nats per token.

    A second-order estimate that ignores interactions between neurons: ½·(1 - factor)²·ΣF.

    Args:
        fisher: Fisher information from :func:`fisher_information`, ``[layer, neuron]``.
        neurons: (layer, index) pairs.
        factor: what the neurons are multiplied by.

    >>> predicted_rise(torch.tensor([[0.25, 0.5]]), [(0, 0), (0, 1)], factor=0.5)
    0.09375
    """
    return 0.5 * (1 - factor) ** 2 * sum(float(fisher[layer, index]) for layer, index in neurons)
