"""Filling a proposal with distinct, canonical, new architectures within limits, on a budget."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import final

import numpy as np

from manyshot.search.limit import Infeasible, Limit, within
from manyshot.space import Arch, SearchSpace

_BATCH = 64
"""At least so many draws have their costs computed in one call."""

_ENUMERABLE = 20_000
"""Up to this many encodings, a space whose draws ran out is searched exhaustively instead."""


@final
class Draft:
    """One proposal in the making.

    Attributes:
        archs: the architectures accepted so far.
    """

    def __init__(self, space: SearchSpace, refuse: Callable[[Arch], bool], attempts: int) -> None:
        """An empty proposal.

        Args:
            space: where architectures come from.
            refuse: tells which canonical architectures must not be proposed.
            attempts: draws allowed per architecture wanted.
        """
        self.archs: list[Arch] = []
        self._space, self._refuse, self._attempts = space, refuse, attempts
        self._accepted: set[Arch] = set()

    def breed(self, child: Callable[[], Arch], want: int, limits: Sequence[Limit]) -> list[Arch]:
        """Accepts up to `want` of the networks that `child` draws; returns the accepted."""
        added: list[Arch] = []
        for size in self._batches(want, added):
            children = (self._space.canonical(child()) for _ in range(size))
            new = [arch for arch in dict.fromkeys(children) if self._free(arch)]
            legal = itertools.compress(new, within(new, limits))
            self._accept(legal, want, added)
        return added

    def sample(
        self, rng: np.random.Generator, want: int, limits: Sequence[Limit], known: bool = False
    ) -> list[Arch]:
        """Accepts up to `want` random networks; returns the accepted.

        Uniform over distinct networks within the limits: a uniform encoding counts only if it is
        its network's representative. Where that leaves too few (in deeply nested spaces, small
        networks have very many aliases) the representatives of the other encodings follow, and in
        a small space, whatever is left.

        Args:
            rng: the random stream.
            want: how many.
            limits: all must hold.
            known: whether an architecture within the limits is known already.

        Raises:
            Infeasible: if no draw met the limits and nothing within them is known.
        """
        added: list[Arch] = []
        spare: dict[Arch, None] = {}
        drawn = met = 0
        for size in self._batches(want, added):
            encodings = [self._space.sample(rng) for _ in range(size)]
            networks = [self._space.canonical(arch) for arch in encodings]
            distinct = list(dict.fromkeys(networks))
            legal = set(itertools.compress(distinct, within(distinct, limits)))
            drawn, met = drawn + size, met + sum(arch in legal for arch in networks)
            pairs = [
                (e, arch) for e, arch in zip(encodings, networks, strict=True) if arch in legal
            ]
            self._accept((arch for e, arch in pairs if e == arch), want, added)
            spare.update(dict.fromkeys(arch for e, arch in pairs if e != arch))
        self._accept(spare, want, added)
        if len(added) < want and self._space.size <= _ENUMERABLE:
            rest = self._rest(rng, limits)
            met += len(rest)
            self._accept(rest, want, added)
        if want and not met and not known and not within(self.archs, limits).any():
            raise self._infeasible(drawn, limits)
        return added

    def _batches(self, want: int, added: Sequence[Arch]) -> Iterator[int]:
        left = want * self._attempts
        while left > 0 and len(added) < want:
            size = min(left, max(_BATCH, 2 * (want - len(added))))
            left -= size
            yield size

    def _free(self, arch: Arch) -> bool:
        return arch not in self._accepted and not self._refuse(arch)

    def _accept(self, archs: Iterable[Arch], want: int, added: list[Arch]) -> None:
        for arch in archs:
            if len(added) == want:
                return
            if self._free(arch):
                self._accepted.add(arch)
                self.archs.append(arch)
                added.append(arch)

    def _rest(self, rng: np.random.Generator, limits: Sequence[Limit]) -> list[Arch]:
        networks = list(dict.fromkeys(map(self._space.canonical, self._space.enumerate())))
        rows = np.flatnonzero(within(networks, limits))
        return [networks[i] for i in rng.permutation(rows)]

    def _infeasible(self, drawn: int, limits: Sequence[Limit]) -> Infeasible:
        smallest = self._space.canonical(self._space.smallest)
        costs = ", ".join(f"{limit.costs([smallest])[0]:,g} ({limit.name})" for limit in limits)
        return Infeasible(
            f"0 of {drawn:,} sampled architectures met {' and '.join(x.name for x in limits)}; the "
            f"smallest architecture, {self._space.to_text(smallest)}, costs {costs}: raise the "
            f"limit, or the searcher's option 'attempts' (now {self._attempts:,} per architecture)"
        )


def in_turn(
    n: int, budgets: int, rng: np.random.Generator, propose: Callable[[int, int], list[Arch]]
) -> list[Arch]:
    """Up to `n` architectures proposed for the budgets in turn, starting at a random one.

    Args:
        n: how many.
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
