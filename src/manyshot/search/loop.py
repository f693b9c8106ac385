"""The loop of every search: how many architectures are asked for, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

from manyshot.search.searcher import Searcher
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
        ValueError: if the searcher proposes what is no architecture of the space.
    """
    asked = 0
    while asked < candidates:
        proposed = searcher.ask(min(size, candidates - asked))
        archs = space.check_proposed(proposed, f"searcher {type(searcher).__name__}")
        if not archs:
            return
        asked += len(archs)
        yield archs
