"""The search space of a run that shrinks while it trains: by what, and which view was left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from manyshot import records
from manyshot.evaluate import Population
from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.search_checks import CALLED
from manyshot.run_folder import RunFolder, ShrinkLine
from manyshot.search.limit import any_of
from manyshot.search.reach import reach
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.train import Judged, Shrinking


def shrinking_of(ws: Workspace) -> Shrinking | None:
    """What changes the view of the space while the supernet trains; None if nothing does."""
    recipe = ws.recipe
    if not recipe.shrinks:
        return None
    limits = ws.limits_of(recipe.shrink.budgets or recipe.search.budgets)

    def allows(view: SearchSpace) -> bool:
        rng = numpy_rng(recipe.seed, "shrink")
        return all(reach(view, [limit], rng, CALLED) is not None for limit in limits)

    return Shrinking(
        ws.shrinker(),
        recipe.shrink.at,
        seed=recipe.seed,
        judge=lambda archs: judged(ws, archs),
        allows=allows,
        fits=lambda arch: bool(any_of(limits).satisfied([arch])[0]),
        name=recipe.shrink.name,
    )


def judged(ws: Workspace, archs: Sequence[Arch]) -> list[Judged]:
    """How architectures do on validation images, as the search scores them."""
    population = Population(
        ws.net,
        archs,
        calibration=ws.calibration(),
        validation=ws.fixed("validation", ws.recipe.shrink.images),
        task=ws.task,
    )
    fitness, scores = ws.task_record.fitness_of, {}
    with evaluating(ws.net):
        for arch, score in population:
            text = ws.net.space.to_text(arch)
            checked = score.checked(f"architecture {text} on validation images")
            scores[arch] = Judged(fitness(checked.value, checked.loss), checked.loss)
    return [scores[arch] for arch in archs]


def images_judged(ws: Workspace, views: Sequence[ShrinkLine]) -> int:
    """Images that were forwarded for the scores of a shrinker."""
    each = ws.calibration().images + ws.fixed("validation", ws.recipe.shrink.images).images
    return each * sum(line.judged for line in views)


def in_last_view(ws: Workspace, folder: Path) -> Workspace:
    """The workspace with the view of the space that the training in a folder ended in.

    Raises:
        RecordError: if the record of the views is not complete.
    """
    if not ws.recipe.shrinks:
        return ws
    lines = RunFolder(folder).shrink_lines()
    times = len(ws.recipe.shrink.at)
    if [line.stage for line in lines] != list(range(times + 1)):
        raise records.RecordError(
            f"{RunFolder(folder).shrink_log} does not have a line for the beginning and for each "
            f"of {times} changes of the space: restore it from a copy, or train anew in another "
            "folder"
        )
    return replace(ws, view=lines[-1].view_of(ws.net.space))


def said_of_view(ws: Workspace, folder: Path, archs: Sequence[Arch]) -> str | None:
    """What to say of architectures outside the view that training in a folder ended in; or None."""
    view = in_last_view(ws, folder).space
    outside = [ws.net.space.to_text(arch) for arch in archs if arch not in view]
    if not outside:
        return None
    return (
        f"{len(outside)} of {len(archs)} architectures, such as {outside[0]}, hold options that "
        f"shrink.name = {ws.recipe.shrink.name!r} dropped: these trained in a part of the steps "
        "alone, and the search did not look at such architectures"
    )
