"""What it saves on the CPU to keep freed memory, as commands of manyshot do, in a training step.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.allocation [--at macro shufflenet] [--pairs 6]

Processes take turns, one that keeps what it frees and one that is left as it is. Each trains random
paths of a supernet; compared are CPU time and page faults of a step, after the first ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from benchmarks.lib.measuring import ratio
from benchmarks.lib.workloads import ELASTIC, SGD, WORKLOADS, step
from manyshot.allocation import hold_freed_memory

AT = {**WORKLOADS, **ELASTIC}
PATHS = 6


def seconds_and_faults(at: str, least_seconds: float) -> tuple[float, float]:
    """CPU seconds and page faults of a step in this process."""
    torch.set_num_threads(1)
    work = AT[at]
    net, archs = work.build(PATHS)
    images, labels = work.images(work.batch)
    optimizer = SGD(net.parameters())

    def train() -> None:
        for arch in archs:
            step(functools.partial(net, arch=arch), optimizer, images, labels)

    train()
    steps, began, faults = 0, time.process_time(), _faults()
    while time.process_time() < began + least_seconds:
        train()
        steps += len(archs)
    return (time.process_time() - began) / steps, (_faults() - faults) / steps


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def measured(at: str, pairs: int, least_seconds: float) -> str:
    """A line: the ratio of CPU times, and the faults of both kinds of process."""
    taken = np.zeros((2, pairs, 2))
    for pair in range(pairs):
        for kind in (pair % 2, 1 - pair % 2):
            child = ["--child", at, "--seconds", str(least_seconds), *(["--held"] * kind)]
            command = [sys.executable, "-m", "benchmarks.speed.allocation", *child]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            taken[kind, pair] = json.loads(run.stdout)
    share = ratio(taken[1, :, 0], taken[0, :, 0])
    low, high = share["interval"]
    plain, held = np.median(taken[:, :, 1], axis=1)
    return (
        f"{AT[at].label}: {share['median']:.3f} ({low:.3f} to {high:.3f}) of the CPU time, "
        f"{held:.0f} page faults a step in place of {plain:.0f}"
    )


def main() -> None:
    """Measures and prints; a child does what its parent asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--at", nargs="+", choices=AT, default=["macro", "shufflenet"])
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=6.0, help="CPU time of a process, least")
    parser.add_argument("--child", choices=AT, help=argparse.SUPPRESS)
    parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        if asked.held:
            hold_freed_memory()
        print(json.dumps(seconds_and_faults(asked.child, asked.seconds)))
        return
    for at in asked.at:
        print(measured(at, asked.pairs, asked.seconds), flush=True)


if __name__ == "__main__":
    main()
