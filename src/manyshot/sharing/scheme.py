"""The contract of weight-sharing schemes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.nn.mixing import Combination
from manyshot.nn.placement import Placement
from manyshot.nn.selection import Mixture
from manyshot.space import Arch, Decision, SearchSpace

Phase = Literal["warmup", "weights", "code", "joint"]
"""What an optimiser step moves: weights under uniform codes, weights, codes, or both."""


class Sharing(Protocol):
    """Decides the weights of a path *before* a layer runs, never inside model code.

    A supernet calls `attach` once, when it is made, and `mixture` in every forward. The training
    loop asks `phase` what a step moves: in "code", only what `code_optimizer` holds, on one plan
    per chunk of the batch; otherwise all other parameters, and in "joint" both. A scheme with
    parameters of its own is an `nn.Module`, so that they are saved and moved with the network's.
    `Shares` answers for schemes that have nothing to learn beside the weights.

    Attributes:
        copies: K, the slices of each stacked parameter.
        chunks: parts of the batch in a code step, each with a plan of its own.
    """

    copies: int
    chunks: int

    def attach(self, model: nn.Module, space: SearchSpace) -> None:
        """Prepares an adopted model, for example by stacking its weights."""
        ...

    def mixture(self, arch: Arch, phase: Phase | None = None) -> Mixture | None:
        """How slices make the weights of `arch`; None if there are none.

        Args:
            arch: an architecture.
            phase: what a training step moves; None outside training.
        """
        ...

    def phase(self, step: int, steps: int) -> Phase:
        """What the optimiser step `step` (from 0) of `steps` moves."""
        ...

    def code_optimizer(self, lr: float, momentum: float) -> torch.optim.Optimizer | None:
        """A new optimiser of what makes the codes, given the weights' settings; None if nothing.

        Its own learning rates are peaks, which the loop schedules like that of the weights.
        """
        ...

    def penalty(self, archs: Sequence[Arch]) -> Tensor | None:
        """A further loss of a code step on the paths `archs`, or None."""
        ...

    def watch(self, net: nn.Module) -> dict[str, float]:
        """Numbers to log while `net` trains, by name."""
        ...

    def concerns(self, watched: Mapping[str, float], step: int, steps: int) -> dict[str, str]:
        """What is wrong with how training goes: words by the kind of concern.

        Args:
            watched: what `watch` saw.
            step: the optimiser step before which it was seen, from 0.
            steps: how many steps there are.
        """
        ...


@runtime_checkable
class Coded(Protocol):
    """A scheme under which every path has a code: the weights of a convex combination."""

    def code(self, archs: Sequence[Arch]) -> Tensor:
        """The codes of architectures, (B, K), or (B, rows, K) if layers or channels have one."""
        ...


@runtime_checkable
class Mixes(Coded, Protocol):
    """A scheme whose paths can be run with the code of another, to see what their own is worth.

    Attributes:
        copies: K.
    """

    copies: int

    def by_code(self, code: Tensor) -> Combination:
        """The mixture of a code, as `code` gives one for each architecture."""
        ...


@runtime_checkable
class SplitsByGradients(Protocol):
    """A scheme that splits one copy, while it trains, by decisions that gradients choose.

    Attributes:
        split_batches: of so many training batches gradients are compared.
    """

    split_batches: int

    def splits_at(self, step: int, steps: int) -> bool:
        """Whether it is to be split before the optimiser step `step` (from 0) of `steps`."""
        ...

    def candidates(self) -> list[Decision]:
        """The decisions that it may be split by."""
        ...

    def split_by(self, apart: Mapping[Decision, Tensor]) -> None:
        """Splits it by the distances (options, options) between the options of each candidate."""
        ...

    def chosen(self) -> list[tuple[Decision, tuple[int, ...]]]:
        """The decisions that it was split by, each with the group of every option."""
        ...


class Passes(NamedTuple):
    """How often a step of training runs a path, for counting what it takes.

    Attributes:
        tried: forward alone.
        trained: forward and backward.
    """

    tried: int
    trained: int


@runtime_checkable
class PlacesChannels(Protocol):
    """A scheme that says which channels the widths of a path use (`manyshot.nn.placement`).

    Under it a path trains with one placement or several, all of one loss, and has no policies.
    """

    def placement(self, arch: Arch) -> Placement:
        """The placement that `net(images, arch)` runs and `net.extract(arch)` delivers."""
        ...

    def scored(self, arch: Arch) -> Sequence[Placement]:
        """Those whose mean score is the score of `arch`."""
        ...

    def trained(
        self, arch: Arch, loss_of: Callable[[Placement], Tensor], rng: np.random.Generator
    ) -> Sequence[Placement]:
        """Those whose mean loss a step trains, in place of the path's loss.

        Args:
            arch: the path.
            loss_of: the loss of the path with a placement, on the images of the step, detached.
            rng: a generator that is a function of the seed and the step alone.
        """
        ...

    def passes(self, arch: Arch) -> Passes:
        """How often `trained` asks for a loss, and how many placements it gives."""
        ...


class Shares:
    """The half of the contract that a scheme without learnt codes leaves empty."""

    copies = 1
    chunks = 1

    def attach(self, model: nn.Module, space: SearchSpace) -> None:
        """Does nothing, since there is nothing to prepare."""

    def mixture(self, arch: Arch, phase: Phase | None = None) -> Mixture | None:
        """None, since nothing is stacked."""
        return None

    def phase(self, step: int, steps: int) -> Phase:
        """The phase in which the weights move, always."""
        return "weights"

    def code_optimizer(self, lr: float, momentum: float) -> torch.optim.Optimizer | None:
        """None, since there are no codes to learn."""
        return None

    def penalty(self, archs: Sequence[Arch]) -> Tensor | None:
        """None, since there is no further loss."""
        return None

    def watch(self, net: nn.Module) -> dict[str, float]:
        """No numbers, since there is nothing to log."""
        return {}

    def concerns(self, watched: Mapping[str, float], step: int, steps: int) -> dict[str, str]:
        """No concerns."""
        return {}


@final
class OneShot(Shares):
    """Every architecture that uses an operation uses the same tensor.

    Reference: SPOS (Guo et al. 2020, arXiv:1904.00420). Nothing here is ours.
    """


def learns_codes(sharing: Sharing, steps: int) -> bool:
    """Whether a training moves the codes that its sharing scheme learns, or there are none.

    Args:
        sharing: the scheme.
        steps: how many optimiser steps there are; 0 is no training, which is asked for nothing.
    """
    if not steps or sharing.copies == 1 or sharing.code_optimizer(1.0, 0.0) is None:
        return True
    return any(sharing.phase(step, steps) in ("code", "joint") for step in range(steps))
