"""Plain networks of a supernet, and new supernets that they are extracted of."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from manyshot.data import DataDescription
from manyshot.nn import BatchNormStats
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.networks import build_supernet
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import RunFolder
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.transfer import classifier, new_head


def bare(recipe: Recipe) -> Recipe:
    """The recipe without what has no part in training a network alone."""
    parts = ("sharing", "sampler", "shifting", "transfer", "search")
    return recipe.model_copy(update={part: Recipe.model_fields[part].default for part in parts})


def check_classifier(recipe: Recipe, net: Supernet) -> int:
    """How many classes the network's classifier has.

    Raises:
        RecipeError: if there is no classifier, or another than the recipe says.
    """
    try:
        return cast(int, classifier(net, recipe.transfer.classifier)[1].out_features)
    except ValueError as error:
        raise RecipeError(f"transfer.classifier: {error}") from error


def fit_classes(recipe: Recipe, net: Supernet, classes: int) -> None:
    """In a transfer, gives a network that was made for other classes a classifier for these.

    Raises:
        RecipeError: as `check_classifier`, or if the data do not tell how many classes they have.
    """
    if recipe.moves and not classes:
        raise RecipeError(
            f"data.name = {recipe.data.name!r}: a transfer makes a classifier for the classes of "
            "the data, and these do not tell theirs: give a TensorDataset or a list of samples "
            "with class indices, or a data set that has them all as its attribute targets"
        )
    if recipe.moves and check_classifier(recipe, net) != classes:
        new_head(net, classes, name=recipe.transfer.classifier, seed=recipe.seed)


def new_supernet(
    recipe: Recipe, data: DataDescription, device: torch.device, run: RunFolder | None = None
) -> Supernet:
    """A supernet of one copy that nothing has trained, of which plain networks are extracted.

    Args:
        recipe: says which.
        data: what it is made for; in a transfer the images that it moves to.
        device: where it is.
        run: the folder of the run whose supernet it is to be like: with the weights that the recipe
            gives, by which conversion orders channels. Without it, weights are new.

    It raises what `build_supernet` and `fit_classes` do.
    """
    like, kept = run is not None, None if run is None else run.original
    net, _ = build_supernet(recipe, data, given=like and not recipe.moves, kept=kept)
    fit_classes(recipe, net, data.classes)
    return net.to(device)


def plain_module(
    source: Supernet, arch: Arch, device: torch.device, stats: BatchNormStats | None = None
) -> nn.Module:
    """The plain module of `arch`, in the memory format that it may be trained in."""
    subnet = source.extract(arch, stats=stats)
    memory_format = training_format(subnet, device).torch_format
    return subnet.to(memory_format=memory_format)
