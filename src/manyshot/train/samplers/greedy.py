"""A sampler that trains the best of several proposals, some from a pool of the best (GreedyNAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
from torch import Tensor

from manyshot.plugins import Positive, Probability, Share, checked
from manyshot.space import Arch, SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed, Stateless


@final
class Greedy(Stateless):
    """Scores several paths by their loss on held-out images, and trains the best of them.

    After a uniform `warmup` every step trains `trained` of `proposed` paths. Each of them is drawn
    from the pool with a probability that goes up linearly to `exploit` at the end of training, and
    else uniformly. All are scored on the same held-out images by a probe after the step before, at
    the weights that the step will move, and go into the pool, which keeps the `size` lowest losses;
    of a path that is in it already, the mean of the old loss and the new one. Training ends early
    (`EndsEarly`) when the share of a full pool that was replaced since the last comparison is at
    most `stop`; the learning rate is then where its schedule had come to. A search begins with the
    pool (`Pools`).

    Reference: You et al. 2020, "GreedyNAS: Towards Fast One-Shot NAS with Greedy Supernet"
    (arXiv:2003.11236): rejection of paths by held-out loss, the pool, exploration and exploitation,
    the end by its overlap, evolution from it. The numbers are those of public code for ImageNet,
    where warm-up and comparisons are 10,000 of 144,360 steps; the number of images is inferred.
    Public code has a schedule of the probability that ignores its start, one that runs downwards,
    and a setting in which the pool is never used; here it goes up from the end of warm-up. Ours:
    the gradients of the best paths are averaged into one step, warm-up trains as many paths, the
    schedule ends where training would, and a pool that is not full yet ends nothing.

    Attributes:
        ended: whether the pool has come to rest.
    """

    probes = True

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        proposed: Positive = 10,
        trained: Positive = 5,
        images: Positive = 1000,
        size: Positive = 1000,
        warmup: Share = 0.07,
        exploit: Probability = 0.8,
        stop: Probability | None = 0.08,
        compare: Share = 0.07,
    ) -> None:
        """Makes a sampler with an empty pool.

        Args:
            space: the space.
            proposed: paths that are scored for a step.
            trained: how many of them it trains.
            images: held-out images that they are scored on.
            size: of the pool.
            warmup: the share of all steps that train uniform paths.
            exploit: the probability, at the end, that a path is drawn from the pool.
            stop: training ends when at most this share of the pool was replaced; None for never.
            compare: the share of all steps between two pools that are compared.

        Raises:
            ValueError: if more are to be trained than are proposed.
        """
        if trained > proposed:
            raise ValueError(
                f"trained = {trained} are chosen among proposed = {proposed}: lower it, or raise "
                "proposed"
            )
        self.space, self.proposed, self.trained, self.images = space, proposed, trained, images
        self.size, self.warmup, self.exploit = size, warmup, exploit
        self.stop, self.compare = stop, compare
        self.ended = False
        self._pool: dict[Arch, float] = {}
        self._before: list[Arch] = []
        self._next: list[Arch] = []
        self._asked: list[Arch] = []
        self._compares = False
        self._report: dict[str, Any] | None = None

    def pool(self) -> list[Arch]:
        """The architectures of the pool, the lowest loss first."""
        return list(self._pool)

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The best of the last proposals; while there are none, uniform paths."""
        archs = self._next or [self.space.sample(rng) for _ in range(self.trained)]
        return Plan(tuple(PlannedPath(arch, weight=1 / self.trained) for arch in archs))

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Proposes paths for the next step, and asks for their losses."""
        self._compares = step % max(1, round(self.compare * steps)) == 0
        if step < self.warmup * steps:
            return None
        share = (step / steps - self.warmup) / (1 - self.warmup)
        pool, self._asked = self.pool(), []
        for _ in range(self.proposed):
            exploits = rng.random() < self.exploit * share and pool
            arch = pool[rng.integers(len(pool))] if exploits else self.space.sample(rng)
            self._asked.append(arch)
        return Probe(tuple(map(PlannedPath, self._asked)), images=self.images)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Chooses what the next step trains, and puts all that was scored into the pool."""
        self._report = None
        if probed is None:
            return
        scored = sorted(
            zip(probed.losses.tolist(), self._asked, strict=True), key=lambda pair: pair[0]
        )
        self._next = [arch for _, arch in scored[: self.trained]]
        for loss, arch in scored:
            self._pool[arch] = (self._pool.get(arch, loss) + loss) / 2
        kept = sorted(self._pool.items(), key=lambda item: item[1])
        self._pool = dict(kept[: self.size])
        if self._compares:
            self._compare()

    def _compare(self) -> None:
        """Sees how much of the pool was replaced, and whether that ends training."""
        replaced = None
        if len(self._before) == self.size:
            replaced = 1 - len(self._pool.keys() & {*self._before}) / self.size
            self.ended = self.stop is not None and replaced <= self.stop
        self._before = self.pool()
        self._report = {
            "kind": "pool of paths",
            "size": len(self._pool),
            "least_loss": next(iter(self._pool.values())),
            "greatest_loss": next(reversed(self._pool.values())),
            "replaced": replaced,
            "ended": self.ended,
        }

    def report(self) -> dict[str, Any] | None:
        """What of the pool was replaced, after each comparison."""
        return self._report

    def state_dict(self) -> dict[str, Any]:
        """The pool, that of the last comparison, and what the next step trains."""
        return {
            "pool": list(self._pool),
            "losses": list(self._pool.values()),
            "before": list(self._before),
            "next": list(self._next),
            "ended": self.ended,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._pool = dict(zip(state["pool"], state["losses"], strict=True))
        self._before, self._next = list(state["before"]), list(state["next"])
        self.ended = state["ended"]
