"""From an architecture to a network that can be deployed: finish, test once, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from manyshot import evaluate, records
from manyshot.export import card, export
from manyshot.pipeline.workspace import Workspace, build_network
from manyshot.progress import Progress
from manyshot.recipe import Finishing
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train import Only, Standalone, Trainer, train

LOG = "finish.jsonl"


def finish(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    archs: list[Arch],
    settings: Finishing,
    progress: Progress,
    proxies: Mapping[Arch, float] | None = None,
) -> dict[Arch, dict[str, Any]]:
    """Finishes, tests and exports architectures; what is on record is not done again.

    Each is a line of `finish.jsonl`: accuracy on the test set (touched here only) and files.
    Processes train together; the main one tests and writes.
    """
    log, proxies = folder / LOG, proxies or {}
    if accelerator.is_main_process:
        records.keep_lines(log, lambda record: True)
    accelerator.wait_for_everyone()
    done = {record["arch"]: record for record in records.read_lines(log)}
    accelerator.wait_for_everyone()  # all have read before the main process writes again
    finished_archs = {}
    for arch in dict.fromkeys(archs):
        text = ws.net.space.to_text(arch)
        record, kinds = done.get(text), list(ws.recipe.export.formats)
        if record is None or not set(kinds) <= set(record["files"]):
            subnet = finished(ws, accelerator, folder / "subnets", arch, settings, progress)
            if accelerator.is_main_process:
                kinds += [] if record is None else record["files"]
                record = tested(ws, subnet, folder, arch, kinds, proxies.get(arch))
                record = {"arch": text, "mode": settings.mode, **record}
                _put(log, record)
        if accelerator.is_main_process:
            (folder / "subnets" / f"{text}.trainer.pt").unlink(missing_ok=True)
        [finished_archs[arch]] = broadcast_object_list([record])
    return finished_archs


def _put(log: Path, record: dict[str, Any]) -> None:
    """Writes the line of an architecture, in place of an earlier one."""
    records.keep_lines(log, lambda other: bool(other["arch"] != record["arch"]))
    records.append(log, record)


def finished(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    arch: Arch,
    settings: Finishing,
    progress: Progress,
) -> nn.Module:
    """The plain module of `arch`, with inherited, fine-tuned or newly trained weights.

    New weights (`scratch`) are those of a fresh supernet from the seed after the recipe's, so that
    a network's own initialisation holds; elastic layers keep the fan of their largest size.
    """
    if settings.mode == "scratch":
        fresh = ws.recipe.model_copy(update={"seed": ws.recipe.seed + 1})
        source = Supernet(build_network(fresh, ws.splits)).to(ws.device)
        subnet = source.extract(arch).to(memory_format=torch.channels_last)
    else:
        stats = evaluate.calibrate(ws.net, arch, ws.calibration())
        subnet = ws.net.extract(arch, stats=stats)
    if settings.mode == "inherit":
        return subnet.eval()
    text = ws.net.space.to_text(arch)
    world, rank = accelerator.num_processes, accelerator.process_index
    run = Trainer(
        net=Standalone(subnet),
        sampler=Only(arch),
        batches=ws.batches(settings.training, rank, world),
        settings=settings.training,
        seed=ws.recipe.seed + 1,
        largest=arch,
        accelerator=accelerator,
        folder=folder,
        checkpoint=f"{text}.trainer.pt",
        log=f"{text}.train.jsonl",
        fingerprint=ws.fingerprint(settings.training, settings.mode, text, ws.recipe.train),
    )
    train(run, progress, stage="finish")
    return subnet.eval()


def costs_of(ws: Workspace, arch: Arch) -> dict[str, float]:
    """Its costs by metric."""
    return {metric: table([arch])[0].item() for metric, table in ws.costs.items()}


def data_card(ws: Workspace) -> dict[str, Any]:
    """What a user of a subnet must know of the images it was trained on."""
    splits = ws.splits
    return {
        "name": splits.name,
        "fingerprint": splits.fingerprint,
        "image_shape": list(splits.image_shape),
        "classes": splits.classes,
        "mean": list(splits.mean),
        "std": list(splits.std),
        "pixels": "divided by 255, minus mean, divided by std",
    }


def tested(
    ws: Workspace,
    subnet: nn.Module,
    folder: Path,
    arch: Arch,
    formats: Sequence[str],
    proxy_accuracy: float | None,
) -> dict[str, Any]:
    """Scores a finished subnet on the test set and exports it; paths are relative to `folder`."""
    score = evaluate.accuracy(subnet, ws.fixed("test", None))
    accuracies = {"test_accuracy": score.accuracy, "proxy_accuracy": proxy_accuracy}
    images = ws.fixed("validation", 2)[0][0].cpu()
    space, costs = ws.net.space, costs_of(ws, arch)
    files = export(
        subnet.cpu(),
        example=images,
        folder=folder / "subnets",
        stem=space.to_text(arch),
        formats=formats,
        card=card(space, arch, costs=costs, accuracies=accuracies, data=data_card(ws)),
    )
    return {
        "test_accuracy": score.accuracy,
        "test_loss": score.loss,
        "files": {kind: path.relative_to(folder).as_posix() for kind, path in files.items()},
    }
