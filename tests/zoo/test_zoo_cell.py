"""`cell` against the published table of all 15,625 encodings."""

import copy
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms
from manyshot import cost
from manyshot.zoo import cell
from manyshot.zoo.cell import EDGES, FourNodes, from_index, from_string, to_index, to_string
from published_tables import rows_of

IMAGE = (3, 32, 32)
BIAS_ADDITIONS = 10  # of the classifier: by so many are the published multiply-adds more
NONE, SKIP, CONV1, CONV3, POOL = range(5)

# Encodings by what is special about them: edges 01, 02, 12, 03, 13, 23.
HAND = {
    "all convolutions": (CONV3, CONV1, CONV3, CONV1, CONV3, CONV1),
    "nothing into 1": (NONE, CONV1, CONV3, CONV1, CONV3, CONV1),
    "nothing into 1 and 2": (NONE, NONE, CONV3, POOL, CONV3, CONV1),
    "nothing from 1": (CONV3, CONV1, NONE, SKIP, NONE, CONV1),
    "nothing from 2": (CONV3, CONV1, CONV3, POOL, CONV1, NONE),
    "one long path": (CONV3, NONE, CONV1, NONE, NONE, CONV3),
    "disconnected": (CONV3, CONV1, CONV3, NONE, NONE, NONE),
    "disconnected from the input": (NONE, NONE, CONV3, NONE, CONV3, CONV1),
    "nothing": (NONE,) * 6,
}


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(cell())


@pytest.fixture(scope="module")
def rows():
    return rows_of("nas_bench_201")


@pytest.fixture(scope="module")
def archs(rows) -> list[ms.Arch]:
    return [tuple(map(int, row["arch"])) for row in rows]


@pytest.fixture(scope="module")
def small() -> ms.Supernet:
    torch.manual_seed(0)
    net = ms.Supernet(cell(width=2, classes=3, cells=2))
    for parameter in net.parameters():  # no shift is zero
        nn.init.normal_(parameter, 0.1, 0.5)
    return net.double().eval()


def drawn(count: int) -> list[ms.Arch]:
    rng = np.random.default_rng(0)
    return [tuple(rng.integers(5, size=6).tolist()) for _ in range(count)]


def on_a_path(arch: ms.Arch) -> tuple[bool, ...]:
    """By walking every path from node 0 to node 3 over edges that are not `none`."""
    operation = dict(zip(EDGES, arch, strict=True))
    live: set[str] = set()

    def walk(node: int, walked: tuple[str, ...]) -> None:
        if node == 3:
            live.update(walked)
        for edge in EDGES:
            if int(edge[0]) == node and operation[edge] != NONE:
                walk(int(edge[1]), (*walked, edge))

    walk(0, ())
    return tuple(edge in live for edge in EDGES)


class TestTable:
    def test_covers_the_space(self, net, archs):
        assert sorted(archs) == list(net.space.enumerate())
        assert [d.name for d in net.space.decisions] == [f"edge{edge}" for edge in EDGES]

    def test_parameters(self, net, rows, archs):
        params = cost.params(net, archs)
        np.testing.assert_array_equal(params, [int(row["params"]) for row in rows])

    def test_macs(self, net, rows, archs):
        macs = cost.macs(net, archs, IMAGE) + BIAS_ADDITIONS
        np.testing.assert_array_equal(macs, [int(row["macs"]) for row in rows])

    def test_canonical_encodings_have_only_live_edges(self, net, rows, archs):
        canonical = [net.space.canonical(arch) for arch in archs]
        for arch, representative in zip(archs, canonical, strict=True):
            live = on_a_path(arch)
            assert representative == tuple(np.where(live, arch, NONE).tolist())
            assert net.space.canonical(representative) == representative
        macs = cost.macs(net, canonical, IMAGE) + BIAS_ADDITIONS
        np.testing.assert_array_equal(macs, [int(row["live_macs"]) for row in rows])
        connected = [representative != (NONE,) * 6 for representative in canonical]
        assert connected == [row["connected"] == "1" for row in rows]

    def test_canonical_encodings_are_of_one_function(self, net, rows, archs):
        functions = defaultdict(set)
        for arch, row in zip(archs, rows, strict=True):
            functions[net.space.canonical(arch)].add(row["iso_id"])
        assert all(len(found) == 1 for found in functions.values())
        assert len(functions) == 9445
        assert len(set.union(*functions.values())) == 4930

    def test_extracted_subnets(self, net, rows, archs):
        """Two columns without `ms.cost`, on a few rows."""
        for i in np.random.default_rng(0).choice(len(rows), 4, replace=False):
            subnet = net.extract(archs[i]).eval()
            with FlopCounterMode(display=False) as counter:
                subnet(torch.empty(1, *IMAGE, device="meta"))
            assert counter.get_total_flops() // 2 + BIAS_ADDITIONS == int(rows[i]["macs"])
            assert sum(p.numel() for p in subnet.parameters()) == int(rows[i]["params"])

    def test_indices(self, archs):
        assert [from_index(i) for i in range(len(archs))] == archs
        assert [to_index(arch) for arch in archs] == list(range(len(archs)))


class TestFunction:
    @pytest.mark.parametrize("arch", HAND.values(), ids=HAND)
    def test_is_that_of_the_canonical_encoding(self, small, arch):
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        with torch.no_grad():
            logits = small(images, arch, stats="batch")
            canonical = small.space.canonical(arch)
            assert torch.equal(logits, small(images, canonical, stats="batch"))

    def test_is_that_of_the_canonical_encoding_for_random_ones(self, small):
        images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
        aliases = [a for a in drawn(100) if small.space.canonical(a) != a]
        assert len(aliases) > 20
        with torch.no_grad():
            for arch in aliases:
                logits = small(images, arch, stats="batch")
                canonical = small.space.canonical(arch)
                assert torch.equal(logits, small(images, canonical, stats="batch"))

    @pytest.mark.parametrize("arch", [*HAND.values(), *drawn(4)])
    def test_extracted_subnet_is_bit_equal(self, small, statistics, arch):
        net = copy.deepcopy(small).float()
        stats = statistics(net, arch, (3, 8, 8))
        subnet = net.extract(arch, stats=stats)
        images = torch.randn(4, 3, 8, 8)
        with torch.no_grad():
            for batch in (images, images[:1]):
                assert torch.equal(net(batch, arch, stats=stats), subnet(batch))

    def test_what_matters_learns(self, small):
        """The gradient knows nothing of declared uses: convolutions learn where edges are live."""
        images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % 3
        for arch in [*HAND.values(), *drawn(20)]:
            small.zero_grad()
            loss = nn.functional.cross_entropy(small(images, arch, stats="batch"), labels)
            loss.backward()
            live = zip(EDGES, arch, on_a_path(arch), strict=True)
            learns = {edge for edge, op, lives in live if lives and op in (CONV1, CONV3)}
            cells = [m for m in small.modules() if isinstance(m, FourNodes)]
            assert len(cells) == 6
            for one in cells:
                found = {
                    edge
                    for edge, choice in one.edges.items()
                    if any(p.grad is not None and p.grad.any() for p in choice.parameters())
                }
                assert found == learns
        small.zero_grad()

    def test_is_the_authors_while_shifts_are_zero(self):
        """One cell by the paper's sum, its operations taken from an extracted network."""
        torch.manual_seed(0)
        net = ms.Supernet(cell(width=3, cells=1)).double()
        x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
        for arch in [*HAND.values(), *drawn(20)]:
            one = next(m for m in net.extract(arch).modules() if isinstance(m, FourNodes))
            nodes = [x]
            for j in (1, 2, 3):
                nodes.append(sum(one.edges[f"{i}{j}"](node) for i, node in enumerate(nodes)))
            torch.testing.assert_close(one(x), nodes[3], rtol=0, atol=1e-12)  # sums of a few


def test_published_definition():
    """What the counts cannot tell: orders, strides, pools, and where there are ReLUs."""
    with torch.device("meta"):
        subnet = ms.Supernet(cell(cells=1)).extract((NONE, SKIP, CONV1, CONV3, POOL, CONV3))
    leaves = [m for m in subnet.modules() if not list(m.children())]
    edges = ["Nothing", "Identity", *("ReLU", "Conv2d", "BatchNorm2d") * 2, "AvgPool2d"]
    edges += ["ReLU", "Conv2d", "BatchNorm2d"]
    reduction = ["ReLU", "Conv2d", "BatchNorm2d"] * 2 + ["AvgPool2d", "Conv2d"]
    tail = ["BatchNorm2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    expected = ["Conv2d", "BatchNorm2d", *(edges + reduction) * 2, *edges, *tail]
    assert [type(m).__name__ for m in leaves] == expected
    convolutions = [m for m in leaves if isinstance(m, nn.Conv2d)]
    assert all(m.bias is None for m in convolutions)
    sizes = [16, *[16] * 3, 32, 32, 32, *[32] * 3, 64, 64, 64, *[64] * 3]
    assert [m.out_channels for m in convolutions] == sizes
    assert [i for i, m in enumerate(convolutions) if m.stride == (2, 2)] == [4, 10]
    pools = [m for m in leaves if isinstance(m, nn.AvgPool2d)]
    assert [(p.kernel_size, p.stride, p.padding) for p in pools] == [(3, 1, 1), (2, 2, 0)] * 2 + [
        (3, 1, 1)
    ]
    assert not pools[0].count_include_pad


class TestStrings:
    def test_round_trip(self, archs):
        texts = [to_string(arch) for arch in archs]
        assert len(set(texts)) == 15625
        assert [from_string(text) for text in texts] == archs

    def test_first_of_the_benchmark(self):
        text = (
            "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+"
            "|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
        )
        arch = (POOL, CONV1, SKIP, CONV1, SKIP, SKIP)
        assert (from_string(text), from_index(0), to_index(arch)) == (arch, arch, 0)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "|none~0|",
            "|none~0|+|none~0|none~1|+|none~0|none~1|none~1|",
            "|none~0|+|none~0|none~1|+|none~0|none~1|max_pool~2|",
            "|none~0|none~0|none~1|none~0|none~1|none~2|",
            "none~0|+|none~0|none~1|+|none~0|none~1|none~2",
        ],
    )
    def test_other_forms_are_refused(self, text):
        with pytest.raises(ValueError, match=r"not of the form '\|none~0\|\+.*avg_pool_3x3"):
            from_string(text)

    @pytest.mark.parametrize("arch", [(0,) * 5, (0,) * 7, (5, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0)])
    def test_bad_architectures(self, arch):
        for function in (to_string, to_index):
            with pytest.raises(ValueError, match=r"is not 6 options of 0\.\.4"):
                function(arch)

    @pytest.mark.parametrize("index", [-1, 15625])
    def test_bad_indices(self, index):
        with pytest.raises(ValueError, match=r"not in 0\.\.15624"):
            from_index(index)
