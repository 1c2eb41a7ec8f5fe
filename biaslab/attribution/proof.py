"""Self-check of the attribution engine on each model: a replayed path is compared with whole forward passes."""

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

# Largest errors observed: 4e-7 in float64 (norms in float32), and 4e-6, 6e-3 and 5e-2 in the other types for a model of
# 30 layers. A wrong replay has an error of 0.8.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
_ALPHA = 0.5
_log = logging.getLogger("biaslab")
_known: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], bool]] = WeakKeyDictionary()


class _Ways(NamedTuple):
    """A way to evaluate paths, and the fallback to report if its check fails."""

    keys: bool
    said: str


_WAYS = (
    _Ways(True, "Keys and values before the slot will not be reused (slower)."),
    _Ways(False, "Using whole forward passes instead (exact, but many times slower)."),
)


def paths_of(
    model: PreTrainedModel, inputs: Inputs, sums: Sums, budget: TokenBudget, with_one: bool, logarithms: bool
) -> Paths:
    """Return the paths of a batch, evaluated by the fastest method that agrees with whole passes on this model.

    Each method is checked once per model, attention implementation and dtype, for one slot and for several, with and
    without padding, on the first prompts it is used for. A warning is logged if a check fails.
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
                "Replay check failed for this %s: gradients differ from a full forward pass by %.0e (relative). %s",
                model.config.model_type,
                difference,
                said,
            )
    return known[way]


def replay_error(model: PreTrainedModel, inputs: Inputs, keys: bool) -> float:
    """Return the error of a replayed pass against a whole pass, with a layer's neurons at the slots halved.

    Checks the first target of two prompts: in the first layer for the first prompt, in the middle layer for the second.

    Args:
        model: a masked or causal language model of a supported architecture.
        inputs: prompts.
        keys: whether the keys and values before the slots are reused.

    Returns:
        The larger of two relative errors: of a log-probability's gradient (relative to the gradient's norm) and of the
        log-probability (relative to its magnitude plus 1 nat). Infinite if the replay fails or gives non-finite values.
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
