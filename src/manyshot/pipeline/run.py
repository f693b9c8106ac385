"""The whole way: train a supernet, search, finish the winners, write what came out."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from manyshot import records
from manyshot._version import __version__
from manyshot.cost import measure
from manyshot.pipeline.finishing import costs_of, finish
from manyshot.pipeline.searching import search, winners
from manyshot.pipeline.workspace import Workspace
from manyshot.progress import Progress, Silent
from manyshot.recipe import Recipe
from manyshot.space import Arch
from manyshot.train import (
    Trainer,
    engine,
    load_weights,
    make_sampler,
    save_weights,
    train,
)

WEIGHTS = "supernet.safetensors"


def open_folder(folder: Path, recipe: Recipe) -> None:
    """Makes a run's folder and writes its recipe and environment, unless they are there.

    Raises:
        RecordError: if the folder holds a run of another recipe.
    """
    path, text = folder / "recipe.toml", recipe.to_toml()
    if path.exists():
        if Recipe.load(path) != recipe:
            raise records.RecordError(
                f"{folder} holds a run of another recipe: resume it with --resume {folder}, or "
                "choose another --out folder"
            )
        return
    records.write_text(path, text)
    records.write_json(folder / "environment.json", environment())


def environment() -> dict[str, Any]:
    """Where a run was made: versions, machine, threads."""
    return {
        "manyshot": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "argv": sys.argv[1:],
    }


def train_stage(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Trains the supernet, or loads it if it is trained already."""
    settings = ws.recipe.train
    run = Trainer(
        net=ws.net,
        sampler=make_sampler(ws.recipe.sampler.name, ws.net.space, ws.recipe.sampler.options),
        batches=ws.batches(settings, accelerator.process_index, accelerator.num_processes),
        settings=settings,
        seed=ws.recipe.seed,
        largest=ws.net.space.largest,
        accelerator=accelerator,
        folder=folder,
        fingerprint=ws.fingerprint(settings),
    )
    weights = folder / WEIGHTS
    if not weights.exists():
        train(run, progress)
        if accelerator.is_main_process:
            save_weights(weights, ws.net)
        accelerator.wait_for_everyone()
    load_weights(weights, ws.net)


def begin(
    recipe: Recipe, folder: Path, progress: Progress, trained: Path | None = None
) -> tuple[Workspace, Accelerator]:
    """Builds a recipe, opens its folder and trains the supernet, unless that is done.

    Args:
        recipe: what to do.
        folder: the run's.
        progress: shows how far it is.
        trained: the folder of a run whose supernet is taken instead of training one.

    Raises:
        RecordError: if `trained` has no supernet, or `folder` holds another run.
    """
    if trained is not None and not (trained / WEIGHTS).exists():
        raise records.RecordError(
            f"{trained} has no {WEIGHTS}: train it first with manyshot train, or manyshot run "
            f"--resume {trained}"
        )
    ws = Workspace.build(recipe)
    ws.limits(metrics=("macs", "params"))  # an impossible budget fails before training
    accelerator = engine(ws.device, recipe.train, folder)
    if accelerator.is_main_process:
        open_folder(folder, recipe)
        if trained is not None and not (folder / WEIGHTS).exists():
            with records.atomic(folder / WEIGHTS) as temporary:
                shutil.copyfile(trained / WEIGHTS, temporary)
    accelerator.wait_for_everyone()
    train_stage(ws, accelerator, folder, progress)
    return ws, accelerator


def train_only(recipe: Recipe, folder: Path, progress: Progress | None = None) -> None:
    """Trains the supernet of a recipe in `folder`."""
    begin(recipe, folder, progress or Silent())


def run(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    trained: Path | None = None,
) -> dict[str, Any]:
    """Does everything a recipe says in `folder`; what is done already is not done again.

    Args:
        recipe: what to do.
        folder: where all records and files go; a run that was killed goes on in its own.
        progress: shows how far it is; by default nothing.
        trained: the folder of a run whose supernet is taken instead of training one.

    Returns:
        What `result.json` holds: `winners`, one per budget, and what was spent.

    Raises:
        RecordError, CheckpointError: if the folder holds something else, or something damaged.
        RecipeError, DataNotFound, ValueError: if the recipe cannot be built.
        NonFiniteLoss: if training diverges.
    """
    progress = progress or Silent()
    ws, accelerator = begin(recipe, folder, progress, trained)
    scores = search(ws, accelerator, folder, progress)
    chosen = winners(ws, scores)
    archs = list(chosen.values())
    finished = finish(ws, accelerator, folder, archs, recipe.finish, progress, scores)
    result = {
        "name": recipe.name,
        "winners": [
            winner(ws, budget, arch, scores[arch], finished[arch])
            for budget, arch in chosen.items()
        ],
        "finish": recipe.finish.mode,
        "space": {"size": ws.net.space.size, "decisions": len(ws.net.space)},
        "searched": len(scores),
        "images_forwarded": spent(ws, len(scores)),
    }
    if accelerator.is_main_process:
        records.write_json(folder / "result.json", result)
    return result


def export_architecture(
    recipe: Recipe, folder: Path, text: str, progress: Progress | None = None
) -> dict[str, Any]:
    """Finishes the architecture `text` of a trained run and exports it; returns its record.

    Raises:
        RecordError: if the run has no trained supernet.
        ValueError: if `text` is not in the space.
    """
    progress = progress or Silent()
    ws = Workspace.build(recipe)
    arch = ws.net.space.canonical(ws.net.space.from_text(text))
    if not (folder / WEIGHTS).exists():
        raise records.RecordError(f"{folder} has no {WEIGHTS}: train it first with manyshot train")
    load_weights(folder / WEIGHTS, ws.net)
    accelerator = engine(ws.device, recipe.train, folder)
    return finish(ws, accelerator, folder, [arch], recipe.finish, progress)[arch]


def winner(
    ws: Workspace,
    budget: str,
    arch: Arch,
    proxy_accuracy: float,
    record: dict[str, Any],
) -> dict[str, Any]:
    """One entry of `result.json`."""
    subnet = ws.net.extract(arch).to(ws.device)
    latency = measure(subnet, ws.splits.image_shape, device=ws.device)
    return {
        "budget": budget,
        "arch": ws.net.space.to_text(arch),
        "choices": ws.net.space.choices(arch),
        **costs_of(ws, arch),
        "latency_ms": latency.median_ms,
        "proxy_accuracy": proxy_accuracy,
        "test_accuracy": record["test_accuracy"],
        "files": record["files"],
    }


def spent(ws: Workspace, candidates: int) -> dict[str, int]:
    """Images forwarded by each stage, whatever network they went through."""
    recipe = ws.recipe
    steps = recipe.train.epochs * len(ws.batches(recipe.train))
    sampler = make_sampler(recipe.sampler.name, ws.net.space, recipe.sampler.options)
    paths = len(sampler.plan(np.random.default_rng(0), 0).paths)
    validation = sum(len(y) for _, y in ws.fixed("validation", recipe.evaluate.images))
    calibration = sum(len(y) for _, y in ws.calibration())
    return {
        "train": steps * recipe.train.batch_size * paths,
        "search": candidates * (validation + calibration),
    }
