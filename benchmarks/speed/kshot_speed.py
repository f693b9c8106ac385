"""What K copies of the weights cost: steps, code steps, evaluation, memory, over one copy.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.kshot_speed [steps codes evaluation memory]
        [--at macro shufflenet] [--rounds 10]

The sides of a ratio run in one process and one torch thread, taking turns step by step, and are
compared in CPU time. Every result is a record, from which the page is written.
`--at tiny --rounds 1 --fresh --work DIR` shows in seconds that it runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from benchmarks.lib import kept, measuring, pages
from benchmarks.lib.measuring import alternate, ratio, spread
from benchmarks.lib.workloads import SGD, WORKLOADS, Workload, step
from benchmarks.speed.kshot_memory import measure_memory
from benchmarks.speed.kshot_speed_page import write_page

Found = Iterator[dict[str, Any]]
KEPT = kept.of_speed(__file__)
COPIES = (2, 4, 8)
CHUNKS = 4
IMAGES = {"macro": (128, 512, 2048), "shufflenet": (64, 128, 512), "tiny": (8, 8, 16)}
"""Of an evaluation: batch, images for calibration, images for validation."""


class Side:
    """A supernet with one of the schemes, and its optimisers."""

    def __init__(self, work: Workload, copies: int | None, count: int) -> None:
        scheme = None if copies is None else ms.sharing.KShot(copies, m=CHUNKS)
        self.net, self.archs = work.build(count, scheme)
        self.weights: list[nn.Parameter] = list(self.net.model.parameters())
        self.optimizer = SGD(self.weights)
        self.codes = self.net.sharing.code_optimizer(0.01, 0.9)

    def weights_steps(
        self, images: Tensor, labels: Tensor
    ) -> list[Callable[[], tuple[float, ...]]]:
        """A step on the weights of every architecture."""
        return [
            functools.partial(step, self._forward(arch, "weights"), self.optimizer, images, labels)
            for arch in self.archs
        ]

    def joint_steps(self, images: Tensor, labels: Tensor) -> list[Callable[[], tuple[float, ...]]]:
        """A step on the weights and the codes of every architecture."""
        return [
            functools.partial(step, self._forward(arch, "joint"), self, images, labels)
            for arch in self.archs
        ]

    def chunked_steps(
        self, phase: ms.sharing.Phase, images: Tensor, labels: Tensor
    ) -> list[Callable[[], tuple[float, ...]]]:
        """A step on codes, or on weights for comparison, of a path per chunk, from each path on."""
        return [
            functools.partial(self._chunked_step, phase, group, images, labels)
            for group in groups(self.archs)
        ]

    def step(self) -> None:
        """Of both optimisers."""
        self.optimizer.step()
        self.moved_codes().step()

    def zero_grad(self) -> None:
        """Of both optimisers."""
        self.optimizer.zero_grad()
        self.moved_codes().zero_grad()

    def moved_codes(self) -> torch.optim.Optimizer:
        """The optimiser of the codes, of a side that has learnt ones."""
        if self.codes is None:
            raise ValueError("a side without learnt codes takes no steps on them")
        return self.codes

    def _forward(self, arch: ms.Arch, phase: ms.sharing.Phase) -> Callable[[Tensor], Tensor]:
        return functools.partial(self.net, arch=arch, phase=phase)

    def _chunked_step(
        self, phase: ms.sharing.Phase, archs: list[ms.Arch], images: Tensor, labels: Tensor
    ) -> tuple[float]:
        began = time.process_time()
        optimizer = self.moved_codes() if phase == "code" else self.optimizer
        for parameter in self.weights:
            parameter.requires_grad_(phase != "code")
        parts = zip(archs, images.chunk(CHUNKS), labels.chunk(CHUNKS), strict=True)
        for arch, own_images, own_labels in parts:
            loss = F.cross_entropy(self.net(own_images, arch, phase=phase), own_labels)
            (loss * len(own_labels) / len(labels)).backward()
        optimizer.step()
        optimizer.zero_grad()
        for parameter in self.weights:
            parameter.requires_grad_(True)
        return (time.process_time() - began,)


def groups(items: list[Any]) -> list[list[Any]]:
    """From each item on, as many as a code step has chunks; each item is in as many groups."""
    return [[items[(i + j) % len(items)] for j in range(CHUNKS)] for i in range(len(items))]


def measure_steps(work: Workload, rounds: int, count: int = 6) -> Found:
    """Steps on the weights over those with one copy; a second copy of that shows the noise."""
    batch = work.images(work.batch)
    kinds = {"one-shot": None, "K=1": 1, "again": 1, **{f"K={k}": k for k in COPIES}}
    sides = {name: Side(work, k, count) for name, k in kinds.items()}
    parts = alternate({name: side.weights_steps(*batch) for name, side in sides.items()}, rounds)
    total = {name: seconds.sum(-1) for name, seconds in parts.items()}
    one, net = total["K=1"], sides["one-shot"].net
    archs = sides["one-shot"].archs
    macs, params = ms.cost.macs(net, archs, work.shape), ms.cost.params(net, archs)
    facts = {
        "one_ms": float(np.median(one)) * 1e3,
        "path_params_per_path_macs": float((params / macs).mean()),
        "path_params": float(params.mean()),
    }
    for k in COPIES:
        bar = work.bar(1.15) if k == max(COPIES) else {}
        yield {"what": f"weights step: K={k} ÷ K=1", **ratio(total[f"K={k}"], one), **bar, **facts}
    yield {"what": "weights step: one-shot ÷ K=1", **ratio(total["one-shot"], one)}
    yield {"what": "weights step: K=1 ÷ K=1 (noise)", **ratio(total["again"], one)}
    most = parts[f"K={max(COPIES)}"]
    for i, name in enumerate(("forward", "backward", "update", "clearing")):
        extra = (most[..., i] - parts["K=1"][..., i]) / one
        yield {"what": f"weights step: part of K={max(COPIES)} in {name}", **spread(extra.ravel())}


def measure_codes(work: Workload, rounds: int, count: int = 6) -> Found:
    """Steps on codes, and on both, over steps on the weights with one copy.

    The chunks of a code step have different architectures; it is compared with the mean of the
    steps that one copy does on these, in the same round.
    """
    batch = work.images(work.batch)
    one = Side(work, 1, count)
    sides = {"K=1": one.weights_steps(*batch)}
    sides["code step: weights, K=1, in chunks"] = one.chunked_steps("weights", *batch)
    for k in COPIES:
        side = Side(work, k, count)
        sides[f"code step: K={k}"] = side.chunked_steps("code", *batch)
        sides[f"joint step: K={k}"] = side.joint_steps(*batch)
    total = {}
    for name, items in sides.items():
        sides[name] = [functools.partial(_whole, item) for item in items]
    for name, seconds in alternate(sides, rounds).items():
        total[name] = seconds.sum(-1)
    weights = total.pop("K=1")
    chosen = np.array(groups(list(range(count))))
    for name, seconds in total.items():
        under = weights[:, chosen].mean(-1) if name.startswith("code") else weights
        yield {"what": f"{name} ÷ weights step, K=1", **ratio(seconds, under)}


def _whole(timed: Callable[[], tuple[float, ...]]) -> tuple[float]:
    return (sum(timed()),)


def measure_evaluation(work: Workload, rounds: int, count: int = 4) -> Found:
    """`evaluate.score` over that with one copy."""
    name = next(name for name, known in WORKLOADS.items() if known is work)
    size, *images = IMAGES[name]
    calibration, validation = ([work.images(size) for _ in range(n // size)] for n in images)

    def seconds(net: ms.Supernet, arch: ms.Arch) -> tuple[float]:
        began = time.process_time()
        ms.evaluate.score(net, arch, calibration=calibration, validation=validation)
        return (time.process_time() - began,)

    kinds = {"one-shot": None, "K=1": 1, "again": 1, **{f"K={k}": k for k in COPIES}}
    sides = {}
    for kind, copies in kinds.items():
        side = Side(work, copies, count)
        sides[kind] = [functools.partial(seconds, side.net, arch) for arch in side.archs]
    total = alternate(sides, rounds)
    one = total["K=1"]
    facts = {"images": images, "one_ms": float(np.median(one)) * 1e3}
    for k in COPIES:
        found = ratio(total[f"K={k}"], one)
        yield {"what": f"evaluation: K={k} ÷ K=1", **found, **work.bar(1.05), **facts}
    yield {"what": "evaluation: one-shot ÷ K=1", **ratio(total["one-shot"], one)}
    yield {"what": "evaluation: K=1 ÷ K=1 (noise)", **ratio(total["again"], one)}


SECTIONS: dict[str, Callable[[Workload, int], Found]] = {
    "steps": measure_steps,
    "codes": measure_codes,
    "evaluation": measure_evaluation,
    "memory": measure_memory,
}


def main(arguments: list[str] | None = None) -> None:
    """Measures, records, prints, and writes the page anew."""
    parser = measuring.parser(__doc__ or "", list(SECTIONS), list(WORKLOADS), "kshot_speed")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    path = kept.begin(given, KEPT)
    measuring.take(given, path, SECTIONS, WORKLOADS)
    pages.show(path)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
