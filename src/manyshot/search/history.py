"""What was proposed and told: everything a searcher depends on besides its seed.

N counts the distinct architectures told, L the costs recorded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

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
        self._recorded = _Grown((len(self._costs),), np.float64)
        self._row: dict[Arch, int] = {}
        self._scores = _Grown((), np.float64)
        self._versions = _Grown((), np.int64)
        self._latest_version = 0
        self._asks = 0
        self._pending: set[Arch] = set()

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def scores(self) -> dict[Arch, float]:
        """The latest score of every architecture told, oldest architecture first."""
        return dict(zip(self.archs, self._scores.rows.tolist(), strict=True))

    @property
    def scores_N(self) -> npt.NDArray[np.float64]:
        """The latest scores, in the order of `archs`."""
        return self._scores.rows.copy()

    def was_told(self, arch: Arch) -> bool:
        """Whether `arch` has a score."""
        return arch in self._row

    def score(self, arch: Arch) -> float:
        """The latest score of an architecture that was told."""
        return float(self._scores.rows[self._row[arch]])

    @property
    def costs_NL(self) -> npt.NDArray[np.float64]:
        """The recorded costs, in the order of `archs`; not to be written to."""
        costs_NL = self._recorded.rows
        costs_NL.flags.writeable = False
        return costs_NL

    @property
    def fresh_N(self) -> npt.NDArray[np.bool_]:
        """Which scores have the weights version of the latest tell."""
        return self.fresh_of(np.arange(len(self)))

    def scores_of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """The latest scores of some rows."""
        return np.asarray(self._scores.rows[rows])

    def fresh_of(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Which scores of some rows have the weights version of the latest tell."""
        return np.asarray(self._versions.rows[rows] == self._latest_version)

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
        costs_LN = np.array([costs_of(cost, new, name) for name, cost in self._costs])
        self._recorded.extend(costs_LN.reshape(len(self._costs), len(new)).T)
        self._scores.extend(np.full(len(new), np.nan))
        self._versions.extend(np.full(len(new), weights_version))
        for arch in new:
            self._row[arch] = len(self.archs)
            self.archs.append(arch)
        for arch, number in zip(archs, numbers, strict=True):
            self._scores.rows[self._row[arch]] = number
            self._versions.rows[self._row[arch]] = weights_version
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
        self,
        rows: npt.NDArray[np.intp],
        most: int,
        costs_N: npt.NDArray[np.float64] | None = None,
    ) -> list[Arch]:
        """The best architectures of `rows`, best score first; ties by lower cost, then by tuple.

        Args:
            rows: of the history.
            most: how many are wanted at most, at least one.
            costs_N: the costs of all of the history; without them ties are by tuple.
        """
        archs, scores = self.archs, self._scores.rows
        costs = np.zeros(len(self)) if costs_N is None else costs_N
        if len(rows) > most:  # those that may be among the best, without sorting the others
            least = np.partition(scores[rows], -most)[-most]
            rows = rows[scores[rows] >= least]
        ranked = sorted(rows.tolist(), key=lambda i: (-scores[i], costs[i], archs[i]))
        return [archs[i] for i in ranked[:most]]


@final
class _Grown:
    """An array whose first axis grows at its end, so that what is appended alone is copied."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._room: npt.NDArray[Any] = np.empty((0, *shape), dtype)
        self._count = 0

    @property
    def rows(self) -> npt.NDArray[Any]:
        """What was appended; a view, of which single rows may be set."""
        return self._room[: self._count]

    def extend(self, rows: npt.NDArray[Any]) -> None:
        count = self._count + len(rows)
        if count > len(self._room):
            room = np.empty((2 * count, *self._room.shape[1:]), self._room.dtype)
            room[: self._count] = self.rows
            self._room = room
        self._room[self._count : count] = rows
        self._count = count
