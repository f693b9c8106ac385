"""Calibrating one architecture's batch norms, and scoring it on fixed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.data import Batch
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.mixing import Kept
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.supernet import Supernet


@dataclass(frozen=True, slots=True)
class Score:
    """How well one architecture does on a set of images.

    Attributes:
        accuracy: the share of images classified correctly, in [0, 1].
        loss: the mean cross-entropy, without label smoothing.
        images: how many images there were.
    """

    accuracy: float
    loss: float
    images: int


def calibrate(
    net: Supernet,
    arch: Arch,
    batches: Iterable[Tensor | Sequence[Tensor]],
    mixture: Kept | None = None,
) -> BatchNormStats:
    """The batch-norm statistics of `arch`: reset, then averages over `batches` by their images.

    SPOS recalibrates so too (arXiv:1904.00420, section 3.4), but here every image weighs the same
    (`manyshot.nn.batch_norm.Collector` has the formula) instead of later ones more, and the fixed
    batches are the same for every architecture. Dropout is off. The supernet is left bit-identical.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        batches: images (B, C, H, W), or (images, labels) pairs; at least one.
        mixture: what `net.mixture(arch)` gave, if that is at hand.

    Returns:
        Statistics for `net(images, arch, stats=stats)` and `net.extract(arch, stats=stats)`.

    Raises:
        ValueError: if there is no batch, or `arch` is not in the space.
    """
    arch, collector, seen = tuple(arch), Collector(), 0
    mixture = mixture or net.mixture(arch)
    with evaluating(net):
        for images in images_of(batches):
            net(images, arch, stats=collector, mixture=mixture)
            seen += 1
    if not seen:
        raise ValueError("calibrate got no batches; give at least one batch of training images")
    return collector.stats(arch)


def images_of(batches: Iterable[Tensor | Sequence[Tensor]]) -> Iterator[Tensor]:
    """The images of batches, which are images alone or images and labels."""
    for batch in batches:
        yield batch if isinstance(batch, Tensor) else batch[0]


def predict(
    forward: Callable[[Tensor], Tensor], batches: Iterable[Batch]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The logits (B, classes) and labels (B,) of every batch."""
    for images, labels in batches:
        yield forward(images), labels


def total(outputs: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """The score of logits (B, classes) and labels (B,) of every batch."""
    correct: Tensor | int = 0
    loss: Tensor | float = 0.0
    images = 0
    for logits, labels in outputs:
        correct = correct + (logits.argmax(1) == labels).sum()
        loss = loss + F.cross_entropy(logits.float(), labels, reduction="sum").double()
        images += len(labels)
    if not images:
        raise ValueError("there are no images to score on")
    return Score(float(correct) / images, float(loss) / images, images)


def score(
    net: Supernet,
    arch: Arch,
    *,
    calibration: Iterable[Tensor | Sequence[Tensor]] | BatchNormStats,
    validation: Iterable[Batch],
) -> Score:
    """The proxy score of `arch`: calibrated, then scored with the supernet's weights.

    It depends on neither earlier calls nor their order, and leaves the supernet bit-identical.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        calibration: batches, as `calibrate` takes them, or statistics of `arch` that are there
            already.
        validation: batches of images and labels.

    Raises:
        ValueError: for the reasons that `calibrate` has, or if there is no validation batch.
    """
    mixture = net.mixture(arch)
    stats = calibration
    if not isinstance(stats, BatchNormStats):
        stats = calibrate(net, arch, stats, mixture)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = net(images, tuple(arch), stats=stats, mixture=mixture)
        return logits

    with evaluating(net):
        return total(predict(forward, validation))


def accuracy(module: nn.Module, batches: Iterable[Batch]) -> Score:
    """The score of a plain module, such as an extracted subnet, in eval mode."""
    with evaluating(module):
        return total(predict(module, batches))
