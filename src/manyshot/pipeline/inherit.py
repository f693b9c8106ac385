"""Slices that begin as the weights of another run, which trained one copy of the same network."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor

from manyshot import records
from manyshot.data import Splits
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import RunFolder, SpaceDescription, SpaceRecord
from manyshot.sharing import KShot, widen
from manyshot.sharing.dictionary import rows
from manyshot.supernet import Supernet
from manyshot.train.checkpoint import digest, read_weights

_OF_THEIR_OWN = {"weights", "pretrained"}
"""What of a network's settings does not say which network it is."""
_UNSEEN = ("validation", "test")
"""The parts of the images that no weights may have been trained on."""


@final
@dataclass(frozen=True)
class Inherited:
    """The weights that slices begin as.

    Attributes:
        file: where they were read.
        digest: of all of them.
    """

    file: Path
    digest: str


def inherit(net: Supernet, recipe: Recipe, splits: Splits, folder: Path | None) -> Inherited | None:
    """Lets the slices begin as `sharing.inherit` says, in place; None if it says nothing.

    A run keeps a copy of these weights, from which it goes on when the other run is gone.

    Args:
        net: the supernet.
        recipe: the recipe.
        splits: the images.
        folder: the folder of a run that has begun, if it has.

    Raises:
        RecipeError: if the other run has no weights, or they do not fit, with what does not.
        RecordError, CheckpointError: if its files are damaged.
    """
    if recipe.sharing.inherit is None:
        return None
    if not isinstance(net.sharing, KShot):
        raise _refused(
            recipe,
            f"slices inherit it, and sharing.name = {recipe.sharing.name!r} has none: take "
            "sharing.name = 'k_shot', or leave inherit out",
        )
    kept = _kept(recipe, folder)
    run = RunFolder(Path(recipe.sharing.inherit))
    if kept is None:
        _check_run(run, net, recipe, splits)
    file = run.weights if kept is None else kept
    tensors, metadata = read_weights(file)
    for key, first in metadata.items():
        if key.startswith("tied:"):
            tensors[key.removeprefix("tied:")] = tensors[first]
    _check_copies(net, tensors, recipe)
    try:
        net.load_state_dict(widen(net, tensors, seed=recipe.seed))
    except ValueError as error:
        raise _refused(recipe, str(error)) from error
    return Inherited(file, digest(tensors))


def keep_inherited(inherited: Inherited | None, folder: RunFolder) -> None:
    """Copies the weights to the folder of a run, which needs nothing but itself to go on."""
    if inherited is not None and not folder.inherited.exists():
        with records.atomic(folder.inherited) as temporary:
            shutil.copyfile(inherited.file, temporary)


def _kept(recipe: Recipe, folder: Path | None) -> Path | None:
    """The copy that a run kept, if it is of this recipe's run."""
    if folder is None or not RunFolder(folder).inherited.exists():
        return None
    own = RunFolder(folder)
    if not own.recipe_file.exists() or own.recipe().sharing.inherit != recipe.sharing.inherit:
        return None
    return own.inherited


def _check_run(run: RunFolder, net: Supernet, recipe: Recipe, splits: Splits) -> None:
    """Refuses a run that did not train this network on these images.

    Raises:
        RecipeError: then, or if it has no weights.
    """
    if not run.weights.exists():
        raise _refused(
            recipe,
            f"it has no {run.weights.name}: give the folder of a run whose supernet is trained "
            "(manyshot train)",
        )
    other, described = run.recipe(), run.space()
    if recipe.task != other.task:
        raise _refused(recipe, f"its task is {other.task.name!r}, here {recipe.task.name!r}")
    if described is None:
        raise _refused(
            recipe,
            f"it has no {run.space_file.name}, which says what it was trained on: copy it to where "
            "the weights are, or give the folder of a whole run",
        )
    _check_images(described, recipe, splits)
    _check_space(described, net, recipe)
    ours, theirs = (r.network.model_dump(exclude=_OF_THEIR_OWN) for r in (recipe, other))
    different = [f"network.{key}" for key, value in ours.items() if theirs[key] != value]
    if different:
        raise _refused(
            recipe, f"it has another network ({', '.join(different)}): give that of its recipe.toml"
        )


def _check_images(described: SpaceRecord, recipe: Recipe, splits: Splits) -> None:
    images = described.images
    if images is None:
        raise _refused(
            recipe,
            "its space.json has no 'images', since it is of an earlier version: "
            "it may have trained on images that are for scoring here, so train it again",
        )
    counts = images.class_counts.get("train", ())
    if len(counts) != splits.classes:
        raise _refused(recipe, f"its images are of {len(counts)} classes, here {splits.classes}")
    for part in _UNSEEN:
        if images.digests.get(part) != splits.digests.get(part):
            raise _refused(
                recipe,
                f"its {part} images are others, so that it may have trained on images that are "
                "for scoring here: give it the same seed and the same [data]",
            )
    held_out = splits.digests.get("held_out")
    if held_out is not None and images.digests.get("held_out") != held_out:
        raise _refused(
            recipe,
            "it trained on images that are held out for the sampler here: give both runs the same "
            f"sampler.held_out, {recipe.sampler.held_out!r} here",
        )


def _check_space(described: SpaceRecord, net: Supernet, recipe: Recipe) -> None:
    ours = SpaceDescription.of(net.space.to_dict()).decisions
    theirs = described.space.decisions
    if len(ours) != len(theirs):
        raise _refused(recipe, f"its space has {len(theirs)} decisions, here {len(ours)}")
    for here, there in zip(ours, theirs, strict=True):
        if (here.name, here.options) != (there.name, there.options):
            raise _refused(
                recipe,
                f"its space has a decision {there.name!r} with options {list(there.options)}, "
                f"here it is {here.name!r} with {list(here.options)}",
            )


def _check_copies(net: Supernet, tensors: dict[str, Tensor], recipe: Recipe) -> None:
    """Refuses a run that trained several copies.

    Raises:
        RecipeError: then.
    """
    stacks = rows(net)
    for name, target in net.state_dict(keep_vars=True).items():
        there = tensors.get(name)
        several = target in stacks and there is not None and there.dim() == target.dim()
        if several and there is not None and len(there) > 1:
            raise _refused(
                recipe,
                f"it trained {len(there)} copies, and slices are inherited from one: give a run "
                "with sharing.name = 'one_shot'",
            )


def _refused(recipe: Recipe, why: str) -> RecipeError:
    return RecipeError(f"sharing.inherit = {recipe.sharing.inherit!r}: {why}")
