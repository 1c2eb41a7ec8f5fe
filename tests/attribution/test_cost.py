"""The benchmark's formula against a count of what really ran."""

from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from conftest import CAUSAL, MASKED, make_model
from torch.utils.flop_counter import FlopCounterMode

from biaslab.attribution.gaps import attribute_gaps
from biaslab.attribution.integration import TokenBudget

spec = spec_from_file_location("cost", Path(__file__).parents[2] / "benchmarks" / "cost.py")
assert spec is not None
assert spec.loader is not None
cost = module_from_spec(spec)
spec.loader.exec_module(cost)


class _NoModules(nullcontext):
    """In place of the counter's tracker of modules, whose hooks do not bear autograd.grad to a module's own input."""

    parents = frozenset({"Global"})


@pytest.mark.parametrize("model_type", MASKED + CAUSAL)
@pytest.mark.parametrize(("steps", "targets", "slots"), [(3, 2, 1), (5, 4, 1), (3, 2, 2)])
def test_count_is_near_what_runs(model_type, steps, targets, slots):
    """From below: of a last layer, of which there is one in three here, the engine multiplies more than is needed."""
    model = make_model(model_type, vocab_size=400)
    if model_type != "mpnet":  # which has one attention only; the counter does not know the fused one of the CPU
        model.set_attn_implementation("eager")
    ids = torch.randint(5, 100, (3, 16), generator=torch.Generator().manual_seed(0))
    position = (torch.full((3, 1), 5 if model_type in MASKED else 16 - slots) + torch.arange(slots)).squeeze(1)
    target_ids = torch.arange(5, 5 + targets)[:, None].expand(3, -1, slots).squeeze(2)
    pairs = torch.combinations(torch.arange(targets))
    attribute_gaps(model, ids, position, target_ids, pairs)  # the first time, the engine proves itself
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        attribute_gaps(
            model, ids, position, target_ids, pairs,
            steps=steps, quadrature="clenshaw_curtis", gap="signed", budget=TokenBudget(10**6),
        )  # fmt: skip
    counted = cost.attribution_flops(cost.sizes(model), 3, 16, steps, targets - 1, len(pairs), slots=slots)
    assert 0.65 * counter.get_total_flops() < counted < 1.02 * counter.get_total_flops()
