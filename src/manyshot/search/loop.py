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

    Args:
        searcher: is to be asked.
        candidates: how many architectures in all.
        size: of a generation.
    """
    return _told_at_random(searcher, size) < candidates


def why_random(searcher: LearnsFromScores, candidates: int, size: int, section: str = "") -> str:
    """What to say of a search that never `learns`, with the ways out.

    Args:
        searcher: is to be asked.
        candidates: how many architectures in all.
        size: of a generation.
        section: what stands before the keys in a recipe; nothing for the arguments of `find`.
    """
    start, told, last = searcher.random_start, _told_at_random(searcher, size), candidates - 1
    option = getattr(searcher, "random_start_option", "")
    ways = [f"raise {section}candidates above {told}"]
    if start < candidates:
        sizes = f"{start} to {last}" if start < last else f"{last}"
        ways.append(f"set {section}generation to {sizes}")
    elif option:
        ways.append(f"lower {section}options.{option}")
    ways.append(f"or set {f'{section}name' if section else 'searcher'} = 'random'")
    return (
        f"{section}candidates = {candidates} are all drawn at random, because the searcher only "
        f"learns from scores after the first {start}, with {section}generation = {size} after "
        f"{told}: {', '.join(ways)}"
    )


def _told_at_random(searcher: LearnsFromScores, size: int) -> int:
    """How many are told before a proposal depends on a score: whole generations are."""
    return math.ceil(searcher.random_start / size) * size


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
