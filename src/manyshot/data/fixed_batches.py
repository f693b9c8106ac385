"""The same batches every time: for calibration and for scoring."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manyshot.data.balance import balanced
from manyshot.data.batches import Batch, Batches
from manyshot.data.images import LabelledImages
from manyshot.data.own import OwnSet, joined
from manyshot.seeding import numpy_rng

KEPT_BYTES = 2**30
"""Batches larger than this in all are made anew in every pass instead of being kept."""


@final
class FixedBatches:
    """Batches that are equal in every pass; small sets are kept on the device, ready to use.

    A last batch of one image is joined to the one before it: a batch norm may have nothing to
    average over in it.

    Attributes:
        images: how many images there are in all.
    """

    def __init__(self, batches: Batches) -> None:
        """Makes fixed batches of epoch 0 of `batches`, which must neither shuffle nor augment."""
        self.images = len(batches.dataset)
        small = self.images * _bytes_of_one(batches.dataset) <= KEPT_BYTES
        self._joins = self.images > batches.batch_size > 1 == self.images % batches.batch_size
        self._length = len(batches) - self._joins
        self._kept = list(self._made(batches)) if small else None
        self._batches = None if small else batches  # the set is not held, nor sent to workers
        if small:
            batches.release()

    def __len__(self) -> int:
        """The number of batches."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._kept or ()) if self._batches is None else self._made(self._batches)

    def _made(self, batches: Batches) -> Iterator[Batch]:
        epoch = batches.epoch(0)
        return _last_two_joined(epoch) if self._joins else epoch


def _last_two_joined(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, of which one of one image is part of the one before."""
    before = next(batches)
    for batch in batches:
        leaves = pytree.tree_leaves(batch[0])
        if next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()) == 1:
            before = joined([before, batch])
            break
        yield before
        before = batch
    yield before


def _bytes_of_one(dataset: LabelledImages | OwnSet) -> int:
    """What one image takes in a batch, or one sample."""
    if isinstance(dataset, OwnSet):
        leaves = pytree.tree_leaves(dataset.batch([0])) if len(dataset) else []
        return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor))
    return 4 * math.prod(dataset.image_shape)


def fixed(
    dataset: LabelledImages | OwnSet,
    n: int | None,
    batch_size: int,
    *,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    seed: int,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
    channels_last: bool = True,
) -> FixedBatches:
    """Makes batches that are the same every time, without augmentation, to calibrate and to score.

    Args:
        dataset: the images, or an `OwnSet`.
        n: at most how many images, class-balanced as far as the counts allow, in an order that
            cycles through the classes; None for all of them in the order of the set.
        batch_size: images per batch; the last one may be smaller, or by one image larger.
        mean: per channel, subtracted from pixels divided by 255.
        std: per channel, above 0; divides what is left.
        seed: decides which images; unused if `n` is None.
        device: where the batches are.
        dtype: the type of the images.
        workers: processes that read files; unused for sets in memory.
        channels_last: whether the images are in channels last.

    Raises:
        ValueError: if `n` is below 1, or for the reasons that `Batches` has.
    """
    if n is not None:
        if n < 1:
            raise ValueError(f"n must be at least 1, or None for all images, got {n}")
        n = min(n, len(dataset))
        rng = numpy_rng(seed, "fixed")
        if isinstance(dataset, OwnSet):
            dataset = dataset.subset(dataset.drawn(n, rng))
        else:
            dataset = dataset.subset(balanced(dataset.labels, n, rng))
    batches = Batches(
        dataset,
        batch_size,
        mean=mean,
        std=std,
        seed=seed,
        shuffle=False,
        drop_last=False,
        device=device,
        dtype=dtype,
        workers=workers,
        channels_last=channels_last,
    )
    return FixedBatches(batches)


def drawn(
    samples: LabelledImages | OwnSet, images: int, most: int, *, seed: int, **looks: Any
) -> FixedBatches:
    """So many samples of a set, or all of them if there are fewer, in batches of equal size.

    A forward with statistics of the batch normalises each by itself, so that they are as large as
    each other but for rounding.

    Args:
        samples: the set, which is not empty.
        images: how many at most, class-balanced by `seed`; all come in the order of the set.
        most: the largest size of a batch.
        seed: decides which samples.
        looks: how batches are made, as in `fixed`.
    """
    count = min(images, len(samples))
    size = math.ceil(count / math.ceil(count / most))
    return fixed(samples, count if count < len(samples) else None, size, seed=seed, **looks)
