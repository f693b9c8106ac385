"""The network of `[teacher]`: of another run, of a library, or your own, with its weights."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from manyshot.cost import subnet_macs
from manyshot.data import Batch, DataDescription
from manyshot.evaluate import calibrate
from manyshot.nn.modes import evaluating
from manyshot.pipeline.networks import load_given, make_network, published, read_state
from manyshot.pipeline.plain import new_supernet
from manyshot.pipeline.recorded import described_images, finished_network, trained_supernet
from manyshot.recipe import NetworkSettings, Recipe, RecipeError
from manyshot.records import RecordError
from manyshot.run_folder import RunFolder, SpaceRecord
from manyshot.seeding import seeded
from manyshot.supernet import Supernet
from manyshot.tasks import Task
from manyshot.train import CheckpointError
from manyshot.train.checkpoint import digest, read_weights
from manyshot.train.distilling import Several, answers
from manyshot.trust import check_trusted

_ALIKE = 1e-4
"""Means and deviations that differ by no more are the same normalisation."""
_SCORED = ("validation", "test")
"""The parts of the images that a teacher should not have learnt from."""


@final
@dataclass(frozen=True)
class Teacher:
    """A network that teaches.

    Attributes:
        module: takes images as the run normalises them; it is in eval mode.
        digest: of its weights.
        said: what is to be said of it, if anything.
    """

    module: nn.Module
    digest: str
    said: str = ""


@final
@dataclass(frozen=True)
class Pupil:
    """The run that a teacher is for, as far as it has to know it.

    Attributes:
        recipe: names the teacher, and says what the classes' networks are for.
        data: the images that it is to teach on.
        digests: of each part of them.
        calibration: makes the batches that batch norms of a supernet's architecture are calibrated
            on, normalised as `data` says.
        device: where the teacher is to be.
    """

    recipe: Recipe
    data: DataDescription
    digests: Mapping[str, str]
    calibration: Callable[[], Iterable[Batch]]
    device: torch.device


@final
class Teachers:
    """Loads a teacher when it is needed: a run that has trained goes on without it."""

    def __init__(self, load: Callable[[], Teacher], image_shape: tuple[int, ...]) -> None:
        """Loads nothing yet.

        Args:
            load: loads it.
            image_shape: (C, H, W) of what it sees.
        """
        self._load, self._shape = load, image_shape

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The teacher; raises what `load_teacher` does."""
        return self._load()

    @property
    def is_loaded(self) -> bool:
        """Whether it was needed already."""
        return "teacher" in vars(self)

    @functools.cached_property
    def macs(self) -> int:
        """Its multiply-adds of one image.

        Raises:
            RecipeError: if they cannot be counted.
        """
        try:
            return subnet_macs(self.teacher.module, self._shape)
        except ValueError as error:
            raise _refused(f"its multiply-adds cannot be counted: {error}") from error


class Renormalised(nn.Module):
    """A network that sees images as if they were normalised by its own mean and deviation."""

    def __init__(
        self,
        module: nn.Module,
        ours: tuple[Sequence[float], Sequence[float]],
        theirs: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        """Wraps a network.

        Args:
            module: the network.
            ours: the mean and the standard deviation, per channel, that images come with.
            theirs: those that the network was trained with.
        """
        super().__init__()
        (mean, std), (their_mean, their_std) = (
            [torch.tensor(values, dtype=torch.float64)[None, :, None, None] for values in pair]
            for pair in (ours, theirs)
        )
        self.module = module
        self.register_buffer("scale", (std / their_std).float())
        self.register_buffer("shift", ((mean - their_mean) / their_std).float())
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Any:
        """The network's output for (B, C, H, W)."""
        return self.module(images * self.scale + self.shift)


def load_teacher(pupil: Pupil) -> Teacher:
    """The teacher of a run, on its device.

    Raises:
        RecipeError: for one that cannot be had, that has other classes or another task, or was made
            for images of another size, and one whose weights are others than the recipe says.
    """
    settings = pupil.recipe.teacher
    if not pupil.data.image_shape:
        raise _refused(
            "it is for images, and these data are of your own: give ms.fit(..., teacher=net)"
        )
    loaded = [
        _load_one(replace(pupil, recipe=pupil.recipe.model_copy(update={"teacher": one})))
        for one in settings.every
    ]
    teacher = loaded[0] if len(loaded) == 1 else _together(loaded)
    if settings.digest is not None and settings.digest != teacher.digest:
        raise _refused(
            f"its weights are others than when this run began ({teacher.digest}, then "
            f"{settings.digest}): give it back as it was, or begin another run"
        )
    teacher.module.to(pupil.device).eval().requires_grad_(False)
    return teacher


def _load_one(pupil: Pupil) -> Teacher:
    """The first teacher of a recipe; errors are those of `load_teacher`."""
    try:
        return _of_run(pupil) if pupil.recipe.teacher.run is not None else _by_name(pupil)
    except (RecordError, CheckpointError) as error:
        raise _refused(str(error)) from error


def _together(loaded: Sequence[Teacher]) -> Teacher:
    """Teachers as one, whose digest is that of theirs in their order."""
    told = " ".join(teacher.digest for teacher in loaded)
    marked = hashlib.sha256(told.encode()).hexdigest()[: len(loaded[0].digest)]
    said = "; ".join(dict.fromkeys(teacher.said for teacher in loaded if teacher.said))
    return Teacher(Several(teacher.module for teacher in loaded), marked, said)


def check_teacher(module: nn.Module, task: Task, batch: Batch) -> None:
    """Runs a teacher on some images, and refuses what is not of the task.

    Args:
        module: the network.
        task: what it is to teach.
        batch: some images with their targets.

    Raises:
        RecipeError: if it does not run on them, or gives other outputs.
    """
    images, targets = batch
    size = tuple(images.shape[1:])
    try:
        with evaluating(module):
            outputs = answers(module, images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _refused(
            f"it does not run on these images of shape {size} ({_first_line(error)}): give "
            "data.image_size as it was trained with, or teacher.options that make it for this size"
        ) from error
    try:
        for each in outputs:
            task.check(each, targets)
    except ValueError as error:
        raise _refused(f"its outputs are not those of the task: {error}") from error


def said_of_teacher(teachers: Teachers | None) -> str:
    """What is to be said of a teacher that is loaded; empty if nothing."""
    return teachers.teacher.said if teachers is not None and teachers.is_loaded else ""


def _refused(why: str) -> RecipeError:
    return RecipeError(f"[teacher]: {why}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _normalised(
    module: nn.Module, data: DataDescription, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """A network that was trained with this mean and deviation, for images as `data` has them.

    Raises:
        RecipeError: if these are of another number of channels.
    """
    channels = data.image_shape[0]
    if len(mean) != channels or len(std) != channels:
        raise _refused(
            f"its images were normalised by mean {list(mean)} and std {list(std)}, and these have "
            f"{channels} channel{'s' * (channels > 1)}: give images like those that it learnt from"
        )
    pairs = ((mean, data.mean), (std, data.std))
    apart = [abs(a - b) for pair in pairs for a, b in zip(*pair, strict=True)]
    if max(apart) <= _ALIKE:
        return module
    return Renormalised(module, (data.mean, data.std), (mean, std))


# -- of a library or your own ----------------------------------------------------------------------


def _by_name(pupil: Pupil) -> Teacher:
    """A network by its name, with weights that are given.

    Raises:
        RecipeError: if it cannot be made, or its weights are of other classes or cannot be had.
        CheckpointError: if they do not fit.
    """
    recipe, data = pupil.recipe, pupil.data
    settings = recipe.teacher
    assert settings.name is not None
    network = NetworkSettings(
        name=settings.name,
        options=settings.options,
        pretrained=settings.pretrained,
        weights=settings.weights,
    )
    alone = recipe.model_copy(update={"network": network})
    try:
        with seeded(recipe.seed, "weights"):
            module = make_network(alone, data)
        if network.weights is None:
            state, where = published(network, data.image_shape[0]), "teacher.pretrained"
        else:
            state = read_state(Path(network.weights))
            where = f"teacher.weights = {network.weights!r}"
    except RecipeError as error:
        raise RecipeError(str(error).replace("network.", "teacher.")) from error
    new = load_given(module, state, data.classes, where)
    if new is not None:
        theirs = next(len(t) for name, t in state.items() if name.startswith(f"{new}."))
        raise _refused(
            f"its weights are of {theirs} classes (the classifier {new!r}), and these images are "
            f"of {data.classes}: train it on these first, and give its weights"
        )
    mean: Sequence[float] = settings.mean or ()
    std: Sequence[float] = settings.std or ()
    if network.weights is None:
        mean, std = _published_normalisation(network, module)
        if len(mean) != data.image_shape[0]:  # it sees grey images as three equal channels
            raise _refused(
                f"{settings.name} was trained on images of {len(mean)} channels, and these have "
                f"{data.image_shape[0]}: give one that was trained on such images"
            )
    return Teacher(_normalised(module, data, mean, std), digest(module.state_dict()))


def _published_normalisation(
    network: NetworkSettings, module: nn.Module
) -> tuple[Sequence[float], Sequence[float]]:
    """What images were normalised by that published weights were trained on."""
    name = network.name.partition(":")[2]
    if network.library == "timm":
        told: Any = module.pretrained_cfg
        return tuple(told["mean"]), tuple(told["std"])
    from torchvision import models

    transform: Any = models.get_model_weights(name).DEFAULT.transforms()
    return tuple(transform.mean), tuple(transform.std)


# -- of another run --------------------------------------------------------------------------------


def _of_run(pupil: Pupil) -> Teacher:
    """A finished winner of a run, or an architecture of its supernet.

    Raises:
        RecipeError: if the run is of another task, of other classes or image sizes, or has no such
            network.
        RecordError, CheckpointError: if its records or weights are missing or damaged.
    """
    settings = pupil.recipe.teacher
    assert settings.run is not None
    run = RunFolder(settings.run)
    recipe, described, theirs = run.recipe(), run.space(), described_images(run)
    if described is None or described.images is None or theirs is None or not theirs.mean:
        raise _refused(
            f"{settings.run} does not say what its images are like, which space.json of a run on "
            "images does: give the folder of a whole run"
        )
    said = _check_images(pupil, recipe, described, theirs)
    check_trusted(run)
    make = _subnet_of if settings.budget is None else _winner_of
    module, marked = make(run, recipe, theirs, pupil)
    return Teacher(_normalised(module, pupil.data, theirs.mean, theirs.std), marked, said)


def _winner_of(
    run: RunFolder, recipe: Recipe, theirs: DataDescription, pupil: Pupil
) -> tuple[nn.Module, str]:
    """The finished winner of `teacher.budget`, and the digest of its weights.

    Raises:
        RecipeError: for another budget than the run's.
        RecordError, CheckpointError: if the run is not finished, or its weights are damaged.
    """
    try:
        winner = run.winner(str(pupil.recipe.teacher.budget))
    except (KeyError, ValueError) as error:
        raise _refused(error.args[0]) from error
    blank = new_supernet(recipe, theirs, pupil.device, run)
    module = finished_network(run, blank, blank.space.from_text(winner.arch))
    return module, digest(module.state_dict())


def _subnet_of(
    run: RunFolder, recipe: Recipe, theirs: DataDescription, pupil: Pupil
) -> tuple[nn.Module, str]:
    """The architecture `teacher.arch` of the supernet, and what identifies its weights.

    Raises:
        RecipeError: for none of its space, or one in which something stands in.
        RecordError, CheckpointError: if the run is not trained, or its weights are damaged.
    """
    net = trained_supernet(run, recipe, theirs, pupil.device)
    arch = _arch_of(net, str(pupil.recipe.teacher.arch))
    if net.stands_in(arch):
        raise _refused(
            f"architecture {net.space.to_text(arch)} of it holds {net.stands_in(arch)[0]}, which "
            "stands in for what a finished network has: give teacher.budget, for a winner that was "
            "trained"
        )
    tensors, _ = read_weights(run.final_weights(recipe))
    told = f"{digest(tensors)} {net.space.to_text(arch)}"
    marked = hashlib.sha256(told.encode()).hexdigest()[: len(digest(tensors))]
    seen = _normalised(nn.Identity(), pupil.data, theirs.mean, theirs.std).to(pupil.device)
    stats = calibrate(
        net, arch, ((seen(images), targets) for images, targets in pupil.calibration())
    )
    return net.extract(arch, stats=stats), marked


def _arch_of(net: Supernet, text: str) -> tuple[int, ...]:
    """The architecture that a text says.

    Raises:
        RecipeError: for none of this space.
    """
    if text == "largest":
        return net.space.largest
    try:
        return net.space.from_text(text)
    except ValueError as error:
        raise _refused(f"arch = {text!r}: {error}; or give 'largest'") from error


def _check_images(
    pupil: Pupil, other: Recipe, described: SpaceRecord, theirs: DataDescription
) -> str:
    """Refuses a run of another task, other classes or another size; says what is doubtful.

    Args:
        pupil: this run.
        other: the recipe of the teacher's.
        described: the record of its space and images.
        theirs: the images that it was trained on.

    Raises:
        RecipeError: then.
    """
    recipe, data, where = pupil.recipe, pupil.data, pupil.recipe.teacher.run
    if other.task != recipe.task:
        raise _refused(f"{where} has the task {other.task.name!r}, here it is {recipe.task.name!r}")
    if theirs.classes != data.classes or theirs.class_names != data.class_names:
        names = [str(d.class_names or d.classes) for d in (theirs, data)]
        raise _refused(
            f"{where} tells classes {names[0]} apart, and these images are of {names[1]}: a "
            "teacher has to know the same classes in the same order"
        )
    if theirs.image_shape != data.image_shape:
        raise _refused(
            f"{where} takes images of shape {theirs.image_shape}, and these are of "
            f"{data.image_shape}: set data.image_size to "
            f"{list(theirs.image_shape[1:])}, or give another teacher"
        )
    assert described.images is not None
    unseen = [p for p in _SCORED if described.images.digests.get(p) != pupil.digests.get(p)]
    if not unseen:
        return ""
    return (
        f"the teacher in {where} was trained with other {' and '.join(unseen)} images held out "
        "than these: it may have learnt from images that networks are scored or tested on here, so "
        "that their figures flatter"
    )
