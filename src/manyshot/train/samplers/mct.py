"""A sampler that descends a tree of decisions, by the training losses below each node (MCT-NAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from manyshot.plugins import AboveZero, AtLeastZero, Share, checked
from manyshot.space import Descent, SearchSpace, VisitTree
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed, Stateless

MOST = 10.0
"""The greatest reward, which a loss of zero has."""


@final
class MCTSampler(Stateless):
    """Uniform paths first, then paths drawn from a tree that training losses are rewards in.

    The reward of a path is a moving average of all losses over its own, so that what learns faster
    than the others is above 1 whenever it was trained. For a share `warmup` of the steps paths are
    uniform, for a share `build` they are uniform and fill the tree, then they are drawn from it
    (`VisitTree.draw`). A search by `mct` goes on from the tree.

    Reference: Su et al. 2021, "Prioritized Architecture Sampling with Monto-Carlo Tree Search"
    (arXiv:2103.11922): the reward, the three stages, UCT with node communication. The numbers are
    those of their public code for NAS-Bench-Macro, not read in the paper: 0.96 for both averages,
    0.1 and 0.2 for exploration and communication, 0.0025, a half and a tenth of the steps. There
    the average of losses begins at zero, so that first rewards are too small, a child without
    visits has a mean reward of zero, and the draw can miss every child by rounding; here the
    average begins at the first loss, such a child has the mean of its siblings, means of options do
    not count their beginning at zero, and a reward is at most 10. All of this is ours.

    Attributes:
        tree: the rewards, by the decisions in the order of the space.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        temperature: AboveZero = 0.0025,
        exploration: AtLeastZero = 0.1,
        communication: AtLeastZero = 0.2,
        decay: Share = 0.96,
        warmup: Share = 0.5,
        build: Share = 0.1,
    ) -> None:
        """Makes a sampler with an empty tree.

        Args:
            space: the space.
            temperature: of the draw of a child.
            exploration: how much a rarely visited child gains.
            communication: how much the mean reward of an option in all branches counts beside that
                of a node.
            decay: of the average of losses, and of the mean rewards of options.
            warmup: the share of all steps before the tree is filled.
            build: the share of all steps in which uniform paths fill it.
        """
        self.space, self.tree = space, VisitTree(space, decay=decay)
        self._descent = Descent(
            temperature=temperature, exploration=exploration, communication=communication
        )
        self._filled_from, self._drawn_from = warmup, warmup + build
        self._decay, self._share = decay, 0.0
        self._average: float | None = None

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path."""
        if self._share < self._drawn_from:
            return Plan((PlannedPath(self.space.sample(rng)),))
        return Plan((PlannedPath(self.tree.draw(rng, self._descent)),))

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Asks nothing, and learns how far training is."""
        self._share = step / steps
        return None

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Rewards the paths of a plan.

        Raises:
            ValueError: for a loss below zero, which has no reward.
        """
        for path, loss in zip(plan.paths, torch.stack(list(losses)).tolist(), strict=True):
            if loss < 0:
                raise ValueError(
                    f"the mct sampler rewards by the ratio of losses, and one is {loss:g}: losses "
                    "must not be below zero; take another sampler, such as uniform"
                )
            before = loss if self._average is None else self._average
            self._average = self._decay * before + (1 - self._decay) * loss
            if self._share >= self._filled_from:
                least = self._average / MOST
                self.tree.visit(path.arch, self._average / max(loss, least) if least else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """The tree, the average of losses, and how far training is."""
        tree = {name: torch.from_numpy(array) for name, array in self.tree.state_dict().items()}
        return {"tree": tree, "average": self._average, "share": self._share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.tree.load_state_dict({name: t.numpy() for name, t in state["tree"].items()})
        self._average, self._share = state["average"], state["share"]
