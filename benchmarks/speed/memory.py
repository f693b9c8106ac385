"""Peak memory of training steps: a supernet against the same subnets alone, one process each."""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import manyshot as ms
from benchmarks.lib.kept import ROOT
from benchmarks.lib.measuring import spread
from benchmarks.lib.workloads import SGD, WORKLOADS, Workload, step

MIB, FLOAT = 2**20, 4


def status(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def filled(module: nn.Module) -> nn.Module:
    """A module made on the meta device, in memory: what is large is the tensors."""
    module.to_empty(device="cpu").to(memory_format=torch.channels_last)
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.detach().fill_(0.01)
    return module


def peak(work: Workload, side: str) -> int:
    """Bytes above the start that the training of a few architectures takes at most.

    Each option is in one of them, so that the supernet has all its gradients' momenta; the bare
    side trains one after the other and keeps none.
    """
    with torch.device("meta"):
        net = ms.Supernet(work.network())
    most = int(net.space.counts.max())
    archs = [tuple(min(i, int(n) - 1) for n in net.space.counts) for i in range(most)]
    images, labels = work.images(work.batch)
    first = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    step(first, SGD(first.parameters()), images, labels)  # what torch loads late is not counted
    before = status("VmRSS")

    def steps(forward: Callable[..., Any], optimizer: torch.optim.Optimizer) -> None:
        for _ in range(3):
            step(forward, optimizer, images, labels)

    if side == "supernet":
        filled(net)
        shared = SGD(net.parameters())
        for arch in archs:
            steps(functools.partial(net, arch=arch), shared)
    else:
        subnets = [net.extract(arch) for arch in archs]
        while subnets:
            module = filled(subnets.pop(0))
            steps(module, SGD(module.parameters()))
            del module
            gc.collect()
    return status("VmHWM") - before


def measure_memory(work: Workload, rounds: int) -> Iterator[dict[str, Any]]:
    """Peaks of fresh processes, at most three a side, and the memory of the parameters."""
    name = next(name for name, known in WORKLOADS.items() if known is work)
    peaks: dict[str, list[float]] = {"supernet": [], "bare": []}
    # Large tensors go back to the system when freed; glibc's defaults add 50 MiB of chance.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for _ in range(min(rounds, 3)):
        for side, found in peaks.items():
            command = [sys.executable, "-m", "benchmarks.speed.memory", name, side]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env=env, cwd=ROOT
            )
            found.append(json.loads(done.stdout) / MIB)
    net, _ = work.build(0)
    ours = sum(p.numel() for p in net.parameters()) * FLOAT / MIB
    path = float(ms.cost.params(net, [net.space.largest])[0]) * FLOAT / MIB
    facts = {"unit": " MiB", "parameters_mib": ours, "largest_path_parameters_mib": path}
    for side, found in peaks.items():
        yield {"what": f"memory: peak, {side}", **spread(found), **facts}
    extra = np.subtract(peaks["supernet"], peaks["bare"])
    held = [2 * (ours - path)]  # a float of weight and one of momentum
    yield {"what": "memory: supernet − bare", **spread(extra), "unit": " MiB"}
    yield {"what": "memory: weights and momenta off the path", **spread(held), "unit": " MiB"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak(WORKLOADS[sys.argv[1]], sys.argv[2]))
