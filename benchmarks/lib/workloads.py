"""The networks and shapes that the benchmarks run on, and one training step."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms

SGD = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)


@dataclass(frozen=True)
class Workload:
    """A network with the images it is trained on; `barred` if the design sets it a bar."""

    label: str
    network: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    batch: int
    barred: bool = True

    def build(
        self, count: int, sharing: ms.sharing.Sharing | None = None
    ) -> tuple[ms.Supernet, list[ms.Arch]]:
        """The supernet, channels last, and `count` random architectures, always the same."""
        torch.manual_seed(0)
        net = ms.Supernet(self.network(), sharing=sharing)
        net.to(memory_format=torch.channels_last)
        rng = np.random.default_rng(0)
        return net, [net.space.sample(rng) for _ in range(count)]

    def images(self, batch: int) -> tuple[Tensor, Tensor]:
        """Random images and labels."""
        images = torch.randn(batch, *self.shape).to(memory_format=torch.channels_last)
        return images, torch.randint(10, (batch,))

    def bar(self, bar: float) -> dict[str, float]:
        """The bar as a field of a record, if there is one here."""
        return {"bar": bar} if self.barred else {}


def _mobile(name: str, network: Callable[..., nn.Module], smaller: int, side: int) -> Workload:
    """8 images of a side in pixels, which a network of mobile blocks takes, or makes smaller."""
    make = functools.partial(network, classes=10, resolutions=(smaller, side))
    return Workload(f"{name}, 3x{side}x{side}, batch 8", make, (3, side, side), 8)


WORKLOADS = {
    "macro": Workload(
        "macro(width=8), 1x28x28, batch 128",
        lambda: ms.zoo.macro(width=8, channels=1),
        (1, 28, 28),
        128,
    ),
    "shufflenet": Workload(
        "shufflenet, 3x32x32, stem stride 1, batch 64",
        lambda: ms.zoo.shufflenet(classes=10, stem_stride=1),
        (3, 32, 32),
        64,
    ),
    "tiny": Workload("tiny, 1x8x8, batch 16", ms.zoo.tiny, (1, 8, 8), 16, barred=False),
}
ELASTIC = {
    "tiny_cnn": Workload(
        "tiny_cnn, 1x28x28, batch 128",
        lambda: ms.zoo.tiny_cnn(channels=1, resolutions=(20, 28)),
        (1, 28, 28),
        128,
    ),
    "tiny_vit": Workload("tiny_vit, 1x8x8, batch 64", ms.zoo.tiny_vit, (1, 8, 8), 64),
    "bignas": _mobile("bignas", ms.zoo.bignas, 48, 64),
    "attentivenas": _mobile("attentivenas", ms.zoo.attentivenas, 48, 64),
    "bignas_224": _mobile("bignas", ms.zoo.bignas, 192, 224),
    "attentivenas_224": _mobile("attentivenas", ms.zoo.attentivenas, 192, 224),
    "autoformer": Workload(
        "autoformer tiny, 3x224x224, batch 2", ms.zoo.autoformer, (3, 224, 224), 2
    ),
}
"""Networks whose layers are slices of larger ones."""


class Moves(Protocol):
    """What a step needs of an optimiser."""

    def step(self) -> object: ...
    def zero_grad(self) -> object: ...


def step(
    forward: Callable[[Tensor], Tensor],
    optimizer: Moves,
    images: Tensor,
    labels: Tensor,
) -> tuple[float, ...]:
    """One training step; CPU seconds of forward, backward, update, clearing of gradients."""
    marks = [time.process_time()]
    loss = F.cross_entropy(forward(images), labels)
    marks.append(time.process_time())
    loss.backward()
    marks.append(time.process_time())
    optimizer.step()
    marks.append(time.process_time())
    optimizer.zero_grad()
    del loss
    marks.append(time.process_time())
    return tuple(np.diff(marks).tolist())


def without_statistics(module: nn.Module) -> nn.Module:
    """A copy whose batch norms keep no running statistics, as a supernet's keep none."""
    module = copy.deepcopy(module)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    return module
