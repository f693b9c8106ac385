"""Workers that keep what they were sent, such as a network with its weights, between tasks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import io
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar, final

import torch

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

T = TypeVar("T")
R = TypeVar("R")

TRIES = 3
"""A task that so many workers were lost with is an error."""
_READY_SECONDS = 600
"""The longest wait for the first worker."""
_WATCH_SECONDS = 5
"""So often whoever watches is called while tasks go on."""


@final
@dataclass(frozen=True, slots=True)
class Kept:
    """Something that workers keep under a name, until they are sent another version of it.

    Attributes:
        name: the name.
        version: tells what has changed from what has not.
        thing: gives what is sent, which is pickled once per version.
    """

    name: str
    version: str
    thing: Callable[[], Any]


Versions = tuple[tuple[str, str], ...]
"""Names and versions of what a task needs."""
Work = Callable[[Mapping[str, Any], T], R]
"""A function of a module: of what is kept, by name, and of a task."""


def checked_count(count: int) -> int:
    """How many workers there are to be.

    Raises:
        ValueError: if that is below one.
    """
    if count < 1:
        raise ValueError(f"workers must be at least 1, got {count}")
    return count


class CannotBeSent(RuntimeError):
    """What workers need cannot be pickled."""


class Lacking(RuntimeError):
    """A worker lacks what a task needs, since it is a new process."""


class _Held:
    """What this process keeps for a crew."""

    def __init__(self) -> None:
        import cloudpickle  # once; whoever has no workers does without

        self._loads = cloudpickle.loads
        self._things: dict[str, tuple[str, Any]] = {}

    def do(
        self, work: Work[T, R], needed: Versions, sent: Mapping[str, Callable[[], bytes]], task: T
    ) -> R:
        """Does a task with what is kept, after taking in what is lacking.

        Args:
            work: what to do.
            needed: with what.
            sent: gives the pickled thing by its name.
            task: the task.

        Raises:
            Lacking: if something is neither here nor sent.
        """
        for name, version in needed:
            if self._things.get(name, ("", None))[0] == version:
                continue
            if name not in sent:
                raise Lacking(name)
            self._things.pop(name, None)  # so that two versions are not in memory
            self._things[name] = version, self._loads(sent[name]())
        try:
            return work({name: self._things[name][1] for name, _ in needed}, task)
        except Exception as error:  # anybody's
            if self._arrives(error):
                raise
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def _arrives(self, error: Exception) -> bool:
        """Whether an exception survives being sent; else its worker would be taken for lost."""
        import cloudpickle

        try:
            self._loads(cloudpickle.dumps(error))
        except Exception:  # of anybody's class
            return False
        return True


class Crew(ABC):
    """Workers that each do one task after another, with what they keep.

    A task whose worker is lost is done by another one. Used as a context, it ends its workers.

    Attributes:
        count: how many workers there are.
    """

    lost: tuple[type[Exception], ...]
    """How the end of a worker shows."""

    def __init__(self, count: int) -> None:
        """Says how many there will be; they begin with the first task.

        Raises:
            ValueError: if `count` is below one.
        """
        self.count = checked_count(count)
        self._begun: dict[int, Future[Any]] = {}
        self._packed: dict[str, tuple[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def pack(self, kept: Sequence[Kept]) -> None:
        """Pickles what workers will need, unless this version of it is pickled already.

        Raises:
            CannotBeSent: if it cannot be pickled.
        """
        for each in kept:
            if self._packed.get(each.name, ("", None))[0] != each.version:
                self._packed.pop(each.name, None)
                self._packed[each.name] = each.version, self._pack(pickled(each))

    def run(
        self,
        work: Work[T, R],
        tasks: Sequence[T],
        kept: Sequence[Kept] = (),
        watch: Callable[[], None] | None = None,
    ) -> Generator[tuple[int, R]]:
        """What `work` makes of each task, with its number, as they finish.

        An exception of `work` ends the iteration, and so does leaving it: workers in the middle of
        a task end then.

        Args:
            work: what to do.
            tasks: to be done in any order; each is looked up when a worker is ready for it.
            kept: what `work` needs beside them.
            watch: is called every few seconds while tasks go on.

        Raises:
            CannotBeSent: if what they need cannot be pickled.
            RuntimeError: if workers are lost with a task again and again, or none begins.
        """
        self.pack(kept)
        needed = tuple((each.name, each.version) for each in kept)
        waiting = deque(_Asked(number) for number in range(len(tasks)))
        running: dict[Future[Any], tuple[int, _Asked]] = {}
        try:
            while waiting or running:
                most = len(waiting) + len(running)
                for worker in self._idle(running, most) if waiting else ():
                    asked = waiting.popleft()
                    future = self._submit(worker, work, needed, tasks[asked.number])
                    running[future] = worker, asked
                    if not waiting:
                        break
                for future in self._finished(running, wanted=bool(waiting), watch=watch):
                    worker, asked = running.pop(future)
                    try:
                        result = future.result()
                    except Lacking:
                        self._forget(worker)
                        waiting.appendleft(asked)
                        continue
                    except self.lost as error:
                        self._replace(worker, asked, error)
                        waiting.appendleft(asked)
                        continue
                    yield asked.number, result
        finally:
            if running:
                self.close()

    def _idle(self, running: Mapping[Future[Any], tuple[int, _Asked]], most: int) -> list[int]:
        """The workers that are ready for a task; others begin, up to as many as there is to do."""
        busy = {worker for worker, _ in running.values()}
        for worker in range(self.count):
            if worker not in self._begun and len(self._begun) < most:
                self._begun[worker] = self._begin(worker)
        return [w for w, begun in self._begun.items() if w not in busy and begun.done()]

    def _finished(
        self,
        running: Mapping[Future[Any], tuple[int, _Asked]],
        *,
        wanted: bool,
        watch: Callable[[], None] | None,
    ) -> list[Future[Any]]:
        """Waits until a task is done, or if another worker is wanted until one is ready."""
        begun = [b for b in self._begun.values() if wanted and not b.done()]
        if not running and not begun:
            return []
        awaited, first = [*running, *begun], concurrent.futures.FIRST_COMPLETED
        if running and watch is not None:
            while not (done := concurrent.futures.wait(awaited, _WATCH_SECONDS, first).done):
                watch()
        else:
            done = concurrent.futures.wait(awaited, None if running else _READY_SECONDS, first).done
        if not done:
            raise RuntimeError(
                f"none of {self.count} workers has begun within {_READY_SECONDS} seconds: "
                f"{self._why_none()}"
            )
        return [future for future in done if future in running]

    def _replace(self, worker: int, asked: _Asked, error: Exception) -> None:
        """Begins another worker in place of one that was lost with a task.

        Raises:
            RuntimeError: if that was the last try of the task.
        """
        self._begun.pop(worker, None)
        self._end(worker)
        asked.lost += 1
        if asked.lost == TRIES:
            raise RuntimeError(
                f"one of {self.count} processes ended without an answer, and so did "
                f"{TRIES - 1} others that were asked the same, perhaps for lack of memory; what is "
                "finished is on record: go on with fewer --workers"
            ) from error

    def close(self) -> None:
        """Ends all workers, and lets go of what they were sent; a next task begins them anew.

        If somebody interrupts while one ends, the others are ended all the same.
        """
        begun = list(self._begun)
        self._begun.clear()
        self._packed.clear()
        with contextlib.ExitStack() as ending:
            for worker in begun:
                ending.callback(self._end, worker)

    @abstractmethod
    def _pack(self, packed: bytes) -> Any:
        """What `_submit` finds in `_packed`, of a pickled thing."""

    @abstractmethod
    def _begin(self, worker: int) -> Future[Any]:
        """Begins a worker; the future is done when it is ready."""

    @abstractmethod
    def _submit(self, worker: int, work: Work[T, R], needed: Versions, task: T) -> Future[R]:
        """Hands a task to a worker that is ready."""

    @abstractmethod
    def _end(self, worker: int) -> None:
        """Ends a worker at once, or makes sure that it has ended."""

    @abstractmethod
    def _forget(self, worker: int) -> None:
        """Is told that a worker has lost what it kept."""

    def _why_none(self) -> str:
        """Why no worker may have begun, and the way out."""
        return "give fewer --workers"


@dataclass(slots=True)
class _Asked:
    """A task that is asked for: its number, and how many workers were lost with it."""

    number: int
    lost: int = field(default=0)


def pickled(kept: Kept) -> bytes:
    """Something as it is sent, also of classes that scripts define; cloudpickle reads it.

    Raises:
        CannotBeSent: if it cannot be pickled.
    """
    import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        dispatch_table = cloudpickle.CloudPickler.dispatch_table.new_child(
            {torch.memory_format: _memory_format}
        )

    into, thing = io.BytesIO(), kept.thing()
    try:
        Pickler(into).dump(thing)
    except Exception as error:  # what is pickled is anybody's code
        raise CannotBeSent(
            f"the {kept.name} cannot be sent to other processes ({type(error).__name__}: {error}): "
            "give --workers 1, or let its class be pickled"
        ) from error
    return into.getvalue()


def _memory_format(of: torch.memory_format) -> tuple[Any, tuple[Any, str]]:
    """By its name in torch: pickle would take any module that has imported torch, or the script."""
    return getattr, (torch, str(of).removeprefix("torch."))


@functools.cache
def _held() -> _Held:
    """What a process of `LocalCrew` keeps."""
    return _Held()


def _do(work: Work[T, R], needed: Versions, sent: Mapping[str, bytes], task: T) -> R:
    given = {name: functools.partial(bytes, packed) for name, packed in sent.items()}
    return _held().do(work, needed, given, task)


def follow(parent: int, threads: int) -> None:
    """Gives this process its threads, and ends it when the one that made it has ended.

    By itself it would then go on to the end of its task, which may be hours away. Of Ctrl-C, which
    a terminal sends to all, it hears nothing: the one that made it does, and ends it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@final
class LocalCrew(Crew):
    """Processes of this machine, each with as many threads as this process, each with one GPU.

    GPUs are dealt out in turn, so that processes share them where there are fewer. Every process is
    a pool of its own, so that the end of one leaves the others as they are.
    """

    lost = (BrokenProcessPool,)

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._has: dict[int, dict[str, str]] = {}

    def _pack(self, packed: bytes) -> bytes:
        return packed

    def _begin(self, worker: int) -> Future[Any]:
        from joblib.externals.loky import ProcessPoolExecutor

        self._pools[worker] = ProcessPoolExecutor(
            1,
            initializer=follow,
            initargs=(os.getpid(), torch.get_num_threads()),
            env=gpu_of(worker),
        )
        self._has[worker] = {}
        ready: Future[Any] = Future()
        ready.set_result(None)  # a task waits inside the pool
        return ready

    def _submit(self, worker: int, work: Work[T, R], needed: Versions, task: T) -> Future[R]:
        try:
            return self._ask(worker, work, needed, task)
        except BrokenProcessPool:  # it ended with nothing to do, which no task is to blame for
            self._end(worker)
            self._begin(worker)
            return self._ask(worker, work, needed, task)

    def _ask(self, worker: int, work: Work[T, R], needed: Versions, task: T) -> Future[R]:
        has = self._has[worker]
        sent = {n: self._packed[n][1] for n, version in needed if has.get(n) != version}
        has.update(needed)
        submitted: Future[R] = self._pools[worker].submit(_do, work, needed, sent, task)
        return submitted

    def _end(self, worker: int) -> None:
        pool = self._pools.pop(worker, None)
        if pool is not None:  # else somebody interrupted while it was ended
            pool.shutdown(wait=True, kill_workers=True)

    def _forget(self, worker: int) -> None:
        self._has[worker] = {}


def gpu_of(worker: int) -> dict[str, str]:
    """The environment that shows a process the GPU of its turn; nothing where there are none."""
    name = "CUDA_VISIBLE_DEVICES"
    seen = [device for device in os.environ.get(name, "").split(",") if device]
    if not seen and name not in os.environ:
        seen = list(map(str, range(torch.cuda.device_count())))
    return {name: seen[worker % len(seen)]} if seen else {}


@final
class RayCrew(Crew):
    """Actors of a Ray cluster, which take what they keep from its object store, once per version.

    A cluster with room for fewer has as many as it has room for.
    """

    def __init__(self, ray: Any, count: int, cpus: int, gpus: float) -> None:
        """Says what there will be.

        Args:
            ray: the module, connected to a cluster.
            count: how many actors.
            cpus: the cores of each, as many as it has threads.
            gpus: the GPUs of each.
        """
        super().__init__(count)
        self._ray, self._gpus, self._cpus = ray, gpus, cpus
        self.lost = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError)
        self._actors: dict[int, Any] = {}

    def _pack(self, packed: bytes) -> Any:
        return self._ray.put(packed)

    def _begin(self, worker: int) -> Future[Any]:
        kind = self._ray.remote(num_cpus=self._cpus, num_gpus=self._gpus)(_Actor)
        self._actors[worker] = kind.remote(torch.get_num_threads())
        begun: Future[Any] = self._actors[worker].begun.remote().future()
        return begun

    def _submit(self, worker: int, work: Work[T, R], needed: Versions, task: T) -> Future[R]:
        references = {name: self._packed[name][1] for name, _ in needed}
        future: Future[R] = self._actors[worker].do.remote(work, needed, references, task).future()
        return future

    def _end(self, worker: int) -> None:
        actor = self._actors.pop(worker, None)
        if actor is not None:  # else somebody interrupted while it was ended
            self._ray.kill(actor)

    def _forget(self, worker: int) -> None:
        """An actor asks for what it lacks."""

    def _why_none(self) -> str:
        needs = f"{self._cpus} cores and {self._gpus:g} GPUs"
        return f"each needs {needs}, the cluster has {self._ray.cluster_resources()}"


@final
class _Actor:
    """A worker of `RayCrew`."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._held = _Held()

    def begun(self) -> int:
        """The number of its process, once there is one."""
        return os.getpid()

    def do(self, work: Work[T, R], needed: Versions, references: Mapping[str, Any], task: T) -> R:
        """See `_Held.do`; references are followed if something is lacking alone."""
        import ray

        def getting(reference: Any) -> Callable[[], bytes]:
            return lambda: bytes(ray.get(reference))

        sent = {name: getting(reference) for name, reference in references.items()}
        return self._held.do(work, needed, sent, task)
