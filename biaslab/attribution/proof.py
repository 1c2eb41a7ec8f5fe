"""The engine proves itself on each model that it meets: a replayed path against whole forward passes."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.attribution.budget import TokenBudget, out_of_memory
from biaslab.attribution.paths import Paths, ReplayedPaths, Sums, WholePaths
from biaslab.attribution.replay import Inputs, reuses_keys
from biaslab.errors import InputError
from biaslab.models.architectures import architecture, ffn_shape

# Largest errors seen: 4e-7 in float64 (norms in float32), and of a model of 30 layers 4e-6, 6e-3 and 5e-2; of a wrong
# replay: 0.8.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
_ALPHA = 0.5
_log = logging.getLogger("biaslab")
_known: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


class _Ways(NamedTuple):
    """A way of the engine, and what is said where it fails."""

    keys: bool
    said: str


_WAYS = (
    _Ways(True, "Each pass computes all tokens; the keys and values before the slot are not reused."),
    _Ways(False, "Whole forward passes are run instead: exact, but many times slower."),
)


def paths_of(
    model: PreTrainedModel, inputs: Inputs, sums: Sums, budget: TokenBudget, with_one: bool, logarithms: bool
) -> Paths:
    """Return the paths of a batch, the fastest way that agrees with whole passes on this model.

    Each way is proven once a model, attention and dtype, for one slot and for several, with padding and without, on
    the first prompts that it meets. Where it fails, a line is logged.
    """
    for keys, said in _WAYS if architecture(model).replay else ():
        if (not keys or reuses_keys(model, inputs)) and _is_proven(model, inputs, keys, said):
            return ReplayedPaths(model, inputs, sums, budget, with_one, logarithms, keys)
    return WholePaths(model, inputs, sums, budget, logarithms)


def _is_proven(model: PreTrainedModel, inputs: Inputs, keys: bool, said: str) -> bool:
    known = _known.setdefault(model, {})
    shape = inputs.position.shape[1] > 1, inputs.attention_mask is not None
    way = keys, shape, model.config._attn_implementation, model.dtype
    if way not in known:
        difference = replay_error(model, inputs, keys)
        known[way] = difference <= TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
        if not known[way]:
            _log.warning(
                "A replayed pass of this %s differs from a whole one by %.0e of its gradients. %s",
                model.config.model_type,
                difference,
                said,
            )
    return known[way]


def replay_error(model: PreTrainedModel, inputs: Inputs, keys: bool) -> float:
    """Return by how much a replayed pass is off a whole one with a layer's neurons at the slots halved.

    Asked of the first target of two prompts: in the first layer of the first, and in the middle one of the second.

    Args:
        model: a masked or causal language model of the table.
        inputs: prompts.
        keys: whether the keys and values before the slots are reused.

    Returns:
        The largest difference of a log-probability's gradient, relative to the gradient's norm, or of the
        log-probability, relative to its size and 1 nat; infinite where the replay ends in an error, or in numbers that
        are not finite.
    """
    few = Inputs(*(None if part is None else part[:2] for part in inputs))  # type: ignore[arg-type]
    few = few._replace(target_ids=few.target_ids[:, :1])
    one, device = torch.ones(1, 1, dtype=torch.float64), few.input_ids.device
    layer = torch.tensor([0, ffn_shape(model)[0] // 2], device=device)
    row = torch.tensor([0, len(few.input_ids) - 1], device=device)
    alpha = torch.tensor([_ALPHA], dtype=torch.float64)
    sums, budget = Sums(one, one), TokenBudget()
    expected = WholePaths(model, few, sums, budget, logarithms=True).evaluate(row, layer, alpha)
    try:
        found = ReplayedPaths(model, few, sums, budget, False, True, keys).evaluate(row, layer, alpha)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
        if out_of_memory(error):
            raise
        return float("inf")
    return _difference(found, expected)


def _difference(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> float:
    (values, slopes), (whole_values, whole_slopes) = found, expected
    norms = whole_slopes.flatten(1).norm(dim=1)
    off = (slopes - whole_slopes).flatten(1).norm(dim=1) / norms.clamp_min(torch.finfo(norms.dtype).tiny)
    difference = torch.cat([off, ((values - whole_values) / (1 + whole_values.abs())).abs().flatten()])
    return float(difference.max()) if difference.isfinite().all() else float("inf")
