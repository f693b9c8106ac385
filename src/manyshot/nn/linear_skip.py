"""A linear map that stands in for an identity while a supernet trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from torch import Tensor, nn

from manyshot.nn.convolution import Convolution
from manyshot.nn.layer import Channels, Shape, Tie
from manyshot.nn.pointwise import conv2d
from manyshot.nn.selection import Selection


@final
class LinearSkip(Convolution):
    """A learnt 1x1 convolution in place of an identity, which extraction puts back.

    Without a bias, a batch norm or an activation it is a linear map A of the channels, the same in
    every place. Where a 1x1 convolution W alone takes its output, W A is one such convolution, so
    that no network has become more expressive. Where the output goes on beside a residual branch,
    as x -> A x + f(A x), no identity can take its place.

    So a supernet that holds one does not compute what it extracts: `net(images, arch)` and scores
    are of networks with the stand-in, `net.extract(arch)` and costs of networks with an identity,
    which have to be trained on. `net.stands_in(arch)` says where the two differ, and `extract`
    refuses statistics of batch norms there, since they are of other activations.

    Reference: Chu et al. 2019, "ScarletNAS: Bridging the Gap Between Scalability and Fairness in
    Neural Architecture Search", arXiv:1908.06022. The stand-in without bias, batch norm and
    activation, that it is removed in the network that is trained alone, and the argument by the
    next 1x1 convolution are the paper's (abstract and public description). That the argument ends
    at residual blocks, and all that is refused because of it, is ours; so is the start from an
    identity, where a supernet computes what it would without.
    """

    dimensions = 2
    _plain, _function = nn.Conv2d, staticmethod(conv2d)
    stands_in = True

    def __init__(self, channels: Channels) -> None:
        """Makes a stand-in for an identity.

        Args:
            channels: channels of the input, which may be a size; those of concatenated tensors stay
                in their places.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__(channels, channels, 1, bias=False)

    def reset_parameters(self) -> None:
        """Sets the map to the identity."""
        nn.init.dirac_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same; on meta tensors, which tell costs, it is an identity."""
        return x if x.is_meta else super().forward(x)

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """None: an extracted network has nothing of it."""
        return iter(())

    def plain(self, selection: Selection, tie: Tie) -> nn.Identity:
        """An identity."""
        return nn.Identity()
