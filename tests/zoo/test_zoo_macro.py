"""`macro` against the published table of all 6,561 encodings."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms
from manyshot import cost
from manyshot.zoo import macro
from published_tables import rows_of

IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(macro(), input_shape=IMAGE)


@pytest.fixture(scope="module")
def rows():
    return rows_of("nas_bench_macro")


def encoding(text: str) -> ms.Arch:
    return tuple(map(int, text))


def layers_of(module: nn.Module) -> tuple[str, ...]:
    """All layers in order, with their sizes: equal for equal networks, however they are nested."""
    leaves = (m for m in module.modules() if not list(m.children()))
    return tuple(repr(m) for m in leaves if not isinstance(m, nn.Sequential))


class TestTable:
    def test_covers_the_space(self, net, rows):
        assert sorted(encoding(row["arch"]) for row in rows) == list(net.space.enumerate())
        assert net.space.size == 6561

    def test_parameters(self, net, rows):
        params = cost.params(net, [encoding(row["arch"]) for row in rows])
        np.testing.assert_array_equal(params, [int(row["params"]) for row in rows])

    def test_macs(self, net, rows):
        macs = cost.macs(net, [encoding(row["arch"]) for row in rows], IMAGE)
        np.testing.assert_array_equal(macs, [int(row["macs"]) for row in rows])

    def test_canonical(self, net, rows):
        for row in rows:
            assert net.space.canonical(encoding(row["arch"])) == encoding(row["canonical"])
        assert len({row["canonical"] for row in rows}) == 3969

    def test_extracted_subnets(self, net, rows):
        """The same two columns without `ms.cost`, on a few rows."""
        picked = np.random.default_rng(0).choice(len(rows), 8, replace=False)
        for row in [rows[0], rows[-1], *(rows[i] for i in picked)]:
            subnet = net.extract(encoding(row["arch"])).eval()
            with FlopCounterMode(display=False) as counter:
                subnet(torch.empty(1, *IMAGE, device="meta"))
            assert counter.get_total_flops() // 2 == int(row["macs"])
            assert sum(p.numel() for p in subnet.parameters()) == int(row["params"])


def test_encodings_are_canonically_equal_exactly_when_their_networks_are():
    with torch.device("meta"):
        net = ms.Supernet(macro(width=1, layers=(1, 3)))
    networks, encodings = defaultdict(set), defaultdict(set)
    for arch in net.space.enumerate():
        network = layers_of(net.extract(arch))
        networks[net.space.canonical(arch)].add(network)
        encodings[network].add(net.space.canonical(arch))
    assert all(len(found) == 1 for found in (*networks.values(), *encodings.values()))
    assert len(networks) == 3 * 3 * 7  # 7 = 1 + 2 + 4 sequences of at most two blocks


def test_width_8():
    with torch.device("meta"):
        subnet = ms.Supernet(macro(width=8, channels=1, classes=7)).extract((1, 2) * 4)
        out = [m.out_channels for m in subnet.modules() if isinstance(m, nn.Conv2d)]
        assert out[0] == 8
        projected = [*out[3:-1:3], out[-1]]
        assert projected == [16, 16, 32, 32, 32, 64, 64, 64, 320]
        assert out[1:3] == [8 * 3] * 2
        assert out[4:6] == [16 * 6] * 2
        assert subnet(torch.empty(2, 1, 28, 28)).shape == (2, 7)


FACTORS = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.fixture(scope="module")
def elastic() -> ms.Supernet:
    torch.manual_seed(0)
    net = ms.Supernet(macro(width=4, classes=5, layers=(2, 1), hidden_factors=FACTORS))
    for parameter in net.parameters():  # no zeros and ones, which hide mistakes
        nn.init.normal_(parameter, 0.1, 0.3)
    return net.eval()


def narrow(arch: ms.Arch) -> nn.Sequential:
    """What `elastic` is at `arch`, written out in plain layers."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)]
    shapes = ((4, 8, 2), (8, 8, 1), (8, 16, 2))
    for (into, out, stride), op, factor in zip(shapes, arch[::2], arch[1::2], strict=True):
        if op == 0 and into != out:
            layers += [nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out)]
        elif op:
            kernel, expansion = ((3, 3), (5, 6))[op - 1]
            # Nearest, and no more than a tenth below: only 2.4 (of 12 channels) differs from round.
            hidden = {2.4: 3}.get(x := round(into * expansion * FACTORS[factor], 9), round(x))
            depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, 1, hidden, False)
            for conv in (nn.Conv2d(into, hidden, 1, bias=False), depthwise):
                layers += [conv, nn.BatchNorm2d(hidden)]
            layers += [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
    layers += [nn.Conv2d(16, 160, 1, bias=False), nn.BatchNorm2d(160)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 5))


class TestHiddenFactors:
    def test_the_largest_factor_is_the_published_network(self, rows):
        picked = [rows[i] for i in np.random.default_rng(1).choice(len(rows), 500, replace=False)]
        with torch.device("meta"):
            net = ms.Supernet(macro(hidden_factors=(0.5, 1.0)))
        archs = [tuple(x for op in encoding(row["arch"]) for x in (op, 1)) for row in picked]
        params, macs = cost.params(net, archs), cost.macs(net, archs, IMAGE)
        assert params.tolist() == [int(row["params"]) for row in picked]
        assert macs.tolist() == [int(row["macs"]) for row in picked]

    def test_the_largest_factor_is_the_same_function(self, elastic):
        fixed = ms.Supernet(macro(width=4, classes=5, layers=(2, 1))).eval()
        fixed.load_state_dict(elastic.state_dict())
        images = torch.randn(4, 3, 12, 12)
        with torch.no_grad():
            for ops in fixed.space.enumerate():
                arch = tuple(x for op in ops for x in (op, 4))
                logits = elastic(images, arch, stats="batch")
                assert torch.equal(logits, fixed(images, ops, stats="batch"))

    def test_costs_are_those_of_narrow_networks(self, elastic):
        rng = np.random.default_rng(0)
        archs = [elastic.space.sample(rng) for _ in range(40)]
        archs += [(op, factor) * 3 for op in range(3) for factor in range(5)]
        plain = [narrow(arch).eval() for arch in archs]
        params = [sum(p.numel() for p in net.parameters()) for net in plain]
        assert cost.params(elastic, archs).tolist() == params
        macs = [cost.subnet_macs(net, (3, 12, 12)) for net in plain]
        assert cost.macs(elastic, archs, (3, 12, 12)).tolist() == macs

    def test_extracted_subnet_is_bit_equal(self, elastic, statistics):
        rng = np.random.default_rng(2)
        images = torch.randn(4, 3, 12, 12)
        for arch in [(1, 0) * 3, (2, 1) * 3, *(elastic.space.sample(rng) for _ in range(6))]:
            stats = statistics(elastic, arch, (3, 12, 12))
            subnet = elastic.extract(arch, stats=stats)
            plain = [tuple(p.shape) for p in narrow(arch).parameters()]
            assert [tuple(p.shape) for p in subnet.parameters()] == plain
            with torch.no_grad():
                assert torch.equal(elastic(images, arch, stats=stats), subnet(images))

    def test_decisions(self, elastic):
        names = [name for i in range(3) for name in (f"layer{i}", f"layer{i}.hidden")]
        assert [d.name for d in elastic.space.decisions] == names
        assert all(d.options == FACTORS for d in elastic.space.decisions[1::2])
        assert elastic.space.size == 15**3
        assert elastic.space.commutations == ()
        assert elastic.space.canonical((0, 3, 1, 3, 0, 2)) == (0, 0, 1, 3, 0, 0)
        assert elastic.space.active((0, 3, 1, 3, 2, 2)) == (True, False, *[True] * 4)
        canonical = {elastic.space.canonical(arch) for arch in elastic.space.enumerate()}
        assert len(canonical) == 11**3

    def test_at_least_one_channel_is_hidden(self):
        net = ms.Supernet(macro(width=1, layers=(1,), hidden_factors=(0.01, 1.0)))
        for op in (1, 2):
            convolutions = [m for m in net.extract((op, 0)).modules() if isinstance(m, nn.Conv2d)]
            assert [m.out_channels for m in convolutions] == [1, 1, 1, 2, 40]
