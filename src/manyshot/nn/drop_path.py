"""Stochastic depth: residual branches that training leaves out at random."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn


class DropPath(nn.Module):
    """Leaves out a residual branch for some samples of a batch: `x + self.drop(self.branch(x))`.

    This is stochastic depth (Huang et al. 2016, arXiv:1603.09382) as torchvision does it: in
    training a sample's branch is zero with probability `rate`, and is divided by 1 - rate
    otherwise. It draws from torch's random numbers, of which a training gives each step its own. In
    eval mode, and at rate 0, it gives back what it is given.

    The rate is 0 until a training says another (`train.drop_path`), and 0 again after it. It acts
    on what a branch gives, so that it does the same whichever weights the branch has (K-shot), and
    draws for each branch that runs: with full masks for all options and blocks, by slices for those
    of the path. An extracted network keeps it.

    Attributes:
        share: how deep the branch lies, from 0 for the first block of a network to 1 for the last.
        rate: the probability at which it is left out now.
    """

    def __init__(self, share: float) -> None:
        """Makes one that leaves nothing out yet.

        Raises:
            ValueError: for a share that is not in [0, 1].
        """
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(
                f"DropPath: share = {share} says how deep a block lies: give 0 for the first to 1 "
                "for the last"
            )
        self.share, self.rate = share, 0.0

    def forward(self, x: Tensor) -> Tensor:
        """What a branch gave, (B, ...), to the same shape."""
        if not self.training or not self.rate:
            return x
        # Imported here: torchvision costs a second.
        from torchvision.ops import stochastic_depth

        dropped: Tensor = stochastic_depth(x, self.rate, "row")
        return dropped


def branches(net: nn.Module) -> list[DropPath]:
    """The branches of a network that may be left out: those behind its first block."""
    return [module for module in net.modules() if isinstance(module, DropPath) and module.share]


@final
class Dropping:
    """Sets the rates of all branches of a network, linear in depth up to that of the deepest."""

    def __init__(self, net: nn.Module, rate: float) -> None:
        """Looks for the branches, and leaves them alone.

        Args:
            net: the network.
            rate: that of the deepest block; the others have theirs in proportion to their `share`.

        Raises:
            ValueError: if there is no branch that can be left out.
        """
        found = branches(net)
        if not found:
            raise ValueError(
                f"drop_path = {rate:g} leaves out residual branches that hold a ms.nn.DropPath, "
                f"and {_name(net)} has none behind its first block: leave drop_path out. Of the "
                "zoo autoformer, tiny_vit, bignas, attentivenas, tiny_cnn, mbv2_se, macro and "
                "convnet have some; networks of torchvision and timm take their own rate as an "
                "option (stochastic_depth_prob, drop_path_rate)"
            )
        deepest = max(branch.share for branch in found)
        self._rates = [(branch, rate * branch.share / deepest) for branch in found]
        self._is_on = False

    def turn(self, on: bool) -> None:
        """Sets the rates, or sets all of them to 0."""
        if on != self._is_on:
            self._is_on = on
            for branch, rate in self._rates:
                branch.rate = rate if on else 0.0


def _name(net: nn.Module) -> str:
    """The class of a network, without what wraps it for training."""
    for inner in ("model", "module"):
        net = net._modules.get(inner) or net
    return type(net).__name__
