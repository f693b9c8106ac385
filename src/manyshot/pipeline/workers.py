"""Independent tasks done in this process, in others of this machine, or through Ray on many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol, final

import joblib
import torch

from manyshot.run_folder import TruthLine


@dataclass(frozen=True, slots=True)
class Task:
    """One architecture to train alone: all that it takes, so that any process can do it.

    Attributes:
        recipe: the recipe as TOML; its seed is not used.
        arch: the architecture as text.
        seed: the seed of the training.
    """

    recipe: str
    arch: str
    seed: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A task that ended without a record, and the reason."""

    task: Task
    why: str


_IDLE_SECONDS = 10
"""A process that has had nothing to do for so long ends, and its memory is free."""

Outcome = TruthLine | Failed
Work = Callable[[Task], Outcome]
"""A function of a module, which other processes import by name."""


class Workers(Protocol):
    """Somebody who does tasks, in this process or in others."""

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What `work` makes of each task, as they finish, in any order.

        An exception of `work` ends the iteration; what has not begun is dropped.
        """
        ...


@final
class Processes:
    """Processes of this machine, which joblib makes.

    One is this process itself. More are new ones, each with as many threads as this process, and
    they end with it, even if it is killed; on Windows each then does its task to the end.
    """

    def __init__(self, count: int) -> None:
        """Says how many there will be; they are made by `run`.

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
        with joblib.parallel_config(
            "loky",
            idle_worker_timeout=_IDLE_SECONDS,
            initializer=_follow,
            initargs=(os.getpid(), torch.get_num_threads()),
        ):
            parallel = joblib.Parallel(self.count, return_as="generator_unordered", batch_size=1)
        try:
            yield from parallel(joblib.delayed(work)(task) for task in tasks)
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {self.count} processes ended without an answer, perhaps for lack of "
                "memory; what is finished is on record: go on with fewer --workers"
            ) from error


def _follow(parent: int, threads: int) -> None:
    """Gives this process its threads, and ends it when the one that made it has ended.

    By itself a process of joblib then goes on to the end of its task, which may be hours away.
    """
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@final
class Ray:
    """The machines of a Ray cluster: that of `RAY_ADDRESS`, or one made here for the time.

    manyshot and the images must be on each of them, the images where the recipe says. This is not
    joblib's Ray backend, because that gives no result before all tasks are done (Ray 2.60 with
    joblib 1.6), so that a killed command would lose what was finished.
    """

    def __init__(self, count: int, cpus: int) -> None:
        """Says that `count` tasks run at once, each on `cpus` cores.

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
