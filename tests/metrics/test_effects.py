import pytest
import torch

from biaslab.errors import InputError
from biaslab.metrics.effects import NeuronEffects

NAMES = ["gender/bias", "gender/guard", "text"]


def batches(count: int = 5):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        effects = torch.randn(6, 2, 4, generator=generator)
        yield (effects, torch.tensor([0, 0, 0, 1, 1, 1]), 0) if number % 2 else (effects, torch.full((6,), 2), 7)


def filled(chosen) -> NeuronEffects:
    metric = NeuronEffects(NAMES, (2, 4))
    for batch in chosen:
        metric.update(*batch)
    return metric


def test_sums_of_a_contrast_and_mean_squares_of_text():
    metric, every = filled(batches()), list(batches())
    contrast = sum(effects.double().view(2, 3, 2, 4).sum(1) for effects, _, tokens in every if not tokens)
    squares = sum(effects.double().square().sum(0) for effects, _, tokens in every if tokens)
    torch.testing.assert_close(metric.effects("gender/bias"), contrast[0], atol=1e-11, rtol=0)
    torch.testing.assert_close(metric.effects("gender/guard"), contrast[1], atol=1e-11, rtol=0)
    torch.testing.assert_close(metric.effects("text"), squares / 21, atol=1e-11, rtol=0)


def test_any_order_and_any_parts_give_the_same_bits():
    every = list(batches())
    whole, parts = filled(every), NeuronEffects(NAMES, (2, 4))
    for chosen in (every[3:], every[:1], [], every[1:3]):
        parts.add_part({name: value.clone() for name, value in filled(chosen).part().items()})
    assert torch.equal(whole.compute(), parts.compute())
    assert torch.equal(whole.compute(), filled(reversed(every)).compute())
    parts.reset()
    assert not parts.part()["sums"].any()


def test_effects_that_are_not_finite_are_refused():
    effects = torch.zeros(1, 2, 4)
    effects[0, 1, 2] = torch.nan
    with pytest.raises(InputError, match="`effects` is expected to be finite"):
        NeuronEffects(NAMES, (2, 4)).update(effects, torch.zeros(1, dtype=torch.long))


def test_names_are_different():
    with pytest.raises(InputError, match="`quantities`"):
        NeuronEffects(["text", "text"], (2, 4))
