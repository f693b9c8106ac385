"""Training a supernet on the paths that a search visits (Supernet Shifting)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from manyshot.data import Batch, Batches
from manyshot.nn.modes import modes_kept
from manyshot.recipe import ShiftingSettings
from manyshot.sharing import Phase
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import DEFAULT, Task
from manyshot.train.average import Average
from manyshot.train.compute import Compute
from manyshot.train.optim import lowered, make_code_optimizer, make_optimizer
from manyshot.train.optimisation import (
    NonFiniteLoss,
    Optimisation,
    Trained,
    Turn,
    held_by,
    said_of_data,
)
from manyshot.train.plan import Plan, PlannedPath

REMEDY = "lower shifting.lr, or set shifting.clip_norm; what the generations before left is kept"
"""What an error says to do if shifting diverges."""

Visit = tuple[Arch, ...]
"""One candidate's part of a generation: the path that each of its mini-batches trains."""
PathBatch = tuple[Arch, Any, Any]
"""A path, and the inputs and the targets that it is trained on."""
Span = tuple[float, float]
"""From which share of the whole shifting to which: where on the schedule of rates steps are."""
BEGINNING: Span = (0.0, 0.0)
"""The rate stays at its highest."""


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


class Shifter:
    """What moves while a supernet shifts. There is one optimiser for all paths.

    Reference: Supernet Shifting (Zhang et al. 2024, arXiv:2403.11380). With learnt codes (K-shot)
    every step is a joint one, of weights and codes; that, moving the classifier alone or at another
    rate, rates that go down and the average are ours. The rate is constant in the public code.

    Attributes:
        net: the supernet.
        batches: this process's share of the images.
        settings: how it moves.
        remedy: what an error says to do if training diverges.
        optimisation: the network with its optimisers; takes the steps.
        step: how many optimiser steps are done.
        drawn: how many mini-batches were trained on.
        rates: the sum of the rates of all steps.
        compute: counts what is spent.
        average: the moving average of the weights; None without `settings.average`.
        ended: whether the average is in the place of the weights.
    """

    def __init__(
        self,
        net: Supernet,
        batches: Batches,
        settings: ShiftingSettings,
        seed: int,
        accelerator: Accelerator,
        first_epoch: int = 0,
        trained: tuple[float, float] = (0.1, 0.9),
        head: Sequence[nn.Parameter] = (),
        task: Task = DEFAULT,
        remedy: str = REMEDY,
        compute: Compute | None = None,
        rates: Callable[[float], float] | None = None,
    ) -> None:
        """Makes the optimisers.

        Args:
            net: the supernet.
            batches: this process's share of the images.
            settings: how it moves.
            seed: the seed of the run.
            accelerator: see `manyshot.train.engine`.
            first_epoch: the first epoch of `batches` to use, so that the images come in other
                orders than in training.
            trained: learning rate and momentum of the training before; codes keep their rate
                relative to that of the weights.
            head: the classifier's parameters; needed if they move alone, or at another rate.
            task: what is learnt.
            remedy: what an error says to do if training diverges.
            compute: counts what is spent; by default steps alone.
            rates: the learning rate of weights after a share of the whole; by default the settings
                say it.

        Raises:
            ValueError: if the classifier moves alone, or at another rate, and there is no `head`.
        """
        if settings.needs_classifier and not head:
            raise ValueError("a classifier that moves alone, or at its own rate, needs head=")
        self.net, self.batches, self.settings, self.remedy = net, batches, settings, remedy
        self.step, self.drawn, self.rates, self.ended = 0, 0, 0.0, False
        self.compute = compute or Compute(None, net.space.largest)
        self._rates = rates
        codes = make_code_optimizer(net.sharing, *trained)
        fixed = held_by(codes)
        if settings.freeze_body:
            moving = {id(parameter) for parameter in head}
            fixed = [p for p in net.parameters() if id(p) not in moving]
        scaled = () if settings.head_lr is None else head
        scale = (settings.head_lr or settings.lr) / settings.lr
        self.optimisation = Optimisation(
            net,
            settings,
            accelerator,
            task=task,
            weights=make_optimizer(net, settings, fixed, scaled, scale),
            codes=codes if settings.codes and not settings.freeze_body else None,
            largest=net.space.largest,
            stream=(seed, "shifting_step", first_epoch),
            diverged=self._diverged,
        )
        self.average = None if settings.average is None else Average(net, settings.average)
        self._first_batch = first_epoch * len(batches)
        self._took: dict[int, tuple[int, int, float]] = {}
        self._stream = self._images()

    @property
    def phase(self) -> Phase:
        """What a step moves: weights and codes, or weights at fixed codes."""
        return "weights" if self.optimisation.codes is None else "joint"

    @property
    def version(self) -> int:
        """Of the weights: how many optimiser steps made them, and one more for their average."""
        return self.step + self.ended

    def shift(self, steps: Sequence[Sequence[Arch]], span: Span = BEGINNING) -> float:
        """Takes optimiser steps, each on the mean gradient of its paths; returns the mean loss.

        The network is in train mode meanwhile; parameters that do not move need no gradient.

        Args:
            steps: the paths of each step.
            span: where on the schedule of rates they are, evenly spaced.

        Raises:
            NonFiniteLoss: if a loss or a weight is not finite.
        """
        trained: list[Trained] = []
        self._took.clear()
        with modes_kept(self.net), self._only_moving_ones(), torch.random.fork_rng():
            self.net.train()
            for i, archs in enumerate(steps):
                share = span[0] + (span[1] - span[0]) * i / len(steps)
                first = self._first_batch + self.drawn
                self._took[self.step] = (first, len(archs), self.rate(share))
                parts = ((arch, *next(self._stream)) for arch in archs)
                trained += self.take(parts, len(archs), share)
                self.drawn += len(archs)
        losses = self.optimisation.read(trained, averaged=True)
        self.optimisation.check_weights(self.step - 1)
        return float(np.mean(losses)) if losses else math.nan

    def take(self, parts: Iterable[PathBatch], count: int, share: float = 0.0) -> Sequence[Trained]:
        """One optimiser step on the mean gradient of `count` parts; returns them with their losses.

        Torch's random state is seeded, and all parameters may get gradients: `shift` restores the
        one and leaves out those that do not move.

        Args:
            parts: paths with their mini-batches.
            count: how many.
            share: of the whole shifting, how much is done: where on the schedule the rate is.
        """
        turns = (
            Turn(Plan((PlannedPath(arch),)), images, targets, 1 / count)
            for arch, images, targets in parts
        )
        rate = self.rate(share)
        trained = self.optimisation.step(self.step, turns, self.phase, rate)
        self.compute.take(trained, backward=not self.settings.freeze_body)
        self.step += 1
        self.rates += rate
        if self.average is not None:
            self.average.update(self.net)
        return trained

    def rate(self, share: float) -> float:
        """The learning rate of weights after a share of the whole shifting."""
        if self._rates is not None:
            return self._rates(share)
        return self.settings.lr * lowered(self.settings.schedule, share)

    def end(self) -> None:
        """Puts the moving average, if there is one, in place of the weights; it moves no more."""
        if self.average is not None and not self.ended:
            self.average.put_into(self.net, self.optimisation.accelerator)
            self.ended = True

    def state_dict(self) -> dict[str, Any]:
        """The state of everything that moves."""
        return {
            "step": self.step,
            "drawn": self.drawn,
            "rates": self.rates,
            "compute": self.compute.state_dict(),
            "average": self.average and self.average.state_dict(),
            **self.optimisation.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.step, self.drawn, self.rates = state["step"], state["drawn"], state["rates"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.compute.load_state_dict(state["compute"])
        self.optimisation.load_state_dict(state)
        self._stream = self._images()

    def _images(self) -> Iterator[Batch]:
        """Mini-batches without end, from those that were drawn already."""
        return self.batches.from_step(self._first_batch + self.drawn)

    @contextlib.contextmanager
    def _only_moving_ones(self) -> Iterator[None]:
        """Only what moves needs a gradient inside; all as before afterwards."""
        moving = {id(p) for o in self.optimisation.moving(self.phase) for p in held_by(o)}
        fixed = [p for p in self.net.parameters() if id(p) not in moving and p.requires_grad]
        for parameter in fixed:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in fixed:
                parameter.requires_grad_(True)

    def _diverged(self, step: int, what: str, data: Sequence[str] | None = None) -> NonFiniteLoss:
        first, count, rate = self._took.get(step, (0, 0, self.settings.lr))
        if data is None:
            seen = range(first, first + count)
            data = list(dict.fromkeys(text for at in seen for text in self.batches.not_finite(at)))
        if data:
            return said_of_data(f"shifting, step {step}: {what}", data)
        return NonFiniteLoss(
            f"shifting, step {step}: {what} (learning rate {rate:.3g}): {self.remedy}"
        )
