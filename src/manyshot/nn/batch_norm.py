"""Batch normalisation without running statistics, which would blend all paths of a supernet.

In train mode the batch is used. In eval mode statistics belong to one architecture and are an
argument of the forward: `net(images, arch, stats=stats)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from manyshot.nn.layer import Channels, Norm, Tie, channels, elastic, largest, put
from manyshot.nn.partial import parts_now
from manyshot.nn.placement import LEFT, Placement
from manyshot.nn.selection import Part, Selection, active, current
from manyshot.space import Arch, Size


@final
class BatchStatistics:
    """The batch's own statistics, in eval mode: `net(images, arch, stats="batch")`."""

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises by the batch (see `Statistics.normalise`)."""
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


@final
class UnitStatistics:
    """Mean zero and variance one: for dry runs, where only shapes matter."""

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """`x` as it is, on meta tensors, if scale and shift fit (see `Statistics.normalise`).

        Raises:
            ValueError: if they do not fit.
        """
        if weight is not None and len(weight) != x.shape[1] * parts_now():
            raise ValueError(
                f"batch norm {path!r} is of {len(weight)} features, its input has {x.shape[1]}"
            )
        return x


@final
class BatchNormStats:
    """Calibrated batch-norm statistics of one architecture, made by `ms.evaluate.calibrate`.

    Attributes:
        arch: the architecture they belong to.
        tensors: for each batch-norm layer by path, its mean and (unbiased) variance, shape (C,).
        placement: which channels they are of.
    """

    def __init__(
        self,
        arch: Arch,
        tensors: dict[str, tuple[Tensor, Tensor]],
        placement: Placement = LEFT,
    ) -> None:
        self.arch, self.tensors, self.placement = arch, tensors, placement

    def of(self, path: str) -> tuple[Tensor, Tensor]:
        """The mean and the variance of the layer at `path`.

        Raises:
            LookupError: if these statistics have none for it.
        """
        try:
            return self.tensors[path]
        except KeyError:
            raise LookupError(
                f"the statistics of {self.arch} have none for batch norm {path!r}; calibrate the "
                "same network again: ms.evaluate.calibrate(net, arch, batches)"
            ) from None

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises by the calibrated statistics (see `Statistics.normalise`)."""
        mean, variance = self.of(path)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    def to(self, device: torch.device | str) -> Self:
        """The same statistics on `device`."""
        moved = {p: (m.to(device), v.to(device)) for p, (m, v) in self.tensors.items()}
        return type(self)(self.arch, moved, self.placement)


@final
class MaskedStatistics:
    """Statistics of an architecture for a forward with full masks, whose tensors are larger.

    Features that are not active, and layers that the architecture does not run, are normalised by
    mean zero and variance one: masks drop what comes of them.

    Attributes:
        stats: the statistics of the architecture.
        places: for each layer that it runs, by path, which of the features are active.
    """

    def __init__(self, stats: BatchNormStats, places: Mapping[str, Part]) -> None:
        self.stats, self.places = stats, places

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises the active features by their statistics (see `Statistics.normalise`).

        Raises:
            LookupError: if there are none for a layer that the architecture runs.
        """
        mean = torch.zeros(x.shape[1], device=x.device, dtype=_running_dtype(x, weight))
        variance = torch.ones_like(mean)
        if path in self.places:
            for padded, values in zip((mean, variance), self.stats.of(path), strict=True):
                put(padded, self.places[path], values)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


@final
class Collector:
    """Collects averages of the batches' means and unbiased variances, weighted by their images.

    Of batches i with n_i images each, N in all, with mean m_i and variance v_i (over images and
    places, divided by their number less one, as `torch`'s running variance), the mean is
    sum(n_i m_i) / N, which is the mean of all images pooled, and the variance is
    sum(n_i v_i) / N, which leaves out how much the means of batches differ. Where batches have
    equal numbers this is `torch`'s batch norm with `momentum=None`.
    """

    def __init__(self) -> None:
        self._running: dict[str, tuple[Tensor, Tensor]] = {}
        self._images: dict[str, int] = {}

    def normalise(
        self, path: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises by the batch and takes it into the averages (see `Statistics.normalise`).

        Raises:
            ValueError: for one value per feature, which has no variance.
        """
        if x.numel() == x.shape[1]:
            raise ValueError(
                f"batch norm {path!r} gets one value per feature, of a batch of one image, which "
                "has no variance: give calibration batches of at least two images each, for "
                "example by ms.data.fixed"
            )
        if path not in self._running:
            zeros = torch.zeros(x.shape[1], device=x.device, dtype=_running_dtype(x, weight))
            self._running[path], self._images[path] = (zeros, torch.ones_like(zeros)), 0
        self._images[path] += len(x)
        mean, variance = self._running[path]
        momentum = len(x) / self._images[path]
        return F.batch_norm(x, mean, variance, weight, bias, True, momentum, eps)

    def stats(self, arch: Arch, placement: Placement = LEFT) -> BatchNormStats:
        """The averages so far, as the statistics of `arch` with its channels so placed."""
        copies = {path: (m.clone(), v.clone()) for path, (m, v) in self._running.items()}
        return BatchNormStats(arch, copies, placement)


def _running_dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    """The type that `torch`'s kernels ask of running statistics: the scale's, at least float32."""
    if weight is not None:
        return weight.dtype
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class BatchNorm(Norm):
    """Batch normalisation over the second dimension; the number of features may be a size."""

    _size_name = "num_features"
    _plain: ClassVar[Any]

    def __init__(
        self,
        num_features: Channels,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
    ) -> None:
        """Makes a batch norm as `torch.nn.BatchNorm2d` is made.

        Args:
            num_features: the number of features, which may be a size.
            eps: what is added to the variance.
            momentum: matters only to the extracted layer.
            affine: whether there are a scale and a shift.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__()
        what = f"{type(self).__name__}: num_features"
        self.num_features: int | Size = channels(num_features, what)
        self.eps, self.momentum = eps, momentum
        self._make_parameters(affine, affine)
        self._remember_like()

    def _remember_like(self, like: Tensor | None = None) -> None:
        if not self.has("weight"):  # an empty tensor knows device and type of the extracted layer
            empty = torch.empty(0) if like is None else torch.empty_like(like[:0])
            self.register_buffer("_like", empty, persistent=False)

    @classmethod
    def adopt(cls, norm: nn.Module, num_features: Channels | None = None) -> None:
        """Makes a plain `norm` one of these, in place: whoever holds it holds this layer then.

        Args:
            norm: a batch norm of `torch.nn`.
            num_features: its number of features as a size, if that is to be elastic; the largest
                must be what `norm` has.

        Raises:
            ValueError: if it is another, or for a sum of sizes (see `ms.concat`).
        """
        features: Any = norm.num_features
        if num_features is not None:
            what = f"{type(norm).__name__}: num_features"
            features = channels(num_features, what)
            if largest(features) != norm.num_features:
                raise ValueError(
                    f"{what} {features!r} is {largest(features)} at its largest, the layer has "
                    f"{norm.num_features}: both must be the same"
                )
        like = norm._buffers["running_mean"]
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            del norm._buffers[name]
        norm.__class__ = cls
        assert isinstance(norm, cls)
        norm.num_features = features
        norm._elastic = elastic(features)
        norm._stored = (largest(features),)
        norm._remember_like(like)

    def operands(self) -> tuple[Tensor | None, Tensor | None]:
        """Scale and shift as the active selection uses them; None for what there is not."""
        if not self._elastic:
            return self.weight, self.bias
        selection = current() or active(self)
        weight, bias = self.tensors(self.used(selection), selection)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) normalised per channel.

        Raises:
            RuntimeError: in eval mode without statistics; the message names the call that makes
                them.
        """
        weight, bias = self.operands()
        return self.normalise(x, weight, bias, self.eps)

    def normalise(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises by the batch, or in eval mode by the statistics of the active selection.

        Args:
            x: (B, C, ...).
            weight: the scale, (C,), or None.
            bias: the shift, (C,), or None.
            eps: what is added to the variance.
        """
        if self.training:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)
        selection = current() or active(self)
        if selection.statistics is None:
            raise RuntimeError(
                f"batch norm {self.path!r} in eval mode has no statistics for architecture "
                f"{selection.arch}: pass net(images, arch, stats=stats) with "
                "stats = ms.evaluate.calibrate(net, arch, batches), or stats='batch' to use the "
                "batch's own (of a converted network net.conversion.stats are the original's, for "
                "the largest architecture)"
            )
        return selection.statistics.normalise(self.path, x, weight, bias, eps)

    def statistics(self, selection: Selection) -> dict[str, Tensor]:
        """The buffers of the extracted norm: those of the selection, or fresh ones.

        Fresh ones (mean 0, variance 1) are also for a layer that did not run in the calibration,
        such as an auxiliary head: it does not run in eval mode.
        """
        like: Any = self.weight if self.has("weight") else self._like
        stats = selection.statistics
        if isinstance(stats, BatchNormStats) and self.path in stats.tensors:
            mean, variance = (tensor.clone() for tensor in stats.of(self.path))
        else:
            mean = torch.zeros(
                selection.count(self.num_features), device=like.device, dtype=like.dtype
            )
            variance = torch.ones_like(mean)
        batches = torch.zeros((), dtype=torch.long, device=like.device)
        return {"running_mean": mean, "running_var": variance, "num_batches_tracked": batches}

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """A batch norm of `torch.nn`, with the statistics of the selection or fresh ones."""
        features = selection.count(self.num_features)
        norm = self._plain(features, self.eps, self.momentum, self.has("weight"), device="meta")
        self._give_parameters(norm, tie)
        norm._buffers.update(self.statistics(selection))
        return norm  # type: ignore[no-any-return]


@final
class BatchNorm1d(BatchNorm):
    """The elastic counterpart of `torch.nn.BatchNorm1d`."""

    _plain = nn.BatchNorm1d


@final
class BatchNorm2d(BatchNorm):
    """The elastic counterpart of `torch.nn.BatchNorm2d`."""

    _plain = nn.BatchNorm2d


@final
class BatchNorm3d(BatchNorm):
    """The elastic counterpart of `torch.nn.BatchNorm3d`."""

    _plain = nn.BatchNorm3d


@final
class SyncBatchNorm(BatchNorm):
    """What a `torch.nn.SyncBatchNorm` becomes: in one process it is a batch norm."""

    _plain = nn.SyncBatchNorm
    process_group: Any

    def normalise(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        """Normalises (see `BatchNorm.normalise`).

        Raises:
            RuntimeError: in training by several processes.
        """
        if self.training and dist.is_available() and dist.is_initialized():
            processes = dist.get_world_size(self.process_group)
            if processes > 1:
                raise RuntimeError(
                    f"SyncBatchNorm {self.path!r} trains in {processes} processes, whose batches "
                    "it would normalise together; a supernet normalises that of each by itself. "
                    "Use torch.nn.BatchNorm1d/2d/3d, with larger batches where statistics of one "
                    "process are too noisy, or train in one process"
                )
        return super().normalise(x, weight, bias, eps)

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """A `torch.nn.SyncBatchNorm` of the same processes."""
        norm: Any = super().plain(selection, tie)
        norm.process_group = self.process_group
        return norm  # type: ignore[no-any-return]


ADOPTED: dict[type[nn.Module], type[BatchNorm]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
    nn.SyncBatchNorm: SyncBatchNorm,
}
