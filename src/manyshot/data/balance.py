"""Seeded choices of images: class-balanced, or the same share of every class."""

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


def hold_out(
    labels: Tensor, n: int, rng: np.random.Generator, *, stratified: bool = False
) -> tuple[Tensor, Tensor]:
    """Splits indices into those kept and `n` held out; both are ascending.

    Those held out are class-balanced, and no class gives more than half of its images unless `n`
    cannot be reached otherwise; or `stratified`. Every class keeps at least one image.

    Args:
        labels: int64 [N].
        n: how many to hold out.
        rng: decides which.
        stratified: whether every class gives the same share of its images, rounded so that they
            are `n` in all, and at least one where it has two or more and `n` allows.

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
    if stratified:
        caps = _same_share(counts, n, rng)
    elif n <= int(half.sum()):
        caps = half
    else:
        caps = keep_one
    held = balanced(labels, n, rng, caps=caps)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().flatten(), held.sort().values


def _same_share(counts: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """How many of `n` images each class gives, int64 [classes]; `rng` decides between equals."""
    share = counts.double() * n / counts.sum() + torch.from_numpy(1e-6 * rng.random(len(counts)))
    most = (counts - 1).clamp(min=0)
    least = most.clamp(max=1)
    if int(least.sum()) > n:
        least = torch.zeros_like(least)
    gives = torch.maximum(torch.minimum(share.long(), most), least)
    while int(gives.sum()) < n:  # to the class that lacks most of its share
        gives[torch.where(gives < most, share - gives, -torch.inf).argmax()] += 1
    while int(gives.sum()) > n:  # from the class that has most above its share
        gives[torch.where(gives > least, gives - share, -torch.inf).argmax()] -= 1
    return gives
