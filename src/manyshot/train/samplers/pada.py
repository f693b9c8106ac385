"""A sampler that draws options in proportion to gradient norms (the path half of PA&DA)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manyshot.nn.inputs import together
from manyshot.plugins import Probability, Share, checked
from manyshot.space import Arch, SearchSpace
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed, Stateless


@final
class PathImportance(Stateless):
    """One path per step, whose options are drawn the more often, the longer their gradients are.

    The importance of an option is a moving average of the gradient norms of all paths that it was
    on, over the sum of those of its decision; an option that was on none yet has the mean of the
    others. It is drawn with t times this importance and (1 - t) times a uniform probability, where
    t goes up linearly with training, from 0 to `importance`. The norm is of the gradient in all
    weights, over the whole batch and all processes, before it is clipped. Norms stay on the device
    until probabilities are computed anew, and are read together then.

    Reference: Lu et al. 2023, "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS"
    (arXiv:2302.14772), by its abstract and its public code for NAS-Bench-201. The paper's: that
    drawing paths in proportion to the norms of their gradients gives the least variance. The public
    code's: independent draws of options, t, the average (0.5), and 250 updates. There norms are
    taken after clipping, of an operation's convolutions alone, so that in the end hardly any path
    has an operation without weights; all edges have one distribution; and every epoch begins with
    norms of zero, which halves the first. Ours: norms of whole paths in all weights, before they
    are clipped, options of every decision by themselves, and averages that go on. Drawing so
    without weights of losses, as the public code does, trains important paths more; with
    `weighted`, ours, the mean gradient is that of uniform paths, which the variance is about. The
    data half, the drawing of images by their gradients, is not built: batches here are a function
    of seed and step alone, from which a killed run goes on.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        importance: Probability = 1.0,
        decay: Share = 0.5,
        every: Share = 0.004,
        weighted: bool = False,
    ) -> None:
        """Makes a sampler that begins with uniform paths.

        Args:
            space: the space.
            importance: how much importance counts at the end of training, beside uniform draws.
            decay: of the averages of norms.
            every: the share of all steps after which probabilities are computed anew.
            weighted: whether a path's loss counts by its uniform probability over that by which it
                was drawn. Rare paths then count much: lower `importance` if training diverges.
        """
        self.space = space
        self._importance, self._decay, self._every = importance, decay, every
        self._weighted = weighted
        self._norms = [np.full(len(d.options), np.nan) for d in space.decisions]
        self._t = 0.0  # of the probabilities that paths are drawn by
        self._t_now, self._due = 0.0, False  # t of this step, and whether to compute them by it
        self._waiting: list[tuple[Arch, Tensor]] = []
        self._report: dict[str, Any] | None = None

    def narrow(self, space: SearchSpace, step: int) -> None:
        """Draws from this view from now on, by all norms that are known."""
        self.space = space

    def probabilities(self) -> list[npt.NDArray[np.float64]]:
        """For each decision those of its allowed options, in order."""
        chances = []
        for norms, allowed in zip(self._norms, self.space.allowed, strict=True):
            here, uniform = norms[list(allowed)], np.full(len(allowed), 1 / len(allowed))
            known = here[~np.isnan(here)]
            if not known.any():  # nothing is known, or no gradient was above zero
                chances.append(uniform)
                continue
            share = np.where(np.isnan(here), known.mean(), here)
            chances.append(self._t * share / share.sum() + (1 - self._t) * uniform)
        return chances

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path, whose loss counts more the less likely it was drawn, if `weighted`."""
        arch, weight = [], 1.0
        for allowed, chances in zip(self.space.allowed, self.probabilities(), strict=True):
            place = int(rng.choice(len(allowed), p=chances))
            arch.append(allowed[place])
            weight /= len(allowed) * float(chances[place])
        return Plan((PlannedPath(tuple(arch), weight=weight if self._weighted else 1.0),))

    def measured(self, plan: Plan, norm: Tensor) -> None:
        """Takes the norm of a path's gradient, to be read later."""
        (path,) = plan.paths
        self._waiting.append((path.arch, norm / path.weight))

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Asks nothing, and learns how far training is."""
        self._t_now, self._report = self._importance * step / steps, None
        self._due = step % max(1, round(self._every * steps)) == 0
        return None

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Computes probabilities anew, where that is due.

        Raises:
            ValueError: for a norm that is not finite.
        """
        if not self._due:
            return
        for arch, norm in self._read():
            if not math.isfinite(norm):
                raise ValueError(
                    f"the pada sampler draws by norms of gradients, and that of {arch} is {norm}: "
                    "lower train.lr, or set train.clip_norm"
                )
            for norms, option in zip(self._norms, arch, strict=True):
                old = norm if np.isnan(norms[option]) else norms[option]
                norms[option] = self._decay * old + (1 - self._decay) * norm
        self._waiting, self._t = [], self._t_now
        self._report = {
            "kind": "importance of options",
            "importance": self._t,
            "probabilities": [chances.tolist() for chances in self.probabilities()],
        }

    def report(self) -> dict[str, Any] | None:
        """The probabilities, after each time they were computed."""
        return self._report

    def state_dict(self) -> dict[str, Any]:
        """The averages, norms that wait to be read, and how much importance counts."""
        norms = [values.tolist() for values in self._norms]
        return {"norms": norms, "waiting": self._read(), "reached": self._t}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._norms = [np.array(values) for values in state["norms"]]
        self._waiting = [
            (tuple(arch), torch.tensor(norm, dtype=torch.float64))
            for arch, norm in state["waiting"]
        ]
        self._t = state["reached"]

    def _read(self) -> list[tuple[Arch, float]]:
        """The norms that wait, in one transfer."""
        tensors = together([norm for _, norm in self._waiting], torch.device("cpu"))
        archs = [arch for arch, _ in self._waiting]
        return [(arch, float(norm)) for arch, norm in zip(archs, tensors, strict=True)]
