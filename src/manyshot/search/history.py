"""What was proposed and told: everything a searcher depends on besides its seed.

N counts the distinct architectures told, L the costs recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.search.limit import Cost, costs_of
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace


@final
class History:
    """Scores of distinct architectures, in the order of their first tell.

    Attributes:
        space: the space they belong to.
        archs: the architectures told, oldest first; a later tell does not make one younger.
        told: how many scores were told, repeated ones counted.
    """

    def __init__(self, space: SearchSpace, costs: Mapping[str, Cost] | None = None) -> None:
        """An empty history that records `costs` (by name) of every architecture told."""
        self.space = space
        self.archs: list[Arch] = []
        self.told = 0
        self._costs = tuple((costs or {}).items())
        self._recorded: tuple[list[float], ...] = tuple([] for _ in self._costs)
        self._row: dict[Arch, int] = {}
        self._scores: list[float] = []
        self._versions: list[int] = []
        self._latest_version = 0
        self._asks = 0
        self._pending: set[Arch] = set()

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def scores(self) -> dict[Arch, float]:
        """The latest score of every architecture told, oldest architecture first."""
        return dict(zip(self.archs, self._scores, strict=True))

    @property
    def scores_N(self) -> npt.NDArray[np.float64]:
        """The latest scores, in the order of `archs`."""
        return np.array(self._scores, dtype=np.float64)

    @property
    def costs_NL(self) -> npt.NDArray[np.float64]:
        """The recorded costs, in the order of `archs`."""
        return np.array(self._recorded, dtype=np.float64).reshape(len(self._costs), len(self)).T

    @property
    def fresh_N(self) -> npt.NDArray[np.bool_]:
        """Which scores have the weights version of the latest tell."""
        return np.asarray(np.array(self._versions, dtype=np.int64) == self._latest_version)

    def generator(self, seed: int) -> np.random.Generator:
        """The random stream of the next ask: fixed by the seed, what was told, and asks since."""
        return numpy_rng(seed, "proposals", self.told, self._asks)

    def propose(self, archs: Sequence[Arch]) -> list[Arch]:
        """Notes that `archs` are out for scoring, and returns them."""
        self._asks += 1
        self._pending.update(archs)
        return list(archs)

    def pending(self, arch: Arch) -> bool:
        """Whether `arch` was proposed since the latest tell."""
        return arch in self._pending

    def seen(self, arch: Arch) -> bool:
        """Whether `arch` was told, or proposed since the latest tell."""
        return arch in self._row or arch in self._pending

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores (see `Searcher.tell`). Telling nothing changes nothing.

        Args:
            archs: canonical architectures.
            scores: one finite number each.
            weights_version: which supernet weights they were scored with.

        Raises:
            ValueError: for lists of unequal length, an architecture that is not canonical, or a
                score that is not finite; then nothing is recorded.
        """
        archs, numbers = [tuple(arch) for arch in archs], [float(score) for score in scores]
        self._check(archs, numbers)
        if not archs:
            return
        new = [arch for arch in dict.fromkeys(archs) if arch not in self._row]
        recorded = [costs_of(cost, new, name).tolist() for name, cost in self._costs]
        for column, values in zip(self._recorded, recorded, strict=True):
            column.extend(values)
        for arch in new:
            self._row[arch] = len(self.archs)
            self.archs.append(arch)
            self._scores.append(math.nan)
            self._versions.append(weights_version)
        for arch, number in zip(archs, numbers, strict=True):
            self._scores[self._row[arch]] = number
            self._versions[self._row[arch]] = weights_version
        self.told += len(archs)
        self._latest_version = weights_version
        self._asks = 0
        self._pending.clear()

    def _check(self, archs: Sequence[Arch], scores: Sequence[float]) -> None:
        if len(archs) != len(scores):
            raise ValueError(f"told {len(archs)} architectures and {len(scores)} scores")
        for arch, score in zip(archs, scores, strict=True):
            canonical = self.space.canonical(arch)
            if arch != canonical:
                raise ValueError(
                    f"architecture {self.space.to_text(arch)} is an alias of "
                    f"{self.space.to_text(canonical)}; score and tell space.canonical(arch)"
                )
            if not math.isfinite(score):
                raise ValueError(
                    f"score {score} of architecture {self.space.to_text(arch)} is not finite; "
                    "tell a failed evaluation as the worst score possible, such as -1e9"
                )

    def ranked(
        self, rows: npt.NDArray[np.intp], costs_N: npt.NDArray[np.float64] | None = None
    ) -> list[Arch]:
        """The architectures of `rows`, best score first; ties by lower cost, then by tuple."""
        archs, scores = self.archs, self._scores
        costs = np.zeros(len(self)) if costs_N is None else costs_N
        return [archs[i] for i in sorted(rows, key=lambda i: (-scores[i], costs[i], archs[i]))]
