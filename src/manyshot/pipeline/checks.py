"""What would fail only after training, found before it."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

import torch

from manyshot.data import Splits
from manyshot.nn.drop_path import Dropping
from manyshot.nn.policy import MIXING
from manyshot.pipeline.networks import Original
from manyshot.pipeline.search_checks import (
    GENERATOR,
    check_breeding,
    check_reward,
    check_search,
    check_stale,
)
from manyshot.recipe import (
    FILES,
    FinishSettings,
    LatencySettings,
    OptimiserSettings,
    Recipe,
    RecipeError,
    SupernetSettings,
    TrainingSettings,
    check_parts,
)
from manyshot.search import Limit, make_searcher
from manyshot.search.table import START_BY_SPACE
from manyshot.sharing import PlacesChannels, Sharing, learns_codes
from manyshot.space import Budget, Decision, SearchSpace
from manyshot.supernet import Supernet
from manyshot.train import MixesOptions, Plan, Sampler, Shrinker, Standalone
from manyshot.train.optim import check_rates, lamb
from manyshot.train.samplers.shift import Generates, Targeted
from manyshot.train.trainer import check_narrows
from manyshot.train.unrolled import check_unrolled

ONNX = ("onnx", "onnxscript", "onnxruntime")


def check_settings(recipe: Recipe) -> None:
    """Finds, before any image is read, what settings alone say will fail.

    Of searchers only ours are made for it, on a space of one decision; anybody else's may need the
    real one, and where one begins to learn may depend on it (`Workspace.check` sees to that).

    Raises:
        RecipeError: for what `check_search`, `check_reward`, `check_formats`, `check_breeding`
            and `check_stale` find, packages that a runtime needs, and an unknown searcher or its
            options.
    """
    check_search(recipe)
    check_reward(recipe)
    check_formats(recipe.export.formats)
    check_runtime(recipe.latency)
    name = recipe.search.name
    if name == GENERATOR or ":" in name:
        return
    anything = Limit("anything", lambda archs: [1.0] * len(archs), 1.0)
    space = SearchSpace([Decision((0, 1), "any")])
    try:
        searcher = make_searcher(
            name, space, seed=0, limits=[anything], options=recipe.search.options
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if name not in START_BY_SPACE:
        check_breeding(searcher, recipe.search)
    check_stale(recipe.shifting, searcher)


def check_batch_size(section: str, settings: OptimiserSettings, images: int, world: int) -> None:
    """Refuses batches that cannot be filled, or not be shared by `world` processes in equal parts.

    Raises:
        RecipeError: then.
    """
    size = settings.batch_size
    if size > images:
        raise RecipeError(
            f"{section}.batch_size = {size} is more than the {images} training images: lower it, "
            "or give more (data.validation and sampler.held_out are split off them)"
        )
    if size % world:
        raise RecipeError(
            f"{section}.batch_size = {size} is not a multiple of the {world} processes, which "
            "share every batch: give one that is"
        )
    if isinstance(settings, TrainingSettings):
        try:
            check_parts(settings.accumulate, size, world)
        except ValueError as error:
            raise RecipeError(f"{section}: {error}") from error


def check_batch_sizes(recipe: Recipe, splits: Splits, world: int) -> None:
    """Refuses batches that cannot be filled or shared, as soon as the images are counted.

    Args:
        recipe: what is to run.
        splits: its images.
        world: how many processes share every batch.

    Raises:
        RecipeError: then.
    """
    images, finish = len(splits.train), recipe.finish
    check_batch_size("train", recipe.train, images, world)
    if recipe.shifting.name != "none":
        check_batch_size("shifting", recipe.shifting, images, world)
    if finish.mode != "inherit":
        more = len(splits.validation) if finish.data == "train+validation" else 0
        check_batch_size("finish.training", finish.training, images + more, world)


def check_moves(section: str, settings: OptimiserSettings, net: Supernet) -> None:
    """Refuses an optimiser that is not installed, and what acts on layers that there are not.

    Args:
        section: of the recipe.
        settings: its settings.
        net: the supernet; sections other than `train` and `shifting` are for networks alone.

    Raises:
        RecipeError: then.
    """
    try:
        if settings.optimizer == "lamb":
            lamb()
        if not isinstance(settings, TrainingSettings):
            return
        if settings.drop_path is not None:
            Dropping(net, settings.drop_path)
        if settings.rates:
            of_supernet = isinstance(settings, SupernetSettings)
            check_rates(
                net if of_supernet else Standalone(net.extract(net.space.largest)), settings.rates
            )
    except (ImportError, ValueError) as error:
        raise RecipeError(f"{section}: {error}") from error


def check_teachers(recipe: Recipe, original: Original) -> None:
    """Refuses an original as a teacher that is none, and not to train what must be trained.

    Raises:
        RecipeError: then.
    """
    network, classes = recipe.network, "the weights are of other classes"
    new = original.new_classifier
    teachers: dict[str, str | None] = {"finish": recipe.finish.teacher}
    if not recipe.moves:
        teachers = {"train": recipe.train.teacher, **teachers}
    keys = [key for key, teacher in teachers.items() if teacher == "original"]
    reasons = {
        "the weights are those of another run": recipe.moves,
        "it is not converted": not original.is_converted,
        "it has new weights: give network.pretrained = true, or network.weights = FILE": (
            network.library is not None and not network.has_weights
        ),
        f"its classifier {new!r} is new, since {classes}": new is not None,
    }
    for why, holds in reasons.items():
        if keys and holds:
            raise RecipeError(
                f"{keys[0]}.teacher = 'original' needs the network with weights for the classes of "
                f"these images, and of network.name = {network.name!r} {why}"
            )
    if recipe.trained_epochs or recipe.moves:
        return
    if new is not None or not (original.is_given or original.digest is not None):
        why = "the weights are new: give network.pretrained = true, or network.weights = FILE"
        if new is not None:
            why = f"the classifier {new!r} is new, since {classes}"
        raise RecipeError(
            f"train.epochs = 0 searches a supernet as it is, and of network.name = "
            f"{network.name!r} {why}; or train for at least 1 epoch"
        )


def check_classes(recipe: Recipe, splits: Splits) -> None:
    """Refuses to classify images of a folder that are all of one class.

    Raises:
        RecipeError: then.
    """
    if recipe.data.name not in FILES or splits.classes != 1:
        return
    if recipe.task.name == "classification":
        [name] = splits.class_names or ("",)
        root = recipe.data.root
        raise RecipeError(
            f"data.root = {root!r}: {root}/train holds one class only, {name!r}, so that there is "
            "nothing to tell apart: give it a folder train/CLASS/ for each of two or more classes, "
            "or take another task"
        )


def check_chunks(sharing: Sharing, batch_size: int, world: int) -> None:
    """Refuses a code step with chunks of fewer than two images, which batch norms cannot train on.

    Raises:
        RecipeError: then.
    """
    own = batch_size // world
    if sharing.chunks > 1 and min(map(len, torch.empty(own).chunk(sharing.chunks))) < 2:
        raise RecipeError(
            f"sharing.options.m = {sharing.chunks} leaves chunks of less than two of the {own} "
            f"images that a process has in a batch (train.batch_size = {batch_size}): lower m, or "
            "raise train.batch_size"
        )


def check_code_steps(sharing: Sharing, steps: int) -> None:
    """Refuses a training too short for any step of the codes that its sharing scheme learns.

    Args:
        sharing: the scheme.
        steps: how many optimiser steps there are; 0 is no training.

    Raises:
        RecipeError: then.
    """
    if not learns_codes(sharing, steps):
        raise RecipeError(
            f"none of the {steps} optimiser steps of train.epochs moves the codes that sharing "
            "learns: raise train.epochs, or lower sharing.options.code_every or warm_frac"
        )


def check_placements(recipe: Recipe, sharing: Sharing, plan: Plan | None = None) -> None:
    """Refuses what a scheme has no weights for: mixtures, and channels that it places elsewhere.

    Args:
        recipe: what the run is to do.
        sharing: the scheme.
        plan: of the first step of training, if there is one.

    Raises:
        RecipeError: for options that are mixed where every path has weights of its own; where a
            scheme places channels for policies, and for running statistics in a search that trains.
    """
    mixed = [path.arch for path in plan.paths if path.masks in MIXING] if plan is not None else []
    if any(sharing.mixture(arch) is not None for arch in mixed):
        raise RecipeError(
            f"sampler.name = {recipe.sampler.name!r} mixes options, and sharing.name = "
            f"{recipe.sharing.name!r} gives every path weights of its own, of which a mixture has "
            "none: take sharing.name = 'one_shot', or a sampler that trains single paths"
        )
    if not isinstance(sharing, PlacesChannels):
        return
    name, shifting = recipe.sharing.name, recipe.shifting
    if plan is not None and any(path.policy is not None for path in plan.paths):
        raise RecipeError(
            f"sampler.name = {recipe.sampler.name!r} learns by policies, whose masks are of the "
            f"first channels of every width, and sharing.name = {name!r} places channels "
            "elsewhere: take a sampler that trains by option indices, such as uniform or sandwich, "
            "or sharing.name = 'one_shot'"
        )
    if shifting.name != "none" and shifting.statistics == "running":
        raise RecipeError(
            "shifting.statistics = 'running' keeps those of one placement of the channels, and "
            f"sharing.name = {name!r} trains several: take shifting.statistics = 'calibrated'"
        )


def check_stand_ins(finish: FinishSettings, net: Supernet) -> None:
    """Refuses to deliver what was never trained: networks without what stood in for an identity.

    Raises:
        RecipeError: then.
    """
    layers = net.stands_in()
    if layers and finish.mode == "inherit":
        raise RecipeError(
            f"finish.mode = 'inherit' delivers the weights of the supernet, and {layers[0]} of it "
            "stands in for what a network has in its place, so that scores are of another network: "
            "take finish.mode = 'finetune' or 'scratch'"
        )


def check_sampler(
    recipe: Recipe, sampler: Sampler, held_out: int, limits: Sequence[Limit], world: int = 1
) -> None:
    """Refuses a sampler without the images it learns from, or winners that it cannot give.

    A budget above all that the sampler is trained for is a warning.

    Args:
        recipe: what the run is to do.
        sampler: the recipe's.
        held_out: how many images are held out.
        limits: the budgets.
        world: how many processes train together.

    Raises:
        RecipeError: then; if it learns by gradients that are accumulated, or through a step that is
            unlike the one taken; for winners, if the sampler has no generator, a budget is on
            another cost than it knows or below what it is trained for, or there are options.
    """
    name, search = recipe.sampler.name, recipe.search
    taught = recipe.train.teacher in ("original", "network")
    try:
        check_unrolled(sampler, recipe.train, world, taught=taught)
    except ValueError as error:
        raise RecipeError(f"sampler.name = {name!r}: {error}") from error
    if recipe.train.accumulate > 1 and sampler.optimizer() is not None:
        raise RecipeError(
            f"train.accumulate = {recipe.train.accumulate} trains in parts, and sampler.name = "
            f"{name!r} learns by the gradients of whole batches: set train.accumulate = 1, or take "
            "another sampler, such as uniform or sandwich"
        )
    if sampler.probes and not held_out:
        raise RecipeError(
            f"sampler.name = {name!r} learns from losses on images that weights do not learn from: "
            "give sampler.held_out, a number or share of the training images, such as 0.1"
        )
    if search.name != GENERATOR:
        return
    if not isinstance(sampler, Generates):
        raise RecipeError(
            f"search.name = {GENERATOR!r} takes winners from the sampler, and sampler.name = "
            f"{name!r} generates none: take sampler.name = 'shiftnas', 'relaxed' or 'sparse', or a "
            "searcher"
        )
    if search.options:
        raise RecipeError(
            f"search.name = {GENERATOR!r} takes no options, got {search.options}: "
            "drop them (--set search.options=)"
        )
    for text in search.budgets:
        (metric, *further) = (part.metric for part in Budget.parse_all(text))
        if further:
            raise RecipeError(
                f"budget {text!r}: the generator is trained for one cost; give one limit, or a "
                "searcher as search.name"
            )
        if metric != sampler.metric:
            raise RecipeError(
                f"budget {text!r}: the generator is trained for {sampler.metric}; give budgets on "
                f"that, or sampler.options.metric = {metric!r}"
            )
    if isinstance(sampler, MixesOptions):
        for limit in limits:
            if not sampler.generate(limit.limit).within:
                raise RecipeError(
                    f"budget {limit.name!r} ({limit.limit:,.6g}): sampler.name = {name!r} finds no "
                    "network within it of the options that may win: raise it, or name fewer in "
                    "sampler.options.exclude"
                )
    if not isinstance(sampler, Targeted):
        return
    grid = sampler.grid
    targets = f"the sampler's targets, {grid.lo:,.6g} to {grid.hi:,.6g}"
    for limit in limits:
        budget = f"budget {limit.name!r} ({limit.limit:,.6g})"
        if limit.limit < grid.lo - grid.step / 2:
            raise RecipeError(f"{budget} is below {targets}: lower sampler.options.grid")
        if limit.limit > grid.hi + grid.step / 2:
            warnings.warn(f"{budget} is above {targets}; it gets the last's", stacklevel=2)


def check_shrinking(recipe: Recipe, sampler: Sampler, shrinker: Shrinker) -> None:
    """Refuses a sampler or a search that cannot go on in a view of the space, and other times.

    Raises:
        RecipeError: then.
    """
    shrink, name = recipe.shrink, recipe.shrink.name
    try:
        check_narrows(sampler, recipe.sampler.name)
    except ValueError as error:
        raise RecipeError(f"shrink.name = {name!r}: {error}") from error
    if shrinker.stages not in (None, len(shrink.at)):
        raise RecipeError(
            f"shrink.name = {name!r} with these options changes the space {shrinker.stages} times, "
            f"and shrink.at = {shrink.at} has {len(shrink.at)}: give one share of training for each"
        )


def check_formats(formats: Sequence[str]) -> None:
    """Refuses formats whose packages are missing.

    Raises:
        RecipeError: then.
    """
    wanted = next((kind for kind in formats if kind in ("onnx", "int8")), None)
    if wanted is None:
        return
    _check_onnx(f"export.formats has {wanted!r}")


def check_runtime(settings: LatencySettings, device: torch.device | None = None) -> None:
    """Refuses a runtime whose packages are missing, or that does not run where the network is.

    Args:
        settings: how latency is measured.
        device: where, if that is known.

    Raises:
        RecipeError: then.
    """
    if settings.runtime == "torch":
        return
    _check_onnx(f"latency.runtime is {settings.runtime!r}")
    if device is not None and device.type != "cpu":
        raise RecipeError(
            f"latency.runtime = {settings.runtime!r} measures on the CPU alone, and the network is "
            f"on {device}: set device = 'cpu', or latency.runtime = 'torch'"
        )


def _check_onnx(what: str) -> None:
    """Refuses what needs the extra `onnx` where its packages are missing.

    Raises:
        RecipeError: then.
    """
    try:
        for name in ONNX:
            importlib.import_module(name)
    except ImportError as error:
        raise RecipeError(
            f"{what}, which needs {', '.join(ONNX)} ({error}): pip install 'manyshot[onnx]'"
        ) from error
