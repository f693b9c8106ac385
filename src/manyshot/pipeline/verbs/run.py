"""The whole way: train a supernet, search, finish the winners, write what came out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from manyshot import records
from manyshot.pipeline.beforehand import (
    check,
    check_budgets,
    check_reward,
    check_sampling,
    check_ways,
)
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.checks import check_settings
from manyshot.pipeline.clock import Clock
from manyshot.pipeline.devices import on_its_threads, processes, start_engine, stop
from manyshot.pipeline.inherit import keep_inherited
from manyshot.pipeline.networks import keep_original, said_of_classifier
from manyshot.pipeline.opening import open_folder, take_over
from manyshot.pipeline.search_checks import GENERATOR
from manyshot.pipeline.settling import said_of_budgets, said_of_precisions
from manyshot.pipeline.stages import latency
from manyshot.pipeline.stages.adopt import load_source, take_source
from manyshot.pipeline.stages.controls import (
    choose_controls,
    finish_controls,
    judged,
    score_controls,
)
from manyshot.pipeline.stages.describe import describe_space
from manyshot.pipeline.stages.exports import check_exported, try_formats
from manyshot.pipeline.stages.finish import finish
from manyshot.pipeline.stages.generate import ended_after, probed_images, proposals
from manyshot.pipeline.stages.lengths import foretell, minutes_of, with_lengths
from manyshot.pipeline.stages.search import Searched, check_winners, search, winners
from manyshot.pipeline.stages.shrink import images_judged, in_last_view
from manyshot.pipeline.stages.train import train_stage
from manyshot.pipeline.teachers import said_of_teacher
from manyshot.pipeline.verbs.transfer import check_channels
from manyshot.pipeline.workers import Workers, check_workers, scoring_by
from manyshot.progress import Progress, Silent, showing
from manyshot.rank.verdict import interval_of_test_score
from manyshot.recipe import Recipe
from manyshot.run_folder import (
    ControlRecord,
    FinishLine,
    GeneratedRecord,
    Result,
    RunFolder,
    ScoreLine,
    ShrinkLine,
    SpaceSize,
    Timing,
    WinnerRecord,
)
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.train import narrowing
from manyshot.writing import is_main_process, writing


def begin(
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    trained: Path | None = None,
    source: Path | None = None,
    *,
    whole: bool = True,
    workers: int = 1,
) -> tuple[Workspace, Accelerator]:
    """Builds a recipe, opens its folder and trains the supernet, unless that is done.

    Args:
        recipe: what to do.
        folder: the run's.
        progress: shows how far it is.
        trained: the folder of a run whose supernet is taken instead of training one.
        source: the folder of a run whose supernet is moved to the recipe's images; see
            `transfer_recipe`.
        whole: whether a search follows, of which an estimate is shown too.
        workers: how many score its candidates, and finish its networks.

    Raises:
        RecordError: if `trained` has no supernet, or `folder` holds another run.
        RecipeError: for what `Workspace.check` finds, before anything is written.
    """
    clock = Clock()
    with clock.part("preparation"):
        ws, accelerator = _prepared(recipe, folder, progress, trained, source)
    minutes = minutes_of(ws.recipe)
    with clock.part("estimate"):
        ws = with_lengths(ws, accelerator, folder, progress)
        if trained is None:
            foretell(ws, accelerator, folder, progress, whole=whole, workers=workers)
    recipe = ws.recipe
    if accelerator.is_main_process:
        open_folder(folder, recipe, ws.memory_format, trained)
        keep_original(ws.original, recipe, ws.splits, RunFolder(folder).original)
        keep_inherited(ws.inherited, RunFolder(folder))
        describe_space(ws, folder, minutes)
        begun = None
        if not RunFolder(folder).has_begun:
            with clock.part("formats"):
                try_formats(ws, progress)
            with clock.part("latency"):
                latency.check_measurable(ws, progress)
            begun = clock.seconds
        ws = replace(ws, clock=Clock(RunFolder(folder).seconds_file, begun=begun))
    accelerator.wait_for_everyone()
    progress = ws.clock.watching(progress)
    if latency.needs_latency(ws):
        ws = latency.with_latency(ws, accelerator, folder, progress, trained)
        ws.limits()  # an impossible budget, or a sampler that does not fit, fails before training
        check_reward(ws)
        check_budgets(ws)
        check_sampling(ws, accelerator.num_processes)
    if accelerator.is_main_process:
        if source is not None and not RunFolder(folder).weights.exists():
            take_source(folder, source)
        if trained is not None:
            take_over(folder, trained)
    accelerator.wait_for_everyone()
    train_stage(ws, accelerator, folder, progress)
    return in_last_view(ws, folder), accelerator


def _prepared(
    recipe: Recipe, folder: Path, progress: Progress, trained: Path | None, source: Path | None
) -> tuple[Workspace, Accelerator]:
    """Builds a recipe and checks it, before anything is written; see `begin`."""
    check_settings(recipe)
    world = processes(recipe)  # before anything is put on a device
    with showing(progress):
        ws = Workspace.build(recipe, folder if trained is None else trained, world)
    notes = (
        said_of_budgets(recipe, ws.recipe, ws.costs),
        said_of_classifier(ws.original),
        said_of_teacher(ws.teachers),
        said_of_precisions(ws.recipe, ws.device),
    )
    for words in notes if is_main_process() else ():
        if words:
            warnings.warn(words, stacklevel=2)
    recipe = ws.recipe
    if source is not None and ws.splits.image_shape:
        check_channels(source, ws.splits.image_shape[0], recipe.data.name)
    check(ws, world)
    if trained is None and not RunFolder(folder).weights.exists():
        check_ways(ws, world)
    if source is not None:
        load_source(
            ws, RunFolder(source).weights
        )  # what does not fit is found before anything is written
    return ws, start_engine(ws.recipe, ws.device, folder)


@on_its_threads
def train_only(recipe: Recipe, folder: Path, progress: Progress | None = None) -> None:
    """Trains the supernet of a recipe in `folder`."""
    with writing(folder, "manyshot train"):
        _, accelerator = begin(recipe, folder, progress or Silent(), whole=False)
        stop(accelerator)


@on_its_threads
def run(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    trained: Path | None = None,
    source: Path | None = None,
    workers: Workers | None = None,
) -> Result:
    """Does everything a recipe says in `folder`; what is done already is not done again.

    Args:
        recipe: what to do.
        folder: where all records and files go; a run that was killed goes on in its own.
        progress: shows how far it is; by default nothing.
        trained: the folder of a run whose supernet is taken instead of training one.
        source: the folder of a run whose supernet is moved to the recipe's images; see
            `transfer_recipe`.
        workers: what scores candidates, and finishes winners and controls; by default this process.
            They give the same numbers.

    Returns:
        What `result.json` holds: `winners`, one per budget, and what was spent.

    Raises:
        RecordError, CheckpointError: if another process writes to the folder, or it holds something
            else, or something damaged.
        RecipeError, DataNotFound, ValueError: if the recipe cannot be built.
        NonFiniteLoss: if training diverges.
        Infeasible: if a budget has no winner; `result.json` has those of the others.
        ExportFailed: if a format could not be written; all else is on file.
    """
    check_workers(workers)
    with writing(folder, "manyshot run"):
        count = 1 if workers is None else workers.count
        shown = progress or Silent()
        ws, accelerator = begin(recipe, folder, shown, trained, source, workers=count)
        return _run(ws, accelerator, folder, ws.clock.watching(shown), workers)


def _run(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    workers: Workers | None,
) -> Result:
    """All that comes after the supernet is trained.

    Workers of the search end, and give back their memory, before others begin that finish, which
    need something else; these end before latencies are measured.
    """
    recipe, clock = ws.recipe, ws.clock
    generates = recipe.search.name == GENERATOR
    with scoring_by(workers, ws) as spread:
        crew = None if spread.spread is None else spread.spread.crew
        with clock.part("search", RunFolder(folder).search_log):
            proposed = proposals(ws, folder) if generates else None
            searched = search(spread, accelerator, folder, progress, proposed)
            scores = searched.scores
            chosen = winners(ws, scores, proposed)
            controls = [c for c in choose_controls(ws, list(scores)) if c.budget in chosen]
            beside = score_controls(spread, accelerator, controls, progress)
        if crew is not None:
            crew.close()
        archs = list(chosen.values())
        proxies = {arch: searched.lines[arch].proxy_score for arch in archs}
        finished = finish(
            ws, accelerator, folder, archs, recipe.finish, progress, proxies, crew=crew
        )
        with clock.part("finishing", RunFolder(folder).controls_log):
            lines = finish_controls(
                ws, accelerator, folder, controls, beside, progress, finished, crew
            )
    result = None
    if accelerator.is_main_process:
        views = RunFolder(folder).shrink_lines()
        images = {
            "train": trained_images(ws, views, ended_after(folder)),
            **searched.images,
            "probe": probed_images(folder),
        }
        if views:
            images["shrink"] = images_judged(ws, views)
        generated = None
        if proposed is not None:
            generated = {p.limit.name: p.record(chosen.get(p.limit.name)) for p in proposed}
        timings = _timings(ws, folder, [*finished, *lines])
        result = summary(ws, searched, chosen, finished, timings, images, generated)
        tested = [
            ControlRecord(
                kind=control.kind,
                **_tested(
                    ws, control.budget, arch, (proxy.value, proxy.loss), lines[arch], timings[arch]
                ),
            )
            for control in controls
            for arch, proxy in [(control.arch, beside[control.arch])]
        ]
        verdict = judged(ws, folder, result.winners, tested, {**finished, **lines})
        result = result.model_copy(update={"controls": tuple(tested), "verdict": verdict})
        records.write_json(RunFolder(folder).result_file, result)
    stop(accelerator)
    check_winners(ws, scores, chosen)
    check_exported(finished.values())
    [shared] = broadcast_object_list([result])
    assert isinstance(shared, Result)  # the main process has sent it
    return shared


def _timings(ws: Workspace, folder: Path, archs: Iterable[Arch]) -> dict[Arch, Timing]:
    """The latencies of networks, measured directly unless they are on record, beside a table's."""
    before, timings = latency.on_record(ws, folder), {}
    for arch in archs:
        by_table = None
        if "latency_ms" in ws.costs:
            by_table = ws.costs["latency_ms"]([arch])[0].item()
        timing = before.get(ws.net.space.to_text(arch))
        if timing is None:
            with ws.clock.part("latency"):
                timing = latency.latency_of(ws, ws.net.extract(arch), by_table)
        timings[arch] = timing.model_copy(update={"table_ms": by_table})
    return timings


def summary(
    ws: Workspace,
    searched: Searched,
    chosen: dict[str, Arch],
    finished: dict[Arch, FinishLine],
    timings: dict[Arch, Timing],
    images: dict[str, int],
    generated: dict[str, GeneratedRecord] | None = None,
) -> Result:
    """What `result.json` holds.

    Args:
        ws: the run.
        searched: what its search ended with.
        chosen: the winners by budget.
        finished: their lines.
        timings: their latencies.
        images: forwarded, by what for.
        generated: by budget, what a generator proposed in place of a search.
    """
    recipe, space = ws.recipe, ws.net.space
    return Result(
        name=recipe.name,
        task=ws.task_record,
        winners=tuple(
            winner(ws, budget, arch, searched.lines[arch], finished[arch], timings[arch])
            for budget, arch in chosen.items()
        ),
        finish=recipe.finish.mode,
        latency={space.to_text(arch): took for arch, took in timings.items()},
        space=SpaceSize(size=space.size, decisions=len(space)),
        searched=searched.searched,
        shifting=recipe.shifting.name,
        order=searched.order,
        dose=searched.dose,
        images_forwarded=images,
        generated=generated,
    )


def winner(
    ws: Workspace,
    budget: str,
    arch: Arch,
    proxy: ScoreLine,
    line: FinishLine,
    took: Timing,
) -> WinnerRecord:
    """One entry of `result.json`.

    Args:
        ws: the run.
        budget: that it won.
        arch: the architecture.
        proxy: the score that it won by.
        line: its line, tested.
        took: its latency.
    """
    return WinnerRecord(
        **_tested(ws, budget, arch, (proxy.proxy_score, proxy.proxy_loss), line, took),
        choices=ws.net.space.choices(arch),
        files=line.files,
        int8_score=None if line.int8 is None else line.int8.test_score,
        failed=line.failed,
        reward=proxy.reward,
    )


def _tested(
    ws: Workspace,
    budget: str,
    arch: Arch,
    proxy: tuple[float, float],
    line: FinishLine,
    took: Timing,
) -> dict[str, Any]:
    """What `TestedRecord` holds of a finished network; `proxy` is its score and its loss."""
    assert line.test_score is not None and line.test_loss is not None
    bounds = None
    if line.test_images is not None:
        metric = ws.task_record.metric
        bounds = interval_of_test_score(
            line.test_score, line.test_images, metric, line.test_parts or ()
        )
    return {
        "budget": budget,
        "arch": ws.net.space.to_text(arch),
        **ws.recorded_costs(arch),
        "latency_ms": took.median_ms,
        "proxy_score": proxy[0],
        "proxy_loss": proxy[1],
        "test_score": line.test_score,
        "test_loss": line.test_loss,
        "test_metrics": line.test_metrics or {},
        "test_interval": bounds,
    }


def trained_images(ws: Workspace, views: Sequence[ShrinkLine] = (), most: int | None = None) -> int:
    """Images that training forwards, whatever network they go through.

    Args:
        ws: the run.
        views: of the search space that it trained in, if there are several.
        most: the steps after which its sampler ended training, if that is known.
    """
    recipe = ws.recipe
    if not recipe.trained_epochs:
        return 0
    steps = recipe.trained_epochs * len(ws.batches(recipe.train))
    if most is not None:
        steps = min(steps, most)
    return recipe.train.batch_size * (steps if recipe.moves else trained_paths(ws, steps, views))


def trained_paths(ws: Workspace, steps: int, views: Sequence[ShrinkLine]) -> int:
    """The paths of so many steps, each as many as the first of its view of the space."""
    sampler, paths = ws.sampler(), 0
    narrows = narrowing(sampler)
    for i, line in enumerate(views or [None]):
        step = 0 if line is None else line.step
        if line is not None and narrows is not None:
            narrows.narrow(line.view_of(ws.net.space), step)
        end = views[i + 1].step if i + 1 < len(views) else steps
        plan = sampler.plan(numpy_rng(ws.recipe.seed, "plan", step), step)
        paths += (end - step) * len(plan.paths)
    return paths
