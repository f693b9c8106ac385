"""Calibrating one architecture's batch norms, and scoring it on fixed batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.data import Batch
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.inputs import Inputs, as_call
from manyshot.nn.mixing import Kept
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.supernet import Supernet

NEVER = -(2**31)
"""The label that losses leave out, in place of torch's -100: labels are in 0..classes-1."""


@dataclass(frozen=True, slots=True)
class Score:
    """How well one architecture does on a set of images.

    Attributes:
        accuracy: the share of images classified correctly, in [0, 1].
        loss: the mean cross-entropy, without label smoothing.
        images: how many images there were.
        balanced_accuracy: the mean over classes of the share of their images classified correctly,
            over the classes that there were; where one class is most of the images, always naming
            it gets a high accuracy, and here 1 over the number of classes.
    """

    accuracy: float
    loss: float
    images: int
    balanced_accuracy: float | None = field(default=None, compare=False)


def calibrate(
    net: Supernet,
    arch: Arch,
    batches: Iterable[Any],
    mixture: Kept | None = None,
) -> BatchNormStats:
    """The batch-norm statistics of `arch`: reset, then averages over `batches` by their images.

    SPOS recalibrates so too (arXiv:1904.00420, section 3.4), but here every image weighs the same
    (`manyshot.nn.batch_norm.Collector` has the formula) instead of later ones more, and the fixed
    batches are the same for every architecture. Dropout is off. The supernet is left bit-identical.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        batches: pairs of inputs and targets, or inputs alone that are a tensor or a dict; at least
            one. Inputs are what `net(inputs, arch)` takes, usually images (B, C, H, W).
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


def images_of(batches: Iterable[Any]) -> Iterator[Inputs]:
    """The inputs of batches, which are pairs of inputs and targets, or a tensor or dict alone."""
    for batch in batches:
        yield batch if isinstance(batch, Tensor | Mapping) else batch[0]


def check_classes(outputs: Any, labels: Any) -> None:
    """Checks that outputs and labels are of classification, one class per image.

    The range of labels is checked on the CPU alone: elsewhere that would wait for the device, whose
    losses stop at such labels by themselves.

    Args:
        outputs: what a network gave.
        labels: what it should have given.

    Raises:
        ValueError: if outputs are no floating-point tensor (B, classes), or labels no tensor (B,)
            of class indices in 0..classes-1.
    """
    fits = (
        isinstance(outputs, Tensor)
        and isinstance(labels, Tensor)
        and outputs.dim() == 2
        and outputs.is_floating_point()
        and labels.shape == outputs.shape[:1]
        and labels.dtype in (torch.int64, torch.uint8)
    )
    allowed = (
        "Allowed are outputs (B, classes) of a floating-point type and labels (B,) of type "
        "torch.int64, class indices in 0..classes-1 (labels.long() makes them of other integers). "
        "Dense or several labels per image, and regression, are tasks that manyshot does not train "
        "or score on: give ms.find a score of your own, score=function(arch)"
    )
    if not fits:
        raise ValueError(
            f"the network's outputs are {_described(outputs)}, the labels {_described(labels)}. "
            f"{allowed}"
        )
    if labels.device.type == "cpu" and len(labels):
        least, most, classes = int(labels.min()), int(labels.max()), outputs.shape[1]
        if least < 0 or most >= classes:
            raise ValueError(
                f"the labels are in {least}..{most}, the network's outputs of shape "
                f"{tuple(outputs.shape)} have {classes} classes, 0..{classes - 1}. {allowed}"
            )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        parts = ", ".join(map(_described, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"a {type(value).__name__} of {len(value)} ({parts})"
    return f"a {type(value).__name__}"


def total(outputs: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """The score of logits (B, classes) and labels (B,) of every batch.

    Raises:
        ValueError: if outputs and labels are none of classification, or there are no images.
    """
    correct: Tensor | float = 0.0
    present: Tensor | float = 0.0
    loss: Tensor | float = 0.0
    images = 0
    for logits, labels in outputs:
        check_classes(logits, labels)
        right = (logits.argmax(1) == labels).double()
        none, labels = logits.new_zeros(logits.shape[1], dtype=torch.float64), labels.long()
        correct = correct + none.index_add(0, labels, right)
        present = present + none.index_add(0, labels, torch.ones_like(right))
        losses = F.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=NEVER)
        loss = loss + losses.double()
        images += len(labels)
    if not images:
        raise ValueError("there are no images to score on")
    assert isinstance(correct, Tensor) and isinstance(present, Tensor)  # there were images
    balanced = float((correct / present)[present > 0].mean())
    return Score(float(correct.sum()) / images, float(loss) / images, images, balanced)


def score(
    net: Supernet,
    arch: Arch,
    *,
    calibration: Iterable[Any] | BatchNormStats,
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
        ValueError: for the reasons that `calibrate` has, if there is no validation batch, or if
            outputs are not (B, classes) or labels not class indices (B,).
    """
    mixture = net.mixture(arch)
    stats = calibration
    if not isinstance(stats, BatchNormStats):
        stats = calibrate(net, arch, stats, mixture)
    with evaluating(net):
        return total(
            (net(images, tuple(arch), stats=stats, mixture=mixture), labels)
            for images, labels in validation
        )


def accuracy(module: nn.Module, batches: Iterable[Batch]) -> Score:
    """The score of a plain module, such as an extracted subnet, in eval mode.

    Raises:
        ValueError: if there is no batch, or if outputs are not (B, classes) or labels not class
            indices (B,).
    """
    with evaluating(module):
        return total((_called(module, inputs), labels) for inputs, labels in batches)


def _called(module: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = as_call(inputs)
    return module(*args, **kwargs)
