"""What policies cost: steps by full masks, active masks and slices, and the generator's time.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.shift_speed [steps generator whole]
        [--at tiny_vit tiny_cnn autoformer] [--rounds 10]

The sides of a ratio run in one process and one torch thread, taking turns step by step on the same
random architectures and images, and are compared in CPU time. Every result is a record,
from which the page is written. `--at digits --rounds 1 --fresh --work DIR` shows in seconds that it
runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import manyshot as ms
from benchmarks.lib import kept, measuring, pages
from benchmarks.lib.measuring import alternate, ratio, spread
from benchmarks.lib.pages import markdown, page
from benchmarks.lib.workloads import ELASTIC, SGD, Workload, step, without_statistics
from manyshot.nn.agreement import one_hot
from manyshot.nn.policy import MaskMode
from manyshot.train import Plan, PlannedPath, ShiftNASOptions
from manyshot.train.gradients import accumulate

Found = Iterator[dict[str, Any]]
KEPT = kept.of_speed(__file__)
STEPS = 10
"""Plans timed in one turn of the generator."""
TOGETHER = 4
"""Whole steps timed in one go: of these the generator learns in one, once it has settled."""
WHOLE: dict[str, tuple[dict[str, Any], bool]] = {
    "masks on all": (
        {"policy_share": 1.0, "policy_every": 1, "mix_uniform": 0.0, "entropy_weight": 0.0},
        False,
    ),
    "default, settling": ({}, False),
    "default, settled": ({}, True),
}
"""Options of the sampler, and whether the generator's draws are near their targets."""

AT = {
    **{name: ELASTIC[name] for name in ("tiny_vit", "tiny_cnn", "autoformer")},
    "digits": Workload("tiny_vit, 1x8x8, batch 4", ms.zoo.tiny_vit, (1, 8, 8), 4, barred=False),
}

READING = """
## How to read it

- A step is forward, backward, SGD (Nesterov momentum, decay) and clearing of gradients of one
  random architecture. The bare subnet is what `extract` gives, with its own optimiser. `slices` is
  `net(images, arch)`; `active` and `full` are `net(images, arch, policy=..., masks=...)` with
  policies that need a gradient. `largest` is the bare subnet of the largest architecture on the
  same images: with full masks every tensor has its size, but blocks beyond the depth and options
  beside the chosen one run forward only, and images keep the chosen resolution (in `tiny_cnn`).
- `generator` is the sampler's share of a step: `plan` (decoding all targets, their costs, the
  resource loss), the gradient of the penalty, and Adam, for 8 targets. It does not depend on the
  images. `generate` decodes one budget, up to six times.
- The machine is shared and was not idle; CPU time leaves out what others ran, not the caches they
  took. One CPU, one thread, float32: nothing here says how a GPU would do.
"""


def measure_steps(work: Workload, rounds: int, count: int = 6) -> Found:
    """Steps by masks and slices over those of the bare subnet."""
    net, archs = work.build(count)
    batch = work.images(work.batch)
    optimizer = SGD(net.parameters())
    largest = net.space.largest
    kinds: dict[str, Callable[[ms.Arch], Callable[[], tuple[float, ...]]]] = {
        "bare": functools.partial(_bare, net, batch),
        "slices": lambda arch: functools.partial(
            step, functools.partial(net, arch=arch), optimizer, *batch
        ),
        "active": functools.partial(_masked, net, optimizer, batch, "active"),
        "full": functools.partial(_masked, net, optimizer, batch, "full"),
        "largest": lambda arch: _bare(net, batch, largest),
    }
    sides = {name: [make(arch) for arch in archs] for name, make in kinds.items()}
    total = {name: parts.sum(-1) for name, parts in alternate(sides, rounds).items()}
    macs = ms.cost.macs(net, [*archs, largest], work.shape)
    facts = {
        "bare_ms": float(np.median(total["bare"])) * 1e3,
        "macs": float(macs[:-1].mean()),
        "largest_macs": int(macs[-1]),
    }
    for name in ("slices", "active", "full", "largest"):
        yield {"what": f"step: {name} ÷ bare subnet", **ratio(total[name], total["bare"]), **facts}
    yield {"what": "step: full ÷ largest bare subnet", **ratio(total["full"], total["largest"])}


def _bare(
    net: ms.Supernet, batch: tuple[Tensor, Tensor], arch: ms.Arch
) -> Callable[[], tuple[float, ...]]:
    subnet = without_statistics(net.extract(arch)).to(memory_format=torch.channels_last)
    return functools.partial(step, subnet, SGD(subnet.parameters()), *batch)


def _masked(
    net: ms.Supernet,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    masks: MaskMode,
    arch: ms.Arch,
) -> Callable[[], tuple[float, ...]]:
    policy = {d: p.float().requires_grad_() for d, p in one_hot(net.space, arch).items()}
    forward = functools.partial(net, arch=arch, policy=policy, masks=masks)
    return functools.partial(step, forward, optimizer, *batch)


def measure_generator(work: Workload, rounds: int) -> Found:
    """Milliseconds of the sampler's share of a step, and of a final decoding."""
    net, _ = work.build(1)
    table = ms.cost.macs_table(net, work.shape)
    every = ms.train.ShiftNASOptions(mix_uniform=0.0, policy_every=1)  # the generator always learns
    sampler = ms.train.ShiftNAS(net.space, {"macs": table}, every)
    optimizer, rng = sampler.optimizer(), np.random.default_rng(0)
    limits = sampler.grid.centres

    def plans() -> None:
        for _ in range(STEPS):
            plan = sampler.plan(rng, 0)
            assert plan.penalty is not None
            plan.penalty.backward()
            optimizer.step()
            optimizer.zero_grad()

    def finals() -> None:
        for limit in limits:
            sampler.generate(limit)

    for name, run, calls in (
        ("plan, gradient and update", plans, STEPS),
        ("generate", finals, len(limits)),
    ):
        run()
        taken = []
        for _ in range(rounds):
            began = time.process_time()
            run()
            taken.append((time.process_time() - began) / calls * 1e3)
        decisions = sum(len(d.options) > 1 for d in net.space.decisions)
        what = f"generator: {name}, {decisions} decisions"
        yield {"what": what, **spread(taken), "unit": " ms"}


def measure_whole(work: Workload, rounds: int, items: int = 6) -> Found:
    """Whole steps of ShiftNAS over those of slices on the same architectures.

    A whole step is everything that training does in one: drawing a path, forward and backward, SGD,
    and what the generator takes (decoding, costs, its gradient, clipping, Adam), in the mean of
    four steps. `masks on all` is the paper's: weights and generator learn through full masks, in
    every step. `default` has slices for the weights and masks on a quarter of the batch for the
    generator: in every step while it settles, in one of four once its draws are near their targets.
    Beside each are steps of slices on the same architectures, images and weights. The generator is
    that before training, and is held there (its rate is 1e-12), so that all sides train the same
    paths.
    """
    net, _ = work.build(1)
    batch = work.images(work.batch)
    moves = SGD(net.parameters())
    table = ms.cost.macs_table(net, work.shape)
    sides: dict[str, list[Callable[[], tuple[float, ...]]]] = {}
    for name, (options, settled) in WHOLE.items():
        sampler = ms.train.ShiftNAS(net.space, {"macs": table}, ShiftNASOptions(**options))
        learns = torch.optim.Adam(sampler.generator.parameters(), 1e-12)
        sides[name] = [
            functools.partial(_whole, net, batch, moves, sampler, learns, settled, item)
            for item in range(items)
        ]
        sides[f"{name}: slices"] = [
            functools.partial(_sliced, net, batch, moves, _archs(sampler, settled, item))
            for item in range(items)
        ]
    seconds = {name: parts.sum(-1) for name, parts in alternate(sides, rounds).items()}
    for name in WHOLE:
        beside = seconds[f"{name}: slices"]
        facts = {"slices_ms": float(np.median(beside)) * 1e3 / TOGETHER}
        what = f"whole step: {name} ÷ slices"
        yield {"what": what, **ratio(seconds[name], beside), **facts}


def _planned(sampler: ms.train.ShiftNAS, settled: bool, item: int, step: int) -> Plan:
    sampler.distance = 0.0 if settled else float("inf")
    sampler.counts.zero_()[0] = step
    return sampler.plan(np.random.default_rng((item, step)), step)


def _archs(sampler: ms.train.ShiftNAS, settled: bool, item: int) -> list[ms.Arch]:
    plans = (_planned(sampler, settled, item, step) for step in range(TOGETHER))
    return [path.arch for plan in plans for path in plan.paths]


def _whole(
    net: ms.Supernet,
    batch: tuple[Tensor, Tensor],
    moves: Any,
    sampler: ms.train.ShiftNAS,
    learns: torch.optim.Optimizer,
    settled: bool,
    item: int,
) -> tuple[float, ...]:
    """Seconds of a few whole steps."""
    began = time.process_time()
    for turn in range(TOGETHER):
        plan = _planned(sampler, settled, item, turn)
        accumulate(net, plan, *batch, largest=net.space.largest)
        moves.step()
        moves.zero_grad()
        torch.nn.utils.clip_grad_norm_(sampler.generator.parameters(), 1.0)
        learns.step()
        learns.zero_grad()
    return (time.process_time() - began,)


def _sliced(
    net: ms.Supernet, batch: tuple[Tensor, Tensor], moves: Any, archs: Sequence[ms.Arch]
) -> tuple[float, ...]:
    """Seconds of as many steps of slices."""
    began = time.process_time()
    for arch in archs:
        accumulate(net, Plan((PlannedPath(arch),)), *batch, largest=net.space.largest)
        moves.step()
        moves.zero_grad()
    return (time.process_time() - began,)


def _beside(found: Sequence[Mapping[str, Any]]) -> str:
    columns = ("at", "bare step, CPU", "MACs", "MACs of the largest")
    rows = [
        [
            r["at"],
            f"{r['bare_ms']:.0f} ms",
            f"{r['macs'] / 1e6:,.2f}M",
            f"{r['largest_macs'] / 1e6:,.2f}M",
        ]
        for r in found
        if r["what"].startswith("step: slices")
    ]
    return markdown(columns, rows)


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    title, beside = "What policies cost", ("Beside the ratios", _beside)
    command = "python -m benchmarks.speed.shift_speed"
    return page(path, title, command, beside, READING)


SECTIONS: dict[str, Callable[[Workload, int], Found]] = {
    "steps": measure_steps,
    "generator": measure_generator,
    "whole": measure_whole,
}


def main(arguments: list[str] | None = None) -> None:
    """Measures, records, prints, and writes the page anew."""
    parser = measuring.parser(__doc__ or "", list(SECTIONS), list(AT), "shift_speed")
    parser.set_defaults(at=["tiny_vit", "tiny_cnn", "autoformer"])
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    measuring.take(given, path, SECTIONS, AT)
    pages.show(path)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
