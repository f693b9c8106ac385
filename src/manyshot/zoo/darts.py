"""The cell space of DARTS: two kinds of cells, four nodes each, eight operations on 14 edges.

Liu et al. 2019, "DARTS: Differentiable Architecture Search", arXiv:1806.09055. At `width=36`,
`cells=20` and ten classes, without the auxiliary head, parameters equal what is published of the
genotypes DARTS_V2 and P-DARTS; those of the network that is searched (`width=16`, `cells=8`,
`affine=False`, `none=True`) equal what the authors' code prints.

Nodes 0 and 1 of a cell are the outputs of the two cells before it, nodes 2 to 5 are sums over two
edges from earlier nodes, and the output has nodes 2 to 5 as channels. For nodes 3 to 5 a decision
says which two (node 2 has no other than 0 and 1), and another for every edge which operation, which
matters only where the edge is taken. Options of the first are pairs that hold the same edges, so
that mixed by weights an edge has the sum of the weights of the pairs that hold it. With weights
1 / (n - 1) for all pairs of n edges all of them are summed, which is the relaxation of DARTS.

Ours: the default width and number of cells, and that there is neither an auxiliary head nor
stochastic depth on edges. As in the authors' code, an edge from a node that `none` alone leads to
gives the shift of its batch norm. With `none`, some networks have more than one canonical encoding.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias, final

import torch
from pydantic import Field
from torch import Tensor, nn

from manyshot.nn import Choice
from manyshot.plugins import Positive, checked
from manyshot.space import Arch, Decision, choose
from manyshot.zoo.blocks import Chain, conv_bn, pooled_classifier
from manyshot.zoo.cell import Nothing, is_nothing

OPERATIONS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
KINDS = ("normal", "reduce")
NODES = (2, 3, 4, 5)
STEM = 3
"""The stem has so many times the width."""

PAIRS: Mapping[int, tuple[tuple[int, int], ...]] = {
    node: tuple(itertools.combinations(range(node), 2)) for node in NODES
}
"""For every node the pairs of earlier nodes that it may be the sum of."""

Genes: TypeAlias = Sequence[tuple[str, int]]
"""Operations and the nodes that they come from, two for every node, as genotypes have them."""


class Halving(nn.Module):
    """The factorised reduction: two 1x1 convolutions of every second pixel, a pixel apart."""

    def __init__(self, into: int, out: int, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.every_second = nn.AvgPool2d(1, 2)
        halves = (out // 2, out - out // 2)
        self.halves = nn.ModuleList(nn.Conv2d(into, half, 1, bias=False) for half in halves)
        self.norm = nn.BatchNorm2d(out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / 2, W / 2)."""
        x = self.relu(x)
        first, second = self.halves
        pixels = self.every_second(x), self.every_second(x[:, :, 1:, 1:])
        out: Tensor = self.norm(torch.cat([first(pixels[0]), second(pixels[1])], 1))
        return out


def _relu_conv_bn(into: int, out: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *conv_bn(into, out, 1, relu=False, affine=affine))


def _depthwise(
    width: int, kernel: int, stride: int, dilation: int, affine: bool
) -> list[nn.Module]:
    """A ReLU, a depthwise and a 1x1 convolution, and a batch norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(width, width, kernel, stride, padding, dilation, groups=width, bias=False)
    return [nn.ReLU(), conv, *conv_bn(width, width, 1, relu=False, affine=affine)]


def _operation(name: str, width: int, stride: int, affine: bool) -> nn.Module:
    after_pool = [] if affine else [nn.BatchNorm2d(width, affine=False)]
    if name == "none":
        return Nothing(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Halving(width, width, affine)
    kernel = int(name[-1])
    if name.startswith("max_pool"):
        return nn.Sequential(nn.MaxPool2d(kernel, stride, 1), *after_pool)
    if name.startswith("avg_pool"):
        pool = nn.AvgPool2d(kernel, stride, 1, count_include_pad=False)
        return nn.Sequential(pool, *after_pool)
    if name.startswith("dil_conv"):
        return nn.Sequential(*_depthwise(width, kernel, stride, 2, affine))
    twice = _depthwise(width, kernel, stride, 1, affine), _depthwise(width, kernel, 1, 1, affine)
    return nn.Sequential(*twice[0], *twice[1])


@final
class Decisions:
    """The decisions of one kind of cells.

    Attributes:
        edges: by the nodes that an edge leads from and to.
        inputs: by node; node 2 has none.
    """

    def __init__(self, kind: str, operations: Sequence[str]) -> None:
        """Makes them, in the order of nodes."""
        self.edges: dict[tuple[int, int], Decision] = {}
        self.inputs: dict[int, Decision] = {}
        for node, pairs in PAIRS.items():
            if len(pairs) > 1:
                names = [f"{first}+{second}" for first, second in pairs]
                self.inputs[node] = choose(names, f"{kind}.inputs{node}")
            for source in range(node):
                name = f"{kind}.edge{source}{node}"
                self.edges[source, node] = choose(operations, name)


class Node(nn.Module):
    """The sum over the two edges that are taken of all that lead to a node."""

    def __init__(self, node: int, decisions: Decisions, width: int, halves: bool, affine: bool):
        super().__init__()
        self.edges = nn.ModuleList()
        for source in range(node):
            stride = 2 if halves and source < 2 else 1
            decision = decisions.edges[source, node]
            names = map(str, decision.options)
            modules = {name: _operation(name, width, stride, affine) for name in names}
            edge: nn.Module = Choice(modules, decision)
            if node in decisions.inputs:
                nothing = Nothing(stride)
                held = [edge if source in pair else nothing for pair in PAIRS[node]]
                inputs = decisions.inputs[node]
                edge = Choice(dict(zip(map(str, inputs.options), held, strict=True)), inputs)
            self.edges.append(edge)

    def forward(self, nodes: Sequence[Tensor]) -> Tensor:
        """The nodes before, each (B, C, H, W), to this one."""
        given = [edge(x) for edge, x in zip(self.edges, nodes, strict=True)]
        something = [tensor for tensor in given if not is_nothing(tensor)]
        total: Tensor = functools.reduce(torch.add, something or given[:1])
        return total


class DartsCell(nn.Module):
    """One cell, of the outputs of the two cells before it."""

    def __init__(
        self,
        decisions: Decisions,
        into: tuple[int, int],
        width: int,
        halves: bool,
        halved: bool,
        affine: bool,
    ) -> None:
        """Makes a cell.

        Args:
            decisions: of its kind.
            into: the channels of its two inputs.
            width: channels of every node.
            halves: whether it halves the resolution.
            halved: whether the cell before did, so that its first input is twice as large.
            affine: whether batch norms scale and shift.
        """
        super().__init__()
        first = Halving if halved else _relu_conv_bn
        self.before = nn.ModuleList(
            [first(into[0], width, affine), _relu_conv_bn(into[1], width, affine)]
        )
        self.nodes = nn.ModuleList(Node(n, decisions, width, halves, affine) for n in NODES)

    def forward(self, last_but_one: Tensor, last: Tensor) -> Tensor:
        """The outputs of two cells to (B, 4 C, H, W), or half of that side."""
        pairs = zip(self.before, (last_but_one, last), strict=True)
        nodes = [preprocess(x) for preprocess, x in pairs]
        for node in self.nodes:
            nodes.append(node(nodes))
        return torch.cat(nodes[2:], 1)


class Cells(nn.Module):
    """All cells one after the other, each of which takes the two before it."""

    def __init__(self, cells: Sequence[DartsCell]) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) from the stem to (B, 16 width, H / 4, W / 4)."""
        last_but_one = last = x
        for cell in self.cells:
            last_but_one, last = last, cell(last_but_one, last)
        return last


@final
class Darts(Chain):
    """The network of `darts`, of three stages: cells take two inputs, so that all are one."""

    def __init__(
        self, width: int, channels: int, classes: int, cells: int, none: bool, affine: bool
    ) -> None:
        """Makes the network that `darts` describes."""
        operations = OPERATIONS if none else OPERATIONS[1:]
        decisions = [Decisions(kind, operations) for kind in KINDS]
        stem = nn.Sequential(*conv_bn(channels, STEM * width, 3, relu=False))
        made, halved, into = [], False, (STEM * width, STEM * width)
        for number in range(cells):
            halves = number in (cells // 3, 2 * cells // 3)
            width *= 2 if halves else 1
            made.append(DartsCell(decisions[halves], into, width, halves, halved, affine))
            halved, into = halves, (into[1], len(NODES) * width)
        super().__init__([stem, Cells(made), pooled_classifier(into[1], classes)])


@checked
def darts(
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 8,
    channels: Positive = 3,
    classes: Positive = 10,
    cells: Annotated[int, Field(ge=3)] = 5,
    none: bool = False,
    affine: bool = True,
) -> Darts:
    """The network of DARTS, to be wrapped by `ms.Supernet`.

    Decisions are, of normal cells and then of those that halve the resolution (`normal.`,
    `reduce.`), for every node 3 to 5 `inputs3`, between pairs such as `0+2`, and for the edges of
    every node 2 to 5 `edge02`, from node 0 to 2, between `OPERATIONS`. All cells of a kind share
    them. Sides of images must be multiples of 4.

    Args:
        width: channels of the nodes of the first cell, an even number; cells at a third and two
            thirds double it. The stem has three times as many.
        channels: channels of the images.
        classes: outputs of the classifier.
        cells: the number of cells.
        none: whether `none` is among the operations, as while DARTS searches; what it finds has
            none.
        affine: whether batch norms behind the stem scale and shift, as in networks that DARTS
            trains alone. Without, and with one behind every pool, it is the network that it
            searches.

    Raises:
        ValueError: if `width` is not even, or there are fewer than three cells.
    """
    return Darts(width, channels, classes, cells, none, affine)


def from_genotype(normal: Genes, reduce: Genes, *, none: bool = False) -> Arch:
    """The encoding of a genotype, in which edges that are not taken are 0.

    Args:
        normal: of normal cells, eight operations with the nodes that they come from.
        reduce: likewise of cells that halve the resolution.
        none: whether `none` is among the operations of the network.

    Raises:
        ValueError: if one is not of that form.
    """
    operations = OPERATIONS if none else OPERATIONS[1:]
    arch: list[int] = []
    for kind, genes in zip(KINDS, (normal, reduce), strict=True):
        taken = [dict((s, o) for o, s in genes[i : i + 2]) for i in range(0, len(genes), 2)]
        sources = [tuple(sorted(edges)) for edges in taken]
        named = all(name in operations for edges in taken for name in edges.values())
        fits = len(sources) == len(NODES) and named
        if not fits or not all(s in PAIRS[n] for n, s in zip(NODES, sources, strict=True)):
            raise ValueError(
                f"the genotype of {kind} cells is {list(genes)!r}: it needs two operations for "
                f"each of {len(NODES)} nodes, from different earlier nodes (the first has 0 and "
                f"1), each of {', '.join(operations)}"
            )
        for node, edges, pair in zip(NODES, taken, sources, strict=True):
            arch += [PAIRS[node].index(pair)] if len(PAIRS[node]) > 1 else []
            arch += [operations.index(edges[s]) if s in edges else 0 for s in range(node)]
    return tuple(arch)


def to_genotype(arch: Arch, *, none: bool = False) -> dict[str, list[tuple[str, int]]]:
    """The genotype of an encoding, by kind of cells, with nodes in order.

    Args:
        arch: an encoding of `darts`.
        none: whether `none` is among the operations of the network.

    Raises:
        ValueError: if it is not of the space.
    """
    operations = OPERATIONS if none else OPERATIONS[1:]
    left = list(arch)
    genotype: dict[str, list[tuple[str, int]]] = {kind: [] for kind in KINDS}
    try:
        for kind in KINDS:
            for node, pairs in PAIRS.items():
                pair = pairs[_option(left, len(pairs))] if len(pairs) > 1 else pairs[0]
                edges = [operations[_option(left, len(operations))] for _ in range(node)]
                genotype[kind] += [(edges[source], source) for source in pair]
        if left:
            raise IndexError
    except IndexError:
        raise ValueError(
            f"darts: architecture {arch!r} is not of {len(KINDS)} times 17 options, of pairs of "
            f"nodes and of 0..{len(operations) - 1}"
        ) from None
    return genotype


def _option(left: list[int], count: int) -> int:
    """The next option of an encoding.

    Raises:
        IndexError: if there is none, or it is out of range.
    """
    option = left.pop(0)
    if not 0 <= option < count:
        raise IndexError
    return option
