"""What a training run spends: steps that moved weights, and multiply-adds.

Images alone mislead: a probe is one forward of a slice, where a trained path is a forward and a
backward, and with full masks all options run, at their largest sizes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, final

from torch import Tensor

from manyshot.nn.policy import MIXING
from manyshot.sharing import Passes, PlacesChannels, Sharing
from manyshot.space import Arch, Decision
from manyshot.train.gradients import policy_rows
from manyshot.train.optimisation import Trained
from manyshot.train.plan import PlannedPath

BACKWARD = 2
"""A backward is counted as two forwards: of gradients to inputs and of those to weights."""
MacsOf = Callable[[Sequence[Arch]], Sequence[int]]
"""The multiply-adds of one image in architectures."""


class Masks(Protocol):
    """What one image costs with full masks (`manyshot.cost.masked.MaskedMacs`)."""

    def __call__(self, arch: Arch) -> int:
        """The multiply-adds of a forward in an architecture."""
        ...

    def mixed(
        self,
        arch: Arch,
        policy: Mapping[Decision, Tensor],
        partial: Mapping[Decision, int] | None = None,
    ) -> int:
        """The multiply-adds of a forward in which options are mixed by weights."""
        ...

    def learning(self, arch: Arch) -> Arch:
        """The architecture whose cost gradients run back through."""
        ...


def passes_of(sharing: Sharing) -> Callable[[Arch], Passes] | None:
    """How often a step runs a path, if a sharing scheme says so."""
    return sharing.passes if isinstance(sharing, PlacesChannels) else None


@final
class Compute:
    """Counts while a network is trained; the same in all processes, but for evidence.

    Attributes:
        weight_steps: how many steps moved weights.
        macs: of forwards and backwards of training paths; 0 if costs are not known.
        probe_macs: of forwards for probes, and of backwards where these ask for gradients.
        split_macs: of forwards and backwards for the gradients that say how one copy splits.
        evidence_macs: of forwards and backwards that only measure whether codes matter; the main
            process alone measures and counts.
    """

    def __init__(
        self,
        macs_of: MacsOf | None,
        largest: Arch,
        processes: int = 1,
        masks: Callable[[], Masks] | None = None,
        macs_at: Callable[[int], MacsOf] | None = None,
        original_macs: int | None = None,
        passes: Callable[[Arch], Passes] | None = None,
    ) -> None:
        """Begins at 0.

        Args:
            macs_of: the multiply-adds of architectures; None if they are not known.
            largest: the architecture whose cost the original of a conversion has.
            processes: how many train together, each on an equal part of the images.
            masks: makes what says the cost of full masks, once there are some; without it no plan
                may have them.
            macs_at: the multiply-adds of square images of another side, in pixels.
            original_macs: the multiply-adds of the network that teaches, of one image; by default
                those of the largest architecture.
            passes: how often a step runs a path, where the sharing scheme places channels; by
                default once.
        """
        self._original_macs, self._passes = original_macs, passes
        self.weight_steps, self.macs, self.probe_macs = 0, 0, 0
        self.split_macs, self.evidence_macs = 0, 0
        self._macs_of, self._largest = macs_of, largest
        self._processes, self._make_masks = processes, masks
        self._macs_at = macs_at
        self._side: int | None = None
        self._known: dict[tuple[int | None, Arch], int] = {}
        self._made: dict[int | None, Masks] = {}

    @property
    def is_known(self) -> bool:
        """Whether multiply-adds are counted."""
        return self._macs_of is not None

    @property
    def side(self) -> int | None:
        """The side of the images that are counted now; None for that which costs are known of."""
        return self._side

    @contextlib.contextmanager
    def at(self, side: int | None) -> Iterator[None]:
        """Counts images of another side in it; None for the size that costs are known of."""
        before, self._side = self._side, side
        try:
            yield
        finally:
            self._side = before

    def take(self, trained: Sequence[Trained], *, backward: bool = True, beside: int = 0) -> None:
        """Counts a step.

        Args:
            trained: its turns, each with as many images as this process had.
            backward: whether gradients run back through the network; where the classifier alone
                moves they do not, and its own small backward is not counted.
            beside: how many more forwards each path takes, as snapshots that vote do.
        """
        self.weight_steps += any(done.phase != "code" for done in trained)
        if self._macs_of is None:
            return
        for done in trained:
            paths, images = done.plan.paths, done.images
            macs = sum(self._of(path, images, backward) for path in paths)
            if beside:
                macs += beside * images * sum(map(self._of_forward, paths))
            if any(path.target == "original" for path in paths):
                own = self._original_macs
                macs += images * (self._of_arch(self._largest) if own is None else own)
            self.macs += macs * self._processes

    def probe(self, paths: Sequence[PlannedPath], forwards: int, *, backward: bool = False) -> None:
        """Counts a probe.

        Args:
            paths: that it is of.
            forwards: how many images were forwarded by each path.
            backward: whether gradients were asked for.
        """
        if self._macs_of is not None:
            self.probe_macs += forwards * sum(self._of_one(path, backward) for path in paths)

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

    def _of(self, path: PlannedPath, images: int, backward: bool) -> int:
        """What a path takes on so many images of one process.

        Where the policy learns from a share of them, all run by slices, and the share by masks too.
        """
        if self._passes is not None:  # there are no policies then
            tried, trained = self._passes(path.arch)
            each = tried + trained * (1 + BACKWARD * backward)
            return each * self._of_arch(path.arch) * images
        if path.policy is None or path.policy_share >= 1:
            return self._of_one(path, backward) * images
        rows = policy_rows(images, path.policy_share)
        slices = (1 + BACKWARD * backward) * self._of_arch(path.arch)
        return slices * images + self._of_one(path, backward) * rows

    def _of_forward(self, path: PlannedPath) -> int:
        """A forward of one image, as the weights learn from it."""
        by_slices = path.policy is None or path.policy_share < 1
        return self._of_arch(path.arch) if by_slices else self._of_one(path, False)

    def _of_one(self, path: PlannedPath, backward: bool) -> int:
        """A forward of one image, by masks if the path has a policy, and perhaps a backward.

        With full masks what is not chosen runs too, but forward only; what is mixed runs both ways.
        """
        if path.policy is not None and path.masks in MIXING:
            return (1 + BACKWARD * backward) * self._masks.mixed(
                path.arch, path.policy, path.partial
            )
        if path.policy is None or path.masks != "full":
            return (1 + BACKWARD * backward) * self._of_arch(path.arch)
        learning = BACKWARD * self._of_arch(self._masks.learning(path.arch)) if backward else 0
        return self._masks(path.arch) + learning

    @property
    def _masks(self) -> Masks:
        if self._side not in self._made:
            if self._make_masks is None:
                raise ValueError("a path has masks, whose cost is not known: give Compute(masks=)")
            self._made[self._side] = self._make_masks()
        return self._made[self._side]

    def _of_arch(self, arch: Arch) -> int:
        key = (self._side, arch)
        if key not in self._known:
            macs_of = self._macs_of
            if self._side is not None:
                if self._macs_at is None:
                    raise ValueError(
                        f"what images of {self._side} x {self._side} pixels cost is not known: "
                        "give macs_at beside macs_of"
                    )
                macs_of = self._macs_at(self._side)
            assert macs_of is not None  # `take` and `probe` have looked
            self._known[key] = int(macs_of([arch])[0])
        return self._known[key]
