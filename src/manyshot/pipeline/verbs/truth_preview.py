"""What a truth would train, before it does: `manyshot truth --dry-run`. Nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyshot.pipeline.beforehand import check_batches
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import on_its_threads
from manyshot.pipeline.plain import bare
from manyshot.pipeline.stages.lengths import seconds_alone
from manyshot.pipeline.verbs.truth import check_same, workspace
from manyshot.pipeline.verbs.truth_plans import planned
from manyshot.progress import Progress, Silent, showing
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import ENVIRONMENT, RECIPE, TRUTH_LOG, TruthFolder
from manyshot.space import Arch
from manyshot.tables.numbers import count, plural
from manyshot.train import engine
from manyshot.writing import check_ours

_SLOWER = ", and trainings at once slow one another down"


@on_its_threads
def preview_truth(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    workers: int = 1,
    of: Sequence[Path] = (),
    archs: Sequence[str] = (),
) -> dict[str, Any]:
    """What a truth of a recipe would train in a folder, as plain values; a few steps are timed.

    What would end it before anything is trained is listed under `problems`. Budgets have no part in
    a truth.

    Args:
        recipe: the network, the images and the plan.
        folder: where the trainings would be added.
        progress: shows how far the look at the images is.
        workers: how many trainings there are at once.
        of: folders of runs, for the plans `top` and `winners`.
        archs: architectures such as `0-2-1`, in place of a plan.

    Raises:
        RecipeError, DataNotFound, ValueError: if the recipe cannot be built at all.
        RecordError: if the folder holds trainings of other settings, other files, or something of
            another kind.
    """
    check_ours(folder, "truth")
    toml, truth = bare(recipe).to_toml(), recipe.truth
    with showing(progress or Silent()):
        ws = workspace(toml, truth.seeds[0])
    files = TruthFolder(folder)
    lines = files.lines()
    for seed in sorted({line.seed for line in lines}):
        check_same(workspace(toml, seed), lines, files.log)
    chosen: list[Arch] = []
    problems = []
    try:
        check_batches(ws, "truth.training", truth.training)
        assert ws.task_record
        chosen = planned(ws, lines, seed=recipe.seed, of=of, archs=archs)
    except RecipeError as error:
        problems.append(str(error))
    texts = [ws.net.space.to_text(arch) for arch in chosen]
    asked = [(text, seed) for text in texts for seed in truth.seeds]
    on_record = {(line.arch, line.seed) for line in lines}
    left = len([key for key in asked if key not in on_record])
    seconds = {}
    if left:
        settings = truth.training.model_copy(update={"tracker": None})  # which would write
        took = seconds_alone(ws, engine(ws.device, settings), _usual(ws, chosen), settings)
        seconds["training"] = took * left / min(workers, left)
    space = ws.net.space
    return {
        "name": recipe.name,
        "folder": str(folder),
        "trainings": {"planned": len(asked), "left": left},
        "steps": _steps(ws, chosen, len(asked), left, workers, is_plan=not archs),
        "data": {**ws.splits.plain(), "name": recipe.data.described},
        "network": {
            "name": recipe.network.name,
            "size": space.size,
            "decisions": len(space),
            "converted": None if ws.net.conversion is None else ws.net.conversion.summary(),
            "costs": {metric: list(map(float, t.range())) for metric, t in ws.costs.items()},
        },
        "budgets": [],
        "files": [
            {"file": TRUTH_LOG, "holds": "a line per training, with its test score"},
            {"file": RECIPE, "holds": "the recipe with every default"},
            {"file": ENVIRONMENT, "holds": "versions and hardware"},
        ],
        "seconds": seconds,
        "beside": "tests come on top" + _SLOWER * (workers > 1),
        "notes": [],
        "problems": problems,
    }


def _usual(ws: Workspace, archs: Sequence[Arch]) -> Arch:
    """Of some architectures, the one whose multiply-adds are nearest their mean."""
    macs = ws.costs["macs"](archs)
    return archs[int(np.abs(macs - macs.mean()).argmin())]


def _steps(
    ws: Workspace, archs: Sequence[Arch], asked: int, left: int, workers: int, *, is_plan: bool
) -> list[str]:
    """What happens one after the other, in sentences; nothing if no plan can be made.

    Args:
        ws: the network, the images, the plan.
        archs: what is planned.
        asked: how many trainings that is.
        left: how many of them are not on record.
        workers: how many there are at once.
        is_plan: whether architectures are chosen by a plan.
    """
    if not archs:
        return []
    truth, macs = ws.recipe.truth, ws.costs["macs"](archs)
    how = f"by the plan {truth.plan!r}" if is_plan else "as they are asked for"
    seeds = plural(len(truth.seeds), "seed")
    record = f" {asked - left} are on record, and not done again." if left < asked else ""
    steps = len(ws.batches(truth.training))
    epochs = plural(truth.training.epochs, "epoch")
    said = [
        f"{plural(len(archs), 'network')} of {count(macs.min())} to {count(macs.max())} "
        f"multiply-adds are chosen {how}, for {seeds} each: {plural(asked, 'training')}.{record}",
        f"Each is trained alone from new weights: {epochs} of {plural(steps, 'step')} of "
        f"{truth.training.batch_size}.",
        f"Each is scored on {len(ws.splits.test)} test samples.",
    ]
    if workers > 1:
        said.append(f"Up to {workers} are trained at once.")
    return said
