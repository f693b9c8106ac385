"""NAS-Bench-201: one cell of 6 edges, repeated; 15,625 encodings, 9,445 of them canonical.

Dong & Yang 2020, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search",
arXiv:2001.00326. At the default arguments and 3x32x32 images, parameters equal the published ones
for every encoding, and published MACs are ours + 10, the number of the classifier's biases.

Canonical encodings have `none` on every edge that is on no path from input to output. The
published table has 4,930 classes of cells that compute one function if equal operations of equal
inputs have equal weights: canonical encodings never join two of them, but leave 9,445, because they
neither fold `skip_connect` edges nor swap equal roles of nodes 1 and 2.

Ours: the width, the number of cells, and that an edge from a node that nothing reaches gives
nothing. In the authors' code it gives the shift of its batch norm, a constant, zero at first.
"""

from __future__ import annotations

import functools
import itertools
import random  # noqa: TID251, the order of the published indices is one of its shuffles
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from manyshot.nn import Choice
from manyshot.plugins import Positive, checked
from manyshot.space import Arch, Decision, Use, choose
from manyshot.zoo.blocks import Chain, conv_bn, pooled_classifier

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("01", "02", "12", "03", "13", "23")

INCOMING = (("01",), ("02", "12"), ("03", "13", "23"))
"""The edges into node 1, 2 and 3, from the nodes before it in order."""

PATHS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "01": (("13",), ("12", "23")),
    "02": (("23",),),
    "12": (("01", "23"),),
    "13": (("01",),),
    "23": (("02",), ("01", "12")),
}
"""For each edge but 0→3, which is a path itself: the rests of the paths that it is on."""


class Nothing(nn.Module):
    """The operation `none`: zeros, one number in memory, by which `is_nothing` knows them."""

    def __init__(self, stride: int = 1) -> None:
        """Makes one that leaves every `stride`-th pixel."""
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Zeros of the shape of `x`, or of fewer pixels; all their strides are zero."""
        kept = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        return x.new_zeros(()).expand_as(kept)


class FourNodes(nn.Module):
    """One cell: node 0 is the input, each later node a sum over edges from all nodes before it."""

    def __init__(self, width: int, decisions: Mapping[str, Decision]) -> None:
        """Makes a cell of a width, with the decision of every edge."""
        super().__init__()
        edges = {edge: Choice(_operations(width), decisions[edge]) for edge in EDGES}
        self.edges = nn.ModuleDict(edges)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, which is node 3."""
        nodes = [x]
        for incoming in INCOMING:
            given = [self._along(edge, node) for edge, node in zip(incoming, nodes, strict=True)]
            something = [tensor for tensor in given if not is_nothing(tensor)]
            nodes.append(functools.reduce(torch.add, something) if something else given[0])
        return nodes[-1]

    def _along(self, edge: str, node: Tensor) -> Tensor:
        given: Tensor = self.edges[edge](node)  # runs in any case: published MACs count it
        return node if is_nothing(node) else given


def is_nothing(x: Tensor) -> bool:
    """Whether a tensor is what `Nothing` gives."""
    return 0 in x.stride()


def _operations(width: int) -> dict[str, nn.Module]:
    modules = (Nothing(), nn.Identity(), _relu_conv_bn(width, width, 1))
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return dict(zip(OPERATIONS, (*modules, _relu_conv_bn(width, width, 3), pool), strict=True))


def _relu_conv_bn(into: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *conv_bn(into, out, kernel, stride, relu=False))


class Reduction(nn.Module):
    """The residual block between stages, which halves the resolution and doubles the width."""

    def __init__(self, into: int) -> None:
        super().__init__()
        out = 2 * into
        self.body = nn.Sequential(_relu_conv_bn(into, out, 3, 2), _relu_conv_bn(out, out, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(into, out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2C, H / 2, W / 2)."""
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


@final
class Cell(Chain):
    """The network of `cell`."""

    def __init__(self, width: int, channels: int, classes: int, cells: int) -> None:
        """Makes the network that `cell` describes."""
        decisions = {edge: choose(OPERATIONS, f"edge{edge}") for edge in EDGES}
        chain: list[nn.Module] = [nn.Sequential(*conv_bn(channels, width, 3, relu=False))]
        for stage in range(3):
            chain += [Reduction(width * 2 ** (stage - 1))] if stage else []
            chain += [FourNodes(width * 2**stage, decisions) for _ in range(cells)]
        chain.append(nn.Sequential(nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True)))
        super().__init__([*chain, pooled_classifier(4 * width, classes)])

    def uses(self) -> dict[Decision, Sequence[Use]]:
        """An edge matters when the rest of some path from node 0 to node 3 over it is there."""
        first = next(module for module in self.chain if isinstance(module, FourNodes))
        edges = {edge: c for edge, c in first.edges.items() if isinstance(c, Choice)}
        if not edges:  # extracted
            return {}
        there = frozenset(range(1, len(OPERATIONS)))
        return {
            edges[edge].decision: [
                tuple((edges[e].decision, there) for e in path) for path in rests
            ]
            for edge, rests in PATHS.items()
        }


@checked
def cell(
    width: Positive = 16, channels: Positive = 3, classes: Positive = 10, cells: Positive = 5
) -> Cell:
    """The NAS-Bench-201 network, to be wrapped by `ms.Supernet`.

    Decisions are `edge01`, `edge02`, `edge12`, `edge03`, `edge13`, `edge23`, in this order, each of
    `OPERATIONS`; all cells share them. Sides of images must be multiples of 4.

    Args:
        width: channels of the stem and the first stage; the next two have 2 and 4 times as many.
        channels: channels of the images.
        classes: outputs of the classifier.
        cells: the number of cells in each of the three stages.

    Raises:
        ValueError: if a number is below one.
    """
    return Cell(width, channels, classes, cells)


def to_string(arch: Arch) -> str:
    """An encoding as NAS-Bench-201 writes it: `|none~0|+|none~0|none~1|+|none~0|none~1|none~2|`.

    Raises:
        ValueError: if `arch` is not six option indices.
    """
    names = iter([OPERATIONS[option] for option in _checked(arch)])
    nodes = ([f"{next(names)}~{node}" for node in range(count)] for count in (1, 2, 3))
    return "+".join(f"|{'|'.join(edges)}|" for edges in nodes)


def from_string(text: str) -> Arch:
    """The encoding of `to_string`.

    Raises:
        ValueError: if `text` is not of that form.
    """
    names = [edge.partition("~")[0] for edge in text.strip("|").replace("|+|", "|").split("|")]
    arch = tuple(OPERATIONS.index(name) if name in OPERATIONS else -1 for name in names)
    if len(arch) != len(EDGES) or -1 in arch or to_string(arch) != text:
        raise ValueError(
            f"cell {text!r} is not of the form {to_string((0,) * len(EDGES))!r} with operations of "
            f"{', '.join(OPERATIONS)}"
        )
    return arch


def to_index(arch: Arch) -> int:
    """The index of an encoding in NAS-Bench-201.

    Raises:
        ValueError: if `arch` is not six option indices.
    """
    return _indices()[_checked(arch)]


def from_index(index: int) -> Arch:
    """The encoding that has an index in NAS-Bench-201.

    Raises:
        ValueError: if there is none.
    """
    archs = _published_order()
    if not 0 <= index < len(archs):
        raise ValueError(f"cell: index {index} is not in 0..{len(archs) - 1}")
    return archs[index]


@functools.cache
def _published_order() -> tuple[Arch, ...]:
    """All encodings, shuffled as the authors' code does."""
    archs = list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES)))
    random.Random(88).shuffle(archs)
    return tuple(archs)


@functools.cache
def _indices() -> dict[Arch, int]:
    return {arch: index for index, arch in enumerate(_published_order())}


def _checked(arch: Arch) -> Arch:
    if len(arch) != len(EDGES) or not all(0 <= option < len(OPERATIONS) for option in arch):
        raise ValueError(
            f"cell: architecture {arch!r} is not {len(EDGES)} options of 0..{len(OPERATIONS) - 1}"
        )
    return tuple(arch)
