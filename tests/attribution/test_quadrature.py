import pytest
import torch

from biaslab.attribution.quadrature import QUADRATURES, interpolate, nodes_and_weights, signed_weights, weights_up_to
from biaslab.errors import InputError


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


@pytest.mark.parametrize("steps", [3, 5, 9, 129])
def test_clenshaw_curtis_is_nested_and_exact_up_to_degree_n_minus_1(steps):
    nodes, weights = nodes_and_weights("clenshaw_curtis", steps)
    finer, _ = nodes_and_weights("clenshaw_curtis", 2 * steps - 1)
    assert torch.equal(finer[::2], nodes)
    assert nodes[0] == 0
    assert nodes[-1] == 1
    for degree in range(min(steps, 12)):
        assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-13)
    assert float(weights.min()) > 0


@pytest.mark.parametrize("quadrature", ["gauss_legendre", "clenshaw_curtis"])
def test_weights_up_to_an_end_integrate_polynomials(quadrature):
    nodes, _ = nodes_and_weights(quadrature, 7)
    ends = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    weights = weights_up_to(nodes, ends)
    for degree in range(7):
        torch.testing.assert_close(weights @ nodes**degree, ends ** (degree + 1) / (degree + 1), atol=1e-13, rtol=0)


def test_interpolation_is_exact_for_polynomials_and_at_the_points():
    points, _ = nodes_and_weights("clenshaw_curtis", 6)
    values = torch.stack([points**5 - points, 2 - points**3])
    at = torch.tensor([0.37, float(points[2])], dtype=torch.float64)
    expected = torch.stack([at[0] ** 5 - at[0], 2 - at[1] ** 3])
    torch.testing.assert_close(interpolate(points, values, at), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("quadrature", "steps"), [("gauss_legendre", 24), ("clenshaw_curtis", 33)])
def test_signed_weights_against_a_fine_grid(quadrature, steps):
    """Functions with no, one and several roots, and one that is zero everywhere."""
    nodes, weights = nodes_and_weights(quadrature, steps)
    inner = nodes[(nodes > 0) & (nodes < 1)]
    points = torch.cat([inner.new_zeros(1), inner, inner.new_ones(1)])
    functions = [lambda x: x + 1, lambda x: x - 0.3, lambda x: torch.sin(9 * x) - 0.2, lambda x: 0 * x, lambda x: -x]
    signed = signed_weights(nodes, points, torch.stack([f(points) for f in functions]))
    fine = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    for row, function in zip(signed, functions, strict=True):
        expected = (function(fine).sign() * torch.exp(fine)).mean()
        assert float(row @ torch.exp(nodes)) == pytest.approx(float(expected), abs=1e-5)
    torch.testing.assert_close(signed[0], weights, atol=1e-14, rtol=0)


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
        nodes_and_weights("unknown", 4)
    with pytest.raises(InputError, match="at least 2"):
        nodes_and_weights("trapezoid", 1)
