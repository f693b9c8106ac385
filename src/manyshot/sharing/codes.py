"""What can be said of codes and slices: distinctness, entropy, spread, sharing, distance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from manyshot.nn.inputs import together

Regulariser = Literal["target", "cos", "instance"]


def distinctness(codes: Tensor, widths: Tensor, kind: Regulariser = "target") -> Tensor:
    """How alike the codes of one architecture's width settings are; it is to be made small.

    That a term without parameters makes the codes of different widths distinct is K-shot NAS's
    (arXiv:2106.06442); its formula we did not see, these are ours. With G the cosines between the
    codes of the W settings, over i ≠ j:

    - `cos`: mean G_ij. Alone it drives codes to one-hot.
    - `target`: mean relu(G_ij - exp(-|w_i - w_j| / 0.5))²: distinct in proportion to the
      difference in width, of several widths the mean difference.
    - `instance`: cross-entropy of G / 0.1 against the identity (instance discrimination).

    Args:
        codes: (..., W, K).
        widths: (W,), each as a share of the largest; or (W, decisions) of several width decisions.
        kind: `cos`, `target` or `instance`.

    Returns:
        A scalar, the mean over leading dimensions; 0 for one setting.

    Raises:
        ValueError: for an unknown kind.
    """
    if kind not in get_args(Regulariser):
        raise ValueError(f"distinctness: kind must be one of {get_args(Regulariser)}, got {kind!r}")
    if len(widths) < 2:
        return codes.sum() * 0  # nothing to tell apart
    unit = F.normalize(codes, dim=-1)
    cosines = unit @ unit.mT
    count = len(widths)
    if kind == "cos":
        return _off_diagonal(cosines).mean()
    if kind == "target":
        by_decision = widths.reshape(count, -1)
        apart = (by_decision[:, None] - by_decision[None, :]).abs().mean(-1)
        allowed = torch.exp(-apart / 0.5).to(cosines)
        return _off_diagonal((cosines - allowed).relu().square()).mean()
    targets = torch.arange(count, device=codes.device).expand(cosines.shape[:-1])
    return F.cross_entropy((cosines / 0.1).flatten(0, -2), targets.flatten())


def _off_diagonal(squares: Tensor) -> Tensor:
    """The entries (..., W (W - 1)) of matrices (..., W, W) off their diagonals, row by row.

    Behind the first entry of a flat matrix they come in runs of W, each followed by one of the
    diagonal. A mask would pick the same, but of it a device has to be asked how many it picks.
    """
    count = squares.shape[-1]
    behind = squares.flatten(-2)[..., 1:]
    runs = behind.reshape(*behind.shape[:-1], count - 1, count + 1)
    return runs[..., :-1].flatten(-2)


def entropy(codes: Tensor) -> float:
    """The mean entropy of codes (..., K) as a share of the largest, log K: 1 uniform, 0 one-hot."""
    copies = codes.shape[-1]
    if copies == 1:
        return 0.0
    return float(torch.special.entr(codes).sum(-1).mean()) / math.log(copies)


def spread(codes: Tensor) -> float:
    """The mean standard deviation of the entries of codes (B, ..., K) over the B architectures."""
    return float(codes.std(0, correction=0).mean())


def effective_sharing(codes: Tensor) -> float:
    """How much paths share: the mean λ_a·λ_b / ‖λ_a‖² over ordered pairs of different rows.

    It is how far a compensated step of plain SGD on path a moves the weights of path b, in units
    of how far it moves those of a, where both use the same tensors. It is 1 for equal codes, as
    with one copy, and 0 for codes that have no slice in common. Of several rows of a code the mean
    is taken.

    Args:
        codes: (B, K) or (B, rows, K), of B architectures.
    """
    count = len(codes)
    if count < 2:
        return 1.0
    unit = codes / codes.square().sum(-1, keepdim=True)
    pairs = (unit.sum(0) * codes.sum(0)).sum(-1) - (unit * codes).sum(-1).sum(0)
    return float(pairs.mean()) / (count * (count - 1))


def slice_distance(stacks: Iterable[Tensor]) -> float:
    """How far apart the slices of stacks (K, ...) are: 0 for equal slices.

    It is the root mean square distance between two different slices, over the root mean square norm
    of a slice, all stacks taken as one vector; √2 for independent ones of mean zero.
    """
    sums: list[Tensor] = []
    copies = 1
    for stack in stacks:
        copies = len(stack)
        flat = stack.detach().reshape(copies, -1)
        sums += [(flat - flat.mean(0)).square().sum(), flat.square().sum()]
    values = [float(value) for value in together(sums, torch.device("cpu"))]
    apart, norms = sum(values[::2]), sum(values[1::2])
    if copies == 1 or norms == 0:
        return 0.0
    return math.sqrt(2 * apart / (copies - 1) / (norms / copies))
