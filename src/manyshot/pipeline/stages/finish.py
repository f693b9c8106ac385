"""From an architecture to a network that can be deployed: finish, test once, export."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from manyshot import evaluate, records
from manyshot.crews import CannotBeSent, Crew
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
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.identity import fingerprint
from manyshot.pipeline.plain import new_supernet, plain_module
from manyshot.pipeline.stages.alone import (
    Beginner,
    Lessons,
    Tasks,
    kept_lessons,
    train_alone,
    trained_by,
)
from manyshot.pipeline.stages.examples import classifies_images, tested
from manyshot.progress import Progress
from manyshot.recipe import DistillationSettings, FinishSettings
from manyshot.run_folder import (
    FINISH_LOG,
    FinishLine,
    Int8Record,
    MemoryFormat,
    RunFolder,
    ScriptCheck,
)
from manyshot.space import Arch
from manyshot.tasks import Classification
from manyshot.tasks.task import picked
from manyshot.train import load_weights, save_weights
from manyshot.train.checkpoint import digest

CHECKED_IMAGES = 8
"""So many images a script is tried on."""


def finish(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    archs: list[Arch],
    settings: FinishSettings,
    progress: Progress,
    proxies: Mapping[Arch, float] | None = None,
    *,
    log: str = FINISH_LOG,
    test: bool = True,
    examples: bool = True,
    crew: Crew | None = None,
) -> dict[Arch, FinishLine]:
    """Finishes, tests and exports architectures; what is on record is not done again.

    Finished weights are tested again if the test images are others than those on record, and files
    that are not what was written are written again. The test set is touched here only. Processes
    train together, and workers each a network; the main process tests and writes.

    Args:
        ws: the run, with the weights that its search ended with.
        accelerator: of the run.
        folder: the run's.
        archs: the architectures; one that is there twice is finished once.
        settings: how to finish.
        progress: shows how far it is.
        proxies: the proxy scores of architectures that have one.
        log: the name of the file that gets a line per architecture.
        test: whether to score on the test set.
        examples: whether to write what networks that are tested predict.
        crew: workers that train several networks at once; None trains one after the other.

    Returns:
        The line of each architecture.

    Raises:
        RecordError: if the log is damaged.
        NonFiniteLoss: if training diverges.
        RuntimeError: if workers are lost again and again.
    """
    path, proxies = folder / log, proxies or {}
    if accelerator.is_main_process:
        records.keep(path, FinishLine)
    accelerator.wait_for_everyone()
    lines = {line.arch: line for line in records.load_lines(path, FinishLine)}
    works = [_Work.of(ws, folder, arch, settings, lines, test) for arch in dict.fromkeys(archs)]
    accelerator.wait_for_everyone()  # all have looked before the main process writes again
    if accelerator.is_main_process:
        _say_what_is_tested_again(ws, works, test)
        _say_what_is_written_again(works)
        _say_what_takes_other_pixels(works)
    finished_archs: dict[Arch, FinishLine] = {}
    with contextlib.closing(_subnets(ws, accelerator, works, settings, progress, crew)) as subnets:
        for work in works:
            line = work.line
            if not work.done:
                with ws.clock.part("finishing"):
                    subnet = next(subnets)
                    if accelerator.is_main_process:
                        proxy = proxies.get(work.arch)
                        line = work.recorded(
                            ws, subnet, settings, proxy, test=test, examples=examples
                        )
                        _put(path, line)
            if accelerator.is_main_process:
                (RunFolder(folder).subnets / f"{work.text}.trainer.pt").unlink(missing_ok=True)
            [finished_archs[work.arch]] = broadcast_object_list([line])
    return finished_archs


@dataclass(frozen=True)
class _Work:
    """What is left to do for an architecture, seen before anything is written.

    Attributes:
        folder: the run's.
        arch: the architecture.
        text: its text form.
        line: its line so far; None if there is none.
        done: whether all that is asked for is there.
        trained: whether its finished weights are there.
        intact: the formats whose files are there, hold what was written, and take the pixels that
            they are to take.
        normalised: whether files are to normalise images; None of other data.
        fingerprint: identifies what its weights depend on.
    """

    folder: Path
    arch: Arch
    text: str
    line: FinishLine | None
    done: bool
    trained: bool
    intact: frozenset[str]
    normalised: bool | None
    fingerprint: str

    @classmethod
    def of(
        cls,
        ws: Workspace,
        folder: Path,
        arch: Arch,
        settings: FinishSettings,
        lines: Mapping[str, FinishLine],
        test: bool,
    ) -> _Work:
        """Compares what is asked for with the lines of a log and the files they list."""
        text, normalised = ws.net.space.to_text(arch), normalises(ws)
        fingerprint = fingerprint_of(ws, settings, text)
        line = lines.get(text)
        if line is None or line.fingerprint != fingerprint:
            return cls(folder, arch, text, line, False, False, frozenset(), normalised, fingerprint)
        trained = (folder / line.weights).exists()
        kinds = line.files if line.normalised == normalised else {}
        intact = frozenset(kind for kind in kinds if line.is_written(folder, kind))
        asked = set(formats_of(ws)) <= intact == set(line.files)
        asked &= not test or line.tested_on == ws.splits.digests["test"]
        return cls(
            folder,
            arch,
            text,
            line,
            done=asked and trained,
            trained=trained,
            intact=intact if trained else frozenset(),
            normalised=normalised,
            fingerprint=fingerprint,
        )

    @property
    def weights(self) -> Path:
        """Where the finished weights are kept, so that formats can be added."""
        return RunFolder(self.folder).finished_weights(self.text)

    def subnet(
        self, ws: Workspace, accelerator: Accelerator, settings: FinishSettings, progress: Progress
    ) -> nn.Module:
        """The finished module, with the weights on file if there are any."""
        if self.trained:
            subnet = plain_module(ws.net, self.arch, ws.device)
            load_weights(self.weights, subnet, self.fingerprint)
            return subnet.eval()
        folder = RunFolder(self.folder).subnets
        subnet = finished(ws, accelerator, folder, self.arch, settings, progress)
        if accelerator.is_main_process:
            save_weights(self.weights, subnet, self.fingerprint)
        return subnet

    def taken(self, ws: Workspace, state: Mapping[str, Tensor]) -> nn.Module:
        """The finished module with the tensors that a worker trained, which it saves."""
        subnet = plain_module(ws.net, self.arch, ws.device)
        subnet.load_state_dict(state)
        save_weights(self.weights, subnet, self.fingerprint)
        return subnet.eval()

    def recorded(
        self,
        ws: Workspace,
        subnet: nn.Module,
        settings: FinishSettings,
        proxy_score: float | None,
        *,
        test: bool,
        examples: bool,
    ) -> FinishLine:
        """Tests if asked to, exports, and returns the line.

        The same weights are not tested twice on the same images.
        """
        before = self.line
        formats = formats_of(ws)
        tested_on, value, loss, values = None, None, None, None
        count, parts = None, None
        if before is not None:
            tested_on, value, loss = before.tested_on, before.test_score, before.test_loss
            values, count, parts = before.test_metrics, before.test_images, before.test_parts
            proxy_score = before.proxy_score if proxy_score is None else proxy_score
            formats += [kind for kind in before.files if kind not in formats]
        images = ws.splits.digests["test"]
        if (test and tested_on != images) or (value is not None and not self.trained):
            path = RunFolder(self.folder).predictions_file(self.text) if examples else None
            with ws.clock.part("tests"):
                score = tested(ws, subnet, self.text, path)
            value, loss, values = score.value, score.loss, score.finite_metrics
            count, parts = score.images, tuple(part.value for part in score.parts)
            if not all(map(math.isfinite, parts)):  # as R2 of a part of one image
                parts = None
            tested_on = images
        scores = {f"test {name}": number for name, number in (values or {}).items()}
        if proxy_score is not None:
            scores[f"proxy {ws.task_record.metric.name}"] = proxy_score
        intact = {kind: before.files[kind] for kind in self.intact - {CARD}} if before else {}
        with ws.clock.part("exports"):
            written = exported(
                ws,
                subnet,
                self.folder,
                self.arch,
                [kind for kind in formats if kind not in intact],
                scores,
                intact=intact,
                tested_on=tested_on,
                script=before.script if before is not None and SCRIPT in intact else None,
                int8=before.int8 if before is not None and INT8 in intact else None,
            )
        every = {kind: path for kind, path in intact.items() if kind not in written.failed}
        every |= written.files
        files = {kind: every[kind] for kind in FORMATS if kind in every}
        return FinishLine(
            arch=self.text,
            mode=settings.mode,
            fingerprint=self.fingerprint,
            memory_format=MemoryFormat(**training_format(subnet, ws.device).to_dict()),
            weights=self.weights.relative_to(self.folder).as_posix(),
            proxy_score=proxy_score,
            tested_on=tested_on,
            test_score=value,
            test_loss=loss,
            test_metrics=values,
            test_images=count,
            test_parts=parts,
            files=files,
            sha256={kind: records.sha256_of(self.folder / path) for kind, path in files.items()},
            normalised=self.normalised,
            script=written.script,
            int8=written.int8,
            failed=written.failed or None,
        )


def _subnets(
    ws: Workspace,
    accelerator: Accelerator,
    works: Sequence[_Work],
    settings: FinishSettings,
    progress: Progress,
    crew: Crew | None,
) -> Generator[nn.Module]:
    """The finished module of each architecture that is not done, in their order."""
    todo = [work for work in works if not work.done]
    to_train = [work for work in todo if not work.trained and settings.mode != "inherit"]
    states: Iterator[dict[str, Tensor]] | None = None
    if crew is not None and len(to_train) > 1:
        states = _states(ws, crew, to_train, settings, progress)
    for work in todo:
        if states is None or work.trained:
            yield work.subnet(ws, accelerator, settings, progress)
        else:
            yield work.taken(ws, next(states))


def _states(
    ws: Workspace,
    crew: Crew,
    works: Sequence[_Work],
    settings: FinishSettings,
    progress: Progress,
) -> Iterator[dict[str, Tensor]] | None:
    """The tensors of architectures that workers train; None, and a warning, if none can be sent."""
    kept = kept_lessons(Lessons.of(ws, settings), fingerprint_of(ws, settings, ""))
    tasks = Tasks(
        [work.text for work in works],
        lambda number: beginner_of(ws, works[number].arch, settings),
        works[0].folder,
    )
    try:
        crew.pack([kept])
        tasks.check()
    except CannotBeSent as error:
        warnings.warn(f"networks are finished one after the other: {error}", stacklevel=2)
        return None
    return trained_by(crew, kept, tasks, progress)


def normalises(ws: Workspace) -> bool | None:
    """Whether exported files normalise images themselves; None of data of your own."""
    return ws.recipe.export.normalise if ws.splits.image_shape else None


def fingerprint_of(ws: Workspace, settings: FinishSettings, text: str) -> str:
    """Identifies what the finished weights of an architecture depend on."""
    inherited = "" if settings.mode == "scratch" else digest(ws.net.state_dict())
    more: tuple[object, ...] = (
        settings.mode,
        settings.data,
        settings.teacher,
        text,
        ws.recipe.train,
        inherited,
    )
    if settings.teacher == "network":
        more = (*more, ws.recipe.teacher.digest)
    if settings.teacher == "supernet":
        more = (*more, *settings.taught_by, digest(ws.net.state_dict()))
    if settings.distillation != DistillationSettings():
        more = (*more, settings.distillation)
    return fingerprint(ws, settings.training, *more)


def _say_what_is_tested_again(ws: Workspace, works: Sequence[_Work], test: bool) -> None:
    """Warns of networks that were tested on other images, whose figures will be other ones."""
    images = ws.splits.digests["test"]
    texts = [
        work.text
        for work in works
        if test and work.trained and work.line and work.line.tested_on not in (None, images)
    ]
    if texts:
        warnings.warn(
            f"the test images are others than those that {', '.join(texts)} had been tested on: "
            "nothing is trained for that, and what is finished is tested again",
            stacklevel=2,
        )


def _say_what_is_written_again(works: Sequence[_Work]) -> None:
    """Warns of files that are there, but hold something else than what is on record."""
    for work in works:
        files = {} if work.line is None or not work.trained else work.line.files
        for kind, path in files.items():
            assert work.line is not None  # whose files these are
            there = (work.folder / path).exists()
            if there and not work.line.is_written(work.folder, kind):
                warnings.warn(
                    f"{work.folder / path} is not what is on record of it (it was damaged, "
                    "changed, or written by a command that was killed): it is written again",
                    stacklevel=3,
                )


def _say_what_takes_other_pixels(works: Sequence[_Work]) -> None:
    """Warns of files that take other inputs than the recipe says now."""
    for work in works:
        line = work.line
        if line is not None and work.trained and line.files and line.normalised != work.normalised:
            takes = "pixels in [0, 1]" if work.normalised else "images that were normalised"
            warnings.warn(
                f"the files of {work.text} are written again, to take {takes}: export.normalise is "
                f"{str(work.normalised).lower()} now, and was not when they were written",
                stacklevel=3,
            )


def _put(log: Path, line: FinishLine) -> None:
    """Writes the line of an architecture, in place of an earlier one, which no kill loses."""
    lines = records.load_lines(log, FinishLine)
    others = [other for other in lines if other.arch != line.arch]
    if len(others) == len(lines):
        records.append(log, line)
    else:
        records.write_lines(log, [*others, line])


def finished(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    arch: Arch,
    settings: FinishSettings,
    progress: Progress,
) -> nn.Module:
    """The plain module of `arch`, with inherited, fine-tuned or newly trained weights."""
    beginner = beginner_of(ws, arch, settings)
    if settings.mode != "inherit":
        lessons = Lessons.of(ws, settings, accelerator.process_index, accelerator.num_processes)
        train_alone(beginner, lessons, folder, accelerator, progress)
    return beginner.module.eval()


def beginner_of(ws: Workspace, arch: Arch, settings: FinishSettings) -> Beginner:
    """The plain module of `arch` before it trains, with inherited or new weights.

    New weights (`scratch`) are those of a fresh supernet from the seed after the recipe's, so that
    a network's own initialisation holds; elastic layers keep the fan of their largest size.
    """
    if settings.mode == "scratch":
        fresh = ws.recipe.model_copy(update={"seed": ws.recipe.seed + 1})
        subnet = plain_module(new_supernet(fresh, ws.splits, ws.device), arch, ws.device)
    else:
        stats = None  # where something stands in, they are those of training on alone
        if not ws.net.stands_in(arch):
            stats = evaluate.calibrate(ws.net, arch, ws.calibration())
        subnet = plain_module(ws.net, arch, ws.device, stats)
    text = ws.net.space.to_text(arch)
    return Beginner(text, subnet, fingerprint_of(ws, settings, text))


@dataclass(frozen=True)
class Exported:
    """What was written of a network.

    Attributes:
        files: the paths relative to the run's folder, by format.
        failed: why other formats could not be written.
        script: how the script was checked, if there is one.
        int8: how the file of 8-bit integers does, if there is one.
    """

    files: dict[str, str]
    failed: dict[str, str]
    script: ScriptCheck | None
    int8: Int8Record | None


def exported(
    ws: Workspace,
    subnet: nn.Module,
    folder: Path,
    arch: Arch,
    formats: Sequence[str],
    scores: Mapping[str, float],
    *,
    intact: Mapping[str, str] = MappingProxyType({}),
    tested_on: str | None = None,
    script: ScriptCheck | None = None,
    int8: Int8Record | None = None,
) -> Exported:
    """Writes a finished subnet to files, in all formats that can be written.

    Args:
        ws: the run.
        subnet: the network.
        folder: the run's.
        arch: the architecture.
        formats: keys of `FORMATS`.
        scores: by name, for the card.
        intact: the paths of files in other formats, for the card.
        tested_on: the digest of the test images, for the card; None if it was not tested.
        script: how a script that is intact was checked.
        int8: how a file of 8-bit integers that is intact does.
    """
    subnets, space = RunFolder(folder).subnets, ws.net.space
    failed: dict[str, str] = {}
    example, normalise = _example(ws, subnet)
    data = about_images(ws.splits, tested_on)
    if isinstance(ws.task, Classification) and ws.splits.image_shape:
        data["output"] = output_name(ws.task.output)
    record = card(space, arch, costs=ws.costs_of(arch), scores=scores, data=data)
    listed = {kind: Path(path).name for kind, path in intact.items()}

    def write(kinds: Sequence[str], **more: Any) -> dict[str, Path]:
        return export(
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

    files = write([kind for kind in formats if kind not in (CARD, SCRIPT)])
    if SCRIPT in formats and "onnx" not in failed:
        files |= write([SCRIPT])
    if files.keys() & {"onnx", SCRIPT} and SCRIPT in files.keys() | intact.keys():
        path = files.get(SCRIPT) or folder / intact[SCRIPT]
        try:
            script = checked_script(ws, subnet, path, "test" if tested_on else "validation")
        except (ScriptFailed, OSError, ValueError) as error:
            failed[SCRIPT], script = f"{type(error).__name__}: {error}", None
            path.unlink(missing_ok=True)
            files.pop(SCRIPT, None)
            listed.pop(SCRIPT, None)
    if INT8 in files.keys() | intact.keys():
        int8 = int8_record(ws, subnet, files.get(INT8) or folder / intact[INT8], tested_on, int8)
        named = (int8.test_metrics or {}).items()
        record["scores"] |= {f"test {name} of int8": value for name, value in named}
    listed |= {kind: path.name for kind, path in files.items()}
    if CARD in formats:
        files |= write([CARD], checks=None if script is None else {SCRIPT: script.plain()})
    return Exported(
        {kind: path.relative_to(folder).as_posix() for kind, path in files.items()},
        failed,
        script,
        int8,
    )


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


def formats_of(ws: Workspace) -> list[str]:
    """The formats that the recipe asks for, and the script that comes with ONNX."""
    formats: list[str] = list(ws.recipe.export.formats)
    return [*formats, SCRIPT] if "onnx" in formats and classifies_images(ws) else formats


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


class ExportFailed(RuntimeError):
    """Networks are finished, but could not be written in a format that was asked for."""
