"""How many epochs fit into a time, and how long a run will take: by real steps before it begins.

From then on the run has a number of epochs, so that it resumes, and is repeated, as any other.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from manyshot.data import LabelledImages, OwnSet
from manyshot.evaluate import score
from manyshot.fitting import fit
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.plain import plain_module
from manyshot.pipeline.search_checks import GENERATOR
from manyshot.pipeline.stages.train import train_supernet
from manyshot.progress import Advance, Progress, Silent
from manyshot.recipe import Recipe, RecipeError, ShrinkSettings, TrainingSettings
from manyshot.run_folder import RunFolder, Trained
from manyshot.search import Limit
from manyshot.search.limit import any_of
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.train import Distiller
from manyshot.train.optim import as_far_as_it_has

Samples: TypeAlias = LabelledImages | OwnSet

MEASURED_S = 3.0
"""Steps are timed for about so many seconds, or for a few epochs if that is shorter."""

FORETOLD_S = 0.5
"""Likewise, for an estimate that decides nothing."""

STRETCHES = 5
"""Steps are timed in so many stretches, whose median counts: others may need the machine now."""

LONGEST = 4
"""So many times as long as is enough, and there are no more stretches: four steps took as long."""

BEGINNING_S = 5.0
"""About how long workers take to begin, each of which imports torch: measured on two cores."""

_DRAWN = 256
"""Architectures among which the one is picked by which finishing and scoring are timed."""


class _Lengths(NamedTuple):
    """Epochs of the supernet and of a winner; None where they are not by time."""

    train: int | None
    finish: int | None


def with_lengths(
    ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress
) -> Workspace:
    """The workspace, with epochs in place of minutes in its recipe.

    A run that has begun keeps the epochs that it began with, and says so where the minutes are
    others now. Weights are as before.

    Args:
        ws: what is to run.
        accelerator: of the run; all of its processes come to the same epochs.
        folder: the run's.
        progress: shows what was decided.

    Raises:
        RecipeError: for the minutes of a supernet that is not trained but moved.
    """
    recipe, run = ws.recipe, RunFolder(folder)
    training, finishing = recipe.train, recipe.finish.training
    if training.minutes is None and finishing.minutes is None:
        return ws
    if training.minutes is not None and recipe.moves:
        raise RecipeError(
            "train.minutes: the supernet of a transfer is not trained, only moved: leave it out, "
            "and give transfer.head_epochs"
        )
    if run.has_begun:
        before = run.recipe()
        if accelerator.is_main_process:
            _say_what_is_not_used(recipe, run, before)
        lengths = _Lengths(before.train.epochs, before.finish.training.epochs)
    else:
        lengths = _Lengths(
            _timed(ws, accelerator, progress, "train", training),
            _timed(ws, accelerator, progress, "finish", finishing),
        )
        [lengths] = broadcast_object_list([lengths])
    train = _of_epochs(training, lengths.train)
    finish = recipe.finish.model_copy(update={"training": _of_epochs(finishing, lengths.finish)})
    return replace(ws, recipe=recipe.model_copy(update={"train": train, "finish": finish}))


def minutes_of(recipe: Recipe) -> dict[Trained, float]:
    """The minutes in a recipe, by section, of what is trained."""
    minutes: dict[Trained, float | None] = {"train": recipe.train.minutes}
    if recipe.finish.mode != "inherit":
        minutes["finish.training"] = recipe.finish.training.minutes
    return {section: value for section, value in minutes.items() if value is not None}


def _say_what_is_not_used(recipe: Recipe, run: RunFolder, before: Recipe) -> None:
    """Warns of minutes that are not those that a run began with, which has epochs since.

    Args:
        recipe: what is asked for now.
        run: the folder of the run.
        before: its recipe.
    """
    space = run.space()
    began = {} if space is None or space.minutes is None else space.minutes
    epochs: dict[Trained, int] = {
        "train": before.train.epochs,
        "finish.training": before.finish.training.epochs,
    }
    for section, minutes in minutes_of(recipe).items():
        old = began.get(section)
        if old == minutes:
            continue
        by_time = "" if old is None else f"{section}.minutes = {old:g}, which became "
        warnings.warn(
            f"{section}.minutes = {minutes:g} is not used: {run.path} holds a run that began with "
            f"{by_time}{section}.epochs = {epochs[section]}, and it goes on with these. For other "
            "minutes choose another --out folder",
            stacklevel=3,
        )


def _of_epochs(settings: TrainingSettings, epochs: int | None) -> TrainingSettings:
    """Settings without minutes, which epochs took the place of."""
    if settings.minutes is None:
        return settings
    update = {"minutes": None} if epochs is None else {"minutes": None, "epochs": epochs}
    return settings.model_copy(update=update)


def _timed(
    ws: Workspace,
    accelerator: Accelerator,
    progress: Progress,
    what: str,
    settings: TrainingSettings,
) -> int | None:
    """How many epochs of `what` fit into the minutes of its settings; None if it has none."""
    if settings.minutes is None or (what == "finish" and ws.recipe.finish.mode == "inherit"):
        return None
    samples = ws.splits.train if what == "train" else ws.finishing_data(ws.recipe.finish)
    world, rank = accelerator.num_processes, accelerator.process_index
    steps = len(ws.batches(settings, rank, world, samples))
    train = _train_supernet if what == "train" else _finish
    with progress.stage("timing", 1) as advance:
        seconds = seconds_of_a_step(lambda count: train(ws, accelerator, count), steps)
        epochs = max(1, math.floor(60 * settings.minutes / (seconds * steps)))
        each = " for each winner" if what == "finish" else ""
        advance(
            1,
            f"{what}: about {epochs} epochs in {epochs * steps * seconds / 60:.3g} "
            f"minutes{each}, at {settings.batch_size / seconds:,.0f} images/s",
        )
    return epochs


def foretell(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    *,
    whole: bool,
    workers: int = 1,
) -> None:
    """Shows how long a run is likely to take (see `estimate`), unless it has begun.

    Nothing is shown where nobody looks, or where several processes train.

    Args:
        ws: what is to run, with its epochs.
        accelerator: of the run.
        folder: the run's.
        progress: shows it.
        whole: whether the run goes on after its supernet is trained.
        workers: how many score candidates, and finish networks.
    """
    if isinstance(progress, Silent) or accelerator.num_processes > 1:
        return
    if RunFolder(folder).has_begun:
        return
    with progress.stage("estimate", 1) as advance:
        parts = estimate(ws, accelerator, whole=whole, workers=workers)
        most = {"training": "at most "} if ws.may_end_early else {}
        words = ", ".join(f"{k} {most.get(k, '')}{in_words(s)}" for k, s in parts.items())
        advance(1, f"about: {words}" if words else "nothing to train")


def estimate(
    ws: Workspace, accelerator: Accelerator, *, whole: bool, workers: int = 1
) -> dict[str, float]:
    """How many seconds training, search and finishing are likely to take, by real steps.

    Every winner and control counts, though some may be the same network. What it does not know of
    is a search that shifts, what a shrinker does between steps, latency, exports, tests, and a
    sampler that ends training early. A search that scores many candidates together takes less.
    Workers are taken to have all cores that they need, and begin before the first score.

    Args:
        ws: what is to run, with its epochs.
        accelerator: of the run.
        whole: whether the run goes on after its supernet is trained.
        workers: how many score candidates, and finish networks; one is this process.
    """
    recipe = ws.recipe
    parts = {}
    if recipe.trained_epochs and not recipe.moves:
        steps = len(ws.batches(recipe.train))
        step = seconds_of_a_step(
            lambda count: _train_supernet(ws, accelerator, count), steps, FORETOLD_S
        )
        parts["training"] = step * steps * recipe.train.epochs
    if whole and recipe.search.name != GENERATOR and recipe.shifting.name == "none":
        at_once = min(workers, recipe.search.generation, recipe.search.candidates)
        scoring = _seconds_of_a_score(ws) * recipe.search.candidates / at_once
        parts["search"] = scoring + (BEGINNING_S if workers > 1 else 0.0)
    if whole and recipe.finish.mode != "inherit":
        settings = recipe.finish.training
        steps = len(ws.batches(settings, samples=ws.finishing_data(recipe.finish)))
        arch = _usual_winner(ws)
        step = seconds_of_a_step(
            lambda count: _finish(ws, accelerator, count, arch), steps, FORETOLD_S
        )
        controls = recipe.controls
        scaled = controls.scaled and recipe.network.convert is not None
        budgets = len(recipe.search.budgets)
        beside = budgets * (controls.largest + controls.random + scaled)
        turns = math.ceil(budgets / workers) + math.ceil(beside / workers)
        several = workers > 1 and max(budgets, beside) > 1
        parts["finishing"] = step * steps * settings.epochs * turns
        parts["finishing"] += BEGINNING_S if several else 0.0
    return parts


def _seconds_of_a_score(ws: Workspace) -> float:
    """How long scoring a network of middling cost takes: the median of a few after the first."""
    archs = _within(ws)
    arch = archs[int(np.argsort(ws.costs["macs"](archs))[len(archs) // 2])]
    calibration, validation = ws.calibration(), ws.fixed("validation", ws.recipe.evaluate.images)
    took: list[float] = []
    while len(took) < 2 or (len(took) < 4 and sum(took) < LONGEST * FORETOLD_S):
        begun = time.perf_counter()
        score(ws.net, arch, calibration=calibration, validation=validation, task=ws.task)
        took.append(time.perf_counter() - begun)
    return statistics.median(took[1:])


def in_words(seconds: float) -> str:
    """A time as people say it, of two digits: `40 s`, `12 min`, `3.5 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{float(f'{seconds / size:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):g} s"


def seconds_of_a_step(
    train: Callable[[int], float], most: int, enough_s: float = MEASURED_S
) -> float:
    """How long an optimiser step takes, after a few that are not counted.

    Args:
        train: trains for so many steps, and says in how many seconds, without making the training.
        most: the most steps at once.
        enough_s: seconds after which no more are timed.
    """
    with warnings.catch_warnings():
        # Such as of a sampler for which so few steps are too few: the run itself says it.
        warnings.simplefilter("ignore")
        return _seconds_of_a_step(train, most, enough_s)


def _seconds_of_a_step(train: Callable[[int], float], most: int, enough_s: float) -> float:
    train(min(2, most))
    count, stretch_s = min(4, most), enough_s / STRETCHES
    steps_s: list[float] = []
    total_s = 0.0
    while True:
        # as long as the first process took, or they would not all go on
        took: float = broadcast_object_list([train(count)])[0]
        if took < stretch_s and count < most:
            count = min(most, max(2 * count, math.ceil(count * stretch_s / took)))
            continue
        steps_s.append(took / count)
        total_s += took
        if len(steps_s) == STRETCHES or total_s >= LONGEST * enough_s:
            return statistics.median(steps_s)


class _Stopwatch:
    """Progress that shows nothing and counts the seconds of its stages."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Advance]:
        """Counts a stage (see `Progress.stage`)."""
        begun = time.perf_counter()
        yield lambda done, note: None
        self.seconds += time.perf_counter() - begun


def _first_of(samples: Samples, settings: TrainingSettings, steps: int) -> Samples:
    """So few of the samples that an epoch has so many steps."""
    return samples.subset(range(steps * settings.batch_size))


_ONE_EPOCH = {
    "epochs": 1,
    "minutes": None,
    "image_sizes": None,  # steps on images of full size are the longest
    "lr": 1e-9,
    "min_lr": 0.0,
    "warmup_epochs": 0.0,
    "tracker": None,
}
"""Such small steps take as long as others, and do not diverge."""


def _train_supernet(ws: Workspace, accelerator: Accelerator, steps: int) -> float:
    """Trains the supernet for some steps, in the whole space, and gives it its weights back.

    After an error, which ends the run, it does not: a supernet that was shared out when its
    training failed cannot take them, and to try would hide what went wrong.

    Returns:
        The seconds that the steps took.
    """
    uncompiled = {"compile": False}  # which takes longer than all that is timed
    settings = ws.recipe.train.model_copy(update={**_ONE_EPOCH, **uncompiled})
    weights = {name: tensor.clone() for name, tensor in ws.net.state_dict().items()}
    splits = replace(ws.splits, train=_first_of(ws.splits.train, settings, steps))
    whole = ShrinkSettings()  # or so few steps would be timed with all turns of a shrinker
    recipe = ws.recipe.model_copy(update={"train": settings, "shrink": whole})
    few, watch = replace(ws, splits=splits, recipe=recipe), _Stopwatch()
    train_supernet(few, accelerator, None, watch)
    ws.net.load_state_dict(weights)
    return watch.seconds


def _finish(ws: Workspace, accelerator: Accelerator, steps: int, arch: Arch | None = None) -> float:
    """Trains a network as a winner for some steps, by default the largest within the budgets.

    Returns:
        The seconds that the steps took.
    """
    finish = ws.recipe.finish
    arch = _largest(ws, _within(ws)) if arch is None else arch
    taught = (ws.finishing_teacher(finish), ws.distiller(finish))
    few = _first_of(ws.finishing_data(finish), finish.training, steps)
    return _alone(ws, accelerator, arch, finish.training, few, *taught)


def seconds_alone(
    ws: Workspace, accelerator: Accelerator, arch: Arch, settings: TrainingSettings
) -> float:
    """How long it is likely to take to train an architecture alone, by real steps.

    Args:
        ws: has the network and the images.
        accelerator: on its device.
        arch: the architecture.
        settings: how it is trained.
    """
    steps = len(ws.batches(settings))

    def train(count: int) -> float:
        few = _first_of(ws.splits.train, settings, count)
        return _alone(ws, accelerator, arch, settings, few)

    return seconds_of_a_step(train, steps, FORETOLD_S) * steps * settings.epochs


def _alone(
    ws: Workspace,
    accelerator: Accelerator,
    arch: Arch,
    settings: TrainingSettings,
    samples: Samples,
    teacher: nn.Module | None = None,
    distiller: Distiller | None = None,
) -> float:
    """Trains a network by itself for one epoch of some samples, and says in how many seconds."""
    settings, alone = settings.model_copy(update=_ONE_EPOCH), plain_module(ws.net, arch, ws.device)
    watch = _Stopwatch()
    fit(
        alone,
        ws.batches(settings, accelerator.process_index, accelerator.num_processes, samples),
        task=ws.task,
        teacher=teacher,
        distiller=distiller,
        settings=as_far_as_it_has(settings, alone),
        seed=ws.recipe.seed + 1,
        accelerator=accelerator,
        progress=watch,
    )
    return watch.seconds


def _limits(ws: Workspace) -> list[Limit]:
    """The budgets, but for those on latency, which is not measured yet."""
    return ws.limits(metrics=tuple(ws.costs.keys() - {"latency_ms"}))


def _within(ws: Workspace, limit: Limit | None = None) -> list[Arch]:
    """Some architectures within a limit, by default those that are within any budget."""
    space, limits = ws.net.space, _limits(ws)
    rng = numpy_rng("any", "survey")
    drawn = [space.smallest, *(space.sample(rng) for _ in range(_DRAWN)), space.largest]
    if limit is None and not limits:
        return drawn
    fits = (any_of(limits) if limit is None else limit).satisfied(drawn)
    within = [arch for arch, is_within in zip(drawn, fits, strict=True) if is_within]
    return within or [space.smallest]


def _largest(ws: Workspace, archs: Sequence[Arch]) -> Arch:
    """The architecture with most multiply-adds."""
    return archs[int(ws.costs["macs"](archs).argmax())]


def _usual_winner(ws: Workspace) -> Arch:
    """Of architectures within budgets the one that costs about as winners do on average.

    A winner costs about as much as the largest within its budget.
    """
    limits, macs = _limits(ws), ws.costs["macs"]
    within = _within(ws)
    if not limits:
        return _largest(ws, within)
    likely = np.mean(macs([_largest(ws, _within(ws, limit)) for limit in limits]))
    return within[int(np.abs(macs(within) - likely).argmin())]
