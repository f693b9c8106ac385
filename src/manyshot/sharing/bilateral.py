"""Widths by their first and by their last channels, so that every channel trains as often."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
from torch import Tensor, nn

from manyshot.nn.placement import LEFT, RIGHT, Placement
from manyshot.sharing.scheme import Passes, Shares
from manyshot.sharing.widths import decisions_of, to_place
from manyshot.space import Arch, SearchSpace

_SIDES: tuple[Placement, ...] = (LEFT, RIGHT)


@final
class Bilateral(Shares):
    """A width of c channels is the first c and the last c, whose mean loss is trained.

    With the first channels alone the first of all is in every width and the last in the widest
    only. With both sides a channel is in as many widths as any other, if widths are 1, 2, ..., n
    steps of one size: of the n widths in n + 1 halves of a loss. The `complement` sampler makes
    that so after every second step. All widths of a path are on one side.

    A path is scored by the mean of both sides' scores, each with batch norms of its own.
    `net(images, arch)` is the left side, which is what `net.extract(arch)` delivers, and what
    learns and scores at other places than these two. Of concatenated channels each part has its
    sides. Training and scoring take twice as much, but for paths of which all widths are full.

    Reference: Su et al. 2021, "BCNet: Searching for Network Width with Bilaterally Coupled
    Network", arXiv:2105.10446. The two sides, the equal training of channels and the complement are
    the paper's (abstract); the mean of two losses and of two scores is read in its authors' public
    code. The paper trains what it finds anew, so that no side is delivered: that it is the left one
    here is ours, and so are concatenations, and one forward where both sides are the same.
    """

    _widest: list[tuple[int, int]] | None = None
    """Positions of the width decisions, each with the option that is the widest."""

    def attach(self, model: nn.Module, space: SearchSpace) -> None:
        """Looks up which decisions are widths.

        Raises:
            RuntimeError: if this scheme has a supernet already.
            ValueError: if no layer has an elastic width.
        """
        if self._widest is not None:
            raise RuntimeError("this Bilateral belongs to another supernet already: make a new one")
        widths = decisions_of(to_place("Bilateral", model, space), space)
        self._widest = [(space.index[d], d.values.index(max(d.values))) for d in widths]

    def placement(self, arch: Arch) -> Placement:
        """The left side."""
        return LEFT

    def scored(self, arch: Arch) -> tuple[Placement, ...]:
        """Both sides; one of a path that is the same on both."""
        same = all(arch[position] == option for position, option in self._widest or ())
        return _SIDES[:1] if same else _SIDES

    def trained(
        self, arch: Arch, loss_of: Callable[[Placement], Tensor], rng: np.random.Generator
    ) -> tuple[Placement, ...]:
        """Those that are scored."""
        return self.scored(arch)

    def passes(self, arch: Arch) -> Passes:
        """A pass for each side."""
        return Passes(0, len(self.scored(arch)))
