"""Progress on standard error: bars with rates and time left, or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, final

Advance = Callable[[int, str], None]
"""`advance(done, note)`: so many units are done in all, and a short note to show beside the bar."""


class Progress(Protocol):
    """Shows how far a stage has come."""

    def stage(
        self, name: str, total: int, done: int = 0
    ) -> contextlib.AbstractContextManager[Advance]:
        """A stage of `total` units, `done` of them before it starts."""
        ...


@final
class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A stage nobody watches."""
        yield lambda done, note: None


@final
class Bars:
    """A bar per stage with rate and time left; plain lines now and then if not on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # slow to import, and only the command line needs it

        self._console = Console(stderr=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Shows a bar until the block ends."""
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description:<9}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("{task.fields[note]}"),
        )
        with rich.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total, completed=done, rate="", note="")

            def advance(done: int, note: str) -> None:
                speed = bars.tasks[task].speed
                rate = f"{speed:.1f}/s" if speed else ""
                bars.update(task, completed=done, rate=rate, note=note)

            yield advance
