"""What compiling the options of a supernet takes, and what a training step takes then.

    OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 python -m benchmarks.speed.compiled

Steps of the same paths with and without compiled options take turns. Only what these paths run is
compiled: for each of the last two options the path that has it in every layer. Minutes are of CPU
time, those of the C++ compiler among them; with more threads they would be left out.
"""

from __future__ import annotations

import argparse
import copy
import functools
import resource
import tempfile

import numpy as np
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from benchmarks.lib.measuring import alternate, ratio
from benchmarks.lib.workloads import SGD, WORKLOADS, step

PATHS = 2


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measured(name: str, rounds: int) -> str:
    """A sentence on one network."""
    work = WORKLOADS[name]
    plain, _ = work.build(0)
    compiled = copy.deepcopy(plain)
    bodies = compiled.compile_options()
    last = [len(decision.options) for decision in plain.space.decisions]
    archs = [tuple(count - i for count in last) for i in range(PATHS, 0, -1)]
    images, labels = work.images(work.batch)
    sides = {}
    for side, net in (("compiled", compiled), ("plain", plain)):
        optimizer = SGD(net.parameters())
        forwards = [functools.partial(net, arch=arch) for arch in archs]
        sides[side] = [functools.partial(step, f, optimizer, images, labels) for f in forwards]
    began = cpu_seconds()
    for run in sides["compiled"]:
        run()
    minutes = (cpu_seconds() - began) / 60
    graphs = counters["stats"]["unique_graphs"]
    seconds = alternate(sides, rounds)
    times = ratio(*(seconds[side].sum(-1) for side in ("compiled", "plain")))
    saved = float(np.mean(seconds["plain"].sum(-1) - seconds["compiled"].sum(-1)))
    worth = f", saved again after {60 * minutes / saved:,.0f} steps" if saved > 0 else ""
    return (
        f"{work.label}: a step takes {times['median']:.2f} ({times['q1']:.2f} to {times['q3']:.2f})"
        f" times what it takes uncompiled. {graphs} graphs, of {bodies} options, took "
        f"{minutes:.1f} minutes to compile{worth}"
    )


def main() -> None:
    """Prints a sentence for each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=["macro", "shufflenet"])
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names:
        torch._dynamo.reset()
        counters.clear()
        # A new folder, so that nothing is compiled already.
        with tempfile.TemporaryDirectory() as folder, fresh_cache(dir=folder):
            print(measured(name, asked.rounds), flush=True)


if __name__ == "__main__":
    main()
