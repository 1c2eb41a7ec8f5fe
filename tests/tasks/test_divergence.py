import math

import pytest
import torch

from biaslab.tasks.baselines.autodebias import DIVERGENCES, jensen_shannon, reversed_jensen_shannon


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p‖q) by its definition."""
    return (p * (p.log() - q.log())).sum(-1)


def oracle(name: str, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2 if name == "jensen_shannon" else (kl(m, p) + kl(m, q)) / 2


def logits(scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    p, q = torch.randn(2, 64, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return p, q


@pytest.mark.parametrize("scale", [0.1, 1, 5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_equals_the_definition(name, scale):
    p, q = (x.softmax(-1) for x in logits(scale))
    torch.testing.assert_close(DIVERGENCES[name](p.log(), q.log()), oracle(name, p, q), rtol=1e-9, atol=1e-13)
    single = DIVERGENCES[name](p.log().float(), q.log().float())
    torch.testing.assert_close(single.double(), oracle(name, p, q), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_zero_for_equal_distributions_and_symmetric(name):
    p, q = (x.float().log_softmax(-1) for x in logits(3))
    assert (DIVERGENCES[name](p, p) == 0).all()
    torch.testing.assert_close(DIVERGENCES[name](p, q), DIVERGENCES[name](q, p))
    assert (DIVERGENCES[name](p, q) > 0).all()


def test_jensen_shannon_is_at_most_log_two():
    for scale in (1, 10, 100, 1000):  # probabilities below what float32 holds, too
        p, q = (x.float().log_softmax(-1) for x in logits(scale))
        assert (jensen_shannon(p, q) <= math.log(2) * (1 + 1e-5)).all()
    apart = torch.tensor([[0.0, -300.0], [-300.0, 0.0]])
    assert float(jensen_shannon(*apart)) == pytest.approx(math.log(2))
    assert float(reversed_jensen_shannon(*apart)) == pytest.approx(150 - math.log(2))


def test_close_distributions_keep_their_digits():
    p = logits(1)[0].log_softmax(-1)
    step = torch.linspace(-1, 1, 30, dtype=torch.float64) * 1e-6
    q = (p + step).log_softmax(-1)
    variance = (p.exp() * (q - p) ** 2).sum(-1)  # both forms are an eighth of it, in the limit
    for divergence in DIVERGENCES.values():
        torch.testing.assert_close(divergence(p, q), variance / 8, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_gradient(name):
    p, q = (x[:2, :5].clone().requires_grad_() for x in logits(1))
    assert torch.autograd.gradcheck(lambda a, b: DIVERGENCES[name](a.log_softmax(-1), b.log_softmax(-1)), (p, q))
    (gradient,) = torch.autograd.grad(DIVERGENCES[name](p.log_softmax(-1), p.detach().log_softmax(-1)).sum(), p)
    assert gradient.abs().max() < 1e-12
