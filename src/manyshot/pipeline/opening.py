"""The folder of a run: made, checked, or filled from another run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import torch

from manyshot import records
from manyshot._version import __version__
from manyshot.nn.pointwise import TrainingFormat
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import (
    CODES,
    MIXED,
    SAMPLER,
    SHRINK_LOG,
    WEIGHTS,
    EnvironmentRecord,
    MemoryFormat,
    RunFolder,
)
from manyshot.trust import sign


def open_folder(
    folder: Path, recipe: Recipe, memory_format: TrainingFormat, trained: Path | None = None
) -> None:
    """Makes a run's folder and writes its recipe and environment, unless they are there.

    Args:
        folder: the run's.
        recipe: the run's.
        memory_format: that the supernet trains in.
        trained: the folder of a run whose supernet will be taken.

    Raises:
        RecordError: if the folder holds a run of another recipe, or `trained` has no supernet.
        RecipeError: if the supernet of `trained` was made in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = RunFolder(folder)
    path, machine = own.recipe_file, own.environment_file
    other = path.exists() and own.recipe() != recipe
    if other and own.has_begun:
        raise records.RecordError(
            f"{folder} holds a run of another recipe: resume it with --resume {folder}, or "
            "choose another --out folder"
        )
    if trained is not None:
        check_trained(recipe, trained)
    if other:
        for stale in (
            own.latency_file,
            own.seconds_file,
            own.source,
            own.original,
            own.inherited,
            own.space_file,
            machine,
            own.signature_file,
            path,
        ):
            stale.unlink(missing_ok=True)
    if not path.exists():
        records.write_text(path, recipe.to_toml())
    if not machine.exists():
        records.write_json(machine, environment(memory_format))
    if not own.signature_file.exists():
        sign(own)
    own.subnets.mkdir(exist_ok=True)


def check_trained(recipe: Recipe, trained: Path) -> None:
    """Refuses the supernet of the run in `trained` if the recipe cannot use it.

    Raises:
        RecordError: if it has no supernet yet.
        RecipeError: if the recipe differs in something that the supernet depends on.
    """
    if not RunFolder(trained).weights.exists():
        raise records.RecordError(
            f"{trained} has no {WEIGHTS}: train it first with manyshot train, or manyshot run "
            f"--resume {trained}"
        )
    other = RunFolder(trained).recipe()
    parts = ["seed", "network", "sharing", "data", "sampler", "train", "shrink", "transfer"]
    for part in [*parts, "teacher"] if recipe.train.teacher == "network" else parts:
        if getattr(recipe, part) != getattr(other, part):
            raise RecipeError(
                f"{part} is not as the supernet of {trained} was trained with: other settings of "
                "it need a run of their own"
            )


def take_over(folder: Path, trained: Path) -> None:
    """Copies the supernet of the run in `trained`, and a learnt sampler, to `folder`.

    Unless it has one.
    """
    if RunFolder(folder).weights.exists():
        return
    for name in (SAMPLER, SHRINK_LOG, MIXED, CODES, WEIGHTS):
        if (trained / name).exists():
            with records.atomic(folder / name) as temporary:
                shutil.copyfile(trained / name, temporary)


def environment(memory_format: TrainingFormat | None = None) -> EnvironmentRecord:
    """Where a run is made: versions, machine, threads, and the memory format it trains in."""
    used = None if memory_format is None else MemoryFormat(**memory_format.to_dict())
    return EnvironmentRecord(
        manyshot=__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        platform=platform.platform(),
        processor=platform.processor() or platform.machine(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        argv=tuple(sys.argv[1:]),
        memory_format=used,
    )
