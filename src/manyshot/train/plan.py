"""What a sampler proposes: the paths whose gradients make one optimiser step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from manyshot.nn.policy import MaskMode
from manyshot.space import Arch, Decision, SearchSpace

Target = Literal["labels", "largest", "original"]


@dataclass(frozen=True, slots=True)
class PlannedPath:
    """One architecture in a plan.

    Attributes:
        arch: the architecture.
        policy: straight-through one-hot policies by decision, each (options,), where a sampler
            learns by gradient; or any weights of options, if `masks` is `mixed`.
        weight: factor of its loss.
        target: what it learns from: the labels; the detached predictions of the largest
            architecture, which must come before it in the plan (in-place distillation); or those of
            the original, a network that does not change (see `Trainer`).
        masks: how layers mask, if there is a policy.
        policy_share: the share of the batch that a policy learns from. At 1 the weights learn
            through the masks too, all in one pass. Below 1 the weights learn from the slices of the
            architecture on the whole batch, exactly as without a policy, and the policy alone from
            masks on the first so many samples (see `accumulate`).
        partial: for some decisions, in how many parts channels are cut of which the first alone is
            mixed, if `masks` is `mixed` (see `manyshot.nn.partial`).
    """

    arch: Arch
    policy: Mapping[Decision, Tensor] | None = None
    weight: float = 1.0
    target: Target = "labels"
    masks: MaskMode = "full"
    policy_share: float = 1.0
    partial: Mapping[Decision, int] | None = None

    @property
    def masking(self) -> dict[str, Any]:
        """What a forward of it is given besides the policy."""
        return {"masks": self.masks, **({"partial": self.partial} if self.partial else {})}


@dataclass(frozen=True, slots=True)
class Plan:
    """One optimiser step: on the gradient of the weighted sum of the paths' losses, and `penalty`.

    Attributes:
        paths: at least one.
        penalty: a further loss, of the sampler's own parameters.
    """

    paths: tuple[PlannedPath, ...]
    penalty: Tensor | None = None

    def by_indices(self) -> Plan:
        """The same paths by option indices alone, without a penalty."""
        return Plan(tuple(replace(path, policy=None) for path in self.paths))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a sampler wants to know of images that no weight learns from.

    All forwards are in eval mode and normalise by the batch; they change no weight, buffer or
    random stream.

    A sampler that wants to compare losses over time can do so in two ways. It has the weights saved
    (`save`), and asks for losses at both (`since`). Or it keeps the answers, and asks later about
    the same paths on the same images (`which`); these may be shared out over the probes of many
    steps (`turns`), each of which is then answered at the weights of its own step.

    Attributes:
        paths: their losses are wanted; weights and targets of paths are not looked at.
        images: how many held-out images, or all if there are fewer.
        since: whether the losses at the weights that were saved last are wanted too.
        gradients: whether the gradients of the policies are wanted.
        unrolled: whether these are wanted through one more step of the weights, on the images of
            the step (see `manyshot.train.unrolled`); the losses are those after it. For one
            process.
        save: whether the weights, as they are now, are to be saved for later probes.
        which: names the images: probes of one number and one `images` see the same. By default they
            are those of the step.
        turn: which part of the images is wanted, of `turns`: from 1.
        turns: over how many probes the images are shared out, in parts of 64 or a few more. Where
            there are fewer parts than turns, the other turns see none.
    """

    paths: tuple[PlannedPath, ...] = ()
    images: int = 2048
    since: bool = False
    gradients: bool = False
    unrolled: bool = False
    save: bool = False
    which: int | None = None
    turn: int = 1
    turns: int = 1


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer to a probe, the same in all processes.

    Attributes:
        losses: mean cross-entropy of each path at the weights as they are, (N,), float64; zeros
            where there were no images.
        before: the same at the saved weights; None if not asked for, or if none were saved.
        gradients: for each path the gradient, by decision, of its loss in its policy, less that at
            the saved weights if `before` is there; empty if not asked for.
        weight: how much the images weigh in a mean of losses, by the task; zero where there were
            none.
    """

    losses: Tensor
    before: Tensor | None = None
    gradients: tuple[Mapping[Decision, Tensor], ...] = ()
    weight: float = 0.0


class Sampler(Protocol):
    """Says which paths train next.

    The loop calls `plan(rng, step)` before every optimiser step, with a generator that is a
    function of the run's seed and the step alone (so that all processes draw the same plan). After
    a step that moved the weights it asks `probe`, by which a sampler also learns how far training
    is, and then calls `feedback`. Steps that move nothing but codes of a sharing scheme have plans,
    of which policies and penalty are left out, but neither probes nor feedback.

    A learnt sampler has an `optimizer` of the parameters that its policies and penalties depend on;
    the loop gives them their gradients and moves them together with the weights. What else it
    learns, it learns in `feedback`. `Stateless` answers for samplers that learn nothing.

    Attributes:
        probes: whether it ever probes, and so needs held-out images.
        clip_norm: largest norm of the gradient of its optimiser's parameters, if there is a limit.
    """

    probes: bool
    clip_norm: float | None

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The paths of step `step` (from 0)."""
        ...

    def optimizer(self) -> torch.optim.Optimizer | None:
        """A new optimiser of its parameters, whose rates are its own; None without parameters."""
        ...

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """What it wants to know after weight step `step` (from 1) of `steps`."""
        ...

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """The detached losses of the plan's paths, in order, and the answer to its probe."""
        ...

    def report(self) -> dict[str, Any] | None:
        """What it has to say after a step, as a record; None if nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


@runtime_checkable
class MixesOptions(Protocol):
    """A sampler that mixes options by weights, of which a network with one of each is made."""

    def settled(self) -> PlannedPath | None:
        """A path with the weights of options as they are now, without draws; None if one runs."""
        ...


@runtime_checkable
class OrdersByWeights(Protocol):
    """A sampler that learns weights of options, and so what it takes for a good architecture."""

    def log_weights(self, archs: Sequence[Arch]) -> list[float]:
        """For each architecture the sum of the logarithms of its options' weights, as they are now.

        Only decisions that matter in an architecture count. A weight of zero counts as 1e-12.
        """
        ...


@runtime_checkable
class Unrolls(Protocol):
    """A sampler whose probes may be unrolled (`Probe.unrolled`).

    Attributes:
        unrolls: whether they are.
    """

    unrolls: bool


@runtime_checkable
class EndsEarly(Protocol):
    """A sampler that may end training before its last epoch.

    The loop looks after every step. If it ended, that step is the last: it is recorded, saved and
    averaged as the last of all would be, and resumed a run is over. Rates are those of a training
    that goes on to its last epoch.

    Attributes:
        ended: whether training is over; part of its state.
    """

    ended: bool


@runtime_checkable
class LearnsFromNorms(Protocol):
    """A sampler that learns from how long the gradients of its plans are."""

    def measured(self, plan: Plan, norm: Tensor) -> None:
        """Takes the norm of a step's gradient; called before `feedback`, if weights moved.

        Args:
            plan: of the step.
            norm: shape (), on the device that trains: of the gradient of the plan's weighted losses
                in all weights but those of codes, over all parts of the batch and all processes,
                before it is clipped. It is the same in all processes.
        """
        ...


class Stateless:
    """The half of the contract that a sampler without anything to learn leaves empty."""

    probes = False
    clip_norm: float | None = None

    def optimizer(self) -> torch.optim.Optimizer | None:
        """None, since there are no parameters to optimise."""
        return None

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """None, since there is nothing to ask."""
        return None

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Does nothing, since there is nothing to learn."""

    def report(self) -> dict[str, Any] | None:
        """None, since there is nothing to say."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """An empty state, since nothing is learnt."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Does nothing, since there is nothing to restore.

        Raises:
            ValueError: if there is something, which is then of another sampler.
        """
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {sorted(state)}")


@runtime_checkable
class Narrows(Protocol):
    """A sampler that can go on in another view of its space, as `[shrink]` needs."""

    def narrow(self, space: SearchSpace, step: int) -> None:
        """Draws from this view of the space from step `step` (from 0) on.

        After a resumption it is told the view, and the step since when, before its state is
        restored.
        """
        ...


def narrowing(sampler: Sampler) -> Narrows | None:
    """Who can go on in another view: the sampler or one that it wraps; None if none can."""
    return next((one for one in _layers(sampler) if isinstance(one, Narrows)), None)


def learning_from_norms(sampler: Sampler) -> LearnsFromNorms | None:
    """Who learns from norms of gradients: the sampler or one that it wraps; None if none does."""
    return next((one for one in _layers(sampler) if isinstance(one, LearnsFromNorms)), None)


def ending_early(sampler: Sampler) -> EndsEarly | None:
    """Who may end training: the sampler or one that it wraps; None if none does."""
    return next((one for one in _layers(sampler) if isinstance(one, EndsEarly)), None)


def name_of(sampler: Sampler) -> str:
    """The class of a sampler without what wraps it, for messages."""
    return type(unwrapped(sampler)).__name__


def unwrapped(sampler: Sampler) -> Sampler:
    """The sampler that wrappers (`Forwarding`) forward to; one that wraps none is itself."""
    *_, inner = _layers(sampler)
    return inner


def _layers(sampler: Sampler) -> Iterator[Sampler]:
    """A sampler and those that it wraps, from the outside in."""
    yield sampler
    while isinstance(sampler, Forwarding):
        sampler = sampler.sampler
        yield sampler


class Forwarding:
    """Another sampler under the same contract, for what changes a part of one.

    What the other can do beyond the contract is seen through it (see `ending_early`).

    Attributes:
        sampler: the other sampler, which answers all that is not overridden.
    """

    def __init__(self, sampler: Sampler) -> None:
        """Wraps a sampler."""
        self.sampler = sampler
        self.probes, self.clip_norm = sampler.probes, sampler.clip_norm

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The other's."""
        return self.sampler.plan(rng, step)

    def optimizer(self) -> torch.optim.Optimizer | None:
        """The other's."""
        return self.sampler.optimizer()

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """The other's."""
        return self.sampler.probe(rng, step, steps)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Tells the other."""
        self.sampler.feedback(plan, losses, probed)

    def report(self) -> dict[str, Any] | None:
        """The other's."""
        return self.sampler.report()

    def state_dict(self) -> dict[str, Any]:
        """The other's."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the other's."""
        self.sampler.load_state_dict(state)
