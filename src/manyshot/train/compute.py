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
    """Counts while a network is trained; the same in all processes, but for evidence.

    Attributes:
        weight_steps: how many steps moved weights.
        macs: of forwards and backwards of training paths; 0 if costs are not known.
        probe_macs: of forwards for probes.
        split_macs: of forwards and backwards for the gradients that say how one copy splits.
        evidence_macs: of forwards and backwards that only measure whether codes matter; the main
            process alone measures and counts.
    """

    def __init__(
        self,
        macs_of: MacsOf | None,
        largest: Arch,
        processes: int = 1,
        hard: Sequence[int] = (),
    ) -> None:
        """Begins at 0.

        Args:
            macs_of: the multiply-adds of architectures; None if they are not known.
            largest: the architecture whose cost masks have, and the original.
            processes: how many train together, each on an equal part of the images.
            hard: the decisions that are not masked, by index: sides that images are resized to.
        """
        self.weight_steps, self.macs, self.probe_macs = 0, 0, 0
        self.split_macs, self.evidence_macs = 0, 0
        self._macs_of, self._largest = macs_of, largest
        self._processes, self._hard = processes, frozenset(hard)
        self._known: dict[Arch, int] = {}

    @property
    def is_known(self) -> bool:
        """Whether multiply-adds are counted."""
        return self._macs_of is not None

    def take(self, trained: Sequence[Trained], *, backward: bool = True) -> None:
        """Counts a step.

        Args:
            trained: its turns, each with as many images as this process had.
            backward: whether gradients run back through the network; where the classifier alone
                moves they do not, and its own small backward is not counted.
        """
        self.weight_steps += any(done.phase != "code" for done in trained)
        if self._macs_of is None:
            return
        passes = 1 + BACKWARD if backward else 1
        for done in trained:
            paths, images = done.plan.paths, done.images
            macs = passes * sum(self._of(path, images) for path in paths)
            if any(path.target == "original" for path in paths):
                macs += self._of_arch(self._largest) * images
            self.macs += macs * self._processes

    def probe(self, paths: Sequence[PlannedPath], forwards: int) -> None:
        """Counts the forwards of a probe.

        Args:
            paths: that it is of.
            forwards: how many images were forwarded by each path.
        """
        if self._macs_of is not None:
            self.probe_macs += forwards * sum(self._of_one(path) for path in paths)

    def split(self, arch: Arch, images: int) -> None:
        """Counts a gradient, of so many images in each process, that says how one copy splits."""
        if self._macs_of is not None:
            passes = (1 + BACKWARD) * images * self._processes
            self.split_macs += passes * self._of_arch(arch)

    def evidence(self, arch: Arch, images: int, *, backward: bool = False) -> None:
        """Counts a measurement of whether codes matter, in the main process.

        Args:
            arch: the path that ran.
            images: on how many it ran.
            backward: whether it ran backward too.
        """
        if self._macs_of is not None:
            self.evidence_macs += (1 + BACKWARD * backward) * images * self._of_arch(arch)

    def state_dict(self) -> dict[str, int]:
        """What is counted so far."""
        return {
            "weight_steps": self.weight_steps,
            "macs": self.macs,
            "probe_macs": self.probe_macs,
            "split_macs": self.split_macs,
            "evidence_macs": self.evidence_macs,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes on from `state_dict`."""
        self.weight_steps = state["weight_steps"]
        self.macs, self.probe_macs = state["macs"], state["probe_macs"]
        self.split_macs, self.evidence_macs = state["split_macs"], state["evidence_macs"]

    def _of(self, path: PlannedPath, images: int) -> int:
        """The forwards of a path on so many images of one process.

        Where the policy learns from a share of them, all run by slices, and the share by masks too.
        """
        if path.policy is None or path.policy_share >= 1:
            return self._of_one(path) * images
        rows = policy_rows(images, path.policy_share)
        return self._of_arch(path.arch) * images + self._of_one(path) * rows

    def _of_one(self, path: PlannedPath) -> int:
        """A forward of one image, by masks if the path has a policy."""
        masked = path.policy is not None and path.masks == "full"
        return self._of_arch(self._masked(path.arch) if masked else path.arch)

    def _masked(self, arch: Arch) -> Arch:
        """The architecture whose cost full masks have: the largest, at the side that is chosen."""
        chosen = enumerate(zip(arch, self._largest, strict=True))
        return tuple(one if i in self._hard else most for i, (one, most) in chosen)

    def _of_arch(self, arch: Arch) -> int:
        if arch not in self._known:
            assert self._macs_of is not None  # `take` and `probe` have looked
            self._known[arch] = int(self._macs_of([arch])[0])
        return self._known[arch]
