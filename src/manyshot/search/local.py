"""Local search: climb from the best of random networks, neighbour by neighbour; then again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal, final

from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.history import History
from manyshot.search.limit import Limit, within
from manyshot.search.optioned import OptionedSearcher, SearcherOptions
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class LocalOptions(SearcherOptions):
    """The options of `LocalSearch`."""

    improvement: Literal["best", "first"] = "best"
    """When a climb moves: once all neighbours are told, to the best, or as soon as one is better
    (the default of the public code)."""

    starts: Positive = 1
    """A climb begins at the best of so many random networks (the public code: 10)."""

    parents: Positive = 10
    """How many of the best `elites` returns, for each limit."""


@final
class LocalSearch(OptionedSearcher[LocalOptions]):
    """Looks at all neighbours of where it is, and moves to a better one, until there is none.

    Neighbours differ from a canonical encoding in one decision, made canonical, and are looked at
    in a random order; those over a limit do not count. Where no neighbour is better a climb is
    over, and the next begins at the best of `starts` architectures that no climb has looked at. A
    proposal has the neighbours that are not told yet, and random networks if it is for more, which
    later climbs may begin at. What was told before is not proposed again: a climb looks its score
    up. With several limits there is a climb within each, and one history serves all. Climbs compare
    scores whatever the weights version they were told at.

    References: White, Nolen & Savani 2020, "Exploring the Loss Landscape in Neural Architecture
    Search" (arXiv:2005.02960); den Ottelander et al. 2020, "Local Search is a Remarkably Strong
    Baseline for Neural Architecture Search" (arXiv:2004.08996). The rule is that of the first one's
    public code (naszilla/naszilla, `local_search`); the papers were not read. Ours: limits,
    canonical encodings, random networks that fill a proposal, and climbs over what was told before,
    which the code steps around.
    """

    random_start_option, elites_option = "starts", "parents"

    def set_up(self) -> None:
        """Waits for an architecture to begin at, within each limit."""
        self._climbs = [
            _Climb(self.history, self.seed, each, self.options) for each in self.budgets.each
        ]

    def fill(self, portion: Portion) -> None:
        """Takes neighbours of where the climb is."""
        portion.take(self._climbs[portion.budget].around)
        portion.at_random = portion.missing

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        before = len(self.history)
        super().tell(archs, scores, weights_version)
        new = self.history.archs[before:]
        for climb, limits in zip(self._climbs, self.budgets.each, strict=True):
            climb.go_on(itertools.compress(new, within(new, limits)))


class _Climb:
    """Where the climb within a budget is: a function of what was told, group by group.

    Attributes:
        at: where it is, or None while it waits for an architecture to begin at.
        around: the neighbours of that within the limits, in the order in which they are looked at.
    """

    def __init__(
        self, history: History, seed: int, limits: Sequence[Limit], options: LocalOptions
    ) -> None:
        self.at: Arch | None = None
        self.around: list[Arch] = []
        self._history, self._seed, self._limits, self._options = history, seed, limits, options
        self._looked_at: set[Arch] = set()
        self._others: dict[Arch, None] = {}

    def go_on(self, new: Iterable[Arch]) -> None:
        """Moves as far as what was told says, `new` within the limits for the first time."""
        self._others |= dict.fromkeys(arch for arch in new if arch not in self._looked_at)
        while self._moves():
            pass

    def _moves(self) -> bool:
        """Makes one move, or returns False because it waits for scores."""
        score = self._history.score
        if self.at is None:
            if len(self._others) < self._options.starts:
                return False
            self._go_to(self._best(self._others))
            return True
        told = list(itertools.takewhile(self._history.was_told, self.around))
        better = [arch for arch in told if score(arch) > score(self.at)]
        if better and self._options.improvement == "first":
            self._go_to(better[0])
        elif len(told) < len(self.around):
            return False
        elif better:
            self._go_to(self._best(better))
        else:
            self.at, self.around = None, []
        return True

    def _best(self, archs: Iterable[Arch]) -> Arch:
        return min(archs, key=lambda arch: (-self._history.score(arch), arch))

    def _go_to(self, arch: Arch) -> None:
        space = self._history.space
        near = neighbours(space, arch)
        near = list(itertools.compress(near, within(near, self._limits)))
        order = numpy_rng(self._seed, "neighbours", *arch).permutation(len(near))
        self.at, self.around = arch, [near[i] for i in order]
        self._looked_at.update((arch, *near))
        for known in (arch, *near):
            self._others.pop(known, None)


def neighbours(space: SearchSpace, arch: Arch) -> list[Arch]:
    """The canonical encodings other than `arch` that changing one of its decisions gives."""
    inside = space.inside(arch)
    changed = (
        space.canonical((*inside[:i], option, *inside[i + 1 :]))
        for i, options in enumerate(space.allowed)
        for option in options
    )
    return [other for other in dict.fromkeys(changed) if other != arch]
