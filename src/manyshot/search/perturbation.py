"""DARTS-PT on paths: decisions are taken one by one, by what hurts most when it is removed.

N counts the distinct architectures told within a budget.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.chosen import held
from manyshot.search.draft import CHILD_ATTEMPTS
from manyshot.search.limit import Limit, within
from manyshot.search.optioned import OptionedSearcher, SearcherOptions
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace

_LISTED = 20_000
"""If no more encodings are left they are listed, to see whether all of them were told."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class PerturbationOptions(SearcherOptions):
    """The options of `Perturbation`; their defaults are ours."""

    samples: Positive = 30
    """Scored architectures, all with the options kept so far, by which a decision is taken; fewer
    where there are no more."""

    keep: Positive = 10
    """How many of the best `elites` returns, for each limit."""


@final
class Perturbation(OptionedSearcher[PerturbationOptions]):
    """Takes decisions one by one: of each the option is kept whose removal hurts most.

    Decisions come in random order. Proposals are random networks within the limits with the options
    kept so far. Once enough of them are scored, the mean score without an option is that of all
    which do not hold it, so that every score counts for all options but one; the option with the
    lowest is kept, and the next decision begins with the scores that are left. So what was told in
    excess is of use, and what is kept is a function of all scores told: of two at different weights
    the later one of an architecture counts. Every limit has its own kept options, from one history;
    proposals alternate between limits. When all decisions are taken, or no network with what is
    kept is left, proposals are random networks within the limits. What hurts is a mean over random
    paths, so that a search does not begin with the networks that a sampler thinks good.

    An architecture holds the options that it shows as a canonical encoding; one in which a decision
    does not matter holds none of its options. With `[shifting]` the supernet trains on the
    proposals, which are ever less varied, between decisions; `shifting.elites = "keep"` leaves the
    scores by which decisions were taken as they were.

    Reference: Wang et al. 2021, "Rethinking Architecture Selection in Differentiable NAS"
    (arXiv:2108.04392): the rule, the random order and training in between are the paper's, of edges
    of a supernet that weighs all operations at once, in which masking an operation leaves one
    network to score. Here one path is a network, and what is scored in place of it, the mean of
    random paths without the option, is ours, as are the number of samples, the limits, and that
    samples are shared. The paper's second stage, which inputs of a node to keep, is left out.

    Attributes:
        order: the positions of decisions in the order in which they are taken.
    """

    random_start_option, elites_option = "samples", "keep"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        options: PerturbationOptions | None = None,
    ) -> None:
        """Makes a searcher; see `OptionedSearcher`.

        Args:
            space: what is searched.
            seed: the seed of the random stream, and of the order of decisions.
            limits: alternatives, of which each proposal satisfies one.
            options: how many scores a decision takes.
        """
        super().__init__(space, seed=seed, limits=limits, options=options)
        self.order: tuple[int, ...] = tuple(
            numpy_rng(seed, "perturbation").permutation(len(space)).tolist()
        )
        self._held = np.zeros((0, len(space)), dtype=np.int64)
        self._listed: dict[tuple[int, tuple[tuple[int, int], ...]], list[Arch]] = {}

    def fill(self, portion: Portion) -> None:
        """Draws networks with the options kept so far."""
        kept = self.kept(portion.budget)
        left = self._left(portion.budget, kept)
        if left is None:
            child = functools.partial(self._child, kept, portion.rng)
            portion.breed(child, attempts=self.options.attempts)
        elif new := [arch for arch in left if not self.history.seen(arch)]:
            turns = itertools.cycle([new[i] for i in portion.rng.permutation(len(new))])
            portion.breed(turns.__next__)

    def kept(self, budget: int = 0) -> dict[int, int]:
        """The options kept within a budget by the positions of their decisions, in order.

        A decision that matters in no network scored for it is passed over.
        """
        rows, samples = self.budgets.rows(budget), self.options.samples
        option_ND, score_N = self._options()[rows], self.history.scores_N[rows]
        kept: dict[int, int] = {}
        for decision in self.order:
            if len(score_N) < samples:
                left = self._left(budget, kept)
                if not len(score_N) or left is None or len(score_N) < len(left):
                    break
            option = hurts_most(option_ND[:samples, decision], score_N[:samples])
            if option is not None:
                kept[decision] = option
                stay_N = np.isin(option_ND[:, decision], (option, -1))
                option_ND, score_N = option_ND[stay_N], score_N[stay_N]
        return kept

    def _options(self) -> npt.NDArray[np.int64]:
        """What every architecture told holds, (N, decisions)."""
        new = self.history.archs[len(self._held) :]
        if new:
            self._held = np.concatenate([self._held, held(self.space, new)])
        return self._held

    def _holds(self, arch: Arch, kept: Mapping[int, int]) -> bool:
        """Whether a canonical architecture has the kept options, of decisions that matter in it."""
        active = self.space.active(arch)
        return all(arch[i] == option or not active[i] for i, option in kept.items())

    def _child(self, kept: Mapping[int, int], rng: np.random.Generator) -> Arch:
        """A random architecture with the kept options, unless it is the alias of one without."""
        for _ in range(CHILD_ATTEMPTS):
            arch = list(self.space.sample(rng))
            for i, option in kept.items():
                arch[i] = option
            drawn = self.space.canonical(tuple(arch))
            if self._holds(drawn, kept):
                break
        return drawn

    def _left(self, budget: int, kept: Mapping[int, int]) -> list[Arch] | None:
        """All networks within a budget with the kept options; None if they are too many to list."""
        every_option = enumerate(self.space.allowed)
        options = [(kept[i],) if i in kept else allowed for i, allowed in every_option]
        if math.prod(map(len, options)) > _LISTED:
            return None
        key = (budget, tuple(sorted(kept.items())))
        if key not in self._listed:
            every = dict.fromkeys(map(self.space.canonical, itertools.product(*options)))
            archs = [arch for arch in every if self._holds(arch, kept)]
            fit = within(archs, self.budgets.each[budget])
            self._listed[key] = list(itertools.compress(archs, fit))
        return self._listed[key]


def hurts_most(option_N: npt.NDArray[np.int64], score_N: npt.NDArray[np.float64]) -> int | None:
    """The option without which the mean score is lowest; the first of equals.

    None if no architecture holds any. An option that all hold hurts most.

    Args:
        option_N: what each of N architectures holds of one decision, -1 for nothing.
        score_N: their scores.
    """
    options = np.unique(option_N[option_N >= 0]).tolist()
    without = [score_N[option_N != option] for option in options]
    means = [float(scores.mean()) if scores.size else -math.inf for scores in without]
    return int(options[int(np.argmin(means))]) if options else None
