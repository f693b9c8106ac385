"""What a run would do, before it does it: `manyshot run --dry-run`. Nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manyshot.cost import CostTable
from manyshot.pipeline.beforehand import check, check_ways
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.checks import check_settings
from manyshot.pipeline.devices import on_its_threads, processes
from manyshot.pipeline.networks import said_of_classifier
from manyshot.pipeline.search_checks import GENERATOR, LISTED
from manyshot.pipeline.settling import said_of_budgets, said_of_precisions
from manyshot.pipeline.stages.latency import needs_latency
from manyshot.pipeline.stages.lengths import estimate, with_lengths
from manyshot.pipeline.teachers import said_of_teacher
from manyshot.progress import Progress, Silent, showing
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import (
    CODES,
    CONTROLS_LOG,
    ENVIRONMENT,
    FINISH_LOG,
    INHERITED,
    LATENCY,
    ORIGINAL,
    RECIPE,
    RESULT,
    SEARCH_LOG,
    SHIFTED,
    SHIFTING_LOG,
    SPACE,
    SUBNETS,
    TRAIN_LOG,
    TRAINER,
    WEIGHTS,
    RunFolder,
)
from manyshot.search import limits_of
from manyshot.search.limit import costs_of, within
from manyshot.seeding import numpy_rng
from manyshot.sharing import Coded
from manyshot.space import Budget
from manyshot.tables.numbers import plural
from manyshot.train import engine
from manyshot.writing import check_ours

DRAWN = 4096
"""Of a space that is too large to be listed so many architectures are drawn."""


@on_its_threads
def preview(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    whole: bool = True,
    workers: int = 1,
) -> dict[str, Any]:
    """What a run of a recipe would do in a folder, as plain values; a few steps are timed.

    What would end the run before it trains is listed under `problems`.

    Args:
        recipe: what to do.
        folder: where it would go.
        progress: shows how far the look at the images is.
        whole: whether a search follows the training.
        workers: how many are to score its candidates, and finish its networks.

    Raises:
        RecipeError, DataNotFound, ValueError: if the recipe cannot be built at all.
        RecordError: if the folder holds other files, or something of another kind.
    """
    check_ours(folder, "run")
    check_settings(recipe)
    world = processes(recipe)
    with showing(progress or Silent()):
        ws = Workspace.build(recipe, world=world)
    notes = [
        said_of_budgets(recipe, ws.recipe, ws.costs),
        said_of_classifier(ws.original),
        said_of_teacher(ws.teachers),
        said_of_precisions(ws.recipe, ws.device),
    ]
    if RunFolder(folder).has_begun:
        notes.append(f"{folder} holds a run: what is done there is not done again")
    budgets = [_budget(ws, text) for text in ws.recipe.search.budgets]
    problems = [budget["problem"] for budget in budgets if budget["problem"]]
    seconds: dict[str, float] = {}
    if not problems:
        try:
            check(ws, world)
            if not RunFolder(folder).weights.exists():
                check_ways(ws, world)
        except RecipeError as error:
            problems.append(str(error))
    if not problems:
        settings = ws.recipe.train.model_copy(update={"tracker": None})  # which would write
        accelerator = engine(ws.device, settings)
        ws = with_lengths(ws, accelerator, folder, Silent())
        seconds = estimate(ws, accelerator, whole=whole, workers=workers)
    space = ws.net.space
    return {
        "name": recipe.name,
        "folder": str(folder),
        "steps": _steps(ws, whole=whole),
        "data": {**ws.splits.plain(), "name": ws.recipe.data.described},
        "network": {
            "name": ws.recipe.network.name,
            "size": space.size,
            "decisions": len(space),
            "converted": None if ws.net.conversion is None else ws.net.conversion.summary(),
            "costs": {metric: list(map(float, t.range())) for metric, t in ws.costs.items()},
        },
        "budgets": budgets if whole else [],
        "files": _files(ws, whole=whole),
        "seconds": seconds,
        "beside": f"{'shrinking, ' * ws.recipe.shrinks}exports, tests and latency come on top",
        "notes": [note for note in notes if note],
        "problems": problems,
    }


def _budget(ws: Workspace, text: str) -> dict[str, Any]:
    """A budget: its limits in units, and the networks within it.

    `share` is of the architectures of the space, of all where `exact`, or else of some that are
    drawn; None where costs are not known before the run, or are a function's.
    """
    space, costs = ws.net.space, ws.all_costs
    parts = Budget.parse_all(text)
    known = [part for part in parts if part.metric in costs]
    limits = {
        part.metric: part.absolute(float(costs_of(costs[part.metric], [space.largest], text)[0]))
        for part in known
    }
    told: dict[str, Any] = {"budget": text, "limits": limits, "share": None, "networks": None}
    told |= {"exact": False, "problem": ""}
    try:
        wanted = limits_of([part.text for part in known], costs, space.largest)
    except ValueError as error:
        return told | {"problem": str(error)}
    is_counted = len(known) == len(parts) and all(
        isinstance(costs[part.metric], CostTable) for part in parts
    )
    if not is_counted:
        return told
    if space.size <= LISTED:
        networks = list({space.canonical(arch) for arch in space.enumerate()})
        number = int(within(networks, wanted).sum())
        return told | {"exact": True, "networks": number, "share": number / len(networks)}
    rng = numpy_rng("any", "survey")
    drawn = [space.sample(rng) for _ in range(DRAWN)]
    return told | {"share": float(within(drawn, wanted).mean())}


def _steps(ws: Workspace, *, whole: bool) -> list[str]:
    """What happens one after the other, in sentences."""
    recipe, splits = ws.recipe, ws.splits
    train, search, finish = recipe.train, recipe.search, recipe.finish
    said = []
    if needs_latency(ws):
        said.append("Latency is measured, of every choice by itself, for budgets in milliseconds.")
    if train.epochs:
        steps = len(splits.train) // train.batch_size
        epochs = plural(train.epochs, "epoch")
        teachers = {"original": "the original", "network": "the network of [teacher]"}
        who = teachers.get(train.teacher or "")
        taught = f" Paths learn from {who}." if who else ""
        most = "at most " if ws.may_end_early else ""
        if votes := train.snapshots.number:
            size = sum(p.numel() * p.element_size() for p in ws.net.parameters())
            taught += (
                f" {plural(votes, 'snapshot')} of its weights, of {size / 1e6:.1f} MB each, "
                f"vote{'s' * (votes == 1)}."
            )
        said.append(
            f"The supernet is trained by {recipe.sampler.name} sampling: {most}{epochs} of "
            f"{plural(steps, 'step')} of {train.batch_size}.{taught}"
        )
    else:
        said.append("The supernet is not trained: its weights are those that are given.")
    if not whole:
        return said
    images = min(recipe.evaluate.images or len(splits.validation), len(splits.validation))
    if search.name == GENERATOR:
        said.append("Winners come from the sampler's generator, without a search.")
    else:
        said.append(
            f"{search.candidates} networks that {search.name} search proposes are scored on "
            f"{images} validation samples."
        )
    if recipe.shifting.name != "none":
        said.append(f"While it searches the supernet is trained further: {recipe.shifting.name}.")
    epochs = plural(finish.training.epochs, "epoch")
    if finish.data == "train+validation":
        epochs += " of the train and validation parts"
    how = {
        "inherit": "keep the supernet's weights",
        "finetune": f"are trained on for {epochs}",
        "scratch": f"are trained for {epochs} from new weights",
    }[finish.mode]
    beside = ""
    if recipe.controls.any:
        beside = ", and the networks that each is compared with,"
    said.append(
        f"Winners, one per budget{beside} {how}, and are tested on {len(splits.test)} samples."
    )
    said.append(f"Winners are exported: {', '.join(recipe.export.formats) or 'to no format'}.")
    return said


def _files(ws: Workspace, *, whole: bool) -> list[dict[str, str]]:
    """What is written in the folder of a run."""
    recipe = ws.recipe
    files = {
        RECIPE: "the recipe with every default",
        ENVIRONMENT: "versions and hardware",
        SPACE: "decisions and images",
        TRAIN_LOG: "losses of training",
        WEIGHTS: "the supernet's weights",
        TRAINER: "what a killed training goes on from",
    }
    if needs_latency(ws):
        files[LATENCY] = "measured latencies"
    if ws.original.module is not None and ws.original.is_given:
        files[ORIGINAL] = "the weights that are given"
    if ws.inherited is not None:
        files[INHERITED] = "the weights that slices begin as"
    if isinstance(ws.net.sharing, Coded):
        files[CODES] = "codes of some paths"
    if whole:
        files[SEARCH_LOG] = "every network scored"
        if recipe.shifting.name != "none":
            files[SHIFTING_LOG] = "losses while it searches"
            files[SHIFTED] = "the weights after the search"
        files[FINISH_LOG] = "winners, finished and tested"
        if recipe.controls.any:
            files[CONTROLS_LOG] = "what each is compared with, likewise"
        endings = ",".join((*recipe.export.formats, "safetensors"))
        files[f"{SUBNETS}/ARCH.{{{endings}}}"] = "each winner"
        files[RESULT] = "winners, controls and the verdict"
        files[RunFolder("").report.name] = "all of it, drawn"
    return [{"file": name, "holds": what} for name, what in files.items()]
