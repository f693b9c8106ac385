"""What an architecture chooses, as sets that can be compared: N architectures, F options in all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from manyshot.space import Arch, SearchSpace


def held(space: SearchSpace, archs: Sequence[Arch]) -> npt.NDArray[np.int64]:
    """The chosen option of every decision, (N, decisions); -1 where the decision does not matter.

    Args:
        space: that of the architectures.
        archs: N canonical architectures.
    """
    rows = [
        [option if active else -1 for option, active in zip(arch, space.active(arch), strict=True)]
        for arch in archs
    ]
    return np.array(rows, dtype=np.int64).reshape(len(rows), len(space))


def chosen(space: SearchSpace, archs: Sequence[Arch]) -> npt.NDArray[np.bool_]:
    """Which (decision, option) pairs are in an architecture, (N, F); decisions that matter alone.

    Args:
        space: that of the architectures.
        archs: N canonical architectures.
    """
    options_ND = held(space, archs)
    columns = [options_ND[:, [i]] == np.arange(n) for i, n in enumerate(space.counts.tolist())]
    return np.concatenate(columns, axis=1)
