"""Independent tasks done in this process, in others of this machine, or through Ray in many."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, final

from manyshot.run_folder import TruthLine


@dataclass(frozen=True, slots=True)
class Task:
    """One architecture to train alone: all that it takes, so that any process can do it.

    Attributes:
        recipe: as TOML; its seed is not used.
        arch: the architecture as text.
        seed: of the training.
    """

    recipe: str
    arch: str
    seed: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that gave no record, and why."""

    task: Task
    why: str


Outcome = TruthLine | Failed
Work = Callable[[Task], Outcome]
"""A function of a module, which other processes import by name."""


class Workers(Protocol):
    """What does tasks."""

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What `work` makes of each task, as they finish, in any order.

        An exception of `work` ends the iteration; what has not begun is dropped.
        """
        ...


@final
class InProcess:
    """This process, one task after the other."""

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Workers`."""
        yield from map(work, tasks)


@final
class Processes:
    """So many new processes of this machine, each with its own threads.

    They end with this process, even if it is killed.
    """

    def __init__(self, count: int) -> None:
        """Makes none yet.

        Raises:
            ValueError: if `count` is below one.
        """
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        self.count = count

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Workers`.

        Raises:
            RuntimeError: if a process ends without an answer, as one killed for memory does.
        """
        if not tasks:
            return
        pool = concurrent.futures.ProcessPoolExecutor(
            self.count, multiprocessing.get_context("spawn"), _follow_parent
        )
        try:
            futures = [pool.submit(work, task) for task in tasks]
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {self.count} processes ended without an answer, perhaps for lack of "
                "memory; what is finished is on record: go on with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Ends this process when the one that made it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@final
class Ray:
    """The machines of a Ray cluster: that of `RAY_ADDRESS`, or one made here for the time.

    manyshot and the images must be on each of them, the images where the recipe says.
    """

    def __init__(self, count: int, cpus: int) -> None:
        """`count` tasks at once, each on `cpus` cores.

        Raises:
            ImportError: without Ray.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError("--ray needs Ray: install manyshot[ray]") from error
        self._ray, self.count, self.cpus = ray, count, cpus

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Workers`."""
        ray = self._ray
        own = not ray.is_initialized()
        if own and "RAY_ADDRESS" in os.environ:
            ray.init(log_to_driver=False)
        elif own:
            cores = self.count * self.cpus
            ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
        remote = ray.remote(num_cpus=self.cpus)(work)
        waiting, running = list(reversed(tasks)), list[Any]()
        try:
            while waiting or running:
                while waiting and len(running) < self.count:
                    running.append(remote.remote(waiting.pop()))
                finished, running = ray.wait(running)
                yield from ray.get(finished)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if own:
                ray.shutdown()
