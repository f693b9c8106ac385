"""One copy split in two, again and again, by the decisions that gradients choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manyshot.space import Arch, Decision, SearchSpace

MOST = 16
"""Decisions of more options are not split: all their bipartitions could not be tried."""


@final
class GradientSplits(nn.Module):
    """Which slice a path uses after splits by gradients; what was chosen is saved with the weights.

    Reference: Gradient matching (Hu et al. 2022, arXiv:2203.15207). That the options of a decision
    are split by the gradients they give is the paper's; that log2(K) decisions are chosen at once,
    and by what, is ours.

    Attributes:
        candidates: the decisions that may be split, of 2 to `MOST` options.
    """

    def __init__(self, space: SearchSpace, copies: int) -> None:
        """Begins without a split.

        Args:
            space: the search space.
            copies: K, a power of two: there are log2(K) splits.

        Raises:
            ValueError: if the space has not so many candidates.
        """
        super().__init__()
        self._space = space
        self.candidates = [d for d in space.decisions if 2 <= len(d.options) <= MOST]
        splits = copies.bit_length() - 1
        if len(self.candidates) < splits:
            raise ValueError(
                f"KShot: copies = {copies} is {splits} splits, and {len(self.candidates)} "
                f"decisions have 2 to {MOST} options: lower copies to {2 ** len(self.candidates)}"
            )
        most = max((len(decision.options) for decision in self.candidates), default=0)
        self.register_buffer("table", torch.full((splits, 1 + most), -1))

    def split_by(self, apart: Mapping[Decision, Tensor]) -> None:
        """Splits by the decisions whose options fall into the groups that are furthest apart.

        Args:
            apart: by candidate, the distances between its options.
        """
        table, index = cast(Tensor, self.table), self._space.index
        best = {decision: bipartition(distances) for decision, distances in apart.items()}
        ranked = sorted(best, key=lambda d: (-best[d][1], index[d]))
        table.fill_(-1)
        for row, decision in zip(table, ranked, strict=False):
            row[0] = index[decision]
            row[1 : 1 + len(decision.options)] = torch.tensor(best[decision][0])

    def chosen(self) -> list[tuple[Decision, tuple[int, ...]]]:
        """The decisions that are split, each with the group, 0 or 1, of every option; or none."""
        rows = [row for row in cast(Tensor, self.table).tolist() if row[0] >= 0]
        decisions = [self._space.decisions[row[0]] for row in rows]
        return [
            (decision, tuple(row[1 : 1 + len(decision.options)]))
            for decision, row in zip(decisions, rows, strict=True)
        ]

    def slice_of(self, arch: Arch) -> int:
        """The slice that a canonical architecture uses: its groups as a binary number."""
        index = self._space.index
        chosen = enumerate(self.chosen())
        return sum(groups[arch[index[decision]]] << bit for bit, (decision, groups) in chosen)


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
