"""What manyshot adds to the arithmetic: steps, evaluation, costs, start-up, memory.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.speed
        [steps calls loop evaluation macs help start memory] [--at macro shufflenet] [--rounds 10]

The sides of a ratio run in one process and one torch thread, taking turns step by step, and are
compared in CPU time. Every result is a record, from which the page is written.
"""

from __future__ import annotations

import copy
import functools
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manyshot as ms
from benchmarks.lib import kept, measuring, pages
from benchmarks.lib.measuring import alternate, ratio, spread
from benchmarks.lib.workloads import (
    ELASTIC,
    SGD,
    WORKLOADS,
    Workload,
    step,
    without_statistics,
)
from benchmarks.speed.cuts import cut_out
from benchmarks.speed.memory import measure_memory
from benchmarks.speed.speed_page import write_page
from manyshot import train
from manyshot.allocation import hold_freed_memory
from manyshot.data import Augment, Batches, ImageSet
from manyshot.recipe import TrainingSettings

Found = Iterator[dict[str, Any]]
KEPT = kept.of_speed(__file__)
AT = {**WORKLOADS, **ELASTIC}
COPIES = 4
"""Of the K-shot supernet whose paths are evaluated."""
# For MACs; others 3x224x224.
IMAGE_SHAPES = {
    **dict.fromkeys(("cell", "macro", "tiny_cnn"), (3, 32, 32)),
    **dict.fromkeys(("tiny", "tiny_vit"), (1, 8, 8)),
}


def measure_steps(work: Workload, rounds: int, count: int = 6) -> Found:
    """Supernet step over the same subnet alone, and over that with parameters cut out by torch.

    A second bare copy shows the noise.
    """
    net, archs = work.build(count)
    images, labels = work.images(work.batch)
    bare = [net.extract(arch) for arch in archs]
    modules = {
        "bare": bare,
        "again": copy.deepcopy(bare),
        "lean": [without_statistics(module) for module in bare],
    }
    sides = {
        name: [functools.partial(step, m, SGD(m.parameters()), images, labels) for m in alone]
        for name, alone in modules.items()
    }
    cut = [cut_out(net, arch) for arch in archs]
    sides["cut"] = [functools.partial(step, f, SGD(moved), images, labels) for f, moved in cut]
    shared = SGD(net.parameters())
    sides["supernet"] = [
        functools.partial(step, functools.partial(net, arch=arch), shared, images, labels)
        for arch in archs
    ]
    parts = alternate(sides, rounds)
    total = {name: seconds.sum(-1) for name, seconds in parts.items()}
    macs, params = ms.cost.macs(net, archs, work.shape), ms.cost.params(net, archs)
    facts = {
        "bare_ms": float(np.median(total["bare"])) * 1e3,
        "path_params_per_path_macs": float((params / macs).mean()),
        "supernet_tensors": len(list(net.parameters())),
        "path_tensors": float(np.mean([len(list(m.parameters())) for m in bare])),
    }
    ours = ratio(total["supernet"], total["bare"])
    yield {"what": "step: supernet ÷ bare", **ours, **work.bar(1.03), **facts}
    yield {"what": "step: bare ÷ bare (noise)", **ratio(total["again"], total["bare"])}
    yield {"what": "step: bare with cuts ÷ bare", **ratio(total["cut"], total["bare"])}
    yield {"what": "step: supernet ÷ bare with cuts", **ratio(total["supernet"], total["cut"])}
    lean = ratio(total["supernet"], total["lean"])
    yield {"what": "step: supernet ÷ bare without running statistics", **lean}
    for i, name in enumerate(("forward", "backward", "update", "clearing")):
        extra = (parts["supernet"][..., i] - parts["bare"][..., i]) / total["bare"]
        yield {"what": f"step: part of the ratio in {name}", **spread(extra.ravel())}


def measure_calls(work: Workload, rounds: int, count: int = 6) -> Found:
    """Calls of Python functions in a forward of the supernet, over those in the bare subnet's."""
    net, archs = work.build(count)
    images, _ = work.images(2)
    pairs = []
    for arch in archs:
        ours, bare = functools.partial(net, images, arch), net.extract(arch)
        ours()  # what is worked out once is
        pairs.append((python_calls(ours), python_calls(functools.partial(bare, images))))
    over, under = np.array(pairs, dtype=float).T
    facts = {"supernet": float(over.mean()), "bare": float(under.mean())}
    yield {"what": "calls: supernet ÷ bare", **spread(over / under), **work.bar(1.5), **facts}


def python_calls(run: Callable[[], Any]) -> int:
    """How many Python functions, generators among them, a call runs, itself left out."""
    calls = -1

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


class Listed(train.Stateless):
    """Trains listed architectures in turn."""

    def __init__(self, archs: list[ms.Arch]) -> None:
        self.archs = archs

    def plan(self, rng: np.random.Generator, step: int) -> train.Plan:
        """One path."""
        return train.Plan((train.PlannedPath(self.archs[step % len(self.archs)]),))


class TakingTurns:
    """Batches that let a bare loop do its step between two steps of the loop they are given to.

    Both read their own batches from the same pipeline, and are timed with that.
    """

    def __init__(self, batches: Batches, bare: Callable[[int, Tensor, Tensor], Any]) -> None:
        self.batches, self.bare = batches, bare
        self.dataset, self.batch_size = batches.dataset, batches.batch_size
        self.seconds: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def side(self, step: int) -> int | None:
        """The side of the images, if it changes."""
        return self.batches.side(step)

    def from_step(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the timed loop; odd steps come after the bare loop's, even ones before.

        The step of a batch is timed when the next is asked for, so `finish` ends the last.
        """
        self._running = self._in_turns(step)
        return self._running

    def finish(self) -> None:
        """Times the last step."""
        next(self._running, None)

    def _in_turns(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        ours, theirs = self.batches.from_step(step), self.batches.from_step(step)
        for number in range(len(self)):
            alone = self._alone(number, theirs) if number % 2 else 0.0
            began = time.process_time()
            yield next(ours)
            took = time.process_time() - began
            self.seconds.append((took, alone or self._alone(number, theirs)))

    def _alone(self, number: int, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
        began = time.process_time()
        self.bare(number, *next(batches))
        return time.process_time() - began


def measure_loop(work: Workload, rounds: int, count: int = 6) -> Found:
    """`manyshot.train.train` over bare loops, with the same batches and augmentation.

    One bare loop trains the subnets that the supernet gives, the other that supernet itself.
    """
    net, archs = work.build(count)
    again, _ = work.build(count)
    shared = SGD(again.parameters())
    subnets = [net.extract(arch) for arch in archs]
    bare = {
        "bare": [functools.partial(step, m, SGD(m.parameters())) for m in subnets],
        "a bare loop over the supernet": [
            functools.partial(step, functools.partial(again, arch=arch), shared) for arch in archs
        ],
    }
    for name, steps in bare.items():
        seconds = _loop_seconds(work, rounds, net, archs, steps)
        yield {"what": f"loop: train() ÷ {name}", **ratio(*seconds.T), **work.bar(1.03)}


def _loop_seconds(
    work: Workload,
    rounds: int,
    net: ms.Supernet,
    archs: list[ms.Arch],
    steps: Sequence[Callable[[Tensor, Tensor], Any]],
) -> np.ndarray:
    """The seconds of every step of `train`, and of the bare step beside it, (N, 2)."""
    count = len(archs)
    size = work.batch * count * (rounds + 1)
    pixels = torch.randint(256, (size, *work.shape), dtype=torch.uint8)
    images = ImageSet(images=pixels, labels=torch.randint(10, (size,)), classes=10)
    mean = [0.5] * work.shape[0]
    augment = Augment(pad=2, flip=True)
    batches = Batches(images, work.batch, mean=mean, std=mean, seed=0, augment=augment)
    turns = TakingTurns(batches, lambda i, x, y: steps[i % count](x, y))
    settings = TrainingSettings(epochs=1, batch_size=work.batch, lr=0.01, schedule="constant")
    engine = train.engine(torch.device("cpu"), settings)
    trainer = train.Trainer(
        net=net,
        sampler=Listed(archs),
        batches=turns,  # type: ignore[arg-type]  # what the loop asks of batches, and no more
        settings=settings,
        seed=0,
        largest=net.space.largest,
        accelerator=engine,
    )
    train.train(trainer)
    turns.finish()
    return np.array(turns.seconds[count:])


def measure_evaluation(work: Workload, rounds: int, count: int = 6, images: int = 256) -> Found:
    """`evaluate.score` over the forward passes alone, of one copy and of several."""
    yield from _evaluation(work, rounds, count, images, None, "", 1.05)
    scheme = ms.sharing.KShot(COPIES)
    yield from _evaluation(work, rounds, count, images, scheme, f", K={COPIES}", 1.1)


def _evaluation(
    work: Workload,
    rounds: int,
    count: int,
    images: int,
    sharing: ms.sharing.Sharing | None,
    named: str,
    bar: float,
) -> Found:
    """Calibration and validation by one scheme, over the forward passes of the subnets."""
    net, archs = work.build(count, sharing)
    size = min(128, images)
    batches = [work.images(size) for _ in range(images // size)]

    def seconds(run: Callable[[], Any]) -> tuple[float]:
        began = time.process_time()
        run()
        return (time.process_time() - began,)

    @torch.no_grad()
    def forwards(module: nn.Module) -> None:
        for training in (True, False):
            module.train(training)
            for x, _ in batches:
                module(x)

    def score(arch: ms.Arch) -> None:
        ms.evaluate.score(net, arch, calibration=batches, validation=batches)

    bare = [net.extract(arch) for arch in archs]
    alone = [functools.partial(seconds, functools.partial(forwards, m)) for m in bare]
    ours = [functools.partial(seconds, functools.partial(score, arch)) for arch in archs]
    total = alternate({"score": ours, "bare": alone, "again": alone}, rounds)
    facts = {"images": images, "bare_ms": float(np.median(total["bare"])) * 1e3}
    result = ratio(total["score"], total["bare"])
    what = f"evaluation{named}: score() ÷ forwards"
    yield {"what": what, **result, **work.bar(bar), **facts}
    yield {"what": f"evaluation{named}: noise", **ratio(total["again"], total["bare"])}


def measure_macs(rounds: int, networks: Mapping[str, Any] = ms.zoo.NETWORKS) -> Found:
    """Seconds for the MACs of 10,000 architectures, and to record them once."""
    ms.cost.macs_table(ms.Supernet(ms.zoo.tiny()), (1, 8, 8))  # what torch loads late
    for name, network in networks.items():
        net, shape = ms.Supernet(network()), IMAGE_SHAPES.get(name, (3, 224, 224))
        rng = np.random.default_rng(0)
        archs = [net.space.sample(rng) for _ in range(10_000)]
        began = time.process_time()
        table = ms.cost.macs_table(net, shape)
        recording = [time.process_time() - began]
        costing = []
        for _ in range(rounds):
            began = time.process_time()
            table(archs)
            costing.append(time.process_time() - began)
        where = {"at": f"zoo.{name}()", "unit": " s"}
        yield {"what": "MACs of 10,000", **where, **spread(costing), "bar": 1.0}
        yield {"what": "MACs: recording, once", **where, **spread(recording)}


def measure_help(rounds: int) -> Found:
    """Seconds of `manyshot --help`, and whether it imports torch."""
    command = [str(Path(sys.executable).with_name("manyshot")), "--help"]
    wall, cpu = [], []
    for _ in range(rounds):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    probe = [sys.executable, "-X", "importtime", *command]
    imported = subprocess.run(probe, check=True, capture_output=True, text=True).stderr
    torch_free = not any(line.split("|")[-1].strip() == "torch" for line in imported.splitlines())
    where = {"at": "command line", "unit": " s", "torch_imported": not torch_free}
    yield {"what": "manyshot --help, wall time", **where, **spread(wall), "bar": 0.5}
    yield {"what": "manyshot --help, CPU time", **where, **spread(cpu)}


_START = """
import time
marks = [time.process_time()]
import torch; marks.append(time.process_time())
import manyshot.pipeline; marks.append(time.process_time())
net = manyshot.Supernet(manyshot.zoo.tiny())
manyshot.cost.macs_table(net, (1, 8, 8)); marks.append(time.process_time())
print(*(after - before for before, after in zip(marks, marks[1:])))
"""


def measure_start(rounds: int) -> Found:
    """Seconds until a process can run a recipe, and of the first shapes that it looks at."""
    taken = []
    for _ in range(rounds + 1):  # the first writes what Python compiles
        run = subprocess.run(
            [sys.executable, "-c", _START], check=True, capture_output=True, text=True
        )
        taken.append(list(map(float, run.stdout.split())))
    torch_s, ours_s, shapes_s = zip(*taken[1:], strict=True)
    where = {"at": "command line", "unit": " s"}
    yield {"what": "start: import torch, CPU time", **where, **spread(torch_s)}
    what = "start: import manyshot.pipeline beyond torch, CPU time"
    yield {"what": what, **where, **spread(ours_s), "bar": 1.25}
    what = "start: first cost table of tiny, CPU time"
    yield {"what": what, **where, **spread(shapes_s), "bar": 1.4}


SECTIONS = ("steps", "calls", "loop", "evaluation", "macs", "help", "start", "memory")
ONCE = {"macs": measure_macs, "help": measure_help, "start": measure_start}
"""Sections that are of no workload."""


def measure(section: str, at: str, rounds: int) -> Found:
    """The records of one section, without their provenance."""
    work = AT[at]
    if section in ONCE:
        yield from ONCE[section](rounds)
    else:
        sections = {
            "steps": measure_steps,
            "calls": measure_calls,
            "loop": measure_loop,
            "evaluation": measure_evaluation,
            "memory": measure_memory,
        }
        found = sections[section](work, rounds)
        yield from ({"at": work.label, **record} for record in found)


def main(arguments: list[str] | None = None) -> None:
    """Measures, records, prints, and writes the page anew."""
    parser = measuring.parser(__doc__ or "", SECTIONS, list(AT), "speed")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    hold_freed_memory()  # else pages that one side gets anew are counted as the other's arithmetic
    path = kept.begin(given, KEPT)
    for section in given.sections or SECTIONS:
        for at in given.at[:1] if section in ONCE else given.at:
            for record in measure(section, at, given.rounds):
                measuring.note(path, record)
    pages.show(path)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
