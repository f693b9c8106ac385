"""Ground truth: architectures trained alone, each training a record."""

from __future__ import annotations

import functools
import math
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from manyshot import evaluate, records
from manyshot.fitting import fit
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.beforehand import check_batches
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import on_its_threads
from manyshot.pipeline.identity import truth_fingerprint
from manyshot.pipeline.networks import build_supernet
from manyshot.pipeline.opening import environment
from manyshot.pipeline.plain import bare
from manyshot.pipeline.verbs.truth_plans import planned
from manyshot.pipeline.workers import Failed, Processes, Task, Workers
from manyshot.progress import Progress, Silent, showing
from manyshot.recipe import Recipe
from manyshot.run_folder import TruthFolder, TruthLine
from manyshot.space import Arch
from manyshot.train import NonFiniteLoss, TrainingSettings
from manyshot.train.optim import as_far_as_it_has
from manyshot.writing import writing


class TruthFailed(RuntimeError):
    """Some trainings ended without a score; those that did not are on record."""


@on_its_threads
def truth(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    workers: Workers | None = None,
    of: Sequence[Path] = (),
    archs: Sequence[str] = (),
) -> int:
    """Trains architectures alone, as `recipe.truth` says; every finished training is a line.

    What is on record in `folder` is not trained again, and other architectures and seeds may be
    added to it later; a run that was killed goes on, its unfinished trainings from their beginning.
    A training is a function of the recipe, the architecture and the seed, wherever it runs.

    Args:
        recipe: the network, the images and the plan, which its seed draws. Sharing, sampler and
            search have no part.
        folder: where `truth.jsonl` is.
        progress: shows how far it is.
        workers: what trains; by default this process, one after the other.
        of: folders of runs, for the plans `top` and `winners`.
        archs: architectures such as `0-2-1`, in place of a plan.

    Returns:
        How many trainings were added.

    Raises:
        RecordError: if the folder holds trainings of other settings, or another process writes to
            it.
        RecipeError: if the plan cannot be made.
        TruthFailed: if trainings diverged, after all others are done.
    """
    with writing(folder, "manyshot truth", "truth"):
        return _truth(recipe, folder, progress or Silent(), workers or Processes(1), of, archs)


def _truth(
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    workers: Workers,
    of: Sequence[Path],
    archs: Sequence[str],
) -> int:
    log, toml = TruthFolder(folder).log, bare(recipe).to_toml()
    with showing(progress):
        ws = workspace(toml, recipe.truth.seeds[0])
    check_batches(ws, "truth.training", recipe.truth.training)
    records.keep_lines(log, lambda row: True)  # a line torn by a kill is dropped
    lines = TruthFolder(folder).lines()
    for seed in sorted({line.seed for line in lines}):
        check_same(workspace(toml, seed), lines, log)
    chosen = planned(ws, lines, seed=recipe.seed, of=of, archs=archs)
    texts = [ws.net.space.to_text(arch) for arch in chosen]
    _open(folder, recipe)
    done = {(line.arch, line.seed) for line in lines}
    asked = [(text, seed) for seed in recipe.truth.seeds for text in texts]
    tasks = [Task(toml, *key) for key in asked if key not in done]
    finished, failed = len(asked) - len(tasks), []
    with progress.stage("truth", len(asked), finished) as advance:
        for line in workers.run(trained_alone, tasks):
            if isinstance(line, Failed):
                failed.append(line)
                continue
            records.append(log, line)
            finished += 1
            advance(finished, f"{line.arch} {line.test_score:.4f}")
    if failed:
        raise TruthFailed(
            f"{len(failed)} of {len(tasks)} trainings gave no score, the first "
            f"{failed[0].task.arch} with seed {failed[0].task.seed}: {failed[0].why}; lower "
            "truth.training.lr, or set its clip_norm, in another folder"
        )
    return len(tasks)


@functools.lru_cache(maxsize=2)
def workspace(toml: str, seed: int) -> Workspace:
    """The workspace of a seed, kept while its trainings last."""
    values = tomllib.loads(toml)
    return Workspace.build(Recipe.build(values, [f"seed={seed}"], "the truth's recipe"))


def check_same(ws: Workspace, lines: Sequence[TruthLine], log: Path) -> None:
    """Refuses to add to trainings with a workspace's seed that had other settings.

    Args:
        ws: what is to train.
        lines: the trainings on record.
        log: their file.

    Raises:
        RecordError: then.
    """
    settings = truth_fingerprint(ws, ws.recipe.truth.training)
    for line in lines:
        if line.seed != ws.recipe.seed or line.settings == settings:
            continue
        what = "of another network, images or truth.training"
        for part, images in (("test", line.tested_on), ("train", line.trained_on)):
            if images not in (None, ws.splits.digests[part]):
                what = f"on other {part} images ({images}, now {ws.splits.digests[part]})"
        raise records.RecordError(
            f"{log} holds trainings {what} (settings {line.settings}, now {settings}): use another "
            "--out folder"
        )


def _open(folder: Path, recipe: Recipe) -> None:
    """Writes the recipe as last used, and where the trainings began."""
    files = TruthFolder(folder)
    records.write_text(files.recipe_file, recipe.to_toml())
    if not files.environment_file.exists():
        records.write_json(files.environment_file, environment())


def trained_alone(task: Task) -> TruthLine | Failed:
    """Trains one architecture from new weights and scores it on all test images.

    New weights are those that a supernet of the seed begins with, so that a network's own
    initialisation holds; elastic layers keep the fan of their largest size.
    """
    ws = workspace(task.recipe, task.seed)
    settings, arch = ws.recipe.truth.training, ws.net.space.from_text(task.arch)
    began = time.perf_counter()
    try:
        score = _alone(ws.recipe, ws, arch)
    except (NonFiniteLoss, torch.OutOfMemoryError) as error:
        return Failed(task, str(error))
    for what, number in (("loss", score.loss), (score.metric, score.value)):
        if not math.isfinite(number):
            return Failed(task, f"its {what} on the test images is {number}")
    return TruthLine(
        arch=task.arch,
        seed=task.seed,
        metric=ws.task_record.metric,
        test_score=score.value,
        test_loss=score.loss,
        **{metric: table([arch])[0].item() for metric, table in ws.costs.items()},
        images_forwarded=settings.epochs * len(ws.batches(settings)) * settings.batch_size,
        seconds=round(time.perf_counter() - began, 2),
        settings=truth_fingerprint(ws, settings),
        trained_on=ws.splits.digests["train"],
        tested_on=ws.splits.digests["test"],
    )


@on_its_threads
def _alone(recipe: Recipe, ws: Workspace, arch: Arch) -> evaluate.Score:
    net, _ = build_supernet(recipe, ws.splits, given=False)
    subnet = net.extract(arch)
    return alone(ws, subnet, recipe.truth.training, recipe.seed)


def alone(
    ws: Workspace, subnet: nn.Module, settings: TrainingSettings, seed: int
) -> evaluate.Score:
    """Trains a network by itself, from the weights it has, and scores it on all test images.

    Raises:
        NonFiniteLoss: if training diverges.
    """
    memory_format = training_format(subnet, ws.device).torch_format
    subnet.to(device=ws.device, memory_format=memory_format)  # type: ignore[call-overload]
    own = as_far_as_it_has(settings, subnet)
    fit(subnet, ws.batches(settings), task=ws.task, settings=own, seed=seed)
    return evaluate.score_module(subnet, ws.fixed("test", None), task=ws.task)
