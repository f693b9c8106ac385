"""Adopting the supernet of another run: its weights, and a new classifier for these images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from manyshot import records, transfer
from manyshot.pipeline.build import Workspace
from manyshot.progress import Progress
from manyshot.recipe import OptimiserSettings, ShiftingSettings
from manyshot.run_folder import SOURCE, RunFolder, TrainLine
from manyshot.seeding import numpy_rng
from manyshot.train import CheckpointError, load_weights
from manyshot.train.checkpoint import digest, read_weights
from manyshot.train.compute import Compute, passes_of
from manyshot.train.optim import learning_rate
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

    While the classifier learns, on uniform paths, it alone moves. Then, for as many epochs as the
    recipe says, all weights do, so that the supernet orders networks on these images before a
    search relies on it (ours). If killed, all of it begins anew.

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
    if accelerator.is_main_process:
        records.keep(RunFolder(folder).train_log, TrainLine, lambda line: False)
    compute = Compute(
        ws.macs_of,
        ws.net.space.largest,
        accelerator.num_processes,
        passes=passes_of(ws.net.sharing),
    )
    done = _train_head(ws, accelerator, folder, progress, compute)
    _train_body(ws, accelerator, folder, progress, done)


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


def _train_head(
    ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress, compute: Compute
) -> Shifter:
    """Trains the classifier alone, at a constant rate.

    Args:
        ws: the run.
        accelerator: of the run.
        folder: the run's.
        progress: shows how far it is.
        compute: counts what is spent.

    Returns:
        What trained it.
    """
    transfer_settings = ws.recipe.transfer
    shifter = _uniform(
        ws,
        accelerator,
        lr=transfer_settings.head_lr,
        freeze_body=True,
        remedy="lower transfer.head_lr, or set train.clip_norm",
        compute=compute,
    )
    rng = numpy_rng(ws.recipe.seed, "head")
    log = RunFolder(folder).train_log if accelerator.is_main_process else None
    _epochs("head", shifter, transfer_settings.head_epochs, rng, progress, log)
    return shifter


def _train_body(
    ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress, before: Shifter
) -> None:
    """Trains all weights, at the rates of training, to end with their average if there is one.

    Args:
        ws: the run.
        accelerator: of the run.
        folder: the run's.
        progress: shows how far it is.
        before: what trained the classifier.
    """
    train, transfer_settings = ws.recipe.train, ws.recipe.transfer
    epochs, per_epoch = transfer_settings.body_epochs, len(before.batches)
    if not epochs:
        return

    def rate(share: float) -> float:
        steps = epochs * per_epoch
        return learning_rate(train, round(share * steps), steps, per_epoch)

    shifter = _uniform(
        ws,
        accelerator,
        lr=train.lr,
        average=train.ema,
        first_epoch=transfer_settings.head_epochs,
        remedy="lower train.lr, set train.clip_norm, or add train.warmup_epochs",
        compute=before.compute,
        rates=rate,
    )
    rng = numpy_rng(ws.recipe.seed, "body")
    log = RunFolder(folder).train_log if accelerator.is_main_process else None
    _epochs("body", shifter, epochs, rng, progress, log, before)
    shifter.end()


def _uniform(
    ws: Workspace,
    accelerator: Accelerator,
    *,
    lr: float,
    average: float | None = None,
    freeze_body: bool = False,
    first_epoch: int = 0,
    remedy: str,
    compute: Compute,
    rates: Callable[[float], float] | None = None,
) -> Shifter:
    """What trains a moved supernet before the search; all that is not said is as in `train`.

    Args:
        ws: the run.
        accelerator: of the run.
        lr: the highest rate.
        average: the decay of an average of the weights, if there is to be one.
        freeze_body: whether only the classifier moves.
        first_epoch: the first epoch of images to use.
        remedy: what an error says to do if training diverges.
        compute: counts what is spent.
        rates: the rate after a share of the whole; by default it is constant.
    """
    train = ws.recipe.train
    kept = train.model_dump(include=set(OptimiserSettings.model_fields))
    how = {"lr": lr, "schedule": "constant", "average": average, "freeze_body": freeze_body}
    settings = ShiftingSettings(**kept | how)
    head = transfer.head_parameters(ws.net, ws.recipe.transfer.classifier) if freeze_body else ()
    return Shifter(
        net=ws.net,
        batches=ws.batches(settings, accelerator.process_index, accelerator.num_processes),
        settings=settings,
        seed=ws.recipe.seed,
        accelerator=accelerator,
        first_epoch=first_epoch,
        trained=(train.lr, train.momentum),
        head=head,
        task=ws.task,
        remedy=remedy,
        compute=compute,
        rates=rates,
    )


def _epochs(
    stage: str,
    shifter: Shifter,
    epochs: int,
    rng: np.random.Generator,
    progress: Progress,
    log: Path | None,
    before: Shifter | None = None,
) -> None:
    """Trains for so many epochs of uniform paths, of which each is a line of the log.

    Args:
        stage: what it is called.
        shifter: what trains.
        epochs: how many.
        rng: draws the paths.
        progress: shows how far it is.
        log: the records of training; None in all processes but the main one.
        before: what trained before, whose steps and images are counted too.
    """
    space, per_epoch = shifter.net.space, len(shifter.batches)
    size, steps, drawn = shifter.settings.batch_size, 0, 0
    if before is not None:
        steps, drawn = before.step, before.drawn * before.settings.batch_size
    with progress.stage(stage, epochs * per_epoch) as advance:
        for epoch in range(epochs):
            rate = shifter.rate(epoch / epochs)
            paths = [[space.sample(rng)] for _ in range(per_epoch)]
            loss = shifter.shift(paths, (epoch / epochs, (epoch + 1) / epochs))
            line = TrainLine(
                step=steps + shifter.step,
                epoch=steps / per_epoch + epoch + 1,
                images=drawn + shifter.drawn * size,
                lr=rate,
                loss=loss,
                weight_steps=shifter.compute.weight_steps,
                macs=shifter.compute.macs,
            )
            if log is not None:
                records.append(log, line)
            advance(shifter.step, f"loss {loss:.3f}")
