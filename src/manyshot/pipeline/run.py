"""The whole way: train a supernet, search, finish the winners, write what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from manyshot import records
from manyshot.pipeline import timing
from manyshot.pipeline.checking import GENERATOR
from manyshot.pipeline.describing import describe_codes, describe_space
from manyshot.pipeline.finishing import EXPORTED, LOG, costs_of, finish
from manyshot.pipeline.generating import probed_images, proposals, save_sampler
from manyshot.pipeline.opening import WEIGHTS, open_folder, take_over
from manyshot.pipeline.searching import Searched, check_winners, search, winners
from manyshot.pipeline.shifting import final_weights
from manyshot.pipeline.transferring import adopt_source, load_source, take_source
from manyshot.pipeline.workspace import Workspace, on_its_threads, processes
from manyshot.progress import Progress, Silent
from manyshot.recipe import Recipe
from manyshot.space import Arch
from manyshot.train import Trainer, engine, load_weights, save_weights, train


def train_stage(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Trains the supernet, or moves it here, or loads it if that is done already."""
    weights = folder / WEIGHTS
    is_trained = weights.exists()
    accelerator.wait_for_everyone()  # all have looked before the main process writes
    if not is_trained:
        if ws.recipe.moves:
            adopt_source(ws, accelerator, folder, progress)
        else:
            train_supernet(ws, accelerator, folder, progress)
        if accelerator.is_main_process:
            describe_codes(ws, folder)
            save_weights(weights, ws.net)
        accelerator.wait_for_everyone()
    load_weights(weights, ws.net)


def train_supernet(
    ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress
) -> None:
    """Trains the supernet, and keeps what its sampler has learnt."""
    settings = ws.recipe.train
    sampler = ws.sampler()
    run = Trainer(
        net=ws.net,
        sampler=sampler,
        batches=ws.batches(settings, accelerator.process_index, accelerator.num_processes),
        settings=settings,
        seed=ws.recipe.seed,
        largest=ws.net.space.largest,
        accelerator=accelerator,
        folder=folder,
        fingerprint=ws.fingerprint(settings),
        held_out=ws.held_out if len(ws.splits.held_out) else None,
    )
    train(run, progress)
    if accelerator.is_main_process:
        save_sampler(folder, sampler, run.probed_images)


def begin(
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    trained: Path | None = None,
    source: Path | None = None,
) -> tuple[Workspace, Accelerator]:
    """Builds a recipe, opens its folder and trains the supernet, unless that is done.

    Args:
        recipe: what to do.
        folder: the run's.
        progress: shows how far it is.
        trained: the folder of a run whose supernet is taken instead of training one.
        source: the folder of a run whose supernet is moved to the recipe's images; see
            `transfer_recipe`.

    Raises:
        RecordError: if `trained` has no supernet, or `folder` holds another run.
        RecipeError: for what `Workspace.check` finds, before anything is written.
    """
    world = processes(recipe)  # before anything is put on a device
    ws = Workspace.build(recipe)
    ws.check(world)
    if source is not None:
        load_source(ws, source / WEIGHTS)  # what does not fit is found before anything is written
    accelerator = start_engine(ws, folder)
    if accelerator.is_main_process:
        open_folder(folder, recipe, ws.memory_format, trained)
        describe_space(ws, folder)
    accelerator.wait_for_everyone()
    if timing.needs_latency(ws):
        timing.add_latency(ws, accelerator, folder, progress, trained)
        ws.limits()  # an impossible budget, or a sampler that does not fit, fails before training
        ws.check_sampler()
    if accelerator.is_main_process:
        if source is not None and not (folder / WEIGHTS).exists():
            take_source(folder, source)
        if trained is not None:
            take_over(folder, trained)
    accelerator.wait_for_everyone()
    train_stage(ws, accelerator, folder, progress)
    return ws, accelerator


def start_engine(ws: Workspace, folder: Path) -> Accelerator:
    """The accelerator of all stages, with a tracker if any of them has one."""
    recipe = ws.recipe
    tracked = recipe.train if recipe.train.tracker else recipe.finish.training
    return engine(ws.device, tracked, folder)


def stop(accelerator: Accelerator) -> None:
    """Closes trackers; other processes stay connected, for runs to come."""
    for tracker in accelerator.trackers:
        tracker.finish()


@on_its_threads
def train_only(recipe: Recipe, folder: Path, progress: Progress | None = None) -> None:
    """Trains the supernet of a recipe in `folder`."""
    _, accelerator = begin(recipe, folder, progress or Silent())
    stop(accelerator)


@on_its_threads
def run(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    trained: Path | None = None,
    source: Path | None = None,
) -> dict[str, Any]:
    """Does everything a recipe says in `folder`; what is done already is not done again.

    Args:
        recipe: what to do.
        folder: where all records and files go; a run that was killed goes on in its own.
        progress: shows how far it is; by default nothing.
        trained: the folder of a run whose supernet is taken instead of training one.
        source: the folder of a run whose supernet is moved to the recipe's images; see
            `transfer_recipe`.

    Returns:
        What `result.json` holds: `winners`, one per budget, and what was spent.

    Raises:
        RecordError, CheckpointError: if the folder holds something else, or something damaged.
        RecipeError, DataNotFound, ValueError: if the recipe cannot be built.
        NonFiniteLoss: if training diverges.
        Infeasible: if a budget has no winner; `result.json` has those of the others.
    """
    progress = progress or Silent()
    ws, accelerator = begin(recipe, folder, progress, trained, source)
    generates = recipe.search.name == GENERATOR
    proposed = proposals(ws, folder) if generates else None
    searched = search(ws, accelerator, folder, progress, proposed)
    scores = searched.scores
    chosen = winners(ws, scores, proposed)
    archs = list(chosen.values())
    finished = finish(ws, accelerator, folder, archs, recipe.finish, progress, scores)
    result = None
    if accelerator.is_main_process:
        result = summary(ws, searched, chosen, finished)
        result["images_forwarded"]["probe"] = probed_images(folder)
        if proposed is not None:
            names = [p.limit.name for p in proposed]
            made = [p.record(chosen.get(p.limit.name)) for p in proposed]
            result["generated"] = dict(zip(names, made, strict=True))
        records.write_json(folder / "result.json", result)
    stop(accelerator)
    check_winners(ws, scores, chosen)
    found: dict[str, Any] = broadcast_object_list([result])[0]
    return found


def summary(
    ws: Workspace,
    searched: Searched,
    chosen: dict[str, Arch],
    finished: dict[Arch, dict[str, Any]],
) -> dict[str, Any]:
    """What `result.json` holds. Latencies are measured directly, beside what a table says."""
    recipe = ws.recipe
    timings = {arch: timing.latency_of(ws, ws.net.extract(arch)) for arch in finished}
    if "latency_ms" in ws.costs:
        for arch, took in timings.items():
            took["table_ms"] = ws.costs["latency_ms"]([arch])[0].item()
    return {
        "name": recipe.name,
        "winners": [
            winner(ws, budget, arch, searched.scores[arch], finished[arch], timings[arch])
            for budget, arch in chosen.items()
        ],
        "finish": recipe.finish.mode,
        "latency": {ws.net.space.to_text(arch): took for arch, took in timings.items()},
        "space": {"size": ws.net.space.size, "decisions": len(ws.net.space)},
        "searched": searched.searched,
        "shift": recipe.shift.name,
        "order": searched.order,
        "images_forwarded": {"train": trained_images(ws), **searched.images},
    }


@on_its_threads
def export_architecture(
    recipe: Recipe,
    folder: Path,
    text: str,
    progress: Progress | None = None,
    *,
    test: bool = False,
) -> dict[str, Any]:
    """Finishes the architecture `text` of a trained run and exports it; returns its record.

    Unless it is a winner, the record is a line of `exported.jsonl`, without test accuracy.

    Args:
        recipe: the run's.
        folder: the run's.
        text: the architecture, such as `0-2-1`.
        progress: shows how far it is; by default nothing.
        test: whether to score it on the test set too. To choose by that is to overfit it.

    Raises:
        RecordError: if the run has no trained supernet.
        RecipeError: for what `Workspace.check_finish` finds.
        ValueError: if `text` is not in the space.
    """
    progress = progress or Silent()
    world = processes(recipe)
    ws = Workspace.build(recipe)
    ws.check_finish(world)
    arch = ws.net.space.canonical(ws.net.space.from_text(text))
    load_weights(final_weights(recipe, folder), ws.net)
    accelerator = start_engine(ws, folder)
    won = {record["arch"] for record in records.read_lines(folder / LOG)}
    log = LOG if ws.net.space.to_text(arch) in won else EXPORTED
    finished = finish(ws, accelerator, folder, [arch], recipe.finish, progress, log=log, test=test)
    record = finished[arch]
    stop(accelerator)
    return record


def winner(
    ws: Workspace,
    budget: str,
    arch: Arch,
    proxy_accuracy: float,
    record: dict[str, Any],
    took: dict[str, Any],
) -> dict[str, Any]:
    """One entry of `result.json`."""
    return {
        "budget": budget,
        "arch": ws.net.space.to_text(arch),
        "choices": ws.net.space.choices(arch),
        **costs_of(ws, arch),
        "latency_ms": took["median_ms"],
        "proxy_accuracy": proxy_accuracy,
        "test_accuracy": record["test_accuracy"],
        "files": record["files"],
    }


def trained_images(ws: Workspace) -> int:
    """Images that training forwards, whatever network they go through."""
    recipe = ws.recipe
    paths = 1 if recipe.moves else len(ws.sampler().plan(np.random.default_rng(0), 0).paths)
    return recipe.trained_epochs * len(ws.batches(recipe.train)) * recipe.train.batch_size * paths
