"""What a training run spends: steps that moved weights, and multiply-adds.

Images alone mislead: a probe is one forward of a slice, where a trained path is a forward and a
backward, and a path with masks costs what the largest network does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from manyshot.space import Arch
from manyshot.train.gradients import policy_rows
from manyshot.train.optimisation import Trained
from manyshot.train.plan import PlannedPath

BACKWARD = 2
"""A backward is counted as two forwards: of gradients to inputs and of those to weights."""
MacsOf = Callable[[Sequence[Arch]], Sequence[int]]
"""The multiply-adds of one image in architectures."""


@final
class Compute:
    """Counts while a network is trained; the same in all processes.

    Attributes:
        weight_steps: how many steps moved weights.
        macs: of forwards and backwards of training paths, and of those that gradients are compared
            of for a split; 0 if costs are not known.
        probe_macs: of forwards for probes.
    """

    def __init__(
        self,
        macs_of: MacsOf | None,
        largest: Arch,
        batch_size: int,
        processes: int = 1,
        hard: Sequence[int] = (),
    ) -> None:
        """Begins at 0.

        Args:
            macs_of: the multiply-adds of architectures; None if they are not known.
            largest: the architecture whose cost masks have, and the original.
            batch_size: images per step, over all processes.
            processes: how many share the images of a step; each has a part for policies.
            hard: the decisions that are not masked, by index: sides that images are resized to.
        """
        self.weight_steps, self.macs, self.probe_macs = 0, 0, 0
        self._macs_of, self._largest, self._batch_size = macs_of, largest, batch_size
        self._processes, self._hard = processes, frozenset(hard)
        self._known: dict[Arch, int] = {}

    @property
    def is_known(self) -> bool:
        """Whether multiply-adds are counted."""
        return self._macs_of is not None

    def take(self, trained: Sequence[Trained]) -> None:
        """Counts a step: each of its turns has an equal part of the batch."""
        self.weight_steps += any(done.phase != "code" for done in trained)
        if self._macs_of is None:
            return
        for done in trained:
            paths = done.plan.paths
            forwards = sum(self._of(path) for path in paths)
            if any(path.target == "original" for path in paths):
                self.macs += self._of_arch(self._largest) * self._batch_size // len(trained)
            self.macs += (1 + BACKWARD) * forwards * self._batch_size // len(trained)

    def compared(self, arch: Arch) -> None:
        """Counts a forward and a backward on a batch that move nothing, for a split."""
        if self._macs_of is not None:
            self.macs += (1 + BACKWARD) * self._of_arch(arch) * self._batch_size

    def probe(self, paths: Sequence[PlannedPath], forwards: int) -> None:
        """Counts the forwards of a probe.

        Args:
            paths: that it is of.
            forwards: how many images were forwarded by each path.
        """
        if self._macs_of is not None:
            self.probe_macs += forwards * sum(self._of(path) for path in paths)

    def state_dict(self) -> dict[str, int]:
        """What is counted so far."""
        return {
            "weight_steps": self.weight_steps,
            "macs": self.macs,
            "probe_macs": self.probe_macs,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from `state_dict`."""
        self.weight_steps = state["weight_steps"]
        self.macs, self.probe_macs = state["macs"], state["probe_macs"]

    def _of(self, path: PlannedPath) -> int:
        """A forward; slices of all and masks on a part, where the policy learns from a share."""
        own = self._of_arch(path.arch)
        masked = self._of_arch(self._masked(path.arch)) if path.masks == "full" else own
        if path.policy is None:
            return own
        if path.policy_share >= 1:
            return masked
        each = self._batch_size // self._processes
        rows = self._processes * policy_rows(each, path.policy_share)
        return own + masked * rows // self._batch_size

    def _masked(self, arch: Arch) -> Arch:
        """The architecture whose cost full masks have: the largest, at the side that is chosen."""
        chosen = enumerate(zip(arch, self._largest, strict=True))
        return tuple(one if i in self._hard else most for i, (one, most) in chosen)

    def _of_arch(self, arch: Arch) -> int:
        if arch not in self._known:
            assert self._macs_of is not None  # `take` and `probe` have looked
            self._known[arch] = int(self._macs_of([arch])[0])
        return self._known[arch]
