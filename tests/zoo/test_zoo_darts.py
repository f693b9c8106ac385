"""`darts` against published counts, a cell written out, and the rule by which edges are counted."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot import cost
from manyshot.zoo import darts
from manyshot.zoo.darts import (
    KINDS,
    OPERATIONS,
    PAIRS,
    DartsCell,
    Halving,
    from_genotype,
    to_genotype,
)

# Genotypes as quark0/darts, yuhuixu1993/PC-DARTS and chenxin061/pdarts have them.
GENOTYPES = {
    "DARTS_V2": (
        [("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]
        + [("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)],
        [("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1)]
        + [("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)],
    ),
    "PC_DARTS_cifar": (
        [("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1)]
        + [("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1)],
        [("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 2)]
        + [("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2)],
    ),
    "PDARTS": (
        [("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1)]
        + [("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4)],
        [("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2)]
        + [("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3)],
    ),
}


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    torch.manual_seed(0)
    net = ms.Supernet(darts(width=2, cells=3, classes=3, none=True))
    for parameter in net.parameters():  # no shift is zero
        nn.init.normal_(parameter, 0.1, 0.5)
    return net.double().eval()


@pytest.fixture(scope="module")
def large() -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(darts(width=36, cells=20))


def in_order(genes):
    return [gene for i in range(0, 8, 2) for gene in sorted(genes[i : i + 2], key=lambda g: g[1])]


class TestPublished:
    @pytest.mark.parametrize(
        ("name", "millions"),
        [
            ("DARTS_V2", 3.349342),  # README of quark0/darts (3.349), and a public log
            ("PDARTS", 3.433798),  # issue 7 of chenxin061/pdarts, without the auxiliary head
            pytest.param("PC_DARTS_cifar", 3.6, marks=pytest.mark.slow),  # README of its authors
        ],
    )
    def test_parameters(self, large, name, millions):
        """The paper has 3.3 million of DARTS_V1 too, whose public genotype has 3,169,414."""
        subnet = large.extract(from_genotype(*GENOTYPES[name]))
        count = sum(p.numel() for p in subnet.parameters()) / 1e6
        assert round(count, len(str(millions)) - 2) == millions

    def test_parameters_of_the_network_that_is_searched(self):
        """Printed by the authors' train_search.py, in a public log: param size = 1.930618MB."""
        with torch.device("meta"):
            net = ms.Supernet(darts(width=16, cells=8, none=True, affine=False))
        assert sum(p.numel() for p in net.parameters()) == 1_930_618

    @pytest.mark.parametrize("name", GENOTYPES)
    @pytest.mark.parametrize("none", [False, True])
    def test_genotypes_and_encodings(self, name, none):
        normal, reduce = GENOTYPES[name]
        arch = from_genotype(normal, reduce, none=none)
        expected = {"normal": in_order(normal), "reduce": in_order(reduce)}
        assert to_genotype(arch, none=none) == expected


def test_decisions_and_where_they_matter(net):
    names = [str(d.name) for d in net.space.decisions]
    of_kind = ["edge02", "edge12", "inputs3", "edge03", "edge13", "edge23", "inputs4"]
    assert names[:7] == [f"normal.{name}" for name in of_kind]
    assert len(names) == 34
    assert names[17:] == [name.replace("normal", "reduce") for name in names[:17]]
    at = {name: i for i, name in enumerate(names)}
    rng = np.random.default_rng(0)
    for _ in range(50):
        arch = net.space.sample(rng)
        active = net.space.active(arch)
        for kind in KINDS:
            for node, pairs in PAIRS.items():
                pair = pairs[arch[at[f"{kind}.inputs{node}"]]] if node > 2 else pairs[0]
                for source in range(node):
                    assert active[at[f"{kind}.edge{source}{node}"]] == (source in pair)


def test_an_encoding_is_one_network_with_its_canonical_encoding(net):
    rng = np.random.default_rng(1)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for _ in range(10):
        arch = net.space.sample(rng)
        other = tuple(
            option if active else int(rng.integers(count))
            for option, active, count in zip(
                arch, net.space.active(arch), net.space.counts.tolist(), strict=True
            )
        )
        assert net.space.canonical(arch) == net.space.canonical(other)
        with torch.no_grad():
            assert torch.equal(net(x, arch, stats="batch"), net(x, other, stats="batch"))


def test_extracted_subnets_are_bit_equal(net, statistics):
    single, rng = copy.deepcopy(net).float(), np.random.default_rng(2)
    images = torch.randn(4, 3, 8, 8)
    nothing = tuple(0 for _ in net.space.decisions)  # `none` everywhere
    for arch in (net.space.largest, nothing, *(net.space.sample(rng) for _ in range(4))):
        stats = statistics(single, arch, (3, 8, 8))
        subnet = single.extract(arch, stats=stats)
        with torch.no_grad():
            assert torch.equal(single(images, arch, stats=stats), subnet(images))


def test_macs_are_those_of_extracted_subnets():
    """By another counter, from the shapes of weights and outputs alone."""
    with torch.device("meta"):
        net = ms.Supernet(darts(width=4, cells=3))
    rng = np.random.default_rng(3)
    archs = [net.space.largest, *(net.space.sample(rng) for _ in range(3))]
    counted = []
    for arch in archs:
        total = [0]

        def count(module, _, output, total=total):
            if isinstance(module, nn.Conv2d | nn.Linear):
                total[0] += module.weight.numel() * output[0, 0].numel()

        subnet = net.extract(arch).eval()
        for module in subnet.modules():
            module.register_forward_hook(count)
        subnet(torch.empty(1, 3, 8, 8, device="meta"))
        counted.append(total[0])
    assert cost.macs(net, archs, (3, 8, 8)).tolist() == counted


def test_a_cell_is_the_sum_of_its_genotype():
    """The paper's cell, its operations taken from an extracted network."""
    torch.manual_seed(0)
    net = ms.Supernet(darts(width=4, cells=3))
    genes = GENOTYPES["PDARTS"]
    subnet = net.extract(from_genotype(*genes)).double()
    cells = [m for m in subnet.modules() if isinstance(m, DartsCell)]
    before = torch.randn(2, 12, 8, 8).double()
    for number, cell in enumerate(cells):  # the first is normal, the others halve the resolution
        shapes = {0: ((12, 8), (12, 8)), 1: ((12, 8), (16, 8)), 2: ((16, 8), (32, 4))}[number]
        before, last = (torch.randn(2, c, side, side).double() for c, side in shapes)
        nodes = [cell.before[0](before), cell.before[1](last)]
        named = iter(genes[number > 0])
        for node in cell.nodes:
            pair = [next(named), next(named)]
            nodes.append(sum(node.edges[source](nodes[source]) for _, source in pair))
        assert torch.equal(cell(before, last), torch.cat(nodes[2:], 1))
        assert nodes[2].shape[-1] == nodes[0].shape[-1] // (2 if number else 1)


def test_published_operations():
    """What the counts cannot tell: orders, strides, dilations, pools, and where there are ReLUs."""
    with torch.device("meta"):
        net = ms.Supernet(darts(width=4, cells=3, none=True))
    first, second = [m for m in net.modules() if isinstance(m, DartsCell)][:2]
    kinds = {
        "sep_conv_5x5": ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"] * 2,
        "dil_conv_5x5": ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"],
        "max_pool_3x3": ["MaxPool2d"],
        "avg_pool_3x3": ["AvgPool2d"],
    }
    for cell, stride in ((first, 1), (second, 2)):
        edge = cell.nodes[0].edges[0]
        assert list(edge.options) == list(OPERATIONS)
        for name, expected in kinds.items():
            leaves = list(edge.options[name])
            assert [type(leaf).__name__ for leaf in leaves] == expected
            depthwise = [m for m in leaves if getattr(m, "groups", 1) > 1]
            assert [m.stride[0] for m in depthwise] == [stride, 1][: len(depthwise)]
            assert all(m.dilation[0] == (2 if name.startswith("dil") else 1) for m in depthwise)
        assert edge.options["avg_pool_3x3"][0].count_include_pad is False
        skip = type(edge.options["skip_connect"])
        assert skip is (nn.Identity if stride == 1 else Halving)
    within = second.nodes[1].edges[2].options["0+2"].options  # from node 2: at the smaller side
    assert type(within["skip_connect"]) is nn.Identity
    searched = ms.Supernet(darts(width=4, cells=3, affine=False)).model
    norms = [m for m in searched.modules() if isinstance(m, ms.nn.BatchNorm2d)]
    assert sum(m.weight is not None for m in norms) == 1  # of the stem
    cell = next(m for m in searched.modules() if isinstance(m, DartsCell))
    pooled = cell.nodes[0].edges[0].options["max_pool_3x3"]
    assert [type(m).__name__ for m in pooled] == ["MaxPool2d", "BatchNorm2d"]


def test_halving_takes_pixels_of_both_kinds():
    """The factorised reduction of the authors' code: strided convolutions, one a pixel further."""
    torch.manual_seed(0)
    layer = Halving(3, 4, affine=True).double()
    x = torch.randn(2, 3, 8, 8).double()
    relu = x.relu()
    first, second = (half.weight for half in layer.halves)
    parts = F.conv2d(relu, first, stride=2), F.conv2d(relu[:, :, 1:, 1:], second, stride=2)
    expected = F.batch_norm(torch.cat(parts, 1), None, None, training=True)
    torch.testing.assert_close(layer(x), expected)


def test_pairs_of_equal_weight_sum_all_edges():
    """The relaxation of DARTS: every edge has weight one, whatever the numbers of pairs."""
    torch.manual_seed(1)
    net = ms.Supernet(darts(width=2, cells=3, classes=3, none=True)).double()
    weights = {}
    for d in net.space.decisions:
        count = len(d.options)
        if "inputs" in str(d.name):
            weights[d] = torch.full((count,), 1 / (int(str(d.name)[-1]) - 1)).double()
        else:
            weights[d] = torch.randn(count).double().softmax(0)
    by_name = {str(d.name): w for d, w in weights.items()}

    def mixed(cell, kind, before, last):
        nodes = [cell.before[0](before), cell.before[1](last)]
        for number, node in enumerate(cell.nodes, 2):
            total = 0
            for source, edge in enumerate(node.edges):
                choice = edge
                if number > 2:
                    pair = next(p for p in PAIRS[number] if source in p)
                    choice = edge.options[f"{pair[0]}+{pair[1]}"]
                named = by_name[f"{kind}.edge{source}{number}"]
                for weight, option in zip(named, choice.options.values(), strict=True):
                    total = total + weight * option(nodes[source])
            nodes.append(total)
        return torch.cat(nodes[2:], 1)

    x = torch.randn(4, 3, 8, 8).double()
    with net.selecting():
        stem, cells, head = net.model.stages()
        last_but_one = last = stem(x)
        for cell, kind in zip(cells.cells, ("normal", "reduce", "reduce"), strict=True):
            last_but_one, last = last, mixed(cell, kind, last_but_one, last)
        expected = head(last)
    torch.testing.assert_close(net(x, policy=weights, masks="mixed"), expected)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ([("sep_conv_3x3", 0), ("sep_conv_3x3", 1)] * 3, "needs two operations for each of 4"),
        ([("sep_conv_3x3", 0), ("sep_conv_3x3", 0)] * 4, "from different earlier nodes"),
        ([("sep_conv_3x3", 0), ("sep_conv_3x3", 2)] * 4, "from different earlier nodes"),
        ([("sep_conv_3x3", 0), ("none", 1)] * 4, "each of max_pool_3x3, avg_pool_3x3"),
    ],
)
def test_other_genotypes_are_refused(genes, message):
    normal, reduce = GENOTYPES["DARTS_V2"]
    with pytest.raises(ValueError, match=f"normal cells.*{message}"):
        from_genotype(genes, reduce)
    with pytest.raises(ValueError, match=f"reduce cells.*{message}"):
        from_genotype(normal, genes)


@pytest.mark.parametrize("change", [slice(0, 33), slice(0, 34)])
def test_other_encodings_are_refused(change):
    arch = (7, *from_genotype(*GENOTYPES["DARTS_V2"])[1:])[change]
    with pytest.raises(ValueError, match="is not of"):
        to_genotype(arch)
    with pytest.raises(ValueError, match="is not of"):
        to_genotype((*from_genotype(*GENOTYPES["DARTS_V2"]), 0))


@pytest.mark.parametrize("options", [{"width": 3}, {"cells": 2}, {"classes": 0}])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        darts(**options)
