"""How long the parts of a run take, counted while they do, and on record beside its results."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from manyshot import records
from manyshot.progress import Advance, Progress
from manyshot.run_folder import RunPart, SecondsRecord

KEPT_S = 30.0
"""What is counted goes on record every so many seconds: a kill or an error loses no more."""


@final
class Clock:
    """Counts the seconds of parts, on top of those on record.

    A part inside another one counts for itself alone. What commands did again after a kill counts
    too: it is time that went by.
    """

    def __init__(
        self,
        file: Path | None = None,
        now: Callable[[], float] = time.perf_counter,
        begun: Mapping[RunPart, float] | None = None,
    ) -> None:
        """Begins with what is on record.

        Args:
            file: the record, which need not be there yet; without one nothing is written.
            now: tells the time in seconds.
            begun: seconds that were counted before there was a file, by part.

        Raises:
            RecordError: if the record is damaged.
        """
        self._file, self._now = file, now
        self._parts: list[RunPart] = []
        self._counted_at = self._kept_at = now()
        self.seconds: dict[RunPart, float] = {}
        if file is not None and file.exists():
            self.seconds |= records.load(file, SecondsRecord).seconds
        for name, spent in (begun or {}).items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    @contextlib.contextmanager
    def part(self, name: RunPart, log: Path | None = None) -> Iterator[None]:
        """Counts what the block takes for a part; it goes on record when the outermost ends.

        Args:
            name: the part.
            log: what the part appends to. If it does not grow, all was on record and was but read
                again, which does not count.
        """
        self._count()
        before, size, kept_at = dict(self.seconds), _size(log), self._kept_at
        self._parts.append(name)
        try:
            yield
        finally:
            self._count()
            self._parts.pop()
        if log is not None and _size(log) == size:
            self.seconds = before
            if self._kept_at == kept_at:
                return
        if not self._parts:
            self._keep()

    def watching(self, progress: Progress) -> Progress:
        """The same progress; while it moves, what is counted goes on record now and then."""
        return _Watching(self, progress)

    def tick(self) -> None:
        """Puts on record what is counted, if that is due."""
        if self._parts and self._now() - self._kept_at >= KEPT_S:
            self._count()
            self._keep()

    def _count(self) -> None:
        now = self._now()
        if self._parts:
            name = self._parts[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._counted_at
        self._counted_at = now

    def _keep(self) -> None:
        self._kept_at = self._now()
        if self._file is not None:
            seconds = {name: round(spent, 2) for name, spent in self.seconds.items()}
            records.write_json(self._file, SecondsRecord(seconds=seconds))


def _size(log: Path | None) -> int:
    return log.stat().st_size if log is not None and log.exists() else 0


@dataclass(frozen=True, slots=True)
class _Watching:
    """Progress that a clock ticks with."""

    clock: Clock
    progress: Progress

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Shows a stage (see `Progress.stage`)."""
        with self.progress.stage(name, total, done) as advance:

            def show(done: int, note: str) -> None:
                advance(done, note)
                self.clock.tick()

            yield show
