"""Finished networks as files: written, tried, and what is on record of them."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from manyshot import evaluate
from manyshot.data import Batch, ImageFolderSet, fixed
from manyshot.export import (
    CARD,
    FORMATS,
    INT8,
    SCRIPT,
    Normalised,
    OnnxProgram,
    ScriptFailed,
    about_images,
    card,
    export,
    image_files,
    output_name,
    tried,
)
from manyshot.nn.inputs import Inputs, to_device
from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.plain import plain_module
from manyshot.pipeline.stages.examples import classifies_images
from manyshot.progress import Progress
from manyshot.run_folder import FinishLine, Int8Record, RunFolder, ScriptCheck
from manyshot.space import Arch
from manyshot.tasks import Classification
from manyshot.tasks.task import picked

CHECKED_IMAGES = 8
"""So many images a script is tried on."""


class ExportFailed(RuntimeError):
    """Networks are finished, but could not be written in a format that was asked for."""


@dataclass(frozen=True)
class Exported:
    """The files of a network.

    Attributes:
        files: their paths relative to the run's folder, by format.
        failed: why other formats could not be written.
        script: how the script was checked, if there is one.
        int8: how the file of 8-bit integers does, if there is one.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    script: ScriptCheck | None = None
    int8: Int8Record | None = None


def formats_of(ws: Workspace) -> list[str]:
    """The formats that the recipe asks for, and the script that comes with ONNX."""
    formats: list[str] = list(ws.recipe.export.formats)
    return [*formats, SCRIPT] if "onnx" in formats and classifies_images(ws) else formats


def normalises(ws: Workspace) -> bool | None:
    """Whether exported files normalise images themselves; None of data of your own."""
    return ws.recipe.export.normalise if ws.splits.image_shape else None


def exported(
    ws: Workspace,
    subnet: nn.Module,
    folder: Path,
    arch: Arch,
    formats: Sequence[str],
    scores: Mapping[str, float],
    *,
    intact: Exported = Exported(),
    tested_on: str | None = None,
) -> Exported:
    """Writes a finished subnet to files, in all formats that can be written.

    The script comes after the ONNX file that it runs, and is tried whenever one of the two is new;
    one that fails is removed. The card is written last, since it lists all other files.

    Args:
        ws: the run.
        subnet: the network.
        folder: the run's.
        arch: the architecture.
        formats: keys of `FORMATS`; those of files that are intact are not written again.
        scores: by name, for the card.
        intact: the files that stay, and what is on record of them.
        tested_on: the digest of the test images, for the card; None if it was not tested.

    Returns:
        All of its files.
    """
    subnets, space = RunFolder(folder).subnets, ws.net.space
    files = {kind: folder / path for kind, path in intact.files.items()}
    todo = [kind for kind in formats if kind not in files]
    failed: dict[str, str] = {}
    example, normalise = _example(ws, subnet)
    data = about_images(ws.splits, tested_on)
    if isinstance(ws.task, Classification) and ws.splits.image_shape:
        data["output"] = output_name(ws.task.output)
    record = card(space, arch, costs=ws.costs_of(arch), scores=scores, data=data)

    def write(kinds: Sequence[str], **more: Any) -> set[str]:
        """Writes some formats, and returns those that could be."""
        listed = {kind: path.name for kind, path in files.items()}
        written = export(
            subnet.cpu(),
            example=example,
            folder=subnets,
            stem=space.to_text(arch),
            formats=kinds,
            card={**record, **more, "files": listed},
            normalise=normalise,
            calibration=_taken(ws, subnet, ws.calibration()) if INT8 in kinds else (),
            failures=failed,
        )
        files.update(written)
        return {*written}

    new = write([kind for kind in todo if kind not in (CARD, SCRIPT)])
    if SCRIPT in todo and "onnx" not in failed:
        new |= write([SCRIPT])
    script, int8 = intact.script, intact.int8
    if SCRIPT in files and new & {"onnx", SCRIPT}:
        try:
            part: Literal["test", "validation"] = "test" if tested_on else "validation"
            script = checked_script(ws, subnet, files[SCRIPT], part)
        except (ScriptFailed, OSError, ValueError) as error:
            failed[SCRIPT], script = f"{type(error).__name__}: {error}", None
            files.pop(SCRIPT).unlink(missing_ok=True)
    if INT8 in files:
        int8 = int8_record(ws, subnet, files[INT8], tested_on, int8)
        named = (int8.test_metrics or {}).items()
        record["scores"] |= {f"test {name} of int8": value for name, value in named}
    if CARD in todo:
        write([CARD], checks=None if script is None else {SCRIPT: script.plain()})
    paths = {kind: files[kind].relative_to(folder).as_posix() for kind in FORMATS if kind in files}
    return Exported(paths, failed, script, int8)


def _example(
    ws: Workspace, subnet: nn.Module
) -> tuple[Inputs, tuple[Sequence[float], Sequence[float]] | None]:
    """Inputs of exported files, and the mean and std by which they normalise these, if they do."""
    [inputs] = _taken(ws, subnet, itertools.islice(ws.fixed("validation", 2), 1))
    return inputs, (ws.splits.mean, ws.splits.std) if normalises(ws) else None


def _taken(ws: Workspace, subnet: nn.Module, batches: Iterable[Batch]) -> Iterator[Inputs]:
    """The inputs of batches as exported files take them, on the CPU."""
    pixels = Normalised(subnet, ws.splits.mean, ws.splits.std).pixels if normalises(ws) else None
    for inputs, _ in batches:
        inputs = to_device(inputs, torch.device("cpu"))
        yield inputs if pixels is None else pixels(inputs)


def checked_script(
    ws: Workspace, subnet: nn.Module, script: Path, part: Literal["test", "validation"]
) -> ScriptCheck:
    """Runs a script on images of a part, and compares it with what scores are measured by.

    Args:
        ws: the run.
        subnet: the network, on the CPU.
        script: the script, beside its ONNX file.
        part: where the images are from.

    Raises:
        ScriptFailed: if the script does not run, or disagrees.
    """
    dataset = getattr(ws.splits, part)
    names = ws.splits.class_names or [str(label) for label in range(ws.splits.classes)]
    with image_files(dataset, CHECKED_IMAGES) as (indices, paths):
        batches = fixed(
            dataset.subset(indices),
            None,
            CHECKED_IMAGES,
            mean=ws.splits.mean,
            std=ws.splits.std,
            seed=ws.recipe.seed,
            channels_last=ws.memory_format.is_channels_last,
        )
        assert isinstance(ws.task, Classification)  # or there is no script
        with evaluating(subnet):
            logits = [picked(subnet(images), ws.task.output) for images, _ in batches]
        trial = tried(script, paths, torch.cat(logits), names)
    return ScriptCheck(
        images=trial.images,
        agree=trial.agree,
        largest_difference=trial.largest_difference,
        part=part,
        files="as they are" if isinstance(dataset, ImageFolderSet) else "arrays written as PNG",
    )


def int8_record(
    ws: Workspace,
    subnet: nn.Module,
    path: Path,
    tested_on: str | None,
    before: Int8Record | None,
) -> Int8Record:
    """Scores a file of 8-bit integers on the test images, if the network is tested on these.

    Args:
        ws: the run.
        subnet: the network that the file was made of, on the CPU.
        path: the file.
        tested_on: the digest of the test images; None if the network is not tested.
        before: what is on record of this very file.
    """
    if before is not None and before.tested_on == tested_on:
        return before
    images = ws.calibration().images
    if tested_on != ws.splits.digests["test"]:
        return Int8Record(calibration_images=images)
    example, moments = _example(ws, subnet)
    module = subnet.eval() if moments is None else Normalised(subnet, *moments).eval()
    program = OnnxProgram(path, module, example)
    batches = list(ws.fixed("test", None))
    targets = (to_device(of, torch.device("cpu")) for _, of in batches)
    pairs = zip(_taken(ws, subnet, batches), targets, strict=True)
    with ws.clock.part("tests"):
        score = evaluate.score_module(program, pairs, task=ws.task)
    return Int8Record(
        calibration_images=images,
        tested_on=tested_on,
        test_score=score.value,
        test_loss=score.loss,
        test_metrics=dict(score.metrics),
    )


def try_formats(ws: Workspace, progress: Progress) -> None:
    """Writes the smallest and the largest network, untrained, in every format; warns of failures.

    What fails here will fail when training and search are done, which then still give all else.
    """
    space, formats = ws.net.space, ws.recipe.export.formats
    ends = list(dict.fromkeys((space.canonical(space.smallest), space.canonical(space.largest))))
    failed: dict[str, str] = {}
    with (
        tempfile.TemporaryDirectory(prefix="manyshot-formats-") as place,
        progress.stage("formats", len(ends)) as advance,
    ):
        folder = Path(place)
        RunFolder(folder).subnets.mkdir()
        for number, arch in enumerate(ends, start=1):
            subnet = plain_module(ws.net, arch, ws.device).eval()
            failed |= exported(ws, subnet, folder, arch, formats, {}).failed
            advance(number, ", ".join(formats))
    for kind, why in failed.items():
        warnings.warn(
            f"this network cannot be written as {kind} ({why}): its winners will have no such "
            f"file; stop now to mend that, or leave {kind} out of export.formats",
            stacklevel=2,
        )


def check_exported(lines: Iterable[FinishLine]) -> None:
    """Refuses to end as if all was well when a format could not be written.

    Raises:
        ExportFailed: if one could not; all else is on file.
    """
    for line in lines:
        for kind, why in (line.failed or {}).items():
            raise ExportFailed(
                f"{line.arch} could not be written as {kind} ({why}); all else is on file: mend "
                "the network and resume, or write it in another format by manyshot export RUN "
                f"--arch {line.arch} --format FORMAT"
            )
