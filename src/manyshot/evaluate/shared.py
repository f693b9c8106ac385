"""Batch-norm statistics that all paths share: what a supernet without recalibration would use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from manyshot.evaluate.running import RunningStatistics
from manyshot.nn.batch_norm import ADOPTED, BatchNormStats
from manyshot.nn.modes import modes_kept
from manyshot.space import Arch
from manyshot.supernet import Supernet


def shared_statistics(
    net: Supernet, batches: Iterable[Tensor | Sequence[Tensor]], rng: np.random.Generator
) -> Callable[[Arch], BatchNormStats]:
    """What running averages hold after batches of uniform random paths, for any architecture.

    This is the control of `calibrate`: in a supernet with ordinary batch norms the averages blend
    all paths, and accuracies taken with them rank badly (SPOS, arXiv:1904.00420, section 3.4). They
    are made after training, at fixed weights, with momentum 0.1; dropout is off. The supernet is
    left bit-identical.

    Args:
        net: the supernet.
        batches: images (B, C, H, W), or (images, labels) pairs; a hundred or more, each for another
            path.
        rng: draws the paths.

    Returns:
        A function from architectures to statistics. What no path reached comes from one batch.

    Raises:
        ValueError: if there is no batch.
    """
    averages, last = RunningStatistics(net), None
    for batch in batches:
        last = batch if isinstance(batch, Tensor) else batch[0]
        _forward(net, averages, last, net.space.sample(rng))
    if last is None:
        raise ValueError("shared_statistics got no batches; give at least one of training images")
    images = last

    def of(arch: Arch) -> BatchNormStats:
        of_path = RunningStatistics(net, momentum=0.0)  # only what no path reached begins
        of_path.tensors = dict(averages.tensors)
        _forward(net, of_path, images, arch)
        return of_path.of(arch)

    return of


def _forward(net: Supernet, averages: RunningStatistics, images: Tensor, arch: Arch) -> None:
    """Runs one batch of one path, in which batch norms train and all else evaluates."""
    with modes_kept(net), torch.no_grad(), averages.watching():
        for module in net.modules():
            module.training = isinstance(module, tuple(ADOPTED.values()))
        net(images, arch)
