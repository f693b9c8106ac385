"""Adopting the supernet of another run: its weights, and a new classifier for these images."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator

from manyshot import records, transfer
from manyshot.pipeline.build import Workspace
from manyshot.progress import Progress
from manyshot.recipe import OptimiserSettings, ShiftingSettings
from manyshot.run_folder import SOURCE, RunFolder, TrainLine
from manyshot.seeding import numpy_rng
from manyshot.train import CheckpointError, load_weights
from manyshot.train.checkpoint import digest, read_weights
from manyshot.train.shifting import Shifter


def digest_of(weights: Path) -> str:
    """The digest of the weights in a file.

    Raises:
        CheckpointError: if it cannot be read.
    """
    tensors, _ = read_weights(weights)
    return digest(tensors)


def take_source(folder: Path, run: Path) -> None:
    """Copies the supernet of `run`, to be moved, to `folder`."""
    with records.atomic(RunFolder(folder).source) as temporary:
        shutil.copyfile(RunFolder(run).weights, temporary)


def adopt_source(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Loads the weights of the source run, and trains a new classifier for the target.

    All else keeps the weights it was trained to. While the classifier learns, on uniform paths, it
    alone moves; if killed, it begins anew.

    Raises:
        RecordError: if the source's weights are not in `folder`, or are others than the recipe's.
        CheckpointError: if they do not fit the network.
    """
    path, recipe = RunFolder(folder).source, ws.recipe
    if not path.exists():
        raise records.RecordError(
            f"{folder} has no {SOURCE}: the recipe is of a transfer, start it with "
            "manyshot transfer RUN"
        )
    if digest_of(path) != recipe.transfer.source:
        raise records.RecordError(
            f"{path} is not what the recipe was made for ({recipe.transfer.source}): transfer the "
            "run again to another --out folder"
        )
    load_source(ws, path)
    _train_head(ws, accelerator, folder, progress)


def load_source(ws: Workspace, weights: Path) -> None:
    """Loads weights of whatever classes; the classifier is new, all else as on file.

    Raises:
        CheckpointError: if they do not fit the network.
    """
    name = ws.recipe.transfer.classifier
    head, _ = transfer.classifier(ws.net, name)
    transfer.new_head(ws.net, _classes(weights, f"model.{head}.weight"), name=name)
    load_weights(weights, ws.net)
    transfer.new_head(ws.net, ws.splits.classes, name=name, seed=ws.recipe.seed)


def _classes(path: Path, weight: str) -> int:
    tensors, _ = read_weights(path)
    if weight not in tensors:
        raise CheckpointError(
            f"weights {path} have no {weight!r}, the classifier: they are of another network"
        )
    return int(tensors[weight].shape[-2])


def _train_head(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    train = ws.recipe.train
    kept = train.model_dump(include=set(OptimiserSettings.model_fields))
    settings = ShiftingSettings(**kept | {"lr": ws.recipe.transfer.head_lr, "freeze_body": True})
    batches = ws.batches(settings, accelerator.process_index, accelerator.num_processes)
    shifter = Shifter(
        net=ws.net,
        batches=batches,
        settings=settings,
        seed=ws.recipe.seed,
        accelerator=accelerator,
        head=transfer.head_parameters(ws.net, ws.recipe.transfer.classifier),
        task=ws.task,
        remedy="lower transfer.head_lr, or set train.clip_norm",
    )
    rng = numpy_rng(ws.recipe.seed, "head")
    epochs = ws.recipe.transfer.head_epochs
    log = RunFolder(folder).train_log
    if accelerator.is_main_process:
        records.keep(log, TrainLine, lambda line: False)
    with progress.stage("head", epochs * len(batches)) as advance:
        for epoch in range(epochs):
            paths = [[ws.net.space.sample(rng)] for _ in range(len(batches))]
            loss = shifter.shift(paths)
            images = shifter.drawn * settings.batch_size
            line = TrainLine(
                step=shifter.step, epoch=epoch + 1, images=images, lr=settings.lr, loss=loss
            )
            if accelerator.is_main_process:
                records.append(log, line)
            advance(shifter.step, f"loss {loss:.3f}")
