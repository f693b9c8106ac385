"""What manyshot does on a GPU: is it right there, and how fast is it? One page, in eight minutes.

    python -m benchmarks.gpu [checks speed] [--device cuda] [--small] [--minutes 8]

Checks come first: the GPU against the CPU, supernets against the subnets taken from them, a run
that was broken off against one that was not, and whether steps wait for the device. What the
minutes do not suffice for is on record as left out. `--device cpu --small` is a dry run of all of
it, which says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from benchmarks.lib import kept, measuring, pages
from benchmarks.lib.workloads import ELASTIC, SGD, WORKLOADS, Workload, step
from manyshot import records, train
from manyshot.cost import macs_table
from manyshot.cost.timing import describe
from manyshot.data import Augment, Batches, FixedBatches, ImageSet, fixed
from manyshot.nn.structure import compiles_options

KEPT = kept.of_speed(__file__)
Found = Iterator[dict[str, Any]]
COPIES = 4
"""Of K-shot supernets."""
WORSE = 30
"""How much farther from double precision than the CPU's the results of single precision may be.

Both round to 24 bits, in other orders; and a GPU may convolve by transforms of small tiles
(Winograd), which lose a digit more. Numbers cut to 10 bits, as in TF32, are thousands of times as
far off."""
DOUBLE = 1e-9
"""The relative difference that double precision may make, whose own rounding is 1e-16."""


@dataclass(frozen=True)
class Bench:
    """What is measured, and how much of it.

    Attributes:
        device: where.
        works: networks with their images.
        rounds: repeats of a comparison.
        calls: how many steps are timed as one, so that the queue of a GPU is full.
        steps: of a training loop.
        until: when to stop, by `time.monotonic`.
    """

    device: torch.device
    works: Sequence[Workload]
    rounds: int
    calls: int
    steps: int
    until: float

    def timed(self, call: Callable[[], object]) -> tuple[float]:
        """Seconds of one call, of `calls` in a row that the device has then done."""
        self.wait()
        began = time.perf_counter()
        for _ in range(self.calls):
            call()
        self.wait()
        return ((time.perf_counter() - began) / self.calls,)

    def wait(self) -> None:
        """Until the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def build(self, work: Workload, count: int, **sharing: Any) -> tuple[ms.Supernet, list[Any]]:
        """A supernet on the device, and architectures."""
        net, archs = work.build(count, **sharing)
        return net.to(self.device), archs


def exactly(net: nn.Module, images: Tensor, labels: Tensor, arch: ms.Arch) -> Tensor:
    """The logits of a path and the gradient of its loss, one behind the other, on the CPU."""
    net.zero_grad()
    with ms.nn.modes.gpu_products("ieee"):
        logits = net(images, arch)
        F.cross_entropy(logits, labels).backward()
    parts = [logits, *(p.grad for p in net.parameters() if p.grad is not None)]
    return torch.cat([part.detach().flatten().double().cpu() for part in parts])


def check_values(bench: Bench) -> Found:
    """Logits and gradients on the device and on the CPU, in double and in single precision."""
    for work in bench.works:
        net, (arch, *_) = work.build(1)
        images, labels = work.images(min(8, work.batch))
        said: dict[tuple[str, str], Tensor] = {}
        for place in ("cpu", str(bench.device)):
            for kind in (torch.float64, torch.float32):
                own = copy.deepcopy(net).to(device=place, dtype=kind)
                shown = images.to(device=place, dtype=kind)
                said[place, str(kind)] = exactly(own, shown, labels.to(place), arch)
        double, single = (str(kind) for kind in (torch.float64, torch.float32))
        here, there = said["cpu", double], said[str(bench.device), double]
        yield check("device against CPU, double precision", work, far(there, here), DOUBLE)
        of_cpu = far(said["cpu", single], here)
        of_device = far(said[str(bench.device), single], here)
        yield check("device in single precision, off double", work, of_device, WORSE * of_cpu)


def check_extracted(bench: Bench) -> Found:
    """Logits of paths against those of the subnets taken from the supernet, all on the device."""
    for work in bench.works:
        net, archs = bench.build(work, 4)
        images = work.images(min(32, work.batch))[0].to(bench.device)
        apart, equal = [], 0
        for arch in archs:
            stats = ms.evaluate.calibrate(net, arch, [images])
            with ms.evaluate.evaluating(net):
                ours = net(images, arch, stats=stats)
            subnet = net.extract(arch, stats=stats)
            with ms.evaluate.evaluating(subnet):
                theirs = subnet(images)
            apart.append(far(ours, theirs))
            equal += torch.equal(ours, theirs)
        # On the CPU they are the same bits; a GPU may sum up in another order.
        allowed = 0.0 if bench.device.type == "cpu" else 1e-5
        largest = float(np.max(apart))  # which is not a number if one is not
        made = check("supernet against extracted subnets", work, largest, allowed)
        yield {**made, "note": f"{equal} of {len(archs)} bit for bit"}


class BrokenOff(Exception):
    """A run that is killed."""


class Breaking:
    """Batches that end a run before a step."""

    def __init__(self, batches: Batches, before: int) -> None:
        self._batches, self._before = batches, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)

    def from_step(self, first: int) -> Iterator[Any]:
        """The batches from a step on."""
        for number, batch in enumerate(self._batches.from_step(first), first):
            if number == self._before:
                raise BrokenOff
            yield batch


def pictures(work: Workload, count: int) -> ImageSet:
    """Random images and labels, on the CPU."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *work.shape), generator=rng, dtype=torch.uint8)
    return ImageSet(images=pixels, labels=torch.randint(0, 10, (count,), generator=rng), classes=10)


def look(work: Workload, bench: Bench) -> dict[str, Any]:
    """How batches are made of images."""
    channels = work.shape[0]
    return {"mean": [0.5] * channels, "std": [0.3] * channels, "seed": 0, "device": bench.device}


def looping(
    bench: Bench,
    work: Workload,
    net: ms.Supernet,
    sampler: train.Sampler | None = None,
    breaks: int = -1,
    **given: Any,
) -> train.Trainer:
    """A training loop of ours of `bench.steps` steps.

    Args:
        bench: how many steps, and where.
        work: the images.
        net: the network, on the device.
        sampler: by default uniform paths.
        breaks: the step before which it is broken off.
        **given: settings, and `folder` where it is to go on from.
    """
    folder = given.pop("folder", None)
    settings = ms.TrainingSettings(
        epochs=1, batch_size=work.batch, lr=0.01, log_steps=10**6, **given
    )
    augment = Augment(pad=2, flip=True)
    made = Batches(
        pictures(work, work.batch * bench.steps), work.batch, augment=augment, **look(work, bench)
    )
    held_out = functools.partial(held, bench, work)
    batches: Any = Breaking(made, breaks)
    return train.Trainer(
        net,
        sampler or train.Uniform(net.space),
        batches,
        settings,
        0,
        net.space.largest,
        train.engine(bench.device, settings),
        folder=folder,
        held_out=held_out,
    )


@functools.lru_cache(maxsize=4)
def _kept_out(work: Workload, device: str) -> FixedBatches:
    channels = work.shape[0]
    mean, std = [0.5] * channels, [0.3] * channels
    return fixed(
        pictures(work, 4 * work.batch), None, work.batch, mean=mean, std=std, seed=0, device=device
    )


def held(bench: Bench, work: Workload, images: int, seed: int) -> FixedBatches:
    """Held-out images, always the same."""
    return _kept_out(work, str(bench.device))


def check_resumed(bench: Bench) -> Found:
    """A run that is broken off and goes on, against the same run in one piece."""
    work = bench.works[0]
    net, _ = bench.build(work, 1)
    ended = []
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with tempfile.TemporaryDirectory() as name:
            for breaks in (-1, bench.steps // 2 + 1):
                own, folder = copy.deepcopy(net), Path(name) / str(breaks)
                about: dict[str, Any] = {"folder": folder, "checkpoint_steps": 2}
                try:
                    train.train(looping(bench, work, own, breaks=breaks, **about))
                except BrokenOff:
                    own = copy.deepcopy(net)
                    train.train(looping(bench, work, own, **about))
                ended.append(torch.cat([p.detach().flatten() for p in own.parameters()]))
    finally:
        torch.use_deterministic_algorithms(was)
    yield check("a run that went on against one in one piece", work, far(*ended), 0.0)


def check_waits(bench: Bench) -> Found:
    """How often the host waits for the device in more steps than before, as torch says itself."""
    work = bench.works[0]
    what = "waits for the device in each step of train()"
    if bench.device.type != "cuda":
        yield {"what": what, "at": work.label, "skipped": "torch tells them of GPUs alone"}
        return
    counts = []
    for steps in (bench.steps, 2 * bench.steps):
        net, _ = bench.build(work, 1)
        run = looping(replace(bench, steps=steps), work, net)
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                train.train(run)
            finally:
                torch.cuda.set_sync_debug_mode(mode)
        counts.append(sum("synchroniz" in str(warning.message) for warning in caught))
    yield check(what, work, (counts[1] - counts[0]) / bench.steps, 0.0)


def far(one: Tensor, other: Tensor) -> float:
    """The largest difference, as a part of the largest value."""
    one, other = one.detach().double().cpu(), other.detach().double().cpu()
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))


def check(what: str, work: Workload, difference: float, allowed: float) -> dict[str, Any]:
    """The record of a check."""
    passed = difference <= allowed  # not a number is no pass
    shown = [number if math.isfinite(number) else None for number in (difference, allowed)]
    about = {"difference": shown[0], "allowed": shown[1], "passed": passed}
    return {"what": what, "at": work.label, **about}


def measure_steps(bench: Bench) -> Found:
    """A supernet's step over that of the same subnet alone, and the peak of memory of both."""
    for work in bench.works:
        net, archs = bench.build(work, 3)
        images, labels = (part.to(bench.device) for part in work.images(work.batch))
        paths = [functools.partial(net, arch=arch) for arch in archs]
        bare = [net.extract(arch) for arch in archs]
        sides = {
            "supernet": steps_of(bench, paths, [SGD(net.parameters())] * 3, images, labels),
            "bare": steps_of(bench, bare, [SGD(m.parameters()) for m in bare], images, labels),
        }
        seconds = measuring.alternate(sides, bench.rounds)
        what = "step: supernet ÷ bare"
        yield {"what": what, "at": work.label, **measuring.ratio(*both(seconds)), "bar": 1.03}
        if bench.device.type == "cuda":
            for name, side in sides.items():
                torch.cuda.reset_peak_memory_stats(bench.device)
                side[0]()
                peak = torch.cuda.max_memory_allocated(bench.device) / 2**20
                yield {"what": f"peak memory of a step: {name}", "at": work.label, **one(peak, "M")}


def steps_of(
    bench: Bench,
    networks: Sequence[Callable[[Tensor], Tensor]],
    optimizers: Sequence[torch.optim.Optimizer],
    images: Tensor,
    labels: Tensor,
) -> list[measuring.Timed]:
    """Timed training steps, one for each network."""
    calls = [
        functools.partial(step, network, optimizer, images, labels)
        for network, optimizer in zip(networks, optimizers, strict=True)
    ]
    return [functools.partial(bench.timed, call) for call in calls]


def both(seconds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of two sides."""
    over, under = (values.sum(-1) for values in seconds.values())
    return over, under


def one(value: float, unit: str) -> dict[str, Any]:
    """A number that is measured once."""
    return {**measuring.spread([value]), "unit": unit}


def measure_evaluation(bench: Bench) -> Found:
    """A candidate's calibration and score over those of the subnet alone; with K-shot weights."""
    for work in bench.works:
        batches = _kept_out(work, str(bench.device))
        for copies, bar in ((1, 1.05), (COPIES, 1.10)):
            sharing = {} if copies == 1 else {"sharing": ms.sharing.KShot(copies)}
            net, archs = bench.build(work, 3, **sharing)
            bare = [net.extract(arch) for arch in archs]
            given: dict[str, Any] = {"calibration": batches, "validation": batches}
            ours = [functools.partial(ms.evaluate.score, net, arch, **given) for arch in archs]
            theirs = [functools.partial(alone, module, batches) for module in bare]
            few = replace(bench, calls=1)
            sides = {
                name: [functools.partial(few.timed, call) for call in calls]
                for name, calls in (("ours", ours), ("theirs", theirs))
            }
            found = measuring.ratio(*both(measuring.alternate(sides, bench.rounds)))
            named = "one copy" if copies == 1 else f"{copies} copies"
            what = f"evaluation of a candidate: supernet ÷ bare, {named}"
            yield {"what": what, "at": work.label, **found, "bar": bar}


@torch.no_grad()
def alone(module: nn.Module, batches: FixedBatches) -> int:
    """Calibrates a plain module, and counts what it gets right."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None
    for images, _ in batches:
        module(images)
    module.eval()
    right = torch.zeros((), device=next(module.parameters()).device, dtype=torch.int64)
    for images, labels in batches:
        right += (module(images).argmax(1) == labels).sum()
    return int(right)


def measure_kshot(bench: Bench) -> Found:
    """The step of a K-shot supernet over that of one copy."""
    for work in bench.works:
        images, labels = (part.to(bench.device) for part in work.images(work.batch))
        sides = {}
        for copies in (COPIES, 1):
            sharing = {} if copies == 1 else {"sharing": ms.sharing.KShot(copies)}
            net, archs = bench.build(work, 3, **sharing)
            paths = [functools.partial(net, arch=arch) for arch in archs]
            sides[str(copies)] = steps_of(bench, paths, [SGD(net.parameters())] * 3, images, labels)
        found = measuring.ratio(*both(measuring.alternate(sides, bench.rounds)))
        yield {"what": f"step: {COPIES} copies ÷ one", "at": work.label, **found}


def measure_compiled(bench: Bench) -> Found:
    """The step with compiled options over that without, and the seconds that compiling took."""
    backend = "inductor" if bench.device.type == "cuda" else "eager"  # which makes no code
    for work in bench.works if compiles_options() else ():
        plain, archs = bench.build(work, 2)
        net, what = copy.deepcopy(plain), "step: compiled options ÷ plain"
        if not net.compile_options(backend=backend):
            yield {"what": what, "at": work.label, "skipped": "no option is of fixed size"}
            continue
        images, labels = (part.to(bench.device) for part in work.images(work.batch))
        sides = {}
        for name, side in (("compiled", net), ("plain", plain)):
            paths = [functools.partial(side, arch=arch) for arch in archs]
            sides[name] = steps_of(bench, paths, [SGD(side.parameters())] * 2, images, labels)
        began = time.perf_counter()
        for path in sides["compiled"]:
            path()
        took = time.perf_counter() - began
        found = measuring.ratio(*both(measuring.alternate(sides, bench.rounds)))
        yield {"what": what, "at": work.label, **found}
        yield {"what": "compiling the options of two paths", "at": work.label, **one(took, " s")}


def seconds_of(bench: Bench, run: train.Trainer) -> float:
    """How long a training loop takes."""
    bench.wait()
    began = time.perf_counter()
    train.train(run)
    bench.wait()
    return time.perf_counter() - began


def measure_loops(bench: Bench) -> Found:
    """Images per second of `train()`: by precision, and with ShiftNAS."""
    for work in bench.works:
        table = macs_table(work.build(1)[0], work.shape)
        precisions = ["fp32"] if bench.device.type == "cpu" else ["fp32", "tf32", "bf16"]
        for name in (*precisions, "shiftnas"):
            speeds = []
            for _ in range(min(3, bench.rounds) + 1):
                net, _ = bench.build(work, 1)
                sampler, precision = None, name
                if name == "shiftnas":
                    options = train.ShiftNASOptions(period=max(2, bench.steps // 4), bins=4)
                    sampler = train.ShiftNAS(net.space, {"macs": table}, options)
                    precision = "fp32"
                run = looping(bench, work, net, sampler, precision=precision)
                speeds.append(work.batch * bench.steps / seconds_of(bench, run))
            found = measuring.spread(speeds[1:])  # the first warms up
            yield {"what": f"train(), {name}", "at": work.label, **found, "unit": " images/s"}


SECTIONS: dict[str, tuple[Callable[[Bench], Found], ...]] = {
    "checks": (check_values, check_extracted, check_resumed, check_waits),
    "speed": (measure_steps, measure_loops, measure_evaluation, measure_kshot, measure_compiled),
}


def workloads(small: bool) -> list[Workload]:
    """What is measured: small batches of a tiny network, or enough to fill a GPU."""
    if small:
        return [replace(WORKLOADS["tiny"], label="tiny, 1x8x8, batch 8", batch=8)]
    large = {"macro": 256, "shufflenet": 256, "attentivenas": 64, "autoformer": 32}
    everything = {**WORKLOADS, **ELASTIC}
    return [
        replace(work, label=f"{work.label.rpartition(', batch')[0]}, batch {batch}", batch=batch)
        for name, batch in large.items()
        for work in [everything[name]]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Checks, measures, records, and writes the page; fails if a check does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sections", nargs="*", help=f"of {tuple(SECTIONS)}; by default all")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a dry run")
    parser.add_argument("--small", action="store_true", help="a tiny network and few steps")
    parser.add_argument("--minutes", type=float, default=8.0, help="what all of it may take")
    kept.options(parser, Path("runs") / "gpu")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.sections) - set(SECTIONS))
    if unknown:
        parser.error(f"no section is called {', '.join(unknown)}: give some of {tuple(SECTIONS)}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for repeatable products
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: give --device cpu --small for a dry run")
    bench = Bench(
        device,
        workloads(given.small),
        rounds=1 if given.small else 5,
        calls=1 if given.small else 10,
        steps=4 if given.small else 40,
        until=time.monotonic() + 60 * given.minutes,
    )
    path = kept.begin(given, KEPT)
    for section in given.sections or SECTIONS:
        for measure in SECTIONS[section]:
            for found in limited(bench, measure):
                about = {"section": section, "device": describe(device)}
                records.append(path, {**found, **about, **measuring.provenance()})
                print(*texts(found), sep="  ", file=sys.stderr)
    kept.end(given, KEPT, write_page)
    failed = [row for row in pages.latest(path) if row.get("passed") is False]
    if failed:
        sys.exit(f"{len(failed)} checks failed: {'; '.join(row['what'] for row in failed)}")


def limited(bench: Bench, measure: Callable[[Bench], Found]) -> Found:
    """What is measured until the time is over; then a record that the rest is left out."""
    found = measure(bench)
    while time.monotonic() < bench.until:
        row = next(found, None)
        if row is None:
            return
        yield row
    what = (measure.__doc__ or "").split(";")[0].split(".")[0]
    yield {"what": what, "at": "what was left of it", "skipped": "the time was over"}


def texts(row: dict[str, Any]) -> list[str]:
    """A record as cells: what, at, the number, what it is allowed to be, and what comes of it."""
    if "skipped" in row:
        return [row["what"], row["at"], "", "", f"left out: {row['skipped']}"]
    if "passed" in row:
        verdict = "passed" if row["passed"] else "FAILED"
        note = f"{verdict}; {row['note']}" if "note" in row else verdict
        numbers = (row["difference"], row["allowed"])
        said = ["not finite" if number is None else f"{number:.2g}" for number in numbers]
        return [row["what"], row["at"], *said, note]
    what, at, _, median, quartiles, _, bar, verdict = pages.row(row)
    return [what, at, f"{median} ({quartiles})", bar, verdict]


def write_page(path: Path) -> Path:
    """The page of the newest record of each kind, beside them."""
    rows = pages.latest(path)
    last = rows[-1]
    where = f"On {last['device']}"
    is_dry = all(row["device"].startswith("cpu") for row in rows)
    said = (
        f"{where}: a dry run of the script. Nothing on this page is of a GPU.\n"
        if is_dry
        else f"{where}. Differences are the largest, as a part of the largest value.\n"
    )
    columns = ("what", "at", "found", "allowed", "")
    tables = []
    for section in SECTIONS:
        own = [texts(row) for row in rows if row["section"] == section]
        tables.append(f"## {section.capitalize()}\n\n{pages.markdown(columns, own)}")
    command = "```\npython -m benchmarks.gpu\n```\n"
    return pages.with_reading(path, ["# manyshot on a GPU\n", said, command, *tables], rows)


if __name__ == "__main__":
    main()
