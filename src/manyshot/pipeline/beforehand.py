"""Before anything is trained: what would fail in training, the search or finishing."""

from __future__ import annotations

from manyshot.data import LabelledImages, OwnSet
from manyshot.fitting import growth_of
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.checks import (
    check_batch_size,
    check_chunks,
    check_code_steps,
    check_formats,
    check_moves,
    check_placements,
    check_runtime,
    check_sampler,
    check_shrinking,
    check_stand_ins,
    check_teachers,
)
from manyshot.pipeline.plain import check_classifier
from manyshot.pipeline.search_checks import GENERATOR, check_breeding, check_joint, check_stale
from manyshot.recipe import GIVEN, OptimiserSettings, RecipeError, TrainingSettings
from manyshot.search.limit import costs_of
from manyshot.seeding import numpy_rng
from manyshot.space import Budget
from manyshot.tasks.task import loss_function
from manyshot.train.compiling import check_compiling, try_compiler
from manyshot.train.mixing import check_mixed, check_mixing, mixing
from manyshot.train.sharding import check_shards
from manyshot.train.snapshots import check_snapshots
from manyshot.train.trainer import check_drops_largest


def check(ws: Workspace, world: int = 1) -> None:
    """Finds now, before anything is trained by `world` processes, what would fail later.

    Raises:
        RecipeError: for an impossible budget, an unknown sampler or searcher, their options,
            training batches that cannot be made, a runtime that does not run on the device, or
            what `check_finish` finds.
    """
    check_task(ws)
    known = ws.limits(metrics=tuple(ws.all_costs.keys() - {"latency_ms"}))
    check_budgets(ws)
    check_reward(ws)
    if not ws.waits_for_latency:
        check_sampling(ws, world)
    if ws.recipe.search.name != GENERATOR:
        sampler = ws.sampler() if ws.trains_sampler and not ws.waits_for_latency else None
        searcher = ws.searcher(known or [ws.everything()], sampler)
        check_breeding(searcher, ws.recipe.search)
        check_stale(ws.recipe.shifting, searcher)
    if ws.recipe.shifting.name != "none":
        check_placements(ws.recipe, ws.net.sharing)
        if ws.recipe.shifting.needs_classifier:
            check_classifier(ws.recipe, ws.net)
        check_batches(ws, "shifting", ws.recipe.shifting, world)
    check_batches(ws, "train", ws.recipe.train, world)
    check_chunks(ws.net.sharing, ws.recipe.train.batch_size, world)
    train = ws.recipe.train
    if not ws.recipe.moves and train.minutes is None:
        check_code_steps(ws.net.sharing, train.epochs * len(ws.batches(train, 0, world)))
    check_runtime(ws.recipe.latency, ws.device)
    check_finish(ws, world)


def check_task(ws: Workspace) -> None:
    """Finds what would fail in the first batch: other outputs or targets than the task's.

    Raises:
        RecipeError: for these, or targets to be smoothed or mixed by a task that does not say
            how, or snapshots that cannot vote.
    """
    recipe = ws.recipe
    sections: dict[str, OptimiserSettings] = {"train": recipe.train}
    sections["shifting"], sections["finish.training"] = recipe.shifting, recipe.finish.training
    if recipe.train.snapshots.number and recipe.train.epochs and not recipe.moves:
        try:
            check_snapshots(ws.net, ws.task, recipe.train.snapshots.number)
        except ValueError as error:
            raise RecipeError(f"train.snapshots: {error}") from error
    for section, settings in sections.items():
        try:
            loss_function(ws.task, settings.label_smoothing)
            if isinstance(settings, TrainingSettings) and mixing(settings):
                check_mixing(settings, ws.task)
                check_mixed(settings, *ws.together(ws.splits.train.subset([0])))
        except ValueError as error:
            raise RecipeError(f"{section}.{error}") from error
    assert ws.task_record


def check_reward(ws: Workspace) -> None:
    """Refuses a reward that has no meaning for these scores, or a target that none meets.

    Raises:
        RecipeError: then.
    """
    metric, target = ws.task_record.metric, ws.recipe.search.reward.target
    if target is None:
        return
    if not (metric.share and metric.higher_is_better):
        raise RecipeError(
            f"search.reward multiplies the score by a power of a cost, which means something "
            f"for one of at least 0, where higher is better, and {metric.name} of task = "
            f"{ws.recipe.task.name!r} may be another: leave search.reward out, or name the "
            "metric in the shares of a task of your own if it is in [0, 1]"
        )
    if Budget.parse(target).metric in ws.all_costs:
        assert ws.rewarded


def check_budgets(ws: Workspace) -> None:
    """Refuses budgets of several limits, or on a cost of one's own, that none meets.

    Those on a cost that is not known yet, such as a latency, are left for later.

    Raises:
        RecipeError: then.
    """
    costs, space = ws.all_costs, ws.net.space
    for text in ws.recipe.search.budgets:
        budgets = Budget.parse_all(text)
        metrics = {budget.metric for budget in budgets}
        if metrics <= costs.keys() and (len(budgets) > 1 or metrics & ws.functions.keys()):
            greatest = {
                b.metric: b.absolute(costs_of(costs[b.metric], [space.largest], text)[0])
                for b in budgets
            }
            check_joint(text, space, costs, greatest)


def check_sampling(ws: Workspace, world: int = 1) -> None:
    """Finds what would fail in training with the sampler, or in taking winners from it.

    Args:
        ws: the recipe, built.
        world: how many processes train together.

    Raises:
        RecipeError: for an unknown one, its options, or what `check_sampler` finds.
    """
    known = () if ws.waits_for_latency else tuple(ws.costs)
    limits, sampler = ws.limits(metrics=known), ws.sampler()
    train = ws.recipe.train
    if train.epochs and not ws.recipe.moves:
        plan = sampler.plan(numpy_rng(ws.recipe.seed, "plan", 0), 0)
        check_placements(ws.recipe, ws.net.sharing, plan)
    if train.drop_path_for == "largest" and train.epochs and not ws.recipe.moves:
        plan = sampler.plan(numpy_rng(ws.recipe.seed, "plan", 0), 0)
        try:
            check_drops_largest(plan, ws.net.space.largest, ws.recipe.sampler.name)
        except ValueError as error:
            raise RecipeError(f"train: {error}") from error
    check_sampler(ws.recipe, sampler, len(ws.splits.held_out), limits, world)
    if ws.recipe.shrinks:
        check_shrinking(ws.recipe, sampler, ws.shrinker())
        ws.limits_of(ws.recipe.shrink.budgets or [], known)


def check_ways(ws: Workspace, world: int) -> None:
    """Finds what `train.shard` and `train.compile` do not go with, if a supernet is still to train.

    Args:
        ws: the recipe, built.
        world: how many processes train together.

    Raises:
        RecipeError: for what there is, or a compiler that does not work here.
    """
    train, shrinks = ws.recipe.train, ws.recipe.shrinks
    if not ws.trains_sampler:
        return
    try:
        if train.shard and not ws.waits_for_latency:
            check_shards(ws.net, ws.sampler(), train, world, shrinks=shrinks, factory=False)
        if train.compile:
            check_compiling(ws.net, world)
            try_compiler(ws.device)
    except ValueError as error:
        raise RecipeError(f"train: {error}") from error


def check_finish(ws: Workspace, world: int = 1) -> None:
    """Finds what would fail when an architecture is finished and exported.

    Raises:
        RecipeError: for training batches that cannot be made, or formats without packages.
    """
    finish = ws.recipe.finish
    check_formats(ws.recipe.export.formats)
    check_teachers(ws.recipe, ws.original)
    ws.distiller(finish)
    if ws.recipe.network.name == GIVEN and finish.mode == "scratch":
        raise RecipeError(
            "finish.mode = 'scratch' needs new weights, and the network was given with those "
            "that it has: take 'finetune' or 'inherit', or name a function that makes the "
            "network (network.name = 'package.module:function')"
        )
    check_stand_ins(finish, ws.net)
    if finish.mode != "inherit":
        try:
            samples = ws.finishing_data(finish)
        except ValueError as error:
            raise RecipeError(f"finish.data = {finish.data!r}: {error}") from error
        check_batches(ws, "finish.training", finish.training, world, samples)


def check_batches(
    ws: Workspace,
    section: str,
    settings: OptimiserSettings,
    world: int = 1,
    samples: LabelledImages | OwnSet | None = None,
) -> None:
    """Finds what would fail in making training batches for `world` processes.

    Raises:
        RecipeError: naming the `section` of the recipe; also if its optimiser is not
            installed, or acts on layers that the network does not have.
    """
    samples = ws.splits.train if samples is None else samples
    check_batch_size(section, settings, len(samples), world)
    check_moves(section, settings, ws.net)
    _check_image_sizes(ws, section, settings)
    try:
        ws.batches(settings, 0, world, samples)
    except ValueError as error:
        raise RecipeError(f"data: {error}") from error


def _check_image_sizes(ws: Workspace, section: str, settings: OptimiserSettings) -> None:
    """Refuses sizes that do not end at that of the images, and that the network does not take.

    Raises:
        RecipeError: naming the `section` of the recipe.
    """
    try:
        growth, shape = growth_of(settings), ws.splits.image_shape
    except ValueError as error:
        raise RecipeError(f"{section}.image_sizes: {error}") from error
    if growth is not None and shape and {*shape[1:]} != {growth.sides[-1]}:
        raise RecipeError(
            f"{section}.image_sizes = {list(growth.sides)} ends at {growth.sides[-1]} pixels, "
            f"and images are of {shape[1]} x {shape[2]} (data.image_size): the last size must "
            "be theirs"
        )
    for side in sorted({*growth.sides}) if growth else ():
        try:
            ws.macs_at(side)
        except ValueError as error:
            raise RecipeError(
                f"{section}.image_sizes: the network does not take images of {side} x {side} "
                f"pixels: leave image_sizes out, or take another network ({error})"
            ) from error
