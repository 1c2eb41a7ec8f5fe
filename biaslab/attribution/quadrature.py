"""Nodes and weights of quadrature rules on [0, 1], including integrands that change sign within the interval."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from biaslab.errors import InputError, require_ranges

Steps = int | Literal["auto"]
FEWEST_NODES, MOST_NODES = 3, 129  # of steps="auto"
_KINK = 0.1  # share of the tolerance allowed, with fixed steps, for an integral that is split where the gap is zero
_BISECTIONS = 40


def _gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    nodes, weights = legendre.leggauss(steps)  # on [-1, 1]
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def _clenshaw_curtis(steps: int) -> tuple[Tensor, Tensor]:
    nodes = (1 - torch.cos(math.pi * torch.arange(steps, dtype=torch.float64) / (steps - 1))) / 2
    nodes[steps // 2 :] = 1 - nodes[: steps - steps // 2].flip(0)  # exactly symmetric: the middle is 0.5
    return nodes, weights_up_to(nodes, torch.ones(1, dtype=torch.float64))[0]


def _riemann(shift: float, steps: int) -> tuple[Tensor, Tensor]:
    nodes = (torch.arange(steps, dtype=torch.float64) + shift) / steps
    return nodes, torch.full_like(nodes, 1 / steps)


def _trapezoid(steps: int) -> tuple[Tensor, Tensor]:
    weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, steps, dtype=torch.float64), weights


QUADRATURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "gauss_legendre": _gauss_legendre,
    "clenshaw_curtis": _clenshaw_curtis,
    "riemann_left": partial(_riemann, 0.0),
    "riemann_middle": partial(_riemann, 0.5),
    "riemann_right": partial(_riemann, 1.0),
    "trapezoid": _trapezoid,
}
_WITH_ENDS = {"clenshaw_curtis": "Clenshaw-Curtis", "trapezoid": "trapezoid"}  # rules whose nodes include 0 and 1
INTERPOLATORY = ("gauss_legendre", "clenshaw_curtis")  # rules whose interpolating polynomial is near the integrand


def nodes_and_weights(quadrature: str, steps: int) -> tuple[Tensor, Tensor]:
    """Return the nodes and weights of a quadrature rule on [0, 1].

    Args:
        quadrature: "gauss_legendre" (exact for polynomials up to degree 2·steps - 1), "clenshaw_curtis" (up to
            steps - 1; its nodes include 0 and 1, and are among those of the rule with 2·steps - 1 steps),
            "riemann_left" (used by the authors' released code), "riemann_middle", "riemann_right" or "trapezoid".
        steps: number of nodes.

    Returns:
        Nodes and weights, each ``[steps]`` in float64. The weights sum to 1.

    Raises:
        InputError: if the name is unknown, or ``steps`` is not a positive integer.

    >>> nodes_and_weights("riemann_left", 4)[0].tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    if quadrature not in QUADRATURES:
        raise InputError(f"`quadrature` is expected to be one of {', '.join(QUADRATURES)} but got {quadrature!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` is expected to be a positive integer but got {steps!r}.")
    require_ranges({"steps": steps})
    if steps < 2 and quadrature in _WITH_ENDS:
        raise InputError(f"`steps` is expected to be at least 2 for the {_WITH_ENDS[quadrature]} rule but got {steps}.")
    return QUADRATURES[quadrature](steps)


def weights_up_to(nodes: Tensor, ends: Tensor) -> Tensor:
    """Return weights that integrate the interpolating polynomial from 0 to each of several end points.

    Args:
        nodes: nodes in [0, 1], clustered towards the ends as those of a Gauss rule, ``[node]``, float64.
        ends: upper ends in [0, 1], ``[end]``, float64.

    Returns:
        Weights, ``[end, node]``, float64.

    >>> weights_up_to(torch.tensor([0.0, 1.0]).double(), torch.tensor([0.5, 1.0]).double())
    tensor([[0.3750, 0.1250],
            [0.5000, 0.5000]], dtype=torch.float64)
    """
    count = len(nodes)
    basis = np.linalg.inv(legendre.legvander(2 * nodes.numpy() - 1, count - 1))  # [degree, node]
    integrals = legendre.legval(2 * ends.numpy() - 1, legendre.legint(np.eye(count), lbnd=-1)).T / 2  # [end, degree]
    return torch.from_numpy(integrals @ basis)


def interpolate(points: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Evaluate interpolating polynomials, each at its own point, with the second barycentric formula.

    Args:
        points: distinct interpolation points, ``[point]``.
        values: values of the polynomials there, ``[polynomial, point]``.
        at: where to evaluate each polynomial, ``[polynomial]``.

    Returns:
        ``[polynomial]``.

    >>> points = torch.tensor([0.0, 0.5, 1.0]).double()
    >>> interpolate(points, (points**2)[None], torch.tensor([0.25]).double())
    tensor([0.0625], dtype=torch.float64)
    """
    differences = points[:, None] - points
    differences.fill_diagonal_(1)
    weights = 1 / (differences * 4).prod(1)  # many points on [0, 1] are 1/4 apart in the geometric mean
    distance = at[:, None] - points
    hit = distance == 0
    shares = torch.where(hit.any(1, keepdim=True), hit.to(values), weights / distance.where(~hit, 1.0))
    return (shares * values).sum(1) / shares.sum(1)


def signed_weights(nodes: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """Return weights that integrate sign(v(α))·g(α) from 0 to 1 for each function v, given g at the nodes.

    Between two points where v has opposite signs, the interval is split at the root of the interpolating polynomial of
    v; on each side the interpolating polynomial of g is integrated. A kink of |v| therefore needs no extra nodes.

    Args:
        nodes: nodes of an interpolatory rule, ``[node]``, float64.
        points: points from 0 to 1 in ascending order, ``[point]``, float64.
        values: values of v at the points, ``[function, point]``, float64.

    Returns:
        Weights, ``[function, node]``, float64.

    >>> nodes, _ = nodes_and_weights("gauss_legendre", 3)
    >>> points = torch.tensor([0.0, 1.0]).double()
    >>> weights = signed_weights(nodes, points, torch.tensor([[-0.25, 0.75], [0.5, 1.0]]).double())
    >>> weights.sum(1)  # of g = 1: 3/4 - 1/4, and 1
    tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    function, interval = (values[:, 1:] * values[:, :-1] < 0).nonzero(as_tuple=True)  # one entry per root, ascending
    low, high = points[interval], points[interval + 1]
    at_low = values[function, interval]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        before = interpolate(points, values[function], middle) * at_low > 0
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    # Start with the sign of the last non-zero value; going left, each root flips it.
    ends = weights_up_to(nodes, torch.cat([low, points[-1:]]))  # [root + 1, node]
    sign_after = torch.sign(values[function, interval + 1])[:, None]
    last = values.gather(1, (values != 0).int().cumsum(1).argmax(1, keepdim=True)).sign()  # [function, 1]
    return (last * ends[-1]).index_add(0, function, -2 * sign_after * ends[:-1])


class Rule(NamedTuple):
    """A quadrature rule and its tolerance.

    Attributes:
        quadrature: name of the rule.
        nodes: nodes in [0, 1], ``[node]``, float64 on the CPU.
        weights: weights of the nodes, ``[node]``, float64 on the CPU.
        tolerance: the largest residual that needs no finer rule, relative to a layer's L1 norm.
        adaptive: whether the tolerance applies to all integrals, or only to those split where the gap is zero.
    """

    quadrature: str
    nodes: Tensor
    weights: Tensor
    tolerance: float
    adaptive: bool

    def finer(self) -> Rule:
        """Return a finer rule; that of an adaptive rule is nested (every other node is an old one)."""
        steps = 2 * len(self.nodes) - 1 if self.adaptive else FEWEST_NODES
        while steps <= len(self.nodes):
            steps = 2 * steps - 1
        return Rule("clenshaw_curtis", *nodes_and_weights("clenshaw_curtis", steps), self.tolerance, adaptive=True)

    def weights_of(self, gaps: Tensor, at_zero: Tensor, at_one: Tensor, absolute: bool) -> Tensor:
        """Return the weights for given gaps, in their dtype and on their device.

        Args:
            gaps: gaps at the nodes, ``[path, pair, node]``.
            at_zero: gaps at α = 0, ``[path, pair]``.
            at_one: gaps at α = 1, ``[path, pair]``.
            absolute: multiply the weights by the sign of the gap along the path.

        Returns:
            ``[path, pair, node]``.
        """
        weights = self.weights.to(gaps.dtype).to(gaps.device).expand_as(gaps)  # not every device supports float64
        if not absolute or self.quadrature not in INTERPOLATORY:
            return weights * gaps.sign() if absolute else weights
        inner = (self.nodes > 0) & (self.nodes < 1)
        points = torch.cat([self.nodes.new_zeros(1), self.nodes[inner], self.nodes.new_ones(1)])
        values = torch.cat([at_zero[..., None], gaps[..., inner.to(gaps.device)], at_one[..., None]], -1)
        weights = signed_weights(self.nodes, points, values.flatten(0, 1).cpu().double())
        return weights.to(gaps.dtype).to(gaps.device).view_as(gaps)


def integration_rule(steps: Steps, quadrature: str = "gauss_legendre", tolerance: float = 0.01) -> Rule:
    """Return the rule for these arguments; see :func:`biaslab.attribution.gaps.integrated_gap_gradients`.

    Raises:
        InputError: if an argument is out of range.
    """
    if not 0 < tolerance < 1:
        raise InputError(f"`tolerance` is expected to be between 0 and 1 but got {tolerance}.")
    if steps == "auto":
        nodes = nodes_and_weights("clenshaw_curtis", FEWEST_NODES)
        return Rule("clenshaw_curtis", *nodes, tolerance, adaptive=True)
    return Rule(quadrature, *nodes_and_weights(quadrature, steps), _KINK * tolerance, adaptive=False)
