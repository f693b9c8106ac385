"""Independent tasks done in this process, in others of this machine, or through Ray on many."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from manyshot.crews import Crew, LocalCrew, RayCrew, checked_count
from manyshot.evaluate import Spread
from manyshot.pipeline.build import Workspace
from manyshot.run_folder import TruthLine
from manyshot.writing import processes


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


BEGINNINGS = 3
"""How often a Ray cluster of this machine is tried."""

Outcome = TruthLine | Failed
Work = Callable[[Task], Outcome]
"""A function of a module, which other processes import by name."""


class Workers(Protocol):
    """Somebody who does tasks, in this process or in others.

    Attributes:
        count: how many are done at once.
    """

    count: int

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What `work` makes of each task, as they finish, in any order.

        An exception of `work` ends the iteration; what has not begun is dropped.
        """
        ...

    def crew(self) -> AbstractContextManager[Crew | None]:
        """The workers, who keep what they were sent between tasks; None is this process itself."""
        ...


@final
class Processes:
    """Processes of this machine.

    One is this process itself. More are new ones, each with as many threads as this process and
    with one GPU, if there are any. They end with it, even if it is killed; on Windows each then
    does its task to the end.
    """

    def __init__(self, count: int) -> None:
        """Says how many there will be; they are made when there is something to do.

        Raises:
            ValueError: if `count` is below one.
        """
        self.count = checked_count(count)

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Workers`.

        Raises:
            RuntimeError: if processes end without an answer to the same task again and again, as
                those killed for memory do.
        """
        with self.crew() as crew:
            if crew is None:
                yield from map(work, tasks)
                return
            for _, outcome in crew.run(_one, [(work, task) for task in tasks]):
                yield outcome

    @contextlib.contextmanager
    def crew(self) -> Iterator[Crew | None]:
        """See `Workers`."""
        if self.count == 1:
            yield None
            return
        with LocalCrew(self.count) as crew:
            yield crew


def _one(kept: Mapping[str, Any], asked: tuple[Work, Task]) -> Outcome:
    work, task = asked
    return work(task)


@final
class Ray:
    """The machines of a Ray cluster: that of `RAY_ADDRESS`, or one made here for the time.

    manyshot must be on each of them. For trainings alone the images must be too, where the recipe
    says; for scores only those that do not fit in memory. This is not joblib's Ray backend, because
    that gives no result before all tasks are done (Ray 2.60 with joblib 1.6), so that a killed
    command would lose what was finished.
    """

    def __init__(self, count: int, cpus: int, gpus: float = 0) -> None:
        """Says that `count` tasks run at once.

        Args:
            count: how many.
            cpus: the cores of each.
            gpus: the GPUs of each; two share one that has half of it.

        Raises:
            ImportError: without Ray.
            ValueError: if `count` is below one.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError("--ray needs Ray: install manyshot[ray]") from error
        self._ray, self.count, self.cpus, self.gpus = ray, checked_count(count), cpus, gpus

    def run(self, work: Work, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """See `Workers`."""
        ray = self._ray
        with self._connected():
            remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(work)
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

    @contextlib.contextmanager
    def crew(self) -> Iterator[Crew]:
        """See `Workers`."""
        crew = RayCrew(self._ray, self.count, self.cpus, self.gpus)
        with self._connected(), crew:
            yield crew

    def check(self) -> None:
        """Finds now that the cluster of `RAY_ADDRESS` is not there, before anything trains.

        Raises:
            RuntimeError: then.
        """
        if os.environ.get("RAY_ADDRESS"):
            with self._connected():
                pass

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Connected to the cluster; to one that is made here until the end.

        Raises:
            RuntimeError: if there is none.
        """
        if self._ray.is_initialized():
            yield
            return
        address = os.environ.get("RAY_ADDRESS")
        try:
            try:
                if address:
                    self._ray.init(log_to_driver=False)
                else:
                    self._begin_here()
            except Exception as error:  # which Ray raises as such where a cluster does not begin
                where = f"the cluster of RAY_ADDRESS={address}" if address else "a cluster here"
                way_out = "mend that" if address else "begin one by ray start --head"
                if not address and os.environ.get("PYTHONDONTWRITEBYTECODE"):
                    way_out = "unset PYTHONDONTWRITEBYTECODE, so that its processes begin sooner"
                raise RuntimeError(
                    f"Ray does not come to {where} ({error}): {way_out}, or give --workers without "
                    "--ray; what is finished is on record"
                ) from error
            yield
        finally:
            self._ray.shutdown()

    def _begin_here(self) -> None:
        """Begins a cluster of this machine, if need be at the third try.

        On a busy machine processes of Ray's node may take more than the 15 seconds that Ray gives
        them. It ends the node then, waits for it another half minute, and leaves the other
        processes behind (Ray 2.60, https://github.com/ray-project/ray/issues/65983). A further try
        begins sooner, since the files that they read are in memory.
        """
        ray = self._ray
        for tries in range(1, BEGINNINGS + 1):
            before = _children_of_ray(ray)
            try:
                ray.init(
                    num_cpus=self.count * self.cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    _system_config={"worker_niceness": 0},  # else they starve beside other work
                )
                return
            except Exception as error:  # which Ray raises as such, as above
                ray.shutdown()
                _end(_children_of_ray(ray) - before)
                if tries == BEGINNINGS:
                    raise
                warnings.warn(
                    f"Ray did not begin a cluster here ({error}): tried again, {tries + 1} of "
                    f"{BEGINNINGS}",
                    stacklevel=2,
                )


def _children_of_ray(ray: Any) -> set[Any]:
    """The processes that this one has begun, also by others, and that run Ray's own files."""
    import psutil  # which comes with Ray

    files, children = str(Path(ray.__file__).parent), set[Any]()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(files in part for part in process.cmdline()):
                children.add(process)
    return children


def _end(processes: set[Any]) -> None:
    """Kills processes, some of which may have ended by themselves."""
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def check_workers(workers: Workers | None) -> None:
    """Refuses workers of one of several processes, which share out candidates themselves.

    Raises:
        ValueError: then.
        RuntimeError: if they are of a Ray cluster that is not there.
    """
    if workers is not None and workers.count > 1 and processes() > 1:
        raise ValueError(
            f"workers = {workers.count} beside {processes()} processes of torchrun, which share "
            "candidates out themselves: leave --workers and --ray out, or start one process"
        )
    if isinstance(workers, Ray):
        workers.check()


@contextlib.contextmanager
def scoring_by(workers: Workers | None, ws: Workspace) -> Iterator[Workspace]:
    """The workspace, whose candidates are scored by workers until the end of the context."""
    if workers is None:
        yield ws
        return
    with workers.crew() as crew:
        yield ws if crew is None else dataclasses.replace(ws, spread=Spread(crew))
