"""Telling how far slow work has come, from code that knows nothing of who shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Show = Callable[[str, int, int], None]
"""`show(what, done, total)` says how many units of a piece of work are done, and of how many."""

_show: ContextVar[Show | None] = ContextVar("show", default=None)


@contextlib.contextmanager
def watched(show: Show) -> Iterator[None]:
    """Inside the block, `show` is told of what is done in this thread."""
    token = _show.set(show)
    try:
        yield
    finally:
        _show.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """Tells whoever watches how far a piece of work is.

    Args:
        what: a word or a few, such as "images".
        done: how many units are done.
        total: how many there are.
    """
    show = _show.get()
    if show is not None:
        show(what, done, total)
