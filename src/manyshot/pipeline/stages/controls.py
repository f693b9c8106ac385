"""Networks that winners have to beat, and what the result of a run is worth beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from manyshot import evaluate, records
from manyshot.crews import Crew
from manyshot.evaluate import Score
from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.finish import finish
from manyshot.pipeline.stages.generate import sampler_of_search
from manyshot.pipeline.stages.score import Images
from manyshot.progress import Progress
from manyshot.rank import verdict as judge
from manyshot.recipe import ExportSettings
from manyshot.run_folder import (
    CONTROLS_LOG,
    ControlKind,
    ControlRecord,
    FinishLine,
    RunFolder,
    ScoreLine,
    SearchLine,
    VerdictRecord,
    WinnerRecord,
)
from manyshot.search import LearnsFromScores, Limit
from manyshot.search.controls import largest_within, random_within, scaled_within
from manyshot.search.limit import within
from manyshot.search.searcher import pooled
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.tasks import Guesses
from manyshot.train.checkpoint import digest

STARTS = 16
"""So many random networks within a budget are starts of the climb to its largest."""


@dataclasses.dataclass(frozen=True)
class Control:
    """A network within a budget that no search chose."""

    budget: str
    kind: ControlKind
    arch: Arch


def choose_controls(ws: Workspace, scored: Sequence[Arch]) -> list[Control]:
    """The controls of every budget, as the recipe says; those of a kind that there is none of lack.

    All are of what was searched: of a space that shrank, of the view that was left.
    They depend on seed, space and budgets alone, but for a budget on a cost that only a function
    knows: its largest is the costliest of the networks that the search scored.

    Args:
        ws: the run.
        scored: what the search looked at.
    """
    settings, space = ws.recipe.controls, ws.space
    chosen = []
    for number, limit in enumerate(ws.limits()):
        rng = numpy_rng(ws.recipe.seed, "controls", number)
        drawn = [random_within(space, limit, rng) for _ in range(settings.random)]
        chosen += [Control(limit.name, "random", arch) for arch in drawn if arch is not None]
        scaled = scaled_within(space, limit, _widths(ws)) if settings.scaled else None
        if scaled is not None and _widths(ws):
            chosen.append(Control(limit.name, "scaled", scaled))
        largest = _largest(ws, limit, rng, scaled, scored) if settings.largest else None
        if largest is not None:
            chosen.append(Control(limit.name, "largest", largest))
    return chosen


def _largest(
    ws: Workspace,
    limit: Limit,
    rng: np.random.Generator,
    scaled: Arch | None,
    scored: Sequence[Arch],
) -> Arch | None:
    space = ws.space
    if any(name in limit.name for name in ws.functions):
        archs = [arch for arch, fits in zip(scored, within(scored, [limit]), strict=True) if fits]
        return max(archs, key=lambda arch: limit.costs([arch])[0], default=None)
    starts = [random_within(space, limit, rng) for _ in range(STARTS)]
    return largest_within(space, limit, [a for a in (scaled, *starts) if a is not None])


def _widths(ws: Workspace) -> set[str]:
    """The names of the decisions on widths that a conversion made."""
    conversion = ws.net.conversion
    decisions = () if conversion is None else conversion.decisions
    return {decision.name for decision in decisions if decision.kind in ("width", "heads")}


def score_controls(
    ws: Workspace, accelerator: Accelerator, controls: Sequence[Control], progress: Progress
) -> dict[Arch, Score]:
    """The proxy score of each control, on the images that decide which network wins.

    In the main process alone scores are there.

    Args:
        ws: the run, with the weights that its search ended with.
        accelerator: of the run.
        controls: the networks.
        progress: shows how far it is.
    """
    if not accelerator.is_main_process:
        return {}
    archs = list(dict.fromkeys(control.arch for control in controls))
    images, scores = Images(ws), dict[Arch, Score]()
    shifts = ws.recipe.shifting.name != "none"
    population = evaluate.Population(
        ws.net,
        archs,
        calibration=images.calibration,
        validation=images.whole if shifts else images.validation,
        task=ws.task,
    )
    weights = "" if ws.spread is None else digest(ws.net.state_dict())
    with progress.stage("controls", len(archs)) as advance, evaluating(ws.net):
        for arch, score in ws.scored(population, weights):
            scores[arch] = score
            advance(len(scores), "")
    return scores


def finish_controls(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    controls: Sequence[Control],
    scores: Mapping[Arch, Score],
    progress: Progress,
    finished: Mapping[Arch, FinishLine],
    crew: Crew | None = None,
) -> dict[Arch, FinishLine]:
    """Finishes and tests controls as winners are, and exports none; their lines.

    What is a winner too is not finished twice.

    Args:
        ws: the run, with the weights that its search ended with.
        accelerator: of the run.
        folder: the run's.
        controls: the networks.
        scores: their proxy scores, as far as this process has them.
        progress: shows how far it is.
        finished: the lines of the winners.
        crew: workers that train several networks at once, if there are any.
    """
    archs = list(dict.fromkeys(control.arch for control in controls))
    recipe = ws.recipe.model_copy(update={"export": ExportSettings(formats=[])})
    lines = finish(
        dataclasses.replace(ws, recipe=recipe),
        accelerator,
        folder,
        [arch for arch in archs if arch not in finished],
        recipe.finish,
        progress,
        {arch: score.value for arch, score in scores.items()},
        log=CONTROLS_LOG,
        examples=False,
        crew=crew,
    )
    return {**lines, **{arch: finished[arch] for arch in archs if arch in finished}}


def judged(
    ws: Workspace,
    folder: Path,
    winners: Sequence[WinnerRecord],
    controls: Sequence[ControlRecord],
    lines: Mapping[Arch, FinishLine],
) -> VerdictRecord:
    """What a run says of its result; see `manyshot.rank.verdict`."""
    space = ws.net.space
    drawn = _drawn(ws, folder)
    archs = [space.from_text(line.arch) for line in drawn]
    counts = ws.splits.class_counts.get("validation")
    return judge.verdict(
        ws.task_record,
        winners,
        controls,
        drawn,
        parts={space.to_text(arch): line.test_parts or () for arch, line in lines.items()},
        chance=ws.task.chance(counts) if counts and isinstance(ws.task, Guesses) else None,
        within=None
        # A random search has no others to improve on; scores of other weights say nothing of it.
        if ws.recipe.search.name == "random" or ws.recipe.shifting.name != "none"
        else {
            limit.name: [
                space.to_text(a)
                for a, fits in zip(archs, within(archs, [limit]), strict=True)
                if fits
            ]
            for limit in ws.limits()
        },
        at_random=ws.recipe.search.name == "random",
    )


def _drawn(ws: Workspace, folder: Path) -> list[ScoreLine]:
    """The records of the networks that the search drew at random before it learnt from scores.

    Those that its sampler thinks good are not drawn at random.
    """
    name = ws.recipe.search.name
    every = records.iterate_lines(RunFolder(folder).search_log, SearchLine)
    lines: list[ScoreLine] = [line for line in every if line.role == "candidate"]
    if name == "random":
        return lines
    if name == "generator":
        return []
    sampler = sampler_of_search(ws, folder)
    searcher = ws.searcher(ws.limits(), sampler)
    if not isinstance(searcher, LearnsFromScores):
        return []
    good = {ws.net.space.to_text(arch) for arch in pooled(sampler, ws.net.space)}
    first = (line for line in lines[: searcher.random_start] if line.generation == 0)
    return [line for line in first if line.arch not in good]
