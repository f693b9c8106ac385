"""Training the supernet of a run, moving another run's to it, or loading what is done."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from manyshot.fitting import fit
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.identity import fingerprint, weights_fingerprint
from manyshot.pipeline.stages.adopt import adopt_source
from manyshot.pipeline.stages.describe import describe_codes, describe_mixed
from manyshot.pipeline.stages.generate import save_sampler
from manyshot.pipeline.stages.shrink import in_last_view, shrinking_of
from manyshot.progress import Progress
from manyshot.run_folder import RunFolder
from manyshot.train import Taught, load_weights, save_weights


def train_stage(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Trains the supernet, or moves it here, or loads it if that is done already."""
    weights = RunFolder(folder).weights
    is_trained = weights.exists()
    accelerator.wait_for_everyone()  # all have looked before the main process writes
    if not is_trained:
        with ws.clock.part("training"):
            if ws.recipe.moves:
                adopt_source(ws, accelerator, folder, progress)
            else:
                train_supernet(ws, accelerator, folder, progress)
            if accelerator.is_main_process:
                describe_codes(in_last_view(ws, folder), folder)
                save_weights(weights, ws.net, weights_fingerprint(ws))
            accelerator.wait_for_everyone()
    load_weights(weights, ws.net, weights_fingerprint(ws))


def train_supernet(
    ws: Workspace, accelerator: Accelerator, folder: Path | None, progress: Progress
) -> None:
    """Trains the supernet, unless for no epochs, and keeps what its sampler has learnt.

    Without a folder nothing is written.
    """
    settings = ws.recipe.train
    if not settings.epochs:
        return
    sampler, by_network = ws.sampler(), settings.teacher == "network"
    trainer = fit(
        ws.net,
        ws.batches(settings, accelerator.process_index, accelerator.num_processes),
        task=ws.task,
        sampler=Taught(sampler, "labels") if settings.teacher == "none" else sampler,
        teacher=ws.teacher(settings.teacher),
        teacher_macs=ws.teachers.macs if by_network and ws.teachers else None,
        settings=settings,
        seed=ws.recipe.seed,
        progress=progress,
        folder=folder,
        held_out=ws.held_out if len(ws.splits.held_out) else None,
        validation=ws.validation,
        accelerator=accelerator,
        fingerprint=fingerprint(ws, settings),
        macs_of=ws.macs_of,
        macs_at=ws.macs_at,
        shrinking=shrinking_of(ws),
    )
    if folder is not None and accelerator.is_main_process:
        save_sampler(folder, sampler, trainer.probed_images, trainer.step)
        describe_mixed(ws, folder, sampler)
