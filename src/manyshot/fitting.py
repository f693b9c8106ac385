"""`ms.fit`: training a supernet, or any module, with everything wired by default."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from manyshot.data import Augment, Batches, Growth, LabelledImages, OwnSet, Splits
from manyshot.data.fixed_batches import drawn
from manyshot.progress import Progress
from manyshot.recipe import (
    BESIDE_RESULTS,
    EvaluationSettings,
    OptimiserSettings,
    SupernetSettings,
    TrainingSettings,
)
from manyshot.supernet import Supernet
from manyshot.tasks import Loss, Task, WithLoss, as_task
from manyshot.train import Only, Sampler, Standalone, Taught, Trainer, Uniform, engine, train
from manyshot.train.compiling import check_compiling, compiled
from manyshot.train.compute import MacsOf
from manyshot.train.distilling import Distiller, MeanOfTeachers, Several
from manyshot.train.optim import OptimizerFactory, ScheduleFactory
from manyshot.train.precision import said_of_precision, settled
from manyshot.train.probing import HeldOut
from manyshot.train.sharding import check_shards, sharded
from manyshot.train.shrinking import Shrinking


def fit(
    net: Supernet | nn.Module,
    train_on: Batches | Splits | Any,
    *,
    task: Task | str = "classification",
    sampler: Sampler | None = None,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    distiller: Distiller | None = None,
    loss: Loss | None = None,
    optimizer: OptimizerFactory | None = None,
    schedule: ScheduleFactory | None = None,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    folder: Path | str | None = None,
    augment: Augment | None = None,
    held_out: HeldOut | None = None,
    validation: HeldOut | None = None,
    accelerator: Accelerator | None = None,
    fingerprint: str | None = None,
    stage: str = "train",
    checkpoint: str = "trainer.pt",
    log: str = "train.jsonl",
    macs_of: MacsOf | None = None,
    macs_at: Callable[[int], MacsOf] | None = None,
    teacher_macs: int | None = None,
    shrinking: Shrinking | None = None,
) -> Trainer:
    """Trains `net` in place, to the end of its settings.

    Same seed, same weights. With a `folder`, a run that was killed and is started again ends with
    the same weights as one that never was.

    Args:
        net: a supernet; any other module is trained as it is.
        train_on: batches of training images, or a data set whose training part is batched here; or
            data of your own, as a torch data set or a `DataLoader` of pairs of inputs and targets,
            whose samples are ordered and batched here too.
        task: what is learnt: its loss, and what it checks of the first batch; or its name.
        sampler: which paths train next; by default uniform ones.
        teacher: a trained network, such as the one that `ms.convert` was given; everything learns
            from its predictions in place of labels, and it stays as it is. Several teach together.
        distiller: how is learnt from teachers; by default `ms.train.MeanOfTeachers()`.
        loss: the mean loss of a batch from outputs and targets, in place of the task's.
        optimizer: makes the optimiser of weights from parameter groups, such as
            `functools.partial(torch.optim.RMSprop, lr=0.01)`; by default `settings` say which. Its
            rates are the peaks of the schedule.
        schedule: makes a schedule of `torch.optim.lr_scheduler` from the optimiser and the number
            of its steps, such as `lambda optimizer, steps: OneCycleLR(optimizer, 0.1,
            total_steps=steps)`; by default `settings` say how.
        settings: optimiser, schedule, moving average and length; by default `TrainingSettings()`.
        seed: of the sampler's draws, of dropout, and of batches made here.
        progress: shows how far it is, such as `manyshot.progress.Bars()`; by default nothing.
        folder: where checkpoints and records go; by default nothing is written.
        augment: random changes of images batched here; by default none.
        held_out: for samplers that learn from losses; by default the data set's held-out part.
        validation: for K-shot sharing, images that nothing learns from, on which it is measured
            a few times whether codes matter; by default the data set's validation part.
        accelerator: by default that of `manyshot.train.engine` on the network's device.
        fingerprint: identifies everything the run depends on; a checkpoint of another is refused.
            By default it says settings and seed.
        stage: how progress names it.
        checkpoint: the checkpoint's file name in `folder`.
        log: the records' file name in `folder`.
        macs_of: the multiply-adds of one sample in architectures; records then say what training
            spends.
        macs_at: likewise of images of another side in pixels, which `macs_of` needs beside it if
            `settings` have `image_sizes`.
        teacher_macs: those of the teacher; by default the largest architecture's.
        shrinking: changes the view of the supernet's space that trains, at some steps, such as
            `ms.train.Shrinking(ms.train.Angle(), at=[0.5, 0.75])`.

    Returns:
        What trained: its `sampler`, its `step`, its optimiser.

    Raises:
        ValueError: for batches that cannot be made, a sampler that needs held-out images, outputs
            and targets that are not what the task allows, or factories that make something else.
        NonFiniteLoss: if training diverges; the last good checkpoint is kept.
        CheckpointError: if a checkpoint in `folder` is damaged or of another run.
    """
    settings = TrainingSettings() if settings is None else settings
    for name in ("minutes", "least_images"):
        if value := getattr(settings, name):
            raise ValueError(
                f"settings.{name} = {value} is for runs, which find out how many epochs that is "
                f"before they begin: give epochs, and leave {name} out"
            )
    device = _device_of(net)
    settings = settled(settings, device)
    if words := said_of_precision(settings, device):
        warnings.warn(words, stacklevel=2)
    if isinstance(train_on, Splits):
        splits = train_on
        looks: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "device": device}
        train_on = Batches(
            splits.train,
            settings.batch_size,
            seed=seed,
            augment=augment,
            growth=growth_of(settings),
            **looks,
        )
        if held_out is None:
            held_out = _drawn_from(splits.held_out, looks)
        if validation is None:
            validation = _drawn_from(splits.validation, looks)

    elif not isinstance(train_on, Batches):
        if augment is not None:
            raise ValueError("augment is for images: data of your own come as they are to be")
        own = OwnSet.of(train_on, "train_on")
        train_on = Batches(own, settings.batch_size, seed=seed, device=device)
    elif augment is not None:
        raise ValueError("augment is for batches that are made here: give it to ms.data.Batches")
    if train_on.growth != growth_of(settings):
        raise ValueError(
            f"settings.image_sizes = {settings.image_sizes} and the batches' growth = "
            f"{train_on.growth} disagree: give ms.data.Batches "
            "growth=ms.data.Growth(sizes, epochs) of the same, which data of your own cannot have"
        )
    if isinstance(net, Supernet):
        trained: Supernet | Standalone = net
        sampler = Uniform(net.space) if sampler is None else sampler
        largest = net.space.largest
    elif shrinking is not None:
        raise ValueError("the space of a ms.Supernet can shrink, and this module has none")
    elif sampler is not None:
        raise ValueError("a sampler chooses paths of a ms.Supernet, and this module has none")
    else:
        trained, sampler, largest = Standalone(net), Only(()), ()
    if teacher is None and distiller is not None:
        raise ValueError("distiller says how to learn from a teacher, and none is given")
    if teacher is not None:
        teacher = teacher if isinstance(teacher, nn.Module) else Several(teacher)
        sampler = Taught(sampler, "original")
    if fingerprint is None:
        fingerprint = f"seed {seed}, {settings.model_dump_json(exclude=set(BESIDE_RESULTS))}"
    path = None if folder is None else Path(folder)
    accelerator = engine(device, settings, path) if accelerator is None else accelerator
    with contextlib.ExitStack() as stack:
        if isinstance(settings, SupernetSettings) and settings.shard:
            supernet = check_shards(
                trained,
                sampler,
                settings,
                accelerator.num_processes,
                shrinks=shrinking is not None,
                factory=optimizer is not None,
            )
            trained = stack.enter_context(sharded(supernet, accelerator))
        if isinstance(settings, SupernetSettings) and settings.compile:
            stack.enter_context(compiled(check_compiling(trained, accelerator.num_processes)))
        trainer = Trainer(
            net=trained,
            sampler=sampler,
            batches=train_on,
            settings=settings,
            seed=seed,
            largest=largest,
            task=as_task(task) if loss is None else WithLoss(as_task(task), loss),
            accelerator=accelerator,
            folder=path,
            checkpoint=checkpoint,
            log=log,
            fingerprint=fingerprint,
            held_out=held_out,
            validation=validation,
            original=teacher,
            distiller=distiller or MeanOfTeachers(),
            optimizer=optimizer,
            schedule=schedule,
            macs_of=macs_of,
            macs_at=macs_at,
            original_macs=teacher_macs,
            shrinking=shrinking,
        )
        train(trainer, progress, stage)
    return trainer


def growth_of(settings: OptimiserSettings) -> Growth | None:
    """Which size images have in which epoch, if settings have several."""
    if not isinstance(settings, TrainingSettings) or not settings.image_sizes:
        return None
    return Growth(tuple(settings.image_sizes), settings.epochs) if settings.epochs else None


def _drawn_from(samples: LabelledImages | OwnSet, looks: dict[str, Any]) -> HeldOut | None:
    """Makes batches of a part of a data set, from their number and a seed; None if it is empty."""
    if not len(samples):
        return None

    most = EvaluationSettings().batch_size

    def made(images: int, seed: int) -> Iterable[tuple[Any, Any]]:
        return drawn(samples, images, most, seed=seed, **looks)

    return made


def _device_of(net: nn.Module) -> torch.device:
    return next((parameter.device for parameter in net.parameters()), torch.device("cpu"))
