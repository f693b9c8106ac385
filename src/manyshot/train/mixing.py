"""Images of a batch mixed with one another, and their targets with them: mixup and CutMix."""

from __future__ import annotations

from typing import Any, final

import torch
from accelerate import Accelerator
from torch import Tensor

from manyshot.nn.inputs import Inputs
from manyshot.recipe import TrainingSettings
from manyshot.seeding import cpu_seeded, stream
from manyshot.tasks import Task
from manyshot.tasks.task import Mixed, MixesTargets, described


def mixing(settings: TrainingSettings) -> str:
    """Which setting asks for mixing; empty if none does."""
    return "mixup" if settings.mixup else "cutmix" if settings.cutmix else ""


def check_mixing(settings: TrainingSettings, task: Task) -> None:
    """Refuses to mix targets of a task that does not say how.

    Raises:
        ValueError: then.
    """
    key = mixing(settings)
    if key and not isinstance(task, MixesTargets):
        raise ValueError(
            f"{key} = {getattr(settings, key):g}: {type(task).__name__} has no mixed_targets, "
            f"which the tasks classification and multi_label have; set {key} = 0"
        )


def check_mixed(settings: TrainingSettings, images: Inputs, targets: Any) -> None:
    """Refuses to mix what are no images.

    Raises:
        ValueError: then.
    """
    key = mixing(settings)
    are_images = isinstance(images, Tensor) and images.dim() == 4 and images.is_floating_point()
    if key and not (are_images and isinstance(targets, Tensor)):
        raise ValueError(
            f"{key} = {getattr(settings, key):g} mixes images, tensors (B, C, H, W) of a "
            f"floating-point type, with a tensor of targets, and the inputs are "
            f"{described(images)}, the targets {described(targets)}; set {key} = 0"
        )


@final
class Mixer:
    """Mixes each image of a batch with the one before it, as torchvision's MixUp and CutMix do.

    With mixup (Zhang et al. 2018, arXiv:1710.09412) an image becomes a weighted mean of the two,
    with CutMix (Yun et al. 2019, arXiv:1905.04899) a rectangle of it becomes that of the other. If
    both are asked for, each is done to about half of the batches. The share is the same in a whole
    batch, and a function of the seed and the step. The images of all processes together are those
    of a single one: each gets the image before its own from the process before it.
    """

    def __init__(
        self, settings: TrainingSettings, task: Task, seed: int, accelerator: Accelerator
    ) -> None:
        """Checks that the targets of the task can be mixed.

        Args:
            settings: what is done, and how strongly.
            task: what is learnt.
            seed: the seed of the run.
            accelerator: connects the processes.

        Raises:
            ValueError: if they cannot.
        """
        check_mixing(settings, task)
        self._settings, self._seed, self._accelerator = settings, seed, accelerator

    def __call__(self, step: int, images: Inputs, targets: Any) -> tuple[Inputs, Any]:
        """The images and the targets of a step; as they are, unless they are to be mixed.

        Args:
            step: its number, from 0.
            images: (B, C, H, W), those of this process.
            targets: what the network should give.

        Raises:
            ValueError: if they are to be mixed, and are no images.
        """
        settings = self._settings
        if not mixing(settings):
            return images, targets
        check_mixed(settings, images, targets)
        # Imported here: torchvision costs a second.
        from torchvision.transforms import v2

        kinds = [
            kind(alpha=alpha)
            for kind, alpha in ((v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix))
            if alpha
        ]
        longer = self._with_the_one_before(images)
        # How much of the first image stays where it is says how much of each does.
        marks = torch.zeros(len(longer), 1)
        marks[0] = 1
        with cpu_seeded(stream(self._seed, "mix", step)):
            mixed, left = v2.RandomChoice(kinds)(longer, marks)
        mixed_images = torch.empty_like(images).copy_(mixed[1:])  # in their memory format
        share = left[0].to(images.device, non_blocking=True).expand(len(images))
        others = self._with_the_one_before(targets)[:-1]
        return mixed_images, Mixed(targets, others, share)

    def _with_the_one_before(self, rows: Tensor) -> Tensor:
        """The rows of this process behind the last of the process before it."""
        last = self._accelerator.gather(rows[-1:])
        rank = self._accelerator.process_index
        return torch.cat([last[rank - 1 : rank or None], rows])
