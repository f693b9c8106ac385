"""Batches of normalised images on a device: what the training loop iterates.

Shape letters: N images of a set, B of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from manyshot.data.augment import Augment, Changes, augmented, change, draw_changes, erase, needed
from manyshot.data.images import ImageFolderSet, LabelledImages, pixels_of
from manyshot.data.moving import moving
from manyshot.data.normalise import Normalise
from manyshot.data.own import OwnSet, not_finite_rows
from manyshot.seeding import torch_generator

Batch = tuple[Any, Any]
"""Inputs and targets on the device: images [B, C, H, W] in the asked dtype and labels int64 [B], or
what a data set of your own has."""

_NAMED = 5
"""So many samples a message names."""


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """Progressive resolution: which size images have in which epoch.

    Attributes:
        sides: of square images in pixels, one after the other.
        epochs: that they share equally; all later epochs have the last.

    Raises:
        ValueError: if there are none, or more than epochs, or one is below 1.
    """

    sides: tuple[int, ...]
    epochs: int

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(f"sides must be at least 1 pixel each, got {list(self.sides)}")
        if len(self.sides) > self.epochs:
            raise ValueError(
                f"{len(self.sides)} sizes need as many epochs, and there are {self.epochs}: leave "
                "sizes out, or train longer"
            )

    def side(self, epoch: int) -> int:
        """The side of images in an epoch, from 0."""
        last = len(self.sides) - 1
        return self.sides[min(last, epoch * len(self.sides) // self.epochs)]


@final
class Batches:
    """Epochs of batches; order and augmentation are functions of (seed, epoch, sample) alone.

    They depend neither on `workers`, nor on the step an epoch is entered at, nor on the number of
    processes: the shares of all ranks, concatenated, are the batch of a single process. A set in
    memory is moved to the device once, as uint8, and batches are made there; any other set is read,
    augmented one by one in `workers` processes, and normalised on the device, to which the next
    batch is under way while one is used (`manyshot.data.moving`). Batches are the same either way,
    but for random crops, which are taken of the pixels in memory or of the larger ones
    in a file. A data set of your own gives its samples as they are, to which nothing is done.

    With `augment.repeats`, an image of an epoch comes so many times in one batch, and an epoch has
    as many steps as without, so that it shows only a part of the images. Of a batch the first part
    are the images, the next their first copies, and so on: neighbours are different images.

    With `growth`, images of early epochs are smaller: the size is a function of the epoch alone, so
    that entering one late changes nothing. Those in memory are resized from their pixels there,
    others from their files, which differs in the last bits.

    Processes that read files are started for the first epoch, and go on for those that follow.

    Args:
        dataset: the images, or an `OwnSet`.
        batch_size: images per step over all ranks together; a multiple of `world`.
        mean: per channel, subtracted from pixels divided by 255; nothing for an `OwnSet`.
        std: per channel, above 0; divides what is left; likewise.
        seed: the seed of the run.
        augment: random changes; None for none.
        shuffle: whether each epoch has an order of its own; else it is the order of the set.
        drop_last: whether a last batch that would be smaller than `batch_size` is left out.
        device: where the batches are.
        dtype: the type of the images; the arithmetic is float32 whatever it is.
        rank: the number of this process, in 0..world-1.
        world: the number of processes; each gets a contiguous share of every batch.
        workers: processes that read files; unused for sets in memory.
        channels_last: whether the images are in channels last.
        growth: which size images have in which epoch; None if all have that of the set.

    Raises:
        ValueError: if an argument does not fit; the message names it.
    """

    def __init__(
        self,
        dataset: LabelledImages | OwnSet,
        batch_size: int,
        *,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        seed: int,
        augment: Augment | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        channels_last: bool = True,
        growth: Growth | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.augment = Augment() if augment is None else augment
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.device = torch.device(device)
        self.rank, self.world, self.workers = rank, world, workers
        self.growth = growth
        self._check_sizes()
        self._memory: Batch | None = None
        self._idle: list[tuple[DataLoader[Batch], _Turns]] = []
        if isinstance(dataset, OwnSet):
            if self.augment != Augment() or mean or std or growth is not None:
                raise ValueError(
                    "images are normalised and augmented, a data set of your own gives its samples "
                    "as they are to be: leave out mean, std, augment and growth"
                )
            return
        self._check_augment(dataset)
        self._normalise = Normalise.build(
            mean, std, dataset.image_shape[0], self.device, dtype, channels_last
        )
        pixels = pixels_of(dataset)
        if pixels is not None:
            self._memory = (pixels.to(self.device), dataset.labels.to(self.device))

    def __len__(self) -> int:
        """Steps per epoch, the same on every rank."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def side(self, step: int) -> int | None:
        """The side of the images of a step that is counted through all epochs.

        It is None without `growth`.
        """
        return None if self.growth is None else self.growth.side(step // len(self))

    def release(self) -> None:
        """Ends the processes that wait for a next epoch, which starts others."""
        self._idle.clear()

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's batches of one epoch.

        Args:
            epoch: the number of the epoch, from 0.
            start: the step to begin at, in 0..len(self); the batches equal those of a whole epoch.

        Raises:
            ValueError: if either is out of range.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be 0 or more, got {epoch}")
        if not 0 <= start <= len(self):
            raise ValueError(f"start must be in 0..{len(self)} (steps per epoch), got {start}")
        shares = self._shares(epoch, start)
        if isinstance(self.dataset, OwnSet):
            return self._from_own(self.dataset, epoch, shares)
        if self._memory is not None:
            return self._from_memory(*self._memory, epoch, shares)
        return self._from_files(self.dataset, epoch, shares)

    def from_step(self, step: int) -> Iterator[Batch]:
        """This rank's batches without end, from a step on that is counted through all epochs."""
        first, start = divmod(step, len(self))
        for epoch in itertools.count(first):
            yield from self.epoch(epoch, start if epoch == first else 0)

    def not_finite(self, step: int) -> tuple[str, ...]:
        """Which samples of a step's batch, over all ranks, hold what is not finite.

        Images are bytes, and always finite: only data of your own are read again for this.

        Args:
            step: counted through all epochs.

        Returns:
            Texts such as `inputs of sample 17 of data.train`, with the numbers that samples have in
            their data set; none if all is finite.
        """
        if not isinstance(self.dataset, OwnSet):
            return ()
        epoch, start = divmod(step, len(self))
        share = self._split(epoch)[start]
        [batch] = self._read_own(self.dataset, epoch, [share])
        numbers = self.dataset.indices[share].tolist()
        said = []
        for what, values in zip(("inputs", "targets"), batch, strict=True):
            odd = not_finite_rows(values, len(numbers))
            if odd is not None:
                plural = "s" * (len(odd) > 1)
                named = ", ".join(map(str, sorted(numbers[row] for row in odd)[:_NAMED]))
                more = f" and {len(odd) - _NAMED} more" * (len(odd) > _NAMED)
                which = f" of sample{plural} {named}{more}" if odd else ""
                said.append(f"{what}{which} of {self.dataset.part}")
        return tuple(said)

    def _split(self, epoch: int) -> Sequence[Tensor]:
        """The places of the images of each step of an epoch, of all ranks, in what is drawn.

        That is an image's index in the set, and of further copies of it more by the number of
        images (see `Changes`).
        """
        if self.shuffle:
            generator = torch_generator(self.seed, "order", epoch)
            order = torch.randperm(len(self.dataset), generator=generator)
        else:
            order = torch.arange(len(self.dataset))
        repeats, count = self.augment.repeats, len(self.dataset)
        distinct = torch.split(order[: math.ceil(count / repeats)], self.batch_size // repeats)
        return [
            torch.cat([part + copy * count for copy in range(repeats)])
            for part in distinct[: len(self)]
        ]

    def _shares(self, epoch: int, start: int) -> list[Tensor]:
        """The places of this rank's images, int64 on the CPU, per step from `start`."""
        shares = []
        for batch in self._split(epoch)[start:]:
            bounds = [len(batch) * rank // self.world for rank in (self.rank, self.rank + 1)]
            shares.append(batch[bounds[0] : bounds[1]])
        return shares

    def _from_memory(
        self, images_NCHW: Tensor, labels_N: Tensor, epoch: int, shares: list[Tensor]
    ) -> Iterator[Batch]:
        """Batches made on the device from a set that lives there."""
        if not shares:
            return
        drawn = draw_changes(len(labels_N), self.augment, self.seed, epoch)
        changes = None if drawn is None else drawn.to(self.device)
        side = None if self.growth is None else self.growth.side(epoch)
        # One transfer per epoch: the slices below stay on the device.
        on_device = torch.cat(shares).to(self.device, non_blocking=True)
        places = torch.split(on_device, [len(share) for share in shares])
        for place_B, share in zip(places, shares, strict=True):
            index_B = place_B % len(labels_N)
            changes_B = None
            if changes is not None and drawn is not None:
                changes_B = changes.of(place_B)
                if drawn.seed_N is not None:  # seeds are read on the host
                    changes_B = replace(changes_B, seed_N=drawn.seed_N[share])
            images = change(images_NCHW[index_B], changes_B, self.augment, side)
            yield self._finished(images, changes, place_B), labels_N[index_B]

    def _from_own(self, dataset: OwnSet, epoch: int, shares: list[Tensor]) -> Iterator[Batch]:
        """Batches of a data set of your own, as it gives them."""
        read = ((inputs, targets) for inputs, targets in self._read_own(dataset, epoch, shares))
        return moving(read, self.device)

    def _read_own(self, dataset: OwnSet, epoch: int, shares: Sequence[Tensor]) -> Iterator[Batch]:
        """The same, where the data set has them."""
        if dataset.is_in_memory:
            return (dataset.batch(share.tolist()) for share in shares)
        return dataset.loader(shares, self.workers, (self.seed, "sample", epoch))

    def _from_files(
        self, dataset: LabelledImages, epoch: int, shares: list[Tensor]
    ) -> Iterator[Batch]:
        """Batches read by worker processes, normalised on the device."""
        if not shares:
            return
        changes = draw_changes(len(dataset), self.augment, self.seed, epoch)
        side = None if self.growth is None else self.growth.side(epoch)
        turns = (
            _Turn(place_B, None if changes is None else changes.of(place_B), side)
            for place_B in shares
        )
        on_device = moving(self._read(dataset, turns), self.device)
        for (images, labels), place_B in zip(on_device, shares, strict=True):
            yield self._finished(images, changes, place_B), labels

    def _read(self, dataset: LabelledImages, turns: Iterable[_Turn]) -> Iterator[Batch]:
        """The images and labels of turns, by processes that wait for the next epoch after it.

        Whoever asks for an epoch in the middle of another gets others.
        """
        if self._idle:
            loader, asked = self._idle.pop()
        else:
            asked = _Turns()
            loader = DataLoader(
                _Reading(dataset, self.augment),
                batch_size=None,  # a turn is a batch
                sampler=asked,
                collate_fn=_as_it_is,
                num_workers=self.workers,
                persistent_workers=self.workers > 0,
                pin_memory=self.device.type == "cuda",
                # Without a generator of its own the loader would draw from torch's global one.
                generator=torch_generator(self.seed, "workers"),
            )
        asked.turns = turns
        try:
            yield from loader
        finally:
            self._idle.append((loader, asked))  # what is on its way is thrown away by the next

    def _finished(self, images_BCHW: Tensor, changes: Changes | None, place_B: Tensor) -> Tensor:
        """A batch after all other changes, normalised and with what is erased.

        Args:
            images_BCHW: the batch, uint8.
            changes: of all images in the epoch.
            place_B: where those of the batch are in them, on the same device.
        """
        images = self._normalise(images_BCHW)
        if changes is None or changes.erase_N5 is None:
            return images
        draws = changes.erase_N5[place_B].to(self.device, non_blocking=True)
        return erase(images, draws, self.augment.random_erasing)

    def _check_sizes(self) -> None:
        """Refuses numbers with which a rank gets no image in some step."""
        count, size = len(self.dataset), self.batch_size
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise ValueError(
                f"rank must be in 0..world-1, got rank {self.rank} and world {self.world}"
            )
        if self.workers < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")
        if size < 1 or size % self.world:
            raise ValueError(
                f"batch_size must be a multiple of world ({self.world}), because it counts the "
                f"images of all ranks together; got {size}"
            )
        if not count:
            raise ValueError("the data set holds no images, so there are no batches to make")
        if self.drop_last and count < size:
            raise ValueError(
                f"batch_size {size} is more than the {count} images, so no full batch exists; "
                f"lower it, or pass drop_last=False"
            )
        if not self.drop_last and 0 < count % size < self.world:
            raise ValueError(
                f"the last batch of {count % size} images leaves some of {self.world} ranks "
                f"without any; pass drop_last=True, or another batch_size than {size}"
            )

    def _check_augment(self, dataset: LabelledImages) -> None:
        """Refuses an augmentation that images of this size cannot have."""
        side = min(dataset.image_shape[1:])
        if self.growth is not None:
            if {*dataset.image_shape[1:]} != {self.growth.sides[-1]}:
                raise ValueError(
                    f"growth ends at images of {self.growth.sides[-1]} x {self.growth.sides[-1]} "
                    f"pixels, and those of the set are of {dataset.image_shape[1]} x "
                    f"{dataset.image_shape[2]}: the last size must be that of the set"
                )
            side = min(self.growth.sides)
        if self.augment.pad >= side:
            raise ValueError(
                f"pad must be below the side of the images ({side} pixels), got {self.augment.pad}"
            )
        channels = dataset.image_shape[0]
        if self.augment.rand_augment is not None and channels not in (1, 3):
            raise ValueError(
                f"rand_augment is for grey images and those of three colours, and these have "
                f"{channels} channels: leave it out"
            )
        repeats = self.augment.repeats
        if self.batch_size % repeats:
            raise ValueError(
                f"batch_size must be a multiple of repeats ({repeats}), because a batch has all "
                f"copies of an image; got {self.batch_size}"
            )


class _Turn(NamedTuple):
    """What a batch is read by.

    Attributes:
        place_B: of the images in what is drawn (see `Batches._split`).
        changes_B: what happens to each.
        side: of the images in pixels; None for that of the set.
    """

    place_B: Tensor
    changes_B: Changes | None
    side: int | None


@final
class _Turns(Sampler[_Turn]):
    """The turns of an epoch, which are others in the next."""

    def __init__(self) -> None:
        self.turns: Iterable[_Turn] = ()

    def __iter__(self) -> Iterator[Any]:
        """Each turn as arrays, which other processes get in one piece."""
        for place_B, changes_B, side in self.turns:
            yield place_B.numpy(), changes_B and changes_B.arrays(), side


def _as_it_is(batch: Any) -> Any:
    return batch


@final
class _Reading(Dataset[Batch]):
    """A view of a set by turns; a batch depends on its turn alone."""

    def __init__(self, images: LabelledImages, augment: Augment) -> None:
        self._images, self._augment = images, augment

    def __getitem__(self, turn: Any) -> Batch:
        places, arrays, side = turn
        changes_B = None if arrays is None else Changes.of_arrays(arrays)
        index_B = torch.from_numpy(places) % len(self._images)
        read = [
            self._image(index, None if changes_B is None else changes_B.of(torch.tensor([i])), side)
            for i, index in enumerate(index_B.tolist())
        ]
        return torch.stack(read), self._images.labels[index_B]

    def _image(self, index: int, changes_1: Changes | None, side: int | None) -> Tensor:
        _, height, width = self._images.image_shape
        size = (height, width) if side is None else (side, side)
        if isinstance(self._images, ImageFolderSet):
            shrink = needed(*size, self._augment, changes_1)
            image = self._images.read(index, shrink)
        else:
            image = self._images.read(index)
        return augmented(image, *size, self._augment, changes_1)
