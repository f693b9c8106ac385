"""Monte Carlo tree search over the decisions of a space (MCT-NAS)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, AboveZero, AtLeastZero, NotNegative, Positive, Share
from manyshot.search.base import Portion
from manyshot.search.limit import Limit
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.space import Arch, Descent, KeepsTree, SearchSpace, VisitTree


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class MCTOptions(VersionedOptions):
    """The options of `MCTSearch`."""

    temperature: AboveZero = 0.05
    """Of the draw of a child, for rewards from 0 to 1 (the paper's 0.0025 is for its own)."""

    communication: AtLeastZero = 0.2
    """How much the mean reward of an option in all branches counts beside that of a node."""

    exploration: AtLeastZero = 0.0
    """How much a rarely visited child gains (the paper's search: nothing)."""

    rollouts: NotNegative = 1
    """Below a node with fewer visits than so many for each option, children are drawn uniformly
    (the paper's 6)."""

    decay: Share = 0.96
    """Of the mean rewards of options, in a tree of its own: how much of one each reward leaves."""

    keep: Positive = 10
    """How many of the best `elites` returns, for each limit."""

    draws: Positive = 50
    """Leaves drawn per network wanted before a random network takes its place."""


@final
class MCTSearch(OptionedSearcher[MCTOptions]):
    """Descends a tree of decisions, by the mean rewards of what was scored below each node.

    A proposal is drawn from the root down (`VisitTree.draw`), and what was drawn is removed from
    the tree: nothing told, pending or beyond the limits is drawn twice in an `ask`. The reward of
    an architecture is the share of scores told that are lower, which has no unit. Where too few
    leaves are new and within the limits, random networks take their place. With several limits each
    proposal is drawn for one of them in turn; one history serves all.

    Where the run's sampler keeps a tree (`KeepsTree`, such as `mct`), the search goes on from it:
    its visits count as scores do, its rewards are rescaled to the mean and spread of shares.

    Reference: Su et al. 2021, "Prioritized Architecture Sampling with Monto-Carlo Tree Search"
    (arXiv:2103.11922): the tree that training grew, the softmax over mean reward and node
    communication, random roll-outs below nodes with few visits, the removal of leaves that were
    evaluated or cost too much. As in their public code, not read in the paper: nodes with fewer
    than 6 visits per option, no exploration term in the search. Ours: rewards by rank and the
    temperature for them, scores that are told as rewards (theirs are losses on a batch, scored
    beside the networks searched), roll-outs that are proposals as others are, one visit per option
    in place of 6, live leaves as weights, and a tree of its own where there is none.

    Attributes:
        random_start: see `LearnsFromScores`; zero where the sampler keeps a tree, else `rollouts`
            for each option of the decision that has the fewest, whose nodes are the first to have
            visits enough.
    """

    random_start_option, elites_option = "rollouts", "keep"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        sampler: object = None,
        options: MCTOptions | None = None,
    ) -> None:
        """Makes a searcher; see `OptionedSearcher`.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            sampler: the one that the supernet was trained by; the search goes on from its tree, or
                if it keeps none begins with its pool.
            options: how children are drawn, and how often it tries.

        Raises:
            ValueError: for a sampler whose tree is of another space.
        """
        options = options or MCTOptions()
        pools = None if isinstance(sampler, KeepsTree) else sampler
        super().__init__(space, seed=seed, limits=limits, sampler=pools, options=options)
        choices = [len(allowed) for allowed in space.allowed if len(allowed) > 1]
        self.random_start = max(1, options.rollouts * min(choices, default=1))
        self._begun = VisitTree(space, decay=options.decay)
        if isinstance(sampler, KeepsTree):
            if sampler.tree.space.allowed != space.allowed:
                raise ValueError("the sampler's tree is of another space: give its own sampler")
            self._begun, self.random_start = sampler.tree.rescaled(0.5, math.sqrt(1 / 12)), 0
        self._descent = Descent(
            temperature=options.temperature,
            exploration=options.exploration,
            communication=options.communication,
            least=options.rollouts,
        )
        self._tree = self._begun

    def prepare(self, rng: np.random.Generator) -> None:
        """Grows the tree."""
        self._tree = self._grown()

    def fill(self, portion: Portion) -> None:
        """Draws leaves."""
        tree = self._tree.copy()

        def leaf() -> Arch:
            if tree.is_exhausted:
                return self.space.smallest  # which was drawn before, as all were
            arch = tree.draw(portion.rng, self._descent)
            tree.remove(arch)
            return arch

        portion.breed(leaf, attempts=self.options.draws)

    def _counting(self) -> npt.NDArray[np.intp]:
        """The rows of the history whose scores are rewards, oldest first."""
        fresh = np.flatnonzero(self.history.fresh_N)
        return np.arange(len(self.history)) if self.options.stale_scores else fresh

    def _grown(self) -> VisitTree:
        """The tree with the scores told as rewards, and without the leaves told."""
        tree, rows, archs = self._begun.copy(), self._counting(), self.history.archs
        scores = self.history.scores_N[rows]
        ordered = np.sort(scores)
        below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
        for row, twice in zip(rows.tolist(), below.tolist(), strict=True):
            tree.visit(archs[row], twice / (2 * len(rows)))
        for arch in archs:
            tree.remove(arch)
        return tree
