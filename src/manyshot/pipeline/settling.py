"""What a recipe leaves to the machine and the data, settled when a run is built.

The run's own recipe has plain numbers in its place. Epochs by time are settled in
`stages/lengths.py`, since real steps are timed for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch

from manyshot.cost import CostTable
from manyshot.data import Splits
from manyshot.recipe import Recipe, SearchSettings, TrainingSettings, epochs_to_see
from manyshot.search import limits_of
from manyshot.seeding import numpy_rng
from manyshot.space import SearchSpace
from manyshot.train.precision import said_of_precision, settled

Training = TypeVar("Training", bound=TrainingSettings)

QUANTILES = (0.1, 0.35, 0.7)
"""Of the MACs of uniform architectures: budgets where the default ones cannot be met."""


def with_reachable_budgets(
    recipe: Recipe, costs: Mapping[str, CostTable], space: SearchSpace
) -> Recipe:
    """The recipe, with other budgets if it has the default ones and the network cannot meet them.

    A quantile is rounded up to three digits, so that many an architecture is within it.
    """
    search, table = recipe.search, costs["macs"]
    if "budgets" in search.model_fields_set:
        return recipe
    try:
        limits_of(search.budgets, costs, space.largest)
    except ValueError:
        drawn = space.draw(numpy_rng("any", "survey"), 4096)
        limits = [_three_digits(x) for x in np.quantile(table(drawn), QUANTILES).tolist()]
        budgets = [f"macs<={_with_suffix(limit)}" for limit in dict.fromkeys(limits)]
        values = search.model_dump() | {"budgets": budgets}
        return recipe.model_copy(update={"search": SearchSettings(**values)})
    return recipe


def with_view_budgets(recipe: Recipe) -> Recipe:
    """The recipe, whose views have the budgets and the images of its search if it names none.

    So weights do not depend on what is searched later.
    """
    if not recipe.shrinks:
        return recipe
    shrink, search, evaluate = recipe.shrink, recipe.search, recipe.evaluate
    settled = {
        "budgets": shrink.budgets or search.budgets,
        "images": shrink.images or evaluate.images,
    }
    return recipe.model_copy(update={"shrink": shrink.model_copy(update=settled)})


def said_of_budgets(asked: Recipe, recipe: Recipe, costs: Mapping[str, CostTable]) -> str:
    """Which budgets a run uses in place of the default ones, and why; empty if it does not.

    Args:
        asked: the recipe as it was given.
        recipe: what `with_reachable_budgets` made of it.
        costs: by metric.
    """
    if recipe.search.budgets == asked.search.budgets:
        return ""
    least, greatest = costs["macs"].range()
    shares = ", ".join(f"{share:.0%}" for share in QUANTILES)
    return (
        f"search.budgets is not set, and the default ones ({', '.join(asked.search.budgets)}) "
        f"cannot all be met, since architectures of this network have {least / greatest:.1%} to "
        f"100% of the largest's MACs. The budgets of this run are "
        f"{', '.join(recipe.search.budgets)}: {shares} of uniformly drawn architectures are within "
        "them; set search.budgets to choose others"
    )


def _with_suffix(number: int) -> str:
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if number % unit == 0:
            return f"{number // unit}{suffix}"
    return str(number)


def _three_digits(number: float) -> int:
    unit = int(10 ** max(0, math.floor(math.log10(max(number, 1))) - 2))
    return unit * math.ceil(number / unit)


def with_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe, with the precision that is fast on a device where it says `auto`."""
    finish = {"training": settled(recipe.finish.training, device)}
    return recipe.model_copy(
        update={
            "train": settled(recipe.train, device),
            "shifting": settled(recipe.shifting, device),
            "finish": recipe.finish.model_copy(update=finish),
        }
    )


def said_of_precisions(recipe: Recipe, device: torch.device) -> str:
    """That a precision of a recipe is slow on a device (see `said_of_precision`); else empty."""
    sections = {
        "train": recipe.train,
        "shifting": recipe.shifting,
        "finish.training": recipe.finish.training,
    }
    said = {name: said_of_precision(settings, device) for name, settings in sections.items()}
    return next((f"{name}.{words}" for name, words in said.items() if words), "")


def with_epochs(recipe: Recipe, splits: Splits) -> Recipe:
    """The recipe, with as many epochs as the least number of images takes."""
    finish = recipe.finish
    seen = len(splits.train)
    seen_last = seen + (len(splits.validation) if finish.data == "train+validation" else 0)
    training = {"training": _of_images(finish.training, seen_last)}
    return recipe.model_copy(
        update={
            "train": _of_images(recipe.train, seen),
            "finish": finish.model_copy(update=training),
        }
    )


def _of_images(settings: Training, images: int) -> Training:
    """Settings without a least number of images, which epochs took the place of."""
    if settings.least_images is None:
        return settings
    least = epochs_to_see(settings.least_images, images) if settings.epochs else 0
    update = {"least_images": None, "epochs": max(settings.epochs, least)}
    return settings.model_copy(update=update)
