"""Finishing and exporting any architecture of a trained run."""

from __future__ import annotations

import warnings
from pathlib import Path

from manyshot.pipeline.beforehand import check_finish
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.devices import on_its_threads, processes, start_engine, stop
from manyshot.pipeline.identity import load_final_weights
from manyshot.pipeline.stages.exports import check_exported
from manyshot.pipeline.stages.finish import finish
from manyshot.pipeline.stages.shrink import said_of_view
from manyshot.progress import Progress, Silent, showing
from manyshot.recipe import Recipe
from manyshot.run_folder import EXPORTED_LOG, FINISH_LOG, FinishLine, RunFolder
from manyshot.writing import writing


@on_its_threads
def export_architecture(
    recipe: Recipe,
    folder: Path,
    text: str,
    progress: Progress | None = None,
    *,
    test: bool = False,
) -> FinishLine:
    """Finishes the architecture `text` of a trained run and exports it; returns its record.

    Unless it is a winner, the record is a line of `exported.jsonl`, without test score.

    Args:
        recipe: the run's.
        folder: the run's.
        text: the architecture, such as `0-2-1`.
        progress: shows how far it is; by default nothing.
        test: whether to score it on the test set too. To choose by that is to overfit it.

    Raises:
        RecordError: if the run has no trained supernet, or another process writes to its folder.
        RecipeError: for what `Workspace.check_finish` finds.
        ValueError: if `text` is not in the space.
    """
    with writing(folder, "manyshot export"):
        return _exported(recipe, folder, text, progress or Silent(), test)


def _exported(
    recipe: Recipe, folder: Path, text: str, progress: Progress, test: bool
) -> FinishLine:
    described = RunFolder(folder).space()
    if described is not None:  # so that a wrong architecture is refused before all is built
        described.search_space().from_text(text)
    world = processes(recipe)
    with showing(progress):
        ws = Workspace.build(recipe, folder)
    check_finish(ws, world)
    arch = ws.net.space.canonical(ws.net.space.from_text(text))
    load_final_weights(ws, RunFolder(folder))
    if words := said_of_view(ws, folder, [arch]):
        warnings.warn(words, stacklevel=4)  # past the threads of the recipe
    accelerator = start_engine(ws.recipe, ws.device, folder)
    won = {line.arch for line in RunFolder(folder).finish_lines()}
    log = FINISH_LOG if ws.net.space.to_text(arch) in won else EXPORTED_LOG
    finished = finish(ws, accelerator, folder, [arch], recipe.finish, progress, log=log, test=test)
    stop(accelerator)
    check_exported(finished.values())
    return finished[arch]
