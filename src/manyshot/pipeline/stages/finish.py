"""From an architecture to a network that can be deployed: finish, test once, export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from manyshot import evaluate, records
from manyshot.export import card, export
from manyshot.fitting import fit
from manyshot.nn import BatchNormStats
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.build import Workspace, build_network, fit_classes
from manyshot.progress import Progress
from manyshot.recipe import FinishSettings
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train import load_weights, save_weights
from manyshot.train.checkpoint import digest

LOG = "finish.jsonl"
"""Winners."""
EXPORTED = "exported.jsonl"
"""Other architectures that somebody asked for."""
SCORES = ("test_accuracy", "test_loss")


def finish(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    archs: list[Arch],
    settings: FinishSettings,
    progress: Progress,
    proxies: Mapping[Arch, float] | None = None,
    *,
    log: str = LOG,
    test: bool = True,
) -> dict[Arch, dict[str, Any]]:
    """Finishes, tests and exports architectures; what is on record is not done again.

    Each is a line of `log`: files, and accuracy on the test set, which is touched here only, and
    only if `test`. Processes train together; the main one tests and writes.
    """
    path, proxies = folder / log, proxies or {}
    if accelerator.is_main_process:
        records.keep_lines(path, lambda record: True)
    accelerator.wait_for_everyone()
    lines = {record["arch"]: record for record in records.read_lines(path)}
    works = [_Work.of(ws, folder, arch, settings, lines, test) for arch in dict.fromkeys(archs)]
    accelerator.wait_for_everyone()  # all have looked before the main process writes again
    finished_archs = {}
    for work in works:
        record = work.record
        if not work.done:
            subnet = work.subnet(ws, accelerator, settings, progress)
            if accelerator.is_main_process:
                record = work.recorded(ws, subnet, settings, proxies.get(work.arch), test)
                _put(path, record)
        if accelerator.is_main_process:
            (folder / "subnets" / f"{work.text}.trainer.pt").unlink(missing_ok=True)
        [finished_archs[work.arch]] = broadcast_object_list([record])
    return finished_archs


@dataclass(frozen=True)
class _Work:
    """What is left to do for an architecture, seen before anything is written.

    Attributes:
        folder: the run's.
        arch: the architecture.
        text: its text form.
        record: its line so far; empty if there is none.
        done: whether all that is asked for is there.
        trained: whether its finished weights are there.
        fingerprint: identifies what its weights depend on.
    """

    folder: Path
    arch: Arch
    text: str
    record: dict[str, Any]
    done: bool
    trained: bool
    fingerprint: str

    @classmethod
    def of(
        cls,
        ws: Workspace,
        folder: Path,
        arch: Arch,
        settings: FinishSettings,
        lines: Mapping[str, dict[str, Any]],
        test: bool,
    ) -> _Work:
        """Compares what is asked for with the lines of a log and the files they list."""
        text = ws.net.space.to_text(arch)
        record = lines.get(text, {})
        files = record.get("files", {})
        weights = record.get("weights")
        listed = [*files.values(), *([] if weights is None else [weights])]
        asked = set(ws.recipe.export.formats) <= set(files)
        asked &= not test or "test_accuracy" in record
        fingerprint = fingerprint_of(ws, settings, text)
        same = record.get("fingerprint") == fingerprint
        return cls(
            folder,
            arch,
            text,
            record,
            done=same and asked and all((folder / path).exists() for path in listed),
            trained=same and (folder / str(weights)).exists(),
            fingerprint=fingerprint,
        )

    @property
    def weights(self) -> Path:
        """Where the finished weights are kept, so that formats can be added."""
        return self.folder / "subnets" / f"{self.text}.safetensors"

    def subnet(
        self, ws: Workspace, accelerator: Accelerator, settings: FinishSettings, progress: Progress
    ) -> nn.Module:
        """The finished module, with the weights on file if there are any."""
        if self.trained:
            subnet = _extracted(ws.net, self.arch, ws.device)
            load_weights(self.weights, subnet)
            return subnet.eval()
        folder = self.folder / "subnets"
        subnet = finished(ws, accelerator, folder, self.arch, settings, progress)
        if accelerator.is_main_process:
            save_weights(self.weights, subnet)
        return subnet

    def recorded(
        self,
        ws: Workspace,
        subnet: nn.Module,
        settings: FinishSettings,
        proxy_accuracy: float | None,
        test: bool,
    ) -> dict[str, Any]:
        """Tests if asked to, exports, and returns the line; weights are not tested twice."""
        scores = {key: self.record[key] for key in SCORES if key in self.record}
        if (test and not scores) or (scores and not self.trained):
            score = evaluate.accuracy(subnet, ws.fixed("test", None))
            scores = {"test_accuracy": score.accuracy, "test_loss": score.loss}
        if proxy_accuracy is None:
            proxy_accuracy = self.record.get("proxy_accuracy")
        known = {"test_accuracy": scores.get("test_accuracy"), "proxy_accuracy": proxy_accuracy}
        accuracies = {name: value for name, value in known.items() if value is not None}
        kinds = dict.fromkeys([*ws.recipe.export.formats, *self.record.get("files", {})])
        return {
            "arch": self.text,
            "mode": settings.mode,
            "fingerprint": self.fingerprint,
            "memory_format": training_format(subnet, ws.device).to_dict(),
            "weights": self.weights.relative_to(self.folder).as_posix(),
            **scores,
            **accuracies,
            "files": exported(ws, subnet, self.folder, self.arch, list(kinds), accuracies),
        }


def fingerprint_of(ws: Workspace, settings: FinishSettings, text: str) -> str:
    """Identifies what the finished weights of an architecture depend on."""
    inherited = "" if settings.mode == "scratch" else digest(ws.net.state_dict())
    return ws.fingerprint(settings.training, settings.mode, text, ws.recipe.train, inherited)


def _put(log: Path, record: dict[str, Any]) -> None:
    """Writes the line of an architecture, in place of an earlier one."""
    records.keep_lines(log, lambda other: bool(other["arch"] != record["arch"]))
    records.append(log, record)


def finished(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    arch: Arch,
    settings: FinishSettings,
    progress: Progress,
) -> nn.Module:
    """The plain module of `arch`, with inherited, fine-tuned or newly trained weights.

    New weights (`scratch`) are those of a fresh supernet from the seed after the recipe's, so that
    a network's own initialisation holds; elastic layers keep the fan of their largest size.
    """
    if settings.mode == "scratch":
        fresh = ws.recipe.model_copy(update={"seed": ws.recipe.seed + 1})
        source = Supernet(build_network(fresh, ws.splits), input_shape=ws.splits.image_shape)
        fit_classes(ws.recipe, source, ws.splits.classes)
        source.to(ws.device)
        subnet = _extracted(source, arch, ws.device)
    else:
        stats = evaluate.calibrate(ws.net, arch, ws.calibration())
        subnet = _extracted(ws.net, arch, ws.device, stats)
    if settings.mode == "inherit":
        return subnet.eval()
    text = ws.net.space.to_text(arch)
    world, rank = accelerator.num_processes, accelerator.process_index
    fit(
        subnet,
        ws.batches(settings.training, rank, world),
        settings=settings.training,
        seed=ws.recipe.seed + 1,
        progress=progress,
        folder=folder,
        accelerator=accelerator,
        fingerprint=fingerprint_of(ws, settings, text),
        stage="finish",
        checkpoint=f"{text}.trainer.pt",
        log=f"{text}.train.jsonl",
    )
    return subnet.eval()


def _extracted(
    source: Supernet, arch: Arch, device: torch.device, stats: BatchNormStats | None = None
) -> nn.Module:
    """The plain module of `arch`, in the memory format that it may be trained in."""
    subnet = source.extract(arch, stats=stats)
    memory_format = training_format(subnet, device).torch_format
    return subnet.to(memory_format=memory_format)


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


def exported(
    ws: Workspace,
    subnet: nn.Module,
    folder: Path,
    arch: Arch,
    formats: Sequence[str],
    accuracies: Mapping[str, float],
) -> dict[str, str]:
    """Writes a finished subnet to files; returns their paths relative to `folder` by format."""
    images, _ = next(iter(ws.fixed("validation", 2)))
    space, costs = ws.net.space, costs_of(ws, arch)
    files = export(
        subnet.cpu(),
        example=images.cpu(),
        folder=folder / "subnets",
        stem=space.to_text(arch),
        formats=formats,
        card=card(space, arch, costs=costs, accuracies=accuracies, data=data_card(ws)),
    )
    return {kind: path.relative_to(folder).as_posix() for kind, path in files.items()}
