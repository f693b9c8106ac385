"""What images show, by a finished network of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from manyshot.data import DataDescription, prepared
from manyshot.data.normalise import Normalise
from manyshot.data.prepared import Picture
from manyshot.nn.modes import evaluating
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.build import build_task
from manyshot.pipeline.devices import pick_device
from manyshot.recipe import Recipe
from manyshot.tasks import Classification
from manyshot.tasks.task import picked

AT_ONCE = 64
"""Images that a network is given together."""


@dataclass(frozen=True)
class Prediction:
    """A class that an image may show.

    Attributes:
        name: of the class; its label where classes have no names.
        label: the index of the class.
        probability: by the network, in [0, 1].
    """

    name: str
    label: int
    probability: float


def check_predicts(recipe: Recipe) -> None:
    """Refuses runs whose networks do not name the class of images.

    Raises:
        ValueError: then.
    """
    if not isinstance(build_task(recipe), Classification):
        raise ValueError(
            f"predict names the class of images, and task = {recipe.task.name!r} is another: "
            "take Run.winner(budget).module() and use its outputs"
        )
    if recipe.data.is_own:
        raise ValueError(
            f"predict takes images, and data.name = {recipe.data.name!r} are data of your own: "
            "take Run.winner(budget).module() and give it inputs as they are in the data"
        )


def predict_images(
    recipe: Recipe,
    data: DataDescription,
    module: nn.Module,
    images: Sequence[Picture],
    top: int = 1,
) -> list[tuple[Prediction, ...]]:
    """The likeliest classes of each image.

    Args:
        recipe: of a run.
        data: what its images are.
        module: a finished network of it, on the recipe's device.
        images: paths, images of Pillow or pixels, which become what the run's own images are.
        top: so many classes of each image, the likeliest first; all if there are fewer.

    Raises:
        ValueError: if the run is not one of image classes, an image cannot be used (the message
            names it), or `top` is less than 1.
    """
    check_predicts(recipe)
    task, device = build_task(recipe), pick_device(recipe.device)
    assert isinstance(task, Classification)  # which has been checked
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    normalise = Normalise.build(
        data.mean,
        data.std,
        data.image_shape[0],
        device,
        torch.float32,
        training_format(module, device).is_channels_last,
    )
    said = []
    for start in range(0, len(images), AT_ONCE):
        pixels = [prepared(image, data).float() for image in images[start : start + AT_ONCE]]
        with evaluating(module):
            logits = picked(module(normalise(torch.stack(pixels).to(device))), task.output)
        odds = logits.double().softmax(1).topk(min(top, logits.shape[1]))
        for values, labels in zip(odds.values.tolist(), odds.indices.tolist(), strict=True):
            pairs = zip(labels, values, strict=True)
            said.append(tuple(Prediction(_name(data, label), label, odd) for label, odd in pairs))
    return said


def _name(data: DataDescription, label: int) -> str:
    return str(label) if data.class_names is None else data.class_names[label]
