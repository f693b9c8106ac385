"""What a training run writes down and says: records, a tracker's values, warnings."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from accelerate.utils import gather_object

from manyshot import records
from manyshot.data import Batches
from manyshot.run_folder import (
    SAMPLER_LOG,
    SHRINK_LOG,
    CodeEvidence,
    SamplerLine,
    ShrinkLine,
    TrainLine,
    sampler_line,
)
from manyshot.sharing import SplitsByGradients
from manyshot.train.compute import Compute
from manyshot.train.evidence import EvidenceOfCodes
from manyshot.train.optimisation import Optimisation, Trained

_SHOWN = ("loss", "code_loss", "code_entropy_share")
"""Of what is recorded, what the progress bar has room for."""


class TrainingWarning(UserWarning):
    """Training goes on, but what it learns may be of little use."""


@final
class Journal:
    """The records of a run, one every so many steps, and the losses since the last one.

    Attributes:
        losses: those of the paths trained since the last record.
        code_losses: those of the paths that only codes were trained on.
    """

    def __init__(
        self,
        optimisation: Optimisation,
        batches: Batches,
        steps: int,
        folder: Path | None,
        log: str,
        tracked: bool,
        evidence: EvidenceOfCodes | None = None,
    ) -> None:
        """Begins with no losses.

        Args:
            optimisation: reads the losses, and has the network whose sharing scheme is watched.
            batches: the images, which say how long an epoch is.
            steps: how many steps the whole run has.
            folder: where records go; nothing is written without it.
            log: the name of the records' file, and of the stage for a tracker.
            tracked: whether the accelerator has a tracker.
            evidence: measures whether codes matter.
        """
        self.losses: list[float] = []
        self.code_losses: list[float] = []
        self._optimisation, self._batches, self._steps = optimisation, batches, steps
        self._folder, self._log, self._tracked = folder, log, tracked
        self._evidence = evidence
        self._unread: list[Trained] = []
        self._warned: set[str] = set()
        self._began = (time.monotonic(), 0)

    def begin(self, step: int) -> None:
        """Starts the clock, before step `step`, and warns if the sharing scheme is concerned."""
        self._began = (time.monotonic(), step)
        self.warn(step)

    def take(self, trained: Sequence[Trained]) -> None:
        """Takes what a step trained; losses are read later."""
        self._unread += trained

    def read(self) -> None:
        """Reads the losses taken since the last time.

        Raises:
            NonFiniteLoss: if one is not finite.
        """
        unread, self._unread = self._unread, []
        values = iter(self._optimisation.read(unread))
        for done in unread:
            losses = self.code_losses if done.phase == "code" else self.losses
            losses += [next(values) for _ in done.losses]

    def record(
        self,
        step: int,
        rate: float,
        probed_images: int,
        last: int,
        compute: Compute | None = None,
        *,
        ended: bool = False,
    ) -> str:
        """Writes a record of the steps since the last one.

        Args:
            step: how many steps are done.
            rate: the learning rate of the last one.
            probed_images: how many images were forwarded for probes so far.
            last: how many steps were done at the last record.
            compute: what was spent so far.
            ended: whether the sampler ended training with this step.

        Returns:
            A note for a progress bar.

        Raises:
            NonFiniteLoss: if a loss is not finite.
        """
        self.read()
        watched = {**self._means(), **self.warn(step)}
        began, first = self._began
        speed = (step - first) * self._batches.batch_size / (time.monotonic() - began)
        at = {
            "step": step,
            "epoch": step / len(self._batches),
            "images": step * self._batches.batch_size,
            "images_per_second": round(speed, 1),
        }
        codes = self._seen_of_codes(step, last, ended)
        if probed_images:
            at["probed_images"] = probed_images
        if compute is not None and compute.is_known:
            at["weight_steps"] = compute.weight_steps
            at["macs"] = compute.macs
            for name in ("probe_macs", "split_macs", "evidence_macs"):
                if spent := getattr(compute, name):
                    at[name] = spent
        shown_codes = {} if codes is None else {"codes": codes.plain()}
        shown_codes |= self._splits(step, last)
        self._append(self._log, TrainLine.of({**at, "lr": rate, **watched, **shown_codes}))
        if self._tracked:
            stage = self._log.removesuffix(".jsonl")
            numbers = {**watched, **({} if codes is None else codes.plain()), "lr": rate}
            values = {f"{stage}/{name}": value for name, value in numbers.items()}
            self._optimisation.accelerator.log(values, step=step)
        shown = (f"{n.replace('_', ' ')} {watched[n]:.3f}" for n in _SHOWN if n in watched)
        return f"{', '.join(shown)}, {speed:,.0f} images/s"

    def note(self, step: int, report: dict[str, Any] | None) -> None:
        """Writes what a sampler has to say after a step, if anything.

        Raises:
            NonFiniteLoss: if a loss up to then is not finite.
        """
        if report is not None:
            self.read()
            self._append(SAMPLER_LOG, sampler_line(step, report))

    def shrunk(self, line: ShrinkLine) -> None:
        """Writes that training goes on in another view of the space.

        Raises:
            NonFiniteLoss: if a loss up to then is not finite.
        """
        self.read()
        self._append(SHRINK_LOG, line)

    def warn(self, step: int) -> dict[str, float]:
        """What the sharing scheme watches; each kind of concern it has is a warning, once."""
        net = self._optimisation.net
        watched = net.sharing.watch(net)
        for kind, words in net.sharing.concerns(watched, step, self._steps).items():
            if kind not in self._warned and self._optimisation.accelerator.is_main_process:
                warnings.warn(f"{kind}: {words}", TrainingWarning, stacklevel=2)
            self._warned.add(kind)
        return watched

    def _seen_of_codes(self, step: int, last: int, ended: bool) -> CodeEvidence | None:
        """Whether codes matter, where that is due; at the end a warning if they do not."""
        evidence, optimisation = self._evidence, self._optimisation
        if evidence is None or not optimisation.accelerator.is_main_process:
            return None
        is_due = evidence.is_due(step, last) or (ended and evidence.times > 0)
        seen = evidence.measure() if is_due else None
        is_last = ended or step == self._steps
        if seen is not None and is_last and optimisation.codes and not seen.is_better:
            warnings.warn(
                "codes without effect: with their own codes paths are no better than with the mean "
                f"code ({seen.mean_minus_own:+.4f} ± {2 * seen.mean_minus_own_error:.4f} of loss, "
                "two standard errors, on images held out), so that nothing is known to be gained "
                "by codes: train for longer, let slices differ more (start, warm_frac, lr), or "
                "take one copy",
                TrainingWarning,
                stacklevel=2,
            )
        return seen

    def _splits(self, step: int, last: int) -> dict[str, Any]:
        """What the sharing scheme was split by since the last record, if it was."""
        scheme = self._optimisation.net.sharing
        if not isinstance(scheme, SplitsByGradients) or not scheme.chosen():
            return {}
        if last and scheme.phase(last - 1, self._steps) != "warmup":
            return {}
        splits = [{"decision": d.name, "groups": groups} for d, groups in scheme.chosen()]
        return {"splits": splits}

    def waiting(self) -> list[list[list[float]]]:
        """For each process its losses, and those of codes, that no record holds yet.

        Raises:
            NonFiniteLoss: if one is not finite.
        """
        self.read()
        gathered: list[list[list[float]]] = gather_object([[self.losses, self.code_losses]])
        return gathered

    def resume(
        self,
        step: int,
        waiting: Sequence[Sequence[Sequence[float]]],
        shrunk: int | None = None,
    ) -> None:
        """Goes on after step `step`: records of later ones are dropped, to be made again.

        Args:
            step: how many steps are done.
            waiting: what `waiting` gave then; left out if there were other processes.
            shrunk: how many records of views of the space there are; None if it does not shrink.
        """
        accelerator = self._optimisation.accelerator
        if len(waiting) == accelerator.num_processes:
            self.losses, self.code_losses = map(list, waiting[accelerator.process_index])
        if self._folder is not None and accelerator.is_main_process:
            records.keep(self._folder / self._log, TrainLine, lambda line: line.step <= step)
            sampled = self._folder / SAMPLER_LOG
            records.keep(sampled, SamplerLine, lambda line: line.step <= step)
            if shrunk is not None:
                views = self._folder / SHRINK_LOG
                records.keep(views, ShrinkLine, lambda line: line.stage < shrunk)

    def _means(self) -> dict[str, float]:
        """The mean losses since the last record, over all processes, which are then forgotten."""
        accelerator, means = self._optimisation.accelerator, {}
        for name, losses in (("loss", self.losses), ("code_loss", self.code_losses)):
            if losses:
                mean = torch.tensor(float(np.mean(losses)), device=accelerator.device)
                means[name] = float(accelerator.reduce(mean, "mean"))
                losses.clear()
        return means

    def _append(self, log: str, record: records.Record) -> None:
        if self._folder is not None and self._optimisation.accelerator.is_main_process:
            records.append(self._folder / log, record)
