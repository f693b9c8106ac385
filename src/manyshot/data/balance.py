"""Seeded, class-balanced choices of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def balanced(
    labels: Tensor, n: int, rng: np.random.Generator, caps: Tensor | None = None
) -> Tensor:
    """Indices of `n` images with equally many of every class, as far as the counts allow.

    Classes that run out leave their share to the others; what is left over after equal shares goes
    to classes drawn by `rng`. The order cycles through the classes, so every prefix is balanced
    too, and a smaller `n` with the same generator state gives a prefix of a larger one.

    Args:
        labels: int64 [N].
        n: how many, at most the sum of the caps.
        rng: decides which images, and which classes get one more.
        caps: int64 [classes], the most images to take of each class; all of them if None.

    Returns:
        int64 [n], without repetition.
    """
    label = labels.cpu().numpy()
    shuffled = rng.permutation(len(label))
    # rank_N: how many images of the same class come before this one in the shuffled order.
    by_class = shuffled[np.argsort(label[shuffled], kind="stable")]
    counts = np.bincount(label, minlength=0 if caps is None else len(caps))
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(label), dtype=np.int64)
    rank[by_class] = np.arange(len(label)) - np.repeat(starts, counts)
    ties = rng.permutation(len(counts))  # the order of the classes within one round
    order = np.lexsort((ties[label], rank))
    if caps is not None:
        order = order[(rank < caps.cpu().numpy()[label])[order]]
    assert n <= len(order), f"{n} of {len(order)} images"
    return torch.from_numpy(order[:n].copy())


def hold_out(labels: Tensor, n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Splits indices into those kept and `n` class-balanced ones held out; both are ascending.

    No class gives more than half of its images unless `n` cannot be reached otherwise, and every
    class keeps at least one image.

    Args:
        labels: int64 [N].
        n: how many to hold out.
        rng: decides which.

    Raises:
        ValueError: if `n` is negative or above what can be held out.
    """
    counts = torch.bincount(labels)
    keep_one = (counts - 1).clamp(min=0)
    half = torch.minimum((counts + 1) // 2, keep_one)
    most = int(keep_one.sum())
    if not 0 <= n <= most:
        raise ValueError(
            f"cannot hold out {n} of {len(labels)} images: allowed are 0..{most}, "
            f"so that every class keeps an image"
        )
    held = balanced(labels, n, rng, caps=half if n <= int(half.sum()) else keep_one)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().flatten(), held.sort().values
