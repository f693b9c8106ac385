"""Filling a proposal with distinct, canonical, new architectures within limits, on a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

import numpy as np

from manyshot.search.limit import Infeasible, Limit, within
from manyshot.search.reach import ATTEMPTS, reach
from manyshot.space import Arch, SearchSpace

_BATCH = 64
"""The least number of draws whose costs are computed in one call."""

CHILD_ATTEMPTS = 10
"""Children bred per one wanted before a random network takes its place."""

_ENUMERABLE = 20_000
"""A space of at most so many encodings is listed once as many were drawn in vain."""


@final
class Draft:
    """One proposal in the making.

    Attributes:
        archs: the architectures accepted so far.
    """

    def __init__(self, space: SearchSpace, refuse: Callable[[Arch], bool], attempts: int) -> None:
        """Makes an empty proposal.

        Args:
            space: where architectures come from.
            refuse: tells which canonical architectures must not be proposed.
            attempts: random draws allowed per architecture wanted.
        """
        self.archs: list[Arch] = []
        self._space, self._refuse, self._attempts = space, refuse, attempts
        self._small = space.size <= _ENUMERABLE
        self._accepted: set[Arch] = set()

    def free(self, arch: Arch) -> bool:
        """Whether a canonical architecture may be accepted, whatever the limits say."""
        return arch not in self._accepted and not self._refuse(arch)

    def take(self, archs: Iterable[Arch], want: int, limits: Sequence[Limit]) -> list[Arch]:
        """Accepts up to `want` of `archs`, which are canonical, as far as they are new and legal.

        Args:
            archs: are looked at a few at a time, since computing a cost may take long.
            want: how many are wanted.
            limits: all must hold.
        """
        added: list[Arch] = []
        new = filter(self.free, archs)
        while len(added) < want and (some := list(itertools.islice(new, _BATCH))):
            self._accept(self._within(some, limits), want, added)
        return added

    def breed(
        self,
        child: Callable[[], Arch],
        want: int,
        limits: Sequence[Limit],
        attempts: int = CHILD_ATTEMPTS,
    ) -> list[Arch]:
        """Accepts up to `want` of the networks that `child` draws.

        Args:
            child: draws an encoding.
            want: how many are wanted.
            limits: all must hold.
            attempts: draws allowed per architecture wanted.

        Returns:
            The accepted architectures.
        """
        added: list[Arch] = []
        for size in self._batches(want, added, attempts):
            children = (self._space.canonical(child()) for _ in range(size))
            self._accept(self._within(filter(self.free, children), limits), want, added)
        return added

    def sample(
        self,
        rng: np.random.Generator,
        want: int,
        limits: Sequence[Limit],
        told: Callable[[], Sequence[Arch]] = tuple,
    ) -> list[Arch]:
        """Accepts up to `want` random networks.

        They are uniform over networks within the limits: a uniform encoding counts only if it is
        its network's representative. What that fails to find, a small space gives from the list of
        all that is left. A large one gives the representatives of other encodings drawn (small
        networks may have very many aliases), then what random walks from the smallest and those
        told find; if neither is within the limits, from what `reach` finds.

        Args:
            rng: the random stream.
            want: how many are wanted.
            limits: all must hold.
            told: gives the architectures that were told before and are within the limits; it is
                called only where walks begin from them, for they may be very many.

        Returns:
            The accepted architectures.

        Raises:
            Infeasible: if nothing within the limits was found, and nothing was told.
        """
        added: list[Arch] = []
        spare: dict[Arch, None] = {}
        drawn = met = 0
        for size in self._batches(want, added):
            encodings = [self._space.sample(rng) for _ in range(size)]
            networks = [self._space.canonical(arch) for arch in encodings]
            legal = set(self._within(networks, limits))
            drawn, met = drawn + size, met + len(legal)
            self._accept((a for a in encodings if a in legal), want, added)
            spare.update(dict.fromkeys(a for a in networks if a in legal))
        if len(added) < want and self._small:
            met += self._list(rng, want, limits, added)
        elif len(added) < want:
            met += self._walk(rng, want, limits, told, spare, added)
        if want and not met:
            raise self._infeasible(drawn, limits)
        return added

    def _list(
        self, rng: np.random.Generator, want: int, limits: Sequence[Limit], added: list[Arch]
    ) -> int:
        """Accepts from all networks within the limits; returns how many there are."""
        legal = self._within(map(self._space.canonical, self._space.enumerate()), limits)
        self._accept((legal[i] for i in rng.permutation(len(legal))), want, added)
        return len(legal)

    def _walk(
        self,
        rng: np.random.Generator,
        want: int,
        limits: Sequence[Limit],
        told: Callable[[], Sequence[Arch]],
        spare: Iterable[Arch],
        added: list[Arch],
    ) -> int:
        """Accepts from `spare`, then mutants of mutants; returns how many, with those told."""
        self._accept(spare, want, added)
        space, smallest = self._space, [self._space.canonical(self._space.smallest)]
        self._accept(self._within(smallest, limits), want, added)
        pool = list(dict.fromkeys([*told(), *self._within([*smallest, *self.archs], limits)]))
        if not pool:
            nearest = reach(space, limits, rng)
            pool = [] if nearest is None else [space.canonical(nearest)]
            self._accept(pool, want, added)
        met = set(pool)
        for size in self._batches(want, added) if pool else ():
            starts = [pool[i] for i in rng.integers(len(pool), size=size)]
            mutants = (space.canonical(space.mutate(a, rng, 1 / len(space))) for a in starts)
            legal = self._within((a for a in mutants if a not in met), limits)
            pool += legal
            met.update(legal)
            self._accept(legal, want, added)
        return len(pool)

    @staticmethod
    def _within(archs: Iterable[Arch], limits: Sequence[Limit]) -> list[Arch]:
        """The distinct ones of `archs` that satisfy `limits`."""
        distinct = list(dict.fromkeys(archs))
        return list(itertools.compress(distinct, within(distinct, limits)))

    def _batches(
        self, want: int, added: Sequence[Arch], attempts: int | None = None
    ) -> Iterator[int]:
        """The numbers of draws to make until `want` are in `added`, or all attempts are made."""
        left = want * (attempts or self._attempts)
        if self._small:
            left = min(left, self._space.size)
        while left > 0 and len(added) < want:
            size = min(left, max(_BATCH, 2 * (want - len(added))))
            left -= size
            yield size

    def _accept(self, archs: Iterable[Arch], want: int, added: list[Arch]) -> None:
        for arch in archs:
            if len(added) == want:
                return
            if self.free(arch):
                self._accepted.add(arch)
                self.archs.append(arch)
                added.append(arch)

    def _infeasible(self, drawn: int, limits: Sequence[Limit]) -> Infeasible:
        smallest = self._space.canonical(self._space.smallest)
        costs = ", ".join(f"{limit.costs([smallest])[0]:,g} ({limit.name})" for limit in limits)
        way_out = f" or the searcher's option 'attempts' (now {self._attempts:,} per architecture)"
        more = " (nor any other)" if self._small else f" and {ATTEMPTS:,} bred towards it"
        return Infeasible(
            f"0 of {drawn:,} sampled architectures{more} met "
            f"{' and '.join(limit.name for limit in limits)}; the smallest architecture, "
            f"{self._space.to_text(smallest)}, costs {costs}: raise the limit"
            f"{'' if self._small else way_out}"
        )


def in_turn(
    n: int, budgets: int, rng: np.random.Generator, propose: Callable[[int, int], list[Arch]]
) -> list[Arch]:
    """Up to `n` architectures proposed for the budgets in turn, starting at a random one.

    Args:
        n: how many are wanted.
        budgets: how many budgets there are.
        rng: the random stream.
        propose: `propose(budget, want)` gives up to `want` architectures for that budget.

    Returns:
        The proposals, alternating between budgets. A budget that cannot fill its share leaves the
        rest to the others.
    """
    start = int(rng.integers(budgets))
    order = [(start + i) % budgets for i in range(budgets)]
    groups = [propose(budget, len(range(i, n, budgets))) for i, budget in enumerate(order)]
    for group, budget in zip(groups, order, strict=True):
        missing = n - sum(map(len, groups))
        group.extend(propose(budget, missing) if missing else [])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return [arch for arch in turns if arch is not None]
