"""Progress on standard error: bars with rates and time left, or nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol, final

Advance = Callable[[int, str], None]
"""`advance(done, note)` says how many units are done in all, and a note to show beside the bar."""


class Progress(Protocol):
    """Shows how far a stage has come."""

    def stage(
        self, name: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Advance]:
        """A context that shows a stage; it gives the function that says how far the stage is.

        Args:
            name: what is done.
            total: how many units the stage has.
            done: how many of them were done before it starts.
        """
        ...


@final
class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A stage that nobody watches (see `Progress.stage`)."""
        yield lambda done, note: None


@final
class Bars:
    """Shows a bar per stage with rate and time left; off a terminal, a plain line now and then."""

    def __init__(self, every_s: float = 30.0) -> None:
        """Makes bars; off a terminal, `every_s` seconds pass between two plain lines."""
        from rich.console import Console  # slow to import, and only the command line needs it

        self._console, self._every = Console(stderr=True), every_s

    def stage(
        self, name: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Advance]:
        """Shows a stage until the block ends (see `Progress.stage`)."""
        if self._console.is_terminal:
            return self._bar(name, total, done)
        return self._lines(name, total, done)

    @contextlib.contextmanager
    def _bar(self, name: str, total: int, done: int) -> Iterator[Advance]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description:<8}"),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[pace]}"),
        )
        pace = _Pace(total, done)
        with rich.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total, completed=done, pace="")

            def advance(done: int, note: str) -> None:
                bars.update(task, completed=done, pace=f"{pace.text(done)}  {note}")

            yield advance

    @contextlib.contextmanager
    def _lines(self, name: str, total: int, done: int) -> Iterator[Advance]:
        pace, printed = _Pace(total, done), time.monotonic()

        def advance(done: int, note: str) -> None:
            nonlocal printed
            if done >= total or time.monotonic() - printed >= self._every:
                printed = time.monotonic()
                line = f"{name:<8} {done}/{total}  {pace.text(done)}  {note}"
                self._console.print(line, highlight=False, soft_wrap=True)

        yield advance


class _Pace:
    """The rate and the time left, from what was done since the stage began."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.first, self.began = total, done, time.monotonic()

    def text(self, done: int) -> str:
        """A text such as `"12.3/s, 0:45 gone, 1:10 left"`."""
        gone = time.monotonic() - self.began
        rate = (done - self.first) / gone if gone > 0 else 0.0
        left = _clock((self.total - done) / rate) if rate > 0 else "?"
        return f"{rate:.3g}/s, {_clock(gone)} gone, {left} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
