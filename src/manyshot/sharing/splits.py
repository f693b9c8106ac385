"""How options are split into two groups by how far apart they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

MOST = 16
"""Decisions of more options are not split: all their bipartitions could not be tried."""


def bipartition(apart: Tensor) -> tuple[tuple[int, ...], float]:
    """The two groups of options between which distances are largest in sum.

    Args:
        apart: distances (options, options), symmetric, of 2 to `MOST` options.

    Returns:
        The group, 0 or 1, of every option, 0 for the first; and the sum of the distances across as
        a share of the number of all pairs, so that decisions of other numbers of options compare.
    """
    distances: npt.NDArray[np.float64] = apart.numpy().astype(np.float64)
    count = len(distances)
    numbers = np.arange(1, 2 ** (count - 1))
    groups = np.zeros((len(numbers), count))
    groups[:, 1:] = (numbers[:, None] >> np.arange(count - 1)) & 1
    across = ((groups @ distances) * (1 - groups)).sum(1)
    best = int(across.argmax())
    return tuple(map(int, groups[best])), float(across[best]) / (count * (count - 1) / 2)
