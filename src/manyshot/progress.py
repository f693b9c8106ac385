"""Progress on standard error: bars with rates and time left, or nothing."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol, final

from rich import progress as rich
from rich.console import Console
from rich.table import Column
from rich.text import Text

from manyshot.watching import watched

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
class Rate(rich.ProgressColumn):
    """How many units a second are done, of those that were not done before the stage began."""

    def render(self, task: rich.Task) -> Text:
        """The rate; a question mark until it is measured."""
        speed = task.finished_speed or task.speed
        return Text("?/s" if speed is None else f"{speed:{',.0f' if speed >= 1000 else '.3g'}}/s")


@final
class Bars:
    """Shows a bar per stage with rate and time left; off a terminal, a plain line now and then.

    In a notebook a bar moves where ipywidgets is installed, which rich draws it with.
    """

    def __init__(self, every_s: float = 30.0) -> None:
        """Makes bars; off a terminal, `every_s` seconds pass between two plain lines."""
        self._console, self._every_s = Console(stderr=True), every_s

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Shows a stage until the block ends (see `Progress.stage`)."""
        is_live = self._console.is_terminal or _has_widgets(self._console)
        columns = (
            rich.TextColumn("{task.description:<8}", markup=False),
            *((rich.BarColumn(bar_width=16),) if is_live else ()),
            rich.MofNCompleteColumn(),
            Rate(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("gone"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("left"),
            rich.TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
        )
        progress = rich.Progress(
            *columns,
            console=self._console,
            expand=True,  # so that the note is what is cut where there is no room
            speed_estimate_period=math.inf,  # a unit may take minutes
        )
        task_id = progress.add_task(name, total=total, completed=done, note="")
        progress.advance(task_id, 0)  # rates count from here
        [task] = progress.tasks
        printed = time.monotonic()

        def advance(done: int, note: str) -> None:
            nonlocal printed
            progress.update(task_id, completed=done, note=note)
            is_due = done >= total or time.monotonic() - printed >= self._every_s
            if is_due and not is_live:
                printed = time.monotonic()
                cells = (column(task) for column in columns)
                self._console.print(*cells, highlight=False, soft_wrap=True)

        with progress if is_live else contextlib.nullcontext():
            try:
                yield advance
            finally:
                if is_live:
                    progress.refresh()  # in a notebook rich leaves the bar as it was a moment ago


def _has_widgets(console: Console) -> bool:
    """Whether what is shown is in a notebook, and can be shown anew there."""
    return console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None


@contextlib.contextmanager
def showing(progress: Progress) -> Iterator[None]:
    """Inside the block, work that tells how far it is (`manyshot.watching`) is a stage each."""
    advances: dict[str, Advance] = {}
    with contextlib.ExitStack() as stages:

        def show(what: str, done: int, total: int) -> None:
            if what not in advances:
                advances[what] = stages.enter_context(progress.stage(what, total))
            advances[what](done, "")

        with watched(show):
            yield
