import pytest
import torch

from biaslab.errors import InputError
from biaslab.quadrature import QUADRATURES, nodes_and_weights


@pytest.mark.parametrize("quadrature", QUADRATURES)
@pytest.mark.parametrize("steps", [2, 3, 20])
def test_weights_sum_to_one_and_constants_are_exact(quadrature, steps):
    nodes, weights = nodes_and_weights(quadrature, steps)
    assert nodes.shape == weights.shape == (steps,)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(nodes.min()) >= 0
    assert float(nodes.max()) <= 1


def test_gauss_legendre_is_exact_up_to_degree_2n_minus_1():
    nodes, weights = nodes_and_weights("gauss_legendre", 4)
    for degree in range(8):
        assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-14)
    assert abs(float((weights * nodes**8).sum()) - 1 / 9) > 1e-7


@pytest.mark.parametrize(
    ("quadrature", "expected"),
    [("riemann_left", 0.45), ("riemann_right", 0.55), ("riemann_middle", 0.5), ("trapezoid", 0.5)],
)
def test_simple_rules_on_a_line(quadrature, expected):
    nodes, weights = nodes_and_weights(quadrature, 10)
    assert float(torch.dot(nodes, weights)) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_bad_steps(steps):
    with pytest.raises(InputError, match="`steps` is expected to be a positive integer but got"):
        nodes_and_weights("gauss_legendre", steps)


def test_bad_rule():
    with pytest.raises(InputError, match="`quadrature` is expected to be one of"):
        nodes_and_weights("simpson", 4)
    with pytest.raises(InputError, match="at least 2"):
        nodes_and_weights("trapezoid", 1)
