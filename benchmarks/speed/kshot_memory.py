"""Peak memory of K-shot training steps: one process for each number of copies."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

import manyshot as ms
from benchmarks.lib.kept import ROOT
from benchmarks.lib.measuring import spread
from benchmarks.lib.workloads import SGD, WORKLOADS, Workload, step
from benchmarks.speed.memory import FLOAT, MIB, filled, status


def peak(work: Workload, copies: int) -> int:
    """Bytes above the start that steps on the weights of a few architectures take at most.

    Each option is in one of them, so that all weights have their momenta.
    """
    with torch.device("meta"):
        net = ms.Supernet(work.network(), sharing=ms.sharing.KShot(copies))
    images, labels = work.images(work.batch)
    first = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    step(first, SGD(first.parameters()), images, labels)  # what torch loads late is not counted
    before = status("VmRSS")
    filled(net)
    optimizer = SGD(net.model.parameters())
    for i in range(int(net.space.counts.max())):
        arch = tuple(min(i, int(n) - 1) for n in net.space.counts)
        forward = functools.partial(net, arch=arch, phase="weights")
        for _ in range(3):
            step(forward, optimizer, images, labels)
    return status("VmHWM") - before


def held(work: Workload, copies: int) -> float:
    """MiB of the weights and the momenta of all slices."""
    net, _ = work.build(0, ms.sharing.KShot(copies))
    return 2 * sum(p.numel() for p in net.model.parameters()) * FLOAT / MIB


def measure_memory(
    work: Workload, rounds: int, copies: tuple[int, ...] = (1, 2, 4, 8)
) -> Iterator[dict[str, Any]]:
    """Peaks of fresh processes, at most three for each K, and what slices account for."""
    name = next(name for name, known in WORKLOADS.items() if known is work)
    # Large tensors go back to the system when freed; glibc's defaults add 50 MiB of chance.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    peaks: dict[int, list[float]] = {k: [] for k in copies}
    for _ in range(min(rounds, 3)):
        for k, found in peaks.items():
            command = [sys.executable, "-m", "benchmarks.speed.kshot_memory", name, str(k)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=env, cwd=ROOT
            )
            found.append(json.loads(done.stdout) / MIB)
    for k, found in peaks.items():
        yield {"what": f"memory: peak, K={k}", **spread(found), "unit": " MiB"}
    for k in copies[1:]:
        more = np.subtract(peaks[k], peaks[copies[0]])
        slices = [held(work, k) - held(work, copies[0])]
        yield {"what": f"memory: K={k} − K={copies[0]}", **spread(more), "unit": " MiB"}
        what = f"memory: weights and momenta, K={k} − K={copies[0]}"
        yield {"what": what, **spread(slices), "unit": " MiB"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak(WORKLOADS[sys.argv[1]], int(sys.argv[2])))
