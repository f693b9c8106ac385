"""What mixing all options takes beside running one: time of a step, and memory for its backward.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.mixed

A forward and a backward of a mixture and of random paths take turns; the ratio of their medians is
shown, and that of the bytes that autograd keeps for the backward, which is exact.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import manyshot as ms

NETS: dict[str, tuple[Callable[[], ms.Supernet], tuple[int, ...]]] = {
    "tiny": (lambda: ms.Supernet(ms.zoo.tiny()), (64, 1, 8, 8)),
    "cell": (lambda: ms.Supernet(ms.zoo.cell(width=8, cells=1)), (32, 3, 16, 16)),
    "macro": (lambda: ms.Supernet(ms.zoo.macro(width=8)), (16, 3, 32, 32)),
}
TURNS = 30


def kept_bytes(run: Callable[[], Tensor]) -> int:
    """The bytes that the forward of `run` keeps for its backward, each storage once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(storages.values())


def measured(name: str) -> tuple[float, float]:
    """The ratios of a mixture to a path: of time, and of bytes."""
    make, shape = NETS[name]
    torch.manual_seed(0)
    net, images, rng = make().train(), torch.randn(shape), np.random.default_rng(0)
    weights = {
        d: torch.randn(len(d.options)).softmax(0).requires_grad_() for d in net.space.decisions
    }
    archs = [net.space.sample(rng) for _ in range(TURNS)]

    def mixed() -> Tensor:
        return net(images, policy=weights, masks="mixed").sum()

    times: dict[str, list[float]] = {"mixed": [], "path": []}
    for i, arch in enumerate([archs[0], *archs]):  # the first turn is left out

        def path(arch: ms.Arch = arch) -> Tensor:
            return net(images, arch).sum()

        for side, run in (("mixed", mixed), ("path", path)):
            began = time.thread_time()
            run().backward()
            if i:
                times[side].append(time.thread_time() - began)
    medians = {side: statistics.median(values) for side, values in times.items()}
    one = statistics.mean(kept_bytes(lambda a=arch: net(images, a).sum()) for arch in archs)  # type: ignore[misc]
    return medians["mixed"] / medians["path"], kept_bytes(mixed) / one


def main() -> None:
    """Prints a line for each network."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    for name in NETS:
        seconds, size = measured(name)
        print(
            f"{name}: a step takes {seconds:.1f} times that of a path, "
            f"and keeps {size:.1f} times as much"
        )


if __name__ == "__main__":
    main()
