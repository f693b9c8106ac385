"""Sparse codes: the LASSO by FISTA, to the last bits of its support."""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 20_000
"""Iterations after which there is an error."""
OFTEN = 20
"""After so many iterations it is looked whether the support is that of the solution."""
FALL = 0.5
"""The penalty comes down by this factor, since each solution is near the next."""
TOLERANCE = 1e-6
"""By which share of the penalty the conditions may be missed."""


def sparse_code(dictionary: Tensor, target: Tensor, penalty: float) -> Tensor:
    """The z that minimises |A z - b|^2 / 2 + penalty |z|_1, exact where it is not zero.

    Beck & Teboulle 2009, FISTA (doi:10.1137/080716542), begun anew where momentum points uphill
    (O'Donoghue & Candes 2015, doi:10.1007/s10208-013-9150-3). The penalty comes down from that at
    which the code is zero. Now and then the linear equations of
    the present support and signs are solved; where their solution keeps the signs and satisfies
    the conditions elsewhere (see `violation`), it is that of the problem.

    Args:
        dictionary: A, (m, n).
        target: b, (m,).
        penalty: above zero.

    Raises:
        RuntimeError: if that takes too many iterations.
    """
    a, b = dictionary.double(), target.double()
    z = a.new_zeros(a.shape[1])
    larger = float((a.T @ b).abs().max())  # at which the code is zero
    while larger > penalty:
        larger = max(penalty, FALL * larger)
        z = _descend(a, b, z, larger)
    return z


def _descend(a: Tensor, b: Tensor, z: Tensor, penalty: float) -> Tensor:
    """The solution at a penalty, from that at a larger one."""
    step = 1 / float(torch.linalg.matrix_norm(a, 2)) ** 2
    ahead, momentum = z, 1.0
    for iteration in range(1, MOST + 1):
        point = ahead - step * (a.T @ (a @ ahead - b))
        after = point.sign() * (point.abs() - step * penalty).clamp(min=0)
        if float((ahead - after) @ (after - z)) > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = after + (momentum - 1) / following * (after - z)
        z, momentum = after, following
        if iteration % OFTEN == 0:
            solved = _solved(a, b, z, penalty)
            if solved is not None:
                return solved
    raise RuntimeError(
        f"no sparse code after {MOST:,} iterations, of a target of norm {float(b.norm()):.3g} at "
        f"penalty {penalty:g}: take a larger penalty"
    )


def violation(dictionary: Tensor, target: Tensor, code: Tensor, penalty: float) -> float:
    """By how much a code misses the conditions of a solution (Karush, Kuhn and Tucker).

    With r = A^T (b - A z) they are r_i = penalty sign(z_i) where z_i is not zero, and
    |r_i| <= penalty elsewhere.
    """
    correlation = dictionary.T @ (target - dictionary @ code)
    on = code != 0
    inside = (correlation - penalty * code.sign())[on].abs()
    outside = (correlation[~on].abs() - penalty).clamp(min=0)
    return float(torch.cat([inside, outside]).max())


def _solved(a: Tensor, b: Tensor, z: Tensor, penalty: float) -> Tensor | None:
    """The solution, if its support and signs are those of `z`."""
    on = z != 0
    exact = torch.zeros_like(z)
    if on.any():
        some, signs = a[:, on], z[on].sign()
        if len(signs) > len(b):
            return None
        exact[on] = torch.linalg.lstsq(some.T @ some, some.T @ b - penalty * signs).solution
        if not torch.equal(exact[on].sign(), signs):
            return None
    return exact if violation(a, b, exact, penalty) <= TOLERANCE * penalty else None
