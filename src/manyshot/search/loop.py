"""The loop of every search: how many architectures are asked for, and when it ends."""

from __future__ import annotations

from collections.abc import Iterator

from manyshot.search.searcher import Searcher
from manyshot.space import Arch


def generations(searcher: Searcher, candidates: int, size: int) -> Iterator[list[Arch]]:
    """Asks for generations of architectures; the caller scores and tells each before the next.

    Args:
        searcher: is asked.
        candidates: how many architectures in all.
        size: of a generation.

    Yields:
        Architectures to score. It ends early when the searcher has nothing left to propose.
    """
    asked = 0
    while asked < candidates:
        archs = searcher.ask(min(size, candidates - asked))
        if not archs:
            return
        asked += len(archs)
        yield archs
