"""Two parts of a data set as one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from manyshot.data.images import ImageFolderSet, ImageSet, LabelledImages
from manyshot.data.own import OwnSet


def joined(
    first: LabelledImages | OwnSet, second: LabelledImages | OwnSet
) -> LabelledImages | OwnSet:
    """The samples of one set, and then those of another.

    What is in memory is copied.

    Args:
        first: a set that `ms.data.load` or `ms.data.own_data` made.
        second: another of the same data.

    Raises:
        ValueError: if they are no two parts of one data set: of different kinds or shapes, or put
            together into batches by different functions.
    """
    if isinstance(first, OwnSet) and isinstance(second, OwnSet):
        return _joined_own(first, second)
    if (
        isinstance(first, ImageFolderSet)
        and isinstance(second, ImageFolderSet)
        and first.root == second.root
        and first.class_names == second.class_names
        and first.image_shape == second.image_shape
    ):
        return replace(
            first,
            paths=first.paths + second.paths,
            contents=first.contents + second.contents,
            labels=torch.cat((first.labels, second.labels)),
            images=_after(first.images, second.images),
            pieces=first.pieces and second.pieces and first.pieces.joined(second.pieces),
        )
    if (
        isinstance(first, ImageSet)
        and isinstance(second, ImageSet)
        and first.classes == second.classes
        and first.image_shape == second.image_shape
    ):
        return ImageSet(
            images=torch.cat((first.images, second.images)),
            labels=torch.cat((first.labels, second.labels)),
            classes=first.classes,
        )
    raise ValueError(
        f"{type(first).__name__} and {type(second).__name__} cannot be one set: give two parts of "
        "one data set, as ms.data.load makes them"
    )


def _joined_own(first: OwnSet, second: OwnSet) -> OwnSet:
    if first.collate is not second.collate:
        raise ValueError(
            f"{first.part} and {second.part} are put together into batches by different functions: "
            "give loaders with one collate_fn"
        )
    if first.samples is second.samples:
        samples, indices = first.samples, (first.indices, second.indices)
    else:
        samples = ConcatDataset([first.samples, second.samples])
        indices = (first.indices, second.indices + len(first.samples))
    labels = _after(first.labels, second.labels)
    return OwnSet(samples, first.collate, torch.cat(indices), labels, first.part)


def _after(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Both in one tensor, if both are there."""
    return None if first is None or second is None else torch.cat((first, second))
