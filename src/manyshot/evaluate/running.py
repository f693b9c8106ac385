"""Batch-norm statistics without a calibration: running averages, which paths share."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.evaluate.score import images_of
from manyshot.nn.batch_norm import BatchNorm, BatchNormStats
from manyshot.nn.inputs import Inputs
from manyshot.nn.layer import leading, put, take
from manyshot.nn.modes import modes_kept
from manyshot.nn.placement import LEFT, Placement
from manyshot.nn.selection import active
from manyshot.space import Arch
from manyshot.supernet import Supernet


class RunningStatistics:
    """Exponential averages of means and unbiased variances over training batches of any path.

    They are what a supernet with ordinary batch norms would keep, as the public code of Supernet
    Shifting does (momentum 0.1; what came before n batches weighs 0.9^n): the averages of a layer
    go on from one path to the next. Ours is that a feature starts from the first batch that it
    sees. They are a baseline; see `calibrate` for statistics that belong to one architecture. Under
    activation checkpointing a batch counts twice.

    Attributes:
        tensors: for each batch-norm layer by path, the mean and the variance of all its features;
            those of a feature that no batch has reached are not numbers.
    """

    def __init__(self, net: Supernet, momentum: float = 0.1) -> None:
        """Makes averages that have seen nothing yet."""
        self.net, self.momentum = net, momentum
        self.tensors: dict[str, tuple[Tensor, Tensor]] = {}
        self._last: dict[str, tuple[Tensor, Tensor]] = {}
        self._placement: Placement = LEFT

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A context in which training batches count; `of` tells of those since the last entry."""
        self._last.clear()
        handles = [
            module.register_forward_pre_hook(functools.partial(self._take, module.path))
            for module in self.net.modules()
            if isinstance(module, BatchNorm)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of(self, arch: Arch) -> BatchNormStats:
        """The statistics for `arch`, which must be the path watched last, all batches of it."""
        tensors = {path: (m.clone(), v.clone()) for path, (m, v) in self._last.items()}
        return BatchNormStats(arch, tensors, self._placement)

    @torch.no_grad()
    def _take(self, path: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, *_ = inputs
        if not module.training:
            return
        dims = [d for d in range(x.dim()) if d != 1]
        exact = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(exact, dims)
        assert isinstance(module, BatchNorm)
        selection = active(module)
        [part] = leading(selection, module._stored, module.num_features)
        self._placement = selection.placement
        unseen = mean.new_full(module._stored, float("nan"))
        grown, last = [], []
        pairs = zip(self.tensors.get(path, (unseen, unseen)), (mean, variance), strict=True)
        for average, value in pairs:
            before, after = take(average, (part,)), average.clone()
            last.append(torch.where(before.isnan(), value, before.lerp(value, self.momentum)))
            put(after, part, last[-1])
            grown.append(after)
        self.tensors[path], self._last[path] = (grown[0], grown[1]), (last[0], last[1])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, by path and kind."""
        named = ((path, pair) for path, pair in self.tensors.items())
        return {
            f"{path}.{kind}": tensor
            for path, pair in named
            for kind, tensor in zip(("mean", "variance"), pair, strict=True)
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        device = next(self.net.parameters()).device
        paths = dict.fromkeys(name.rpartition(".")[0] for name in state)
        self.tensors = {
            path: (
                state[f"{path}.mean"].to(device, copy=True),
                state[f"{path}.variance"].to(device, copy=True),
            )
            for path in paths
        }
        self._last.clear()


def shared_statistics(
    net: Supernet, batches: Iterable[Any], rng: np.random.Generator
) -> Callable[[Arch], BatchNormStats]:
    """What running averages hold after batches of uniform random paths, for any architecture.

    This is the control of `calibrate`: in a supernet with ordinary batch norms the averages blend
    all paths, and accuracies taken with them rank badly (SPOS, arXiv:1904.00420, section 3.4). They
    are made after training, at fixed weights, with momentum 0.1; dropout is off. The supernet is
    left bit-identical.

    Args:
        net: the supernet.
        batches: pairs of inputs and targets, or inputs alone (see `calibrate`); a hundred or more,
            each for another path.
        rng: draws the paths.

    Returns:
        A function from architectures to statistics. What no path reached comes from one batch.

    Raises:
        ValueError: if there is no batch.
    """
    averages, images = RunningStatistics(net), None
    for images in images_of(batches):
        _forward(net, averages, images, net.space.sample(rng))
    if images is None:
        raise ValueError("shared_statistics got no batches; give at least one of training images")
    last = images

    def of(arch: Arch) -> BatchNormStats:
        of_path = RunningStatistics(net, momentum=0.0)  # only what no path reached begins
        of_path.tensors = dict(averages.tensors)
        _forward(net, of_path, last, arch)
        return of_path.of(arch)

    return of


def _forward(net: Supernet, averages: RunningStatistics, images: Inputs, arch: Arch) -> None:
    """Runs one batch of one path, in which batch norms train and all else evaluates."""
    with modes_kept(net), torch.no_grad(), averages.watching():
        for module in net.modules():
            module.training = isinstance(module, BatchNorm)
        net(images, arch)
