"""Samplers that learn nothing: uniform, strictly fair, and the sandwich rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np

from manyshot.plugins import NotNegative, Positive, checked
from manyshot.space import Arch, SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Stateless, Target


class _OfAView(Stateless):
    """A sampler that draws all it draws from its space, whichever view that is."""

    space: SearchSpace

    def narrow(self, space: SearchSpace, step: int) -> None:
        """Draws from this view from now on."""
        self.space = space


@final
class Uniform(_OfAView):
    """Each decision uniform and independent.

    Reference: SPOS (Guo et al. 2020, arXiv:1904.00420). One uniform path per step is the paper's;
    several, whose mean loss is trained, are ours.
    """

    @checked
    def __init__(self, space: SearchSpace, *, paths: Positive = 1) -> None:
        """A sampler of `space`.

        Args:
            space: the space.
            paths: architectures per step; SPOS has one.
        """
        self.space, self.paths = space, paths

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """Independent uniform paths, whose mean loss is trained."""
        weight = 1 / self.paths
        paths = (PlannedPath(self.space.sample(rng), weight=weight) for _ in range(self.paths))
        return Plan(tuple(paths))


@final
class Fair(_OfAView):
    """Strict fairness: every option of every decision once per step.

    With m options everywhere, m paths are drawn from a random permutation per decision and their
    gradients are summed into one update. Where a decision has fewer options than the largest
    number m, they are repeated (a fresh permutation each round) until there are m; the last round
    may leave out some options.

    Reference: FairNAS (Chu et al. 2021, arXiv:1907.01845). The rule is the paper's; repeats where
    decisions have unequal numbers of options are ours.
    """

    def __init__(self, space: SearchSpace) -> None:
        """A sampler of `space`."""
        self.space = space

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """M paths, m the largest number of options."""
        length = max(map(len, self.space.allowed))
        columns = [_rounds(options, length, rng) for options in self.space.allowed]
        return Plan(tuple(PlannedPath(tuple(arch)) for arch in zip(*columns, strict=True)))


def _rounds(options: Sequence[int], length: int, rng: np.random.Generator) -> list[int]:
    rounds = [rng.permutation(options) for _ in range(-(-length // len(options)))]
    drawn = np.concatenate(rounds)[:length]
    return [int(option) for option in rng.permutation(drawn)]


@final
class Sandwich(_OfAView):
    """The largest, the smallest and `random` uniform architectures per step, gradients summed.

    With `distil`, all but the largest learn from its detached predictions of the same step
    (in-place distillation); else from the labels.

    Reference: Universally slimmable networks (Yu & Huang 2019, arXiv:1903.05134). The rule and
    in-place distillation are the paper's, for widths; that other decisions take part is ours.
    """

    @checked
    def __init__(self, space: SearchSpace, *, random: NotNegative = 2, distil: bool = True) -> None:
        """A sampler of `space`.

        Args:
            space: the space.
            random: uniform architectures per step, beside the largest and the smallest.
            distil: whether all but the largest learn from its predictions, and not from labels.
        """
        self.space, self.random, self.distil = space, random, distil

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """2 + `random` paths, the largest first."""
        others: list[Arch] = [self.space.smallest]
        others += [self.space.sample(rng) for _ in range(self.random)]
        target: Target = "largest" if self.distil else "labels"
        return Plan(
            (PlannedPath(self.space.largest), *(PlannedPath(a, target=target) for a in others))
        )


@final
class Only(Stateless):
    """Always one architecture: how a stand-alone network is trained by the same loop."""

    def __init__(self, arch: Arch) -> None:
        """Trains `arch` and nothing else."""
        self.arch = arch

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path."""
        return Plan((PlannedPath(self.arch),))
