"""`macro` against the published table of all 6,561 encodings."""

import csv
import gzip
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms
from manyshot import cost
from manyshot.zoo import macro

IMAGE = (3, 32, 32)


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(macro(), input_shape=IMAGE)


@pytest.fixture(scope="module")
def rows(tables):
    with gzip.open(tables / "nas_bench_macro.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


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


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"channels": 0}, {"classes": 0}, {"layers": ()}, {"layers": (2, 0)}]
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        macro(**options)
