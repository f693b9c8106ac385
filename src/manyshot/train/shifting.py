"""Training a supernet on the paths that a search visits (Supernet Shifting)."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from manyshot.data import Batches
from manyshot.recipe import ShiftingSettings
from manyshot.sharing import Phase
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.train.optim import make_optimizer
from manyshot.train.plan import Plan, PlannedPath
from manyshot.train.trainer import NonFiniteLoss
from manyshot.train.update import Turn, gradients, held_by, make_safe, move

_TORCH = 4
"""Names a random stream of a run's seed, beside those of training."""

Visit = tuple[Arch, ...]
"""One candidate's part of a generation: the path that each of its mini-batches trains."""
Part = tuple[Arch, Tensor, Tensor]
"""A path, and the images (B, C, H, W) and labels (B,) that it is trained on."""


def schedule(update: str, visits: Sequence[Visit]) -> list[list[Arch]]:
    """The optimiser steps of a generation, each as the paths whose mean gradient it follows.

    Every path has a mini-batch of its own. With P visits of S mini-batches: `per_step`, as the
    paper's public code does, P * S steps of one; `per_candidate` P steps of S; `per_generation`
    S steps of P, for S = 1 figure 2 of the paper ("at the end of each iteration") read literally.

    Raises:
        ValueError: if visits are of unequal length, or `update` is none of these.
    """
    if len({len(visit) for visit in visits}) > 1:
        raise ValueError(f"visits differ in length: {sorted({len(visit) for visit in visits})}")
    if update == "per_step":
        return [[arch] for visit in visits for arch in visit]
    if update == "per_candidate":
        return [list(visit) for visit in visits]
    if update == "per_generation":
        return [list(paths) for paths in zip(*visits, strict=True)]
    raise ValueError(f"update must be per_step, per_candidate or per_generation, got {update!r}")


@dataclass
class Shifter:
    """What moves while a supernet shifts. The rate is constant, the optimiser one for all paths.

    Supernet Shifting (Zhang et al. 2024, arXiv:2403.11380). With learnt codes (K-shot) every step
    is a joint one, of weights and codes; that, and moving the classifier alone or at a rate of its
    own, is ours.

    Attributes:
        net: the supernet.
        batches: this process's share of the images.
        settings: how it moves.
        seed: of the run.
        accelerator: see `manyshot.train.engine`.
        first_epoch: of `batches`, so that the images come in other orders than in training.
        trained: learning rate and momentum of the training before; codes keep their rate relative
            to that of the weights.
        head: the classifier's parameters; needed if they have a rate of their own or move alone.
        remedy: what an error says to do if training diverges.
        step: optimiser steps done: the version of the weights.
        drawn: mini-batches trained on.
        optimizer: of what moves but codes.
        code_optimizer: of codes, if they move.
    """

    net: Supernet
    batches: Batches
    settings: ShiftingSettings
    seed: int
    accelerator: Accelerator
    first_epoch: int = 0
    trained: tuple[float, float] = (0.1, 0.9)
    head: Sequence[nn.Parameter] = ()
    remedy: str = (
        "lower shifting.lr, or set shifting.clip_norm; what the generations before left is kept"
    )
    step: int = 0
    drawn: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    code_optimizer: torch.optim.Optimizer | None = field(init=False, default=None)
    sampler_optimizer: torch.optim.Optimizer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        settings, sharing = self.settings, self.net.sharing
        if settings.needs_classifier and not self.head:
            raise ValueError("a classifier that moves alone, or at its own rate, needs head=")
        codes = sharing.code_optimizer(*self.trained)
        apart = held_by(codes)
        if settings.freeze_body:
            own = {id(parameter) for parameter in self.head}
            apart = [p for p in self.net.parameters() if id(p) not in own]
        elif settings.codes:
            self.code_optimizer = codes
        scaled = () if settings.head_lr is None else self.head
        scale = (settings.head_lr or settings.lr) / settings.lr
        self.optimizer = make_optimizer(self.net, settings, apart, scaled, scale)
        for group in () if self.code_optimizer is None else self.code_optimizer.param_groups:
            group["scale"] = group["lr"] / self.trained[0]
        self.largest = self.net.space.largest
        self.contiguous = make_safe(self.net, self.accelerator.device)
        self._wrapped: nn.Module | None = None
        self._stream = self._images()
        self._losses: list[tuple[int, Arch, Tensor]] = []

    @property
    def phase(self) -> Phase:
        """What a step moves: weights and codes, or weights at fixed codes."""
        return "weights" if self.code_optimizer is None else "joint"

    def moving(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """The optimisers that a step uses."""
        return [self.optimizer, *([] if self.code_optimizer is None else [self.code_optimizer])]

    def shift(self, steps: Sequence[Sequence[Arch]]) -> float:
        """Takes optimiser steps, each on the mean gradient of its paths; returns the mean loss.

        The network is in train mode meanwhile; parameters that do not move need no gradient.

        Raises:
            NonFiniteLoss: if a loss is not finite.
        """
        modes = [(module, module.training) for module in self.net.modules()]
        try:
            self.net.train()
            with self._only_moving_ones(), torch.random.fork_rng():
                for archs in steps:
                    self.take(((arch, *next(self._stream)) for arch in archs), len(archs))
                    self.drawn += len(archs)
        finally:
            for optimizer in self.moving(self.phase):
                optimizer.zero_grad(set_to_none=True)  # of a step that was not finished
            for module, training in modes:
                module.training = training
        return self._mean_loss()

    def take(self, parts: Iterable[Part], count: int) -> None:
        """One optimiser step on the mean gradient of `count` parts, each on its own images.

        Torch's random state is seeded, and all parameters may get gradients: `shift` restores the
        one and leaves out those that do not move.
        """
        if self._wrapped is None:
            self._wrapped = self.accelerator.prepare_model(self.net)
        rank = self.accelerator.process_index
        stream = (_TORCH, self.seed, self.first_epoch, self.step, rank)
        state = np.random.SeedSequence(stream).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(state >> 1))
        turns = (
            Turn(Plan((PlannedPath(arch),)), images, labels, 1 / count)
            for arch, images, labels in parts
        )
        gradients(self, self._wrapped, self.phase, turns)
        move(self, self.phase, self.settings.lr)
        self.step += 1

    def watch(self, plan: Plan, losses: list[Tensor], phase: Phase) -> None:
        """Takes the losses of a plan."""
        self._losses += [
            (self.step, path.arch, loss) for path, loss in zip(plan.paths, losses, strict=True)
        ]

    def forget(self) -> None:
        """Clears what the optimisers remember, such as momentum."""
        for optimizer in self.moving(self.phase):
            optimizer.state.clear()

    def state_dict(self) -> dict[str, Any]:
        """Everything that moves."""
        return {
            "step": self.step,
            "drawn": self.drawn,
            "weights": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "code_optimizer": self.code_optimizer and self.code_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.step, self.drawn = state["step"], state["drawn"]
        self.net.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.code_optimizer is not None:
            self.code_optimizer.load_state_dict(state["code_optimizer"])
        self._stream = self._images()

    def _images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Mini-batches without end, from those that were drawn already."""
        first, start = divmod(self.drawn, len(self.batches))
        for epoch in itertools.count(first):
            yield from self.batches.epoch(self.first_epoch + epoch, start if epoch == first else 0)

    @contextlib.contextmanager
    def _only_moving_ones(self) -> Iterator[None]:
        """Only what moves needs a gradient inside; all as before afterwards."""
        moving = {id(p) for o in self.moving(self.phase) for p in held_by(o)}
        fixed = [p for p in self.net.parameters() if id(p) not in moving and p.requires_grad]
        for parameter in fixed:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in fixed:
                parameter.requires_grad_(True)

    def _mean_loss(self) -> float:
        taken, self._losses = self._losses, []
        values: list[float] = []
        if taken:  # a loss that is not finite in one process is so in all
            losses = torch.stack([loss for _, _, loss in taken])
            values = self.accelerator.reduce(losses, "mean").tolist()
        for (step, arch, _), value in zip(taken, values, strict=True):
            if not math.isfinite(value):
                raise self._diverged(step, f"the loss of architecture {arch} is {value}")
        for name, weight in self.net.named_parameters():
            if not weight.isfinite().all():
                raise self._diverged(self.step - 1, f"it left weight {name!r} not finite")
        return float(np.mean(values)) if values else math.nan

    def _diverged(self, step: int, what: str) -> NonFiniteLoss:
        return NonFiniteLoss(
            f"shifting, step {step}: {what} (learning rate {self.settings.lr:.3g}): {self.remedy}"
        )
