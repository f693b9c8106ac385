"""Training in stages, each in another view of the space: what a shrinker is, and when it is asked.

The weights of all stages are those of one supernet, and its learning rate has one schedule, so that
a stage begins with what the one before has learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, final

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from manyshot.run_folder import OptionChange, ShrinkLine
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.supernet import Supernet

OptionScores = Mapping[tuple[int, int], float]
"""By position of a decision and index of an option, by what the option was judged."""


class Judged(NamedTuple):
    """How well an architecture does with the shared weights as they are.

    Attributes:
        fitness: by what networks rank; higher is better.
        loss: the mean loss of the task.
    """

    fitness: float
    loss: float


Judge = Callable[[Sequence[Arch]], Sequence[Judged]]
"""Scores architectures on validation images, as the search does."""
Allows = Callable[[SearchSpace], bool]
"""Whether every budget is still met by a network of a view."""
Fits = Callable[[Arch], bool]
"""Whether a network is within a budget, of several the greatest."""


@dataclass(frozen=True)
class Stage:
    """What a shrinker is shown between two stages of training.

    Attributes:
        net: the supernet, which stays as it is.
        space: the view that was trained in.
        number: which time it is, from 1.
        of: how many times there are.
        rng: the random stream of this time.
        judge: scores architectures; it raises unless the shrinker says that it `judges`.
        allows: whether a view keeps a network within each budget.
        fits: whether a network is within one of them.
    """

    net: Supernet
    space: SearchSpace
    number: int
    of: int
    rng: np.random.Generator
    judge: Judge
    allows: Allows
    fits: Fits


@dataclass(frozen=True)
class Shrunk:
    """What a shrinker decides.

    Attributes:
        space: the view that trains next.
        scores: by what options were judged, for records.
    """

    space: SearchSpace
    scores: OptionScores = field(default_factory=dict)


class Shrinker(Protocol):
    """Says in which view of the space training goes on.

    The loop calls `begin` once, before the first step, and `shrink` at the steps that a recipe
    names. What it says has to be a function of what it is shown and of its state.

    Attributes:
        measure: what its scores of options are, with their unit, for records.
        judges: whether it needs scores of architectures.
        stages: how many times it has to be asked; None if that is open.
    """

    measure: str
    judges: bool
    stages: int | None

    def begin(self, net: Supernet) -> SearchSpace:
        """The view that training begins with."""
        ...

    def shrink(self, stage: Stage) -> Shrunk:
        """The view that training goes on with.

        One without some network of the view before has to be one that `stage.allows`.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...


class Forgetful:
    """The half of the contract that a shrinker which remembers nothing leaves empty."""

    judges = True
    stages: int | None = None

    def begin(self, net: Supernet) -> SearchSpace:
        """The whole space."""
        return net.space

    def state_dict(self) -> dict[str, Any]:
        """An empty state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Does nothing, since there is nothing to restore.

        Raises:
            ValueError: if there is something, which is then of another shrinker.
        """
        if state:
            raise ValueError(f"{type(self).__name__} has no state, got {sorted(state)}")


@final
class Shrinking:
    """A shrinker with the steps at which it is asked, and how far it is.

    Attributes:
        shrinker: decides.
        space: the view that trains now.
        done: how many times it was asked.
        since: the step from which on that view trains.
    """

    def __init__(
        self,
        shrinker: Shrinker,
        at: Sequence[float],
        *,
        seed: int = 0,
        judge: Judge | None = None,
        allows: Allows | None = None,
        fits: Fits | None = None,
        name: str | None = None,
    ) -> None:
        """Begins before the first step.

        Args:
            shrinker: decides.
            at: the shares of all steps after which it is asked, ascending, above 0 and at most 1,
                which is after the last.
            seed: of what it draws.
            judge: scores architectures.
            allows: whether a view keeps a network within each budget; by default all views do.
            fits: whether a network is within one of them; by default all are.
            name: of the shrinker, for records; by default that of its class.

        Raises:
            ValueError: for other shares, a shrinker that has to be asked another number of times,
                or one that needs scores where there are none.
        """
        self.shrinker, self.at, self._seed = shrinker, tuple(at), seed
        self.name = type(shrinker).__name__ if name is None else name
        if not at or sorted(set(at)) != list(at) or at[0] <= 0 or at[-1] > 1:
            raise ValueError(
                f"at = {list(at)} must be shares of training in ascending order, above 0 and at "
                "most 1, such as [0.5, 0.75]"
            )
        if shrinker.stages not in (None, len(at)):
            raise ValueError(
                f"{self.name} has to be asked {shrinker.stages} times, and at = {list(at)} are "
                f"{len(at)}: give one share of training for each"
            )
        if shrinker.judges and judge is None:
            raise ValueError(f"{self.name} scores architectures: give Shrinking(judge=...)")
        self._judge = judge or _no_judge
        self._allows = allows or (lambda view: True)
        self._fits = fits or (lambda arch: True)
        self._space: SearchSpace | None = None
        self.done, self.since = 0, 0

    @property
    def space(self) -> SearchSpace:
        """The view that trains now."""
        assert self._space is not None  # `begin` or `load_state_dict` comes first
        return self._space

    def begin(self, net: Supernet) -> ShrinkLine:
        """Takes the first view, and the weights as they begin; returns the record of it."""
        self._space = self._kept(self.shrinker.begin(net), net.space)
        return self._line(0, 0, net.space, Shrunk(self._space), 0)

    def due(self, step: int, steps: int) -> bool:
        """Whether the shrinker is to be asked before step `step` (from 0) of `steps`."""
        return self.done < len(self.at) and step >= round(self.at[self.done] * steps)

    def shrink(self, net: Supernet, step: int, accelerator: Accelerator) -> ShrinkLine:
        """Asks the shrinker; what it decides in the first process holds in all.

        Args:
            net: the supernet.
            step: how many steps are done.
            accelerator: of the processes.

        Returns:
            The record of it.

        Raises:
            ValueError: if it decides for what is no view, or for one that lost what is within a
                budget; or if at last none is within it.
        """
        before, judged = self.space, 0

        def judge(archs: Sequence[Arch]) -> Sequence[Judged]:
            nonlocal judged
            net.space.check_proposed(archs, f"shrinker {self.name}")
            judged += len(archs)
            return self._judge(archs)

        number = self.done + 1
        rng = numpy_rng(self._seed, "shrink", number)
        stage = Stage(net, before, number, len(self.at), rng, judge, self._allows, self._fits)
        shrunk = self.shrinker.shrink(stage)
        lost = any(
            set(b) - set(a) for b, a in zip(before.allowed, shrunk.space.allowed, strict=True)
        )
        if (lost or number == len(self.at)) and not self._allows(shrunk.space):
            raise ValueError(
                f"{self.name} left no network within a budget, at time {number} of {len(self.at)}: "
                "raise shrink.budgets, or let it leave more options"
            )
        [allowed] = broadcast_object_list([shrunk.space.allowed])
        decided = dict(zip(net.space.decisions, allowed, strict=True))
        self._space = self._kept(net.space.restricted(decided), net.space)
        self.done, self.since = number, step
        return self._line(number, step, before, shrunk, judged)

    def _kept(self, view: SearchSpace, whole: SearchSpace) -> SearchSpace:
        if view.whole is not whole:
            raise ValueError(f"{self.name} gave a space that is no view of the supernet's")
        return view

    def _line(
        self, number: int, step: int, before: SearchSpace, shrunk: Shrunk, judged: int
    ) -> ShrinkLine:
        """The record of a change from one view to the next."""
        after, changes = shrunk.space, []
        for i, decision in enumerate(after.decisions):
            for option in sorted({*before.allowed[i], *after.allowed[i]}):
                was, stays = option in before.allowed[i], option in after.allowed[i]
                changes.append(
                    OptionChange(
                        decision=str(decision.name),
                        option=str(decision.options[option]),
                        index=option,
                        change="kept" if was and stays else "dropped" if was else "opened",
                        score=shrunk.scores.get((i, option)),
                    )
                )
        return ShrinkLine(
            stage=number,
            step=step,
            shrinker=self.name,
            measure=self.shrinker.measure,
            options=tuple(changes),
            size=after.size,
            judged=judged,
        )

    def state_dict(self) -> dict[str, Any]:
        """How far it is, and what the shrinker remembers."""
        return {
            "done": self.done,
            "since": self.since,
            "allowed": [] if self._space is None else list(map(list, self._space.allowed)),
            "shrinker": self.shrinker.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], net: Supernet) -> None:
        """Goes on from `state_dict`, with the supernet that it is of."""
        self.done, self.since = state["done"], state["since"]
        allowed = dict(zip(net.space.decisions, state["allowed"], strict=True))
        self._space = net.space.restricted(allowed)
        self.shrinker.load_state_dict(state["shrinker"])


def _no_judge(archs: Sequence[Arch]) -> Sequence[Judged]:
    raise ValueError("this shrinker says that it does not judge, and asks for scores")


def without_lowest(
    stage: Stage, scores: OptionScores, drop: int, *, keep: int = 1, per_decision: bool = False
) -> SearchSpace:
    """The view without the options of the lowest scores that may go.

    An option stays if its decision has no more than `keep`, if no network within a budget would be
    left, or if it has no score. Equal scores go by the order of decisions and options.

    Args:
        stage: where it is.
        scores: of options of the present view.
        drop: how many may go.
        keep: how many a decision keeps at least.
        per_decision: whether so many may go of each decision, and not of all together.
    """
    view, left = stage.space, [drop] * (len(stage.space) if per_decision else 1)
    for position, option in sorted(scores, key=lambda one: (scores[one], one)):
        budget = position if per_decision else 0
        options = view.allowed[position]
        if left[budget] == 0 or len(options) <= keep or option not in options:
            continue
        rest = [other for other in options if other != option]
        smaller = view.restricted({view.decisions[position]: rest})
        if stage.allows(smaller):
            view, left[budget] = smaller, left[budget] - 1
    return view


def means_of_options(
    space: SearchSpace, archs: Sequence[Arch], values: Sequence[float]
) -> dict[tuple[int, int], float]:
    """The mean value of the architectures that hold each option where it matters.

    Options that none of them holds are left out.
    """
    held: dict[tuple[int, int], list[float]] = {}
    for arch, value in zip(archs, values, strict=True):
        for position, (option, active) in enumerate(zip(arch, space.active(arch), strict=True)):
            if active:
                held.setdefault((position, option), []).append(value)
    return {option: float(np.mean(own)) for option, own in held.items()}


def sampled(stage: Stage, number: int) -> list[Arch]:
    """So many distinct encodings of the view or more, which together hold every option.

    All of them, where there are no more.
    """
    space = stage.space
    if space.size <= number:
        return list(space.enumerate())
    archs = dict.fromkeys(space.cover(stage.rng))
    while len(archs) < number:
        archs[space.sample(stage.rng)] = None
    return list(archs)
