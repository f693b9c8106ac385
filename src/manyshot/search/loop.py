"""The loop of every search: how many architectures are asked for, what they are, when it ends."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from manyshot.search.searcher import LearnsFromScores, Searcher
from manyshot.space import Arch, SearchSpace


def generations(
    searcher: Searcher, candidates: int, size: int, space: SearchSpace
) -> Iterator[list[Arch]]:
    """Asks for generations of architectures; the caller scores and tells each before the next.

    Args:
        searcher: is asked.
        candidates: how many architectures in all.
        size: of a generation.
        space: what is searched, which may be a view.

    Yields:
        Architectures to score. It ends early when the searcher has nothing left to propose.

    Raises:
        ValueError: if a proposal is for more than was asked for, or holds what is no canonical
            architecture of the space, or one twice.
    """
    asked = 0
    while asked < candidates:
        want = min(size, candidates - asked)
        archs = _checked(searcher.ask(want), want, f"searcher {type(searcher).__name__}", space)
        if not archs:
            return
        asked += len(archs)
        yield archs


def learns(searcher: LearnsFromScores, candidates: int, size: int) -> bool:
    """Whether a proposal of a search by `generations` ever depends on a score.

    The first that can is made once `random_start` architectures were told, of whole generations.

    Args:
        searcher: is to be asked.
        candidates: how many architectures in all.
        size: of a generation.
    """
    told = math.ceil(searcher.random_start / size) * size
    return told < candidates


def _checked(proposed: Iterable[Arch], want: int, who: str, space: SearchSpace) -> list[Arch]:
    """A proposal that keeps the contract of `Searcher.ask`.

    Two encodings of one network would be trained, scored and told as two networks, and a winner
    that is not canonical would not be known to truths and ranks, which hold canonical ones alone.
    """
    archs = space.check_proposed(proposed, who)
    if len(archs) > want:
        raise ValueError(f"{who} proposed {len(archs)} architectures, asked for {want} at most")
    for arch in archs:
        canonical = space.canonical(arch)
        if arch != canonical:
            raise ValueError(
                f"{who} proposed architecture {arch}, an alias of {canonical}: propose "
                "space.canonical(arch), each network once"
            )
    for arch, times in Counter(archs).items():
        if times > 1:
            raise ValueError(
                f"{who} proposed architecture {arch} {times} times at once: the {len(archs)} of a "
                "proposal have to be distinct, fewer where no more are left"
            )
    return archs
