"""What a training run consists of, and how it is saved, restored and watched."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from manyshot import records
from manyshot.data import Batches
from manyshot.recipe import TrainingSettings
from manyshot.run_folder import (
    SAMPLER_LOG,
    TRAIN_LOG,
    TRAINER,
    SamplerLine,
    TrainLine,
    sampler_line,
)
from manyshot.sharing import Phase
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train.checkpoint import load_checkpoint, save_checkpoint
from manyshot.train.optim import learning_rate, make_optimizer
from manyshot.train.plan import Plan, Probe, Sampler
from manyshot.train.standalone import Standalone
from manyshot.train.update import Turn, held_by, make_safe

_PLANS, _TORCH, _PROBES = 1, 2, 3
"""Named random streams of a run's seed."""
_SHOWN = ("loss", "code_loss", "code_entropy_share")
"""Of what is recorded, what the progress bar has room for."""


class NonFiniteLoss(RuntimeError):
    """The loss or a weight stopped being a number; the last good checkpoint is kept."""


class TrainingWarning(UserWarning):
    """Training goes on, but what it learns may be of little use."""


@dataclass
class Trainer:
    """Everything that moves while `train` runs, saved and restored as one file.

    Attributes:
        net: a supernet; `Standalone` makes a network for the loop of a plain module.
        sampler: says which paths train.
        batches: this process's share of the images.
        settings: optimiser, schedule, length.
        seed: of the run.
        largest: the architecture that teaches in in-place distillation.
        accelerator: see `engine`.
        folder: where `checkpoint` and `log` go; nothing is written without it.
        checkpoint: name of the checkpoint file.
        log: name of the records file.
        fingerprint: of everything the run depends on; a checkpoint of another one is refused.
        held_out: makes batches of held-out images for probes, from their number and a seed.
        step: optimiser steps done.
        weight_step: those of them that moved weights.
        optimizer: of all parameters of `net` but what makes its codes.
        code_optimizer: of what makes the codes, if that learns.
        sampler_optimizer: of what makes policies, if the sampler has such.
        contiguous: whether the network must not see images in channels last (see
            `manyshot.nn.pointwise`); its weights are contiguous then.
        saved: weights that a probe asked to keep, by name.
        probed_images: how many images were forwarded for probes.
        losses: of the paths trained since the last record.
        code_losses: of those that only codes were trained on.
    """

    net: Supernet | Standalone
    sampler: Sampler
    batches: Batches
    settings: TrainingSettings
    seed: int
    largest: Arch
    accelerator: Accelerator
    folder: Path | None = None
    checkpoint: str = TRAINER
    log: str = TRAIN_LOG
    fingerprint: str = ""
    held_out: Callable[[int, int], Iterable[tuple[Tensor, Tensor]]] | None = None
    step: int = 0
    weight_step: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    code_optimizer: torch.optim.Optimizer | None = field(init=False)
    sampler_optimizer: torch.optim.Optimizer | None = field(init=False)
    contiguous: bool = field(init=False)
    saved: dict[str, Tensor] = field(init=False, default_factory=dict)
    probed_images: int = 0
    losses: list[float] = field(init=False, default_factory=list)
    code_losses: list[float] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.sampler.probes and self.held_out is None:
            raise ValueError(
                f"{type(self.sampler).__name__} learns from losses on held-out images, and there "
                "are none: give Trainer(held_out=...), or sampler.held_out in a recipe"
            )
        settings, sharing = self.settings, self.net.sharing
        self.code_optimizer = sharing.code_optimizer(settings.lr, settings.momentum)
        self.optimizer = make_optimizer(self.net, settings, held_by(self.code_optimizer))
        self.sampler_optimizer = self.sampler.optimizer()
        for group in () if self.code_optimizer is None else self.code_optimizer.param_groups:
            group["scale"] = group["lr"] / settings.lr
        self.contiguous = make_safe(self.net, self.accelerator.device)
        self._unchecked: list[tuple[int, Arch, Tensor, bool]] = []
        self._voiced: set[str] = set()
        self._began = (time.monotonic(), self.step)

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self.settings.epochs * len(self.batches)

    def remaining(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the steps still to do."""
        self._began = (time.monotonic(), self.step)
        first, start = divmod(self.step, len(self.batches))
        for epoch in range(first, self.settings.epochs):
            yield from self.batches.epoch(epoch, start if epoch == first else 0)

    def phase(self) -> Phase:
        """What the current step moves."""
        return self.net.sharing.phase(self.step, self.steps)

    @functools.cached_property
    def weight_steps(self) -> int:
        """How many of all steps move weights."""
        phases = (self.net.sharing.phase(step, self.steps) for step in range(self.steps))
        return sum(phase != "code" for phase in phases)

    def plan(self, *chunk: int) -> Plan:
        """The paths of the current step, or of a chunk of it; the same in all processes."""
        stream = np.random.default_rng((self.seed, _PLANS, self.step, *chunk))
        return self.sampler.plan(stream, self.step)

    def turns(self, phase: Phase, images: Tensor, labels: Tensor) -> Iterator[Turn]:
        """The plans of the current step, each with its images: in a code step one per chunk."""
        chunks = self.net.sharing.chunks if phase == "code" else 1
        parts = list(zip(images.chunk(chunks), labels.chunk(chunks), strict=True))
        for i, (own_images, own_labels) in enumerate(parts):
            plan = self.plan(i).by_indices() if phase == "code" else self.plan()
            yield Turn(plan, own_images, own_labels, len(own_labels) / len(labels))

    def moving(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """The optimisers that a step uses."""
        own = [] if phase == "code" else [self.optimizer]
        codes = self.code_optimizer if phase in ("code", "joint") else None
        return own if codes is None else [*own, codes]

    def probe(self) -> Probe | None:
        """What the sampler wants to know after the step that moved the weights just now."""
        stream = np.random.default_rng((self.seed, _PROBES, self.step))
        return self.sampler.probe(stream, self.weight_step, self.weight_steps)

    def probe_seed(self) -> int:
        """Decides which held-out images the probe of the current step sees."""
        parts = (_PROBES, self.seed, self.step)
        return int(np.random.SeedSequence(parts).generate_state(1)[0])

    def torch_seed(self) -> int:
        """Seeds the random numbers of the current step, such as dropout's, in this process."""
        parts = (_TORCH, self.seed, self.step, self.accelerator.process_index)
        return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)

    def rate(self) -> float:
        """The learning rate of the current step."""
        return learning_rate(self.settings, self.step, self.steps, len(self.batches))

    def note(self) -> None:
        """Writes down what the sampler has to say after a step."""
        report = self.sampler.report()
        if report is not None and self.folder is not None and self.accelerator.is_main_process:
            records.append(self.folder / SAMPLER_LOG, sampler_line(self.step, report))

    def due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the end, is to be done now."""
        return self.step % every == 0 or self.step == self.steps

    def watch(self, plan: Plan, losses: list[Tensor], phase: Phase) -> None:
        """Takes the losses of a plan; on the CPU, where that costs nothing, checks them at once."""
        self._unchecked += [
            (self.step, path.arch, loss, phase == "code")
            for path, loss in zip(plan.paths, losses, strict=True)
        ]
        if self.accelerator.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Reads the losses taken since the last check.

        Raises:
            NonFiniteLoss: if one is not finite.
        """
        if not self._unchecked:
            return
        values = torch.stack([loss for _, _, loss, _ in self._unchecked]).tolist()
        for (step, arch, _, of_code), value in zip(self._unchecked, values, strict=True):
            if not math.isfinite(value):
                raise self.diverged(step, f"the loss of architecture {arch} is {value}")
            (self.code_losses if of_code else self.losses).append(value)
        self._unchecked.clear()

    def record(self, rate: float) -> str:
        """Writes a record of the steps since the last one, and returns a note to show.

        Raises:
            NonFiniteLoss: if a loss is not finite.
        """
        self.check()
        means = {}
        for name, losses in (("loss", self.losses), ("code_loss", self.code_losses)):
            if losses:
                own = torch.tensor(float(np.mean(losses)), device=self.accelerator.device)
                means[name] = float(self.accelerator.reduce(own, "mean"))
                losses.clear()
        watched = {**means, **self.voice()}
        began, first = self._began
        speed = (self.step - first) * self.batches.batch_size / (time.monotonic() - began)
        if self.folder is not None and self.accelerator.is_main_process:
            at = {
                "step": self.step,
                "epoch": self.step / len(self.batches),
                "images": self.step * self.batches.batch_size,
                "images_per_second": round(speed, 1),
            }
            if self.probed_images:
                at["probed_images"] = self.probed_images
            records.append(self.folder / self.log, TrainLine.of({**at, "lr": rate, **watched}))
        if self.settings.tracker is not None:
            stage = self.log.removesuffix(".jsonl")
            values = {f"{stage}/{name}": value for name, value in {**watched, "lr": rate}.items()}
            self.accelerator.log(values, step=self.step)
        shown = (f"{n.replace('_', ' ')} {watched[n]:.3f}" for n in _SHOWN if n in watched)
        return f"{', '.join(shown)}, {speed:,.0f} images/s"

    def voice(self) -> dict[str, float]:
        """What the sharing scheme watches; each kind of concern it has is a warning, once."""
        watched = self.net.sharing.watch(self.net)
        for kind, words in self.net.sharing.concerns(watched, self.step, self.steps).items():
            if kind not in self._voiced and self.accelerator.is_main_process:
                warnings.warn(f"{kind}: {words}", TrainingWarning, stacklevel=2)
            self._voiced.add(kind)
        return watched

    def save(self) -> None:
        """Writes the checkpoint, unless a loss or a weight is not finite.

        Raises:
            NonFiniteLoss: then; the previous checkpoint stays.
        """
        self.check()
        weights = self.net.state_dict()
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise self.diverged(self.step - 1, f"it left weight {name!r} not finite")
        if not all(p.isfinite().all() for p in held_by(self.sampler_optimizer)):
            raise self.diverged(self.step - 1, "it left the sampler's parameters not finite")
        losses = gather_object([[self.losses, self.code_losses]])
        if self.folder is None or not self.accelerator.is_main_process:
            return
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "losses": losses,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "code_optimizer": self.code_optimizer and self.code_optimizer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "sampler_optimizer": self.sampler_optimizer and self.sampler_optimizer.state_dict(),
            "saved": self.saved,
            "probed_images": self.probed_images,
            "weight_step": self.weight_step,
        }
        save_checkpoint(self.folder / self.checkpoint, state)

    def restore(self) -> None:
        """Goes on from the checkpoint, if there is one.

        Records of steps after it are dropped: they will be made again, the same.

        Raises:
            CheckpointError: if it is damaged, or of another run.
        """
        if self.folder is None:
            return
        path = self.folder / self.checkpoint
        if path.exists():
            state = load_checkpoint(path, self.fingerprint)
            self.net.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.code_optimizer is not None:
                self.code_optimizer.load_state_dict(state["code_optimizer"])
            self.sampler.load_state_dict(state["sampler"])
            if self.sampler_optimizer is not None:
                self.sampler_optimizer.load_state_dict(state["sampler_optimizer"])
            own = dict(self.net.state_dict())
            self.saved = {name: tensor.to(own[name]) for name, tensor in state["saved"].items()}
            self.probed_images = state["probed_images"]
            self.step, self.weight_step = state["step"], state["weight_step"]
            if len(state["losses"]) == self.accelerator.num_processes:
                waiting = state["losses"][self.accelerator.process_index]
                self.losses, self.code_losses = map(list, waiting)
        if self.accelerator.is_main_process:
            records.keep(self.folder / self.log, TrainLine, lambda r: r.step <= self.step)
            records.keep(self.folder / SAMPLER_LOG, SamplerLine, lambda r: r.step <= self.step)

    def diverged(self, step: int, what: str) -> NonFiniteLoss:
        """The error that says what step `step` (from 0) did, and what to do."""
        path = None if self.folder is None else self.folder / self.checkpoint
        kept = "no checkpoint was saved before"
        if path is not None and path.exists():
            kept = f"the checkpoint {path} from before is kept"
        rate = learning_rate(self.settings, step, self.steps, len(self.batches))
        own = "" if self.code_optimizer is None else "; or lower sharing.options.lr"
        return NonFiniteLoss(
            f"step {step}: {what} (learning rate {rate:.3g}); {kept}. Lower train.lr, set "
            f"train.clip_norm, or add train.warmup_epochs{own}"
        )
