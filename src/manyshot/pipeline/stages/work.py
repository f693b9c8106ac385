"""What is left to do for an architecture that is to be finished, and the record of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self

from accelerate import Accelerator
from torch import Tensor, nn

from manyshot import records
from manyshot.export import CARD, INT8, SCRIPT
from manyshot.nn.pointwise import training_format
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.plain import plain_module
from manyshot.pipeline.stages.alone import fingerprint_of, finished
from manyshot.pipeline.stages.examples import tested
from manyshot.pipeline.stages.exports import Exported, exported, formats_of, normalises
from manyshot.progress import Progress
from manyshot.recipe import FinishSettings
from manyshot.run_folder import FinishLine, MemoryFormat, RunFolder
from manyshot.space import Arch
from manyshot.train import load_weights, save_weights


@dataclass(frozen=True)
class Figures:
    """How a finished network does on the test images, as its line has it; empty without a test."""

    tested_on: str | None = None
    test_score: float | None = None
    test_loss: float | None = None
    test_metrics: dict[str, float] | None = None
    test_images: int | None = None
    test_parts: tuple[float, ...] | None = None

    @classmethod
    def on_record(cls, line: FinishLine | None) -> Self:
        """The figures of a line, or of none."""
        if line is None:
            return cls()
        return cls(**{field.name: getattr(line, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class Work:
    """What is left to do for an architecture, seen before anything is written.

    Attributes:
        ws: the run.
        settings: how it is to be finished.
        folder: the run's.
        arch: the architecture.
        line: its line so far; None if there is none.
        fingerprint: identifies what its weights depend on.
        test: whether it is to be scored on the test images.
        trained: whether its finished weights are there.
        intact: the formats whose files are there, hold what was written, and take the pixels that
            they are to take.
        done: whether all that is asked for is there.
    """

    ws: Workspace
    settings: FinishSettings
    folder: Path
    arch: Arch
    line: FinishLine | None
    fingerprint: str
    test: bool
    trained: bool = False
    intact: frozenset[str] = frozenset()
    done: bool = False

    @classmethod
    def of(
        cls,
        ws: Workspace,
        settings: FinishSettings,
        folder: Path,
        arch: Arch,
        lines: Mapping[str, FinishLine],
        *,
        test: bool,
    ) -> Self:
        """Compares what is asked for with the lines of a log and the files they list."""
        text = ws.net.space.to_text(arch)
        line, fingerprint = lines.get(text), fingerprint_of(ws, settings, text)
        begun = cls(ws, settings, folder, arch, line, fingerprint, test)
        if line is None or line.fingerprint != fingerprint or not (folder / line.weights).exists():
            return begun
        kinds = line.files if line.normalised == normalises(ws) else {}
        intact = frozenset(kind for kind in kinds if line.is_written(folder, kind))
        done = set(formats_of(ws)) <= intact == set(line.files)
        done &= not test or line.tested_on == ws.splits.digests["test"]
        return replace(begun, trained=True, intact=intact, done=done)

    @property
    def text(self) -> str:
        """The architecture as text."""
        return self.ws.net.space.to_text(self.arch)

    @property
    def weights(self) -> Path:
        """Where the finished weights are kept, so that formats can be added."""
        return RunFolder(self.folder).finished_weights(self.text)

    def subnet(self, accelerator: Accelerator, progress: Progress) -> nn.Module:
        """The finished module, with the weights on file if there are any."""
        ws, subnets = self.ws, RunFolder(self.folder).subnets
        if self.trained:
            subnet = plain_module(ws.net, self.arch, ws.device)
            load_weights(self.weights, subnet, self.fingerprint)
            return subnet.eval()
        subnet = finished(ws, accelerator, subnets, self.arch, self.settings, progress)
        if accelerator.is_main_process:
            save_weights(self.weights, subnet, self.fingerprint)
        return subnet

    def taken(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The finished module with the tensors that a worker trained, which it saves."""
        subnet = plain_module(self.ws.net, self.arch, self.ws.device)
        subnet.load_state_dict(state)
        save_weights(self.weights, subnet, self.fingerprint)
        return subnet.eval()

    def recorded(self, subnet: nn.Module, proxy_score: float | None, examples: bool) -> FinishLine:
        """Tests if asked to, exports, and returns the line.

        Args:
            subnet: the finished module.
            proxy_score: of the architecture; None for the one on record, if there is one.
            examples: whether to write what it predicts of the test images.
        """
        ws, before = self.ws, self.line
        figures = self._figures(subnet, examples)
        scores = {f"test {name}": value for name, value in (figures.test_metrics or {}).items()}
        if proxy_score is None and before is not None:
            proxy_score = before.proxy_score
        if proxy_score is not None:
            scores[f"proxy {ws.task_record.metric.name}"] = proxy_score
        formats = dict.fromkeys([*formats_of(ws), *(() if before is None else before.files)])
        with ws.clock.part("exports"):
            written = exported(
                ws,
                subnet,
                self.folder,
                self.arch,
                [*formats],
                scores,
                intact=self._intact_files(),
                tested_on=figures.tested_on,
            )
        sums = {kind: records.sha256_of(self.folder / at) for kind, at in written.files.items()}
        return FinishLine(
            arch=self.text,
            mode=self.settings.mode,
            fingerprint=self.fingerprint,
            memory_format=MemoryFormat(**training_format(subnet, ws.device).to_dict()),
            weights=self.weights.relative_to(self.folder).as_posix(),
            proxy_score=proxy_score,
            **asdict(figures),
            files=dict(written.files),
            sha256=sums,
            normalised=normalises(ws),
            script=written.script,
            int8=written.int8,
            failed=dict(written.failed) or None,
        )

    def _figures(self, subnet: nn.Module, examples: bool) -> Figures:
        """How the network does on the test images: the same weights are tested once on the same."""
        ws, before = self.ws, Figures.on_record(self.line)
        images = ws.splits.digests["test"]
        is_other = before.test_score is not None and not self.trained
        if not is_other and (not self.test or before.tested_on == images):
            return before
        path = RunFolder(self.folder).predictions_file(self.text) if examples else None
        with ws.clock.part("tests"):
            score = tested(ws, subnet, self.text, path)
        parts = tuple(part.value for part in score.parts)
        return Figures(
            tested_on=images,
            test_score=score.value,
            test_loss=score.loss,
            test_metrics=score.finite_metrics,
            test_images=score.images,
            test_parts=parts if all(map(math.isfinite, parts)) else None,  # R2 of one image is not
        )

    def _intact_files(self) -> Exported:
        """The files that stay as they are; a card lists the others, and is written again."""
        line = self.line
        if line is None:
            return Exported()
        return Exported(
            {kind: line.files[kind] for kind in self.intact - {CARD}},
            script=line.script if SCRIPT in self.intact else None,
            int8=line.int8 if INT8 in self.intact else None,
        )


def say_what_is_done_again(works: Sequence[Work]) -> None:
    """Warns of networks that are tested, and of files that are written, though they were before."""
    known = [(work, work.line) for work in works if work.trained and work.line is not None]
    texts = [
        work.text
        for work, line in known
        if work.test and line.tested_on not in (None, work.ws.splits.digests["test"])
    ]
    if texts:
        warnings.warn(
            f"the test images are others than those that {', '.join(texts)} had been tested on: "
            "nothing is trained for that, and what is finished is tested again",
            stacklevel=2,
        )
    for work, line in known:
        _say_what_is_written_again(work, line)


def _say_what_is_written_again(work: Work, line: FinishLine) -> None:
    """Warns of files that hold something else than is on record, or take other inputs than now."""
    for kind, path in line.files.items():
        if (work.folder / path).exists() and not line.is_written(work.folder, kind):
            warnings.warn(
                f"{work.folder / path} is not what is on record of it (it was damaged, "
                "changed, or written by a command that was killed): it is written again",
                stacklevel=3,
            )
    normalised = normalises(work.ws)
    if line.files and line.normalised != normalised:
        takes = "pixels in [0, 1]" if normalised else "images that were normalised"
        warnings.warn(
            f"the files of {work.text} are written again, to take {takes}: export.normalise is "
            f"{str(normalised).lower()} now, and was not when they were written",
            stacklevel=3,
        )
