"""One optimiser step, from images to moved weights, for all that trains a network.

The training loop (`Trainer`) and training between the proposals of a search (`Shifter`) say which
paths train on which images, and when; `Optimisation` does the rest, the same for both.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _pytree as pytree

from manyshot.nn.drop_path import Dropping
from manyshot.nn.inputs import Inputs, as_call, batch_of, together
from manyshot.nn.modes import gpu_products
from manyshot.nn.pointwise import training_format
from manyshot.recipe import OptimiserSettings
from manyshot.seeding import Stream, numpy_rng, seed_torch, stream
from manyshot.sharing import OneShot, Phase, PlacesChannels
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import DEFAULT, Task
from manyshot.tasks.task import loss_function
from manyshot.train.distilling import Distiller
from manyshot.train.exchange import average_gradients, is_sharded, take_from_first
from manyshot.train.gradients import (
    MEAN,
    Beside,
    Forward,
    Placing,
    accumulate,
    backward_into,
)
from manyshot.train.langevin import heat
from manyshot.train.plan import Plan, Sampler, learning_from_norms
from manyshot.train.sharding import check_paths, optimizer_sharded, part_of, weights_sharded


class NonFiniteLoss(RuntimeError):
    """The loss or a weight stopped being a number; the last good checkpoint is kept."""


class Diverged(Protocol):
    """Makes the error for what an optimiser step did: it knows the way out."""

    def __call__(self, step: int, what: str, data: Sequence[str] | None = None) -> NonFiniteLoss:
        """Makes the error, which blames data that are not finite, if there are any.

        Args:
            step: the number of the step, from 0.
            what: what it did.
            data: what of the data that it is of is not finite; None for those that it trained on.
        """
        ...


def said_of_data(what: str, data: Sequence[str], kept: str = "") -> NonFiniteLoss:
    """The error for what came of data that are not finite.

    Args:
        what: what they did, and in which step.
        data: which they are.
        kept: what is left of the training before.
    """
    before = f"; {kept}" if kept else ""
    return NonFiniteLoss(
        f"{what}, and {' and '.join(data)} are not all finite{before}. Mend them "
        "(torch.nan_to_num), or leave such samples out by torch.utils.data.Subset"
    )


class Standalone(nn.Module):
    """A plain module as a network that takes, and ignores, an architecture."""

    sharing = OneShot()

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Inputs, arch: Arch, *, phase: Phase | None = None) -> Any:
        """The module's output."""
        args, kwargs = as_call(images)
        return self.module(*args, **kwargs)


Network: TypeAlias = Supernet | Standalone
"""What can be trained."""


@dataclass(frozen=True)
class Turn:
    """A plan and the images that it is trained on.

    Attributes:
        plan: the paths.
        images: (B, C, H, W), or other inputs.
        targets: what the network should give.
        share: the part of the step's images that these are.
    """

    plan: Plan
    images: Inputs
    targets: Any
    share: float


@dataclass(frozen=True)
class Trained:
    """A plan after the step that it was part of.

    Attributes:
        step: the number of the step.
        phase: what the step moved.
        plan: the paths.
        losses: the detached loss of each path, still on the device.
        images: how many samples it was trained on in this process.
    """

    step: int
    phase: Phase
    plan: Plan
    losses: Sequence[Tensor]
    images: int


def make_safe(net: nn.Module, device: torch.device) -> bool:
    """Makes `net` contiguous, in place, if it may not train in channels last; returns whether."""
    contiguous = not training_format(net, device).is_channels_last
    if contiguous:
        net.to(memory_format=torch.contiguous_format)
    return contiguous


def as_trained(images: Inputs, contiguous: bool) -> Inputs:
    """The images, in the one format that a network which must be contiguous may see."""
    if not contiguous:
        return images
    as_they_must_be = functools.partial(torch.Tensor.to, memory_format=torch.contiguous_format)
    return pytree.tree_map_only(Tensor, as_they_must_be, images)


def are_finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Whether each of some tensors is finite all over, read in one transfer from each device."""
    finite = together([t.detach().isfinite().all() for t in tensors], torch.device("cpu"))
    return torch.stack(finite).tolist() if finite else []


def held_by(optimizer: torch.optim.Optimizer | None) -> list[nn.Parameter]:
    """The parameters that an optimiser moves."""
    groups = [] if optimizer is None else optimizer.param_groups
    return [parameter for group in groups for parameter in group["params"]]


def norm_of_gradients(parameters: Sequence[nn.Parameter], device: torch.device) -> Tensor:
    """The Euclidean norm of all gradients that there are, shape (), without waiting for it."""
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(grads) if grads else torch.zeros((), device=device)


@final
class Optimisation:
    """A network, what moves it, and the steps that do.

    Attributes:
        net: the network.
        settings: label smoothing, the largest norm of the gradient, and the precision.
        accelerator: see `manyshot.train.engine`.
        task: what is learnt.
        weights: the optimiser of weights.
        codes: the optimiser of what makes the codes of a sharing scheme, if they move.
        sampler: the optimiser of what makes policies, if the sampler has one.
        norm: of the gradient of the weights in the last step that moved them, before it was
            clipped, shape (), on the device; None unless the sampler `LearnsFromNorms`.
        contiguous: whether the network must not see images in channels last (see
            `manyshot.nn.pointwise`); its weights are contiguous then.
        diverged: makes the error for what a step did.
    """

    def __init__(
        self,
        net: Network,
        settings: OptimiserSettings,
        accelerator: Accelerator,
        *,
        task: Task = DEFAULT,
        weights: torch.optim.Optimizer,
        codes: torch.optim.Optimizer | None = None,
        sampler: Sampler | None = None,
        schedule: LRScheduler | None = None,
        largest: Arch,
        original: nn.Module | None = None,
        distiller: Distiller = MEAN,
        beside: Beside | None = None,
        drop_path: float | None = None,
        drops: Sequence[Arch] | None = None,
        stream: Stream,
        diverged: Diverged,
    ) -> None:
        """Makes `net` contiguous if it may not train in channels last.

        Args:
            net: the network.
            settings: label smoothing, the largest norm of the gradient, and the precision.
            accelerator: see `manyshot.train.engine`.
            task: what is learnt.
            weights: an optimiser of what is not a code, at a rate that each step is given; a
                parameter group may have a `scale`, a factor of the rate.
            codes: an optimiser of what makes the codes; None if they stay as they are.
            sampler: one whose optimiser, if it has any, moves in each step of weights too.
            schedule: sets the rates of `weights` after each of its steps; by default they are those
                that each step is handed.
            largest: the architecture that teaches in in-place distillation.
            original: the network that teaches paths of this target; it stays as it is.
            distiller: says how these learn from it.
            beside: adds to the losses of paths, in steps that are not of codes alone.
            drop_path: at which rate the deepest residual branch is left out, if any is.
            drops: the architectures that branches are left out of; by default all.
            stream: names the stream of torch's random numbers; each step and each process has a
                part of it.
            diverged: makes the error for what a step did.

        Raises:
            ValueError: if targets are to be smoothed, and the task does not say how, or branches
                are to be left out of a network that has none.
        """
        loss_function(task, settings.label_smoothing)
        self.net, self.settings, self.accelerator, self.task = net, settings, accelerator, task
        self.weights, self.codes, self.schedule = weights, codes, schedule
        self.sampler = None if sampler is None else sampler.optimizer()
        self.contiguous = make_safe(net, accelerator.device)
        self.norm: Tensor | None = None
        self._measures = sampler is not None and learning_from_norms(sampler) is not None
        self._sampler_clip = None if sampler is None else sampler.clip_norm
        self.diverged, self._largest, self._stream = diverged, largest, stream
        self._original, self._distiller, self._beside = original, distiller, beside
        self._dropping = None if drop_path is None else Dropping(net, drop_path)
        self._drops = drops
        self._places = net.sharing if isinstance(net.sharing, PlacesChannels) else None
        self._begun = False
        self._sharded = any(is_sharded(parameter) for parameter in net.parameters())

    def teach_by(self, largest: Arch) -> None:
        """Takes another architecture as that which teaches in in-place distillation."""
        self._largest = largest
        self._drops = None if self._drops is None else [largest]

    def step(
        self, number: int, turns: Iterable[Turn], phase: Phase, rate: float
    ) -> Sequence[Trained]:
        """Moves what `phase` names on the summed gradient of the turns, then drops the gradients.

        Processes that train together begin with the weights of the first, and have its buffers in
        each step. Torch's random state is set from the stream, the step's number and the process.
        Losses are checked before anything moves where that costs nothing; else call `read`.

        Args:
            number: the number of the step, from 0.
            turns: plans with their images; one is held at a time.
            phase: what moves: weights, codes, or both. A sampler's optimiser moves with weights.
            rate: the learning rate of weights; that of codes is relative to it.

        Returns:
            The plans with the losses of their paths, in the order of the turns.

        Raises:
            NonFiniteLoss: if a loss is not finite, on the CPU with one process.
        """
        alone = self.accelerator.num_processes == 1
        if not alone:
            begins = () if self._begun else self.net.parameters()
            take_from_first([*begins, *self.net.buffers()], self.accelerator)
        self._begun = True
        seed_torch(*self.stream_of(number))
        try:
            with gpu_products("tf32" if self.settings.precision == "tf32" else "ieee"):
                trained = self._add_gradients(number, turns, phase)
                if alone and self.accelerator.device.type == "cpu":
                    self.read(trained)
                if self._measures and phase != "code":
                    self.norm = norm_of_gradients(held_by(self.weights), self.accelerator.device)
                self._move(number, phase, rate)
        finally:
            if self._dropping is not None:
                self._dropping.turn(False)
            for optimizer in (self.weights, self.codes, self.sampler):
                if optimizer is not None:
                    optimizer.zero_grad(set_to_none=True)
        return trained

    def stream_of(self, number: int) -> Stream:
        """Names the random stream of a step in this process: what dropout draws from."""
        return (*self._stream, number, self.accelerator.process_index)

    def read(self, trained: Sequence[Trained], *, averaged: bool = False) -> list[float]:
        """The losses of all paths, in order, once they are known to be finite.

        Args:
            trained: what `step` returned, of any number of steps.
            averaged: whether to take the means over all processes, which then fail together.

        Raises:
            NonFiniteLoss: if a loss is not finite.
        """
        paths = [(done, path.arch) for done in trained for path in done.plan.paths]
        if not paths:
            return []
        losses = torch.stack([loss for done in trained for loss in done.losses])
        if averaged:
            losses = self.accelerator.reduce(losses, "mean")
        values: list[float] = losses.tolist()
        for (done, arch), value in zip(paths, values, strict=True):
            if not math.isfinite(value):
                what = f"the loss of architecture {arch} is {value}"
                raise self.diverged(done.step, what)
        return values

    def check_weights(self, number: int) -> None:
        """Looks at all that moves, and the buffers, after the step of a number.

        Raises:
            NonFiniteLoss: if any of it is not finite.
        """
        weights = {n: t for n, t in self.net.state_dict().items() if t.is_floating_point()}
        finite = are_finite([part_of(tensor) for tensor in weights.values()])
        if self._sharded:  # all processes fail together, by whichever part it is
            counts = torch.tensor(finite, dtype=torch.float32, device=self.accelerator.device)
            finite = self.accelerator.reduce(counts, "mean").eq(1).tolist()
        for name, is_finite in zip(weights, finite, strict=True):
            if not is_finite:
                raise self.diverged(number, f"it left weight {name!r} not finite")
        if not all(are_finite(held_by(self.sampler))):
            raise self.diverged(number, "it left the sampler's parameters not finite")

    def moving(self, phase: Phase) -> list[torch.optim.Optimizer]:
        """The optimisers that a step moves at the rate that it is given."""
        weights = [] if phase == "code" else [self.weights]
        codes = self.codes if phase in ("code", "joint") else None
        return weights if codes is None else [*weights, codes]

    def state_dict(self) -> dict[str, Any]:
        """The weights, and what all optimisers remember."""
        return {
            "weights": self.net.state_dict(),
            "optimizer": self.weights.state_dict(),
            "schedule": self.schedule and self.schedule.state_dict(),
            "code_optimizer": self.codes and self.codes.state_dict(),
            "sampler_optimizer": self.sampler and self.sampler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.net.load_state_dict(weights_sharded(state["weights"], self.net))
        self.weights.load_state_dict(optimizer_sharded(state["optimizer"], self.weights))
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.codes is not None:
            self.codes.load_state_dict(state["code_optimizer"])
        if self.sampler is not None:
            self.sampler.load_state_dict(state["sampler_optimizer"])

    def _add_gradients(self, number: int, turns: Iterable[Turn], phase: Phase) -> list[Trained]:
        """Adds up the gradients of a step's turns, and averages them over all processes.

        In a code step they are those of the codes alone.
        """
        only_codes, codes = phase == "code", held_by(self.codes)
        placing = self._placing(number)
        trained = []
        for turn in turns:
            if self._sharded:
                check_paths(turn.plan, self.accelerator)
            with self._autocast():
                losses = accumulate(
                    self._forward(phase),
                    turn.plan,
                    as_trained(turn.images, self.contiguous),
                    turn.targets,
                    task=self.task,
                    largest=self._largest,
                    smoothing=self.settings.label_smoothing,
                    share=turn.share,
                    original=self._original,
                    distiller=self._distiller,
                    beside=None if only_codes else self._beside,
                    backward=backward_into(codes) if only_codes else self.accelerator.backward,
                    placing=placing,
                )
            images = batch_of(turn.images)
            trained.append(Trained(number, phase, turn.plan, losses, images))
        if self.accelerator.num_processes > 1:
            weights = () if only_codes else self.net.parameters()
            average_gradients([*weights, *codes, *held_by(self.sampler)], self.accelerator)
        if phase in ("code", "joint"):
            archs = [path.arch for done in trained for path in done.plan.paths]
            penalty = self.net.sharing.penalty(archs)
            if penalty is not None:  # the same in all processes
                backward_into(codes)(penalty)
        return trained

    def _placing(self, number: int) -> Placing | None:
        """With which placements of their channels paths train in a step, the same in all processes.

        None where the sharing scheme places none.
        """
        if self._places is None:
            return None
        seed, _, *parts = self._stream
        rng = numpy_rng(seed, "placements", *parts, number)
        return functools.partial(self._places.trained, rng=rng)

    def _forward(self, phase: Phase) -> Forward:
        """The network's forward; before each, branches are left out of an architecture or not.

        They stay so until the next, for a backward that runs parts of the forward again.
        """
        forward, dropping = functools.partial(self.net, phase=phase), self._dropping
        if dropping is None:
            return forward

        def run(images: Inputs, arch: Arch, **more: Any) -> Any:
            dropping.turn(self._drops is None or arch in self._drops)
            return forward(images, arch, **more)

        return run

    def _move(self, number: int, phase: Phase, rate: float) -> None:
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.net.parameters(), self.settings.clip_norm)
        for optimizer in self.moving(phase):
            scheduled = self.schedule if optimizer is self.weights else None
            if scheduled is None:
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
            optimizer.step()
            if optimizer is self.weights and self.settings.sgld:
                of_step = stream(*self._stream, number)  # without the process, which all share
                heat(optimizer, self.settings.sgld, stream(self._stream[0], "noise", of_step))
            if scheduled is not None:
                scheduled.step()
        if phase != "code" and self.sampler is not None:
            if self._sampler_clip is not None:
                nn.utils.clip_grad_norm_(held_by(self.sampler), self._sampler_clip)
            self.sampler.step()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        kind, enabled = self.accelerator.device.type, self.settings.precision == "bf16"
        if not enabled and not torch.is_autocast_enabled(kind):  # nothing to switch off
            return contextlib.nullcontext()
        return torch.autocast(kind, torch.bfloat16, enabled=enabled)
