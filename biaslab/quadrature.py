"""Nodes and weights of quadrature rules on [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from biaslab.errors import InputError


def _gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def _riemann(shift: float) -> Callable[[int], tuple[Tensor, Tensor]]:
    def rule(steps: int) -> tuple[Tensor, Tensor]:
        nodes = (torch.arange(steps, dtype=torch.float64) + shift) / steps
        return nodes, torch.full_like(nodes, 1 / steps)

    return rule


def _trapezoid(steps: int) -> tuple[Tensor, Tensor]:
    if steps < 2:
        raise InputError(f"`steps` is expected to be at least 2 for the trapezoid rule but got {steps}.")
    weights = torch.full((steps,), 1 / (steps - 1), dtype=torch.float64)
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, steps, dtype=torch.float64), weights


QUADRATURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "gauss_legendre": _gauss_legendre,
    "riemann_left": _riemann(0.0),
    "riemann_middle": _riemann(0.5),
    "riemann_right": _riemann(1.0),
    "trapezoid": _trapezoid,
}


def nodes_and_weights(quadrature: str, steps: int) -> tuple[Tensor, Tensor]:
    """Return the rule's nodes and weights on [0, 1], each ``[steps]`` in float64; the weights sum to 1.

    Args:
        quadrature: "gauss_legendre" (exact up to degree 2·steps - 1), "riemann_left" (the released code's),
            "riemann_middle", "riemann_right" or "trapezoid".
        steps: number of nodes.

    Raises:
        InputError: for another name, or a number of steps that is not a positive integer.

    Example:
        >>> nodes_and_weights("riemann_left", 4)[0].tolist()
        [0.0, 0.25, 0.5, 0.75]
    """
    if quadrature not in QUADRATURES:
        raise InputError(f"`quadrature` is expected to be one of {', '.join(QUADRATURES)} but got {quadrature!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` is expected to be a positive integer but got {steps!r}.")
    return QUADRATURES[quadrature](steps)
