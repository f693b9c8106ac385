"""Costs of layers of many channels: exact, and without trying all combinations of them."""

import numpy as np
import pytest
from cost_networks import subnet_costs
from torch import nn

import manyshot as ms
from manyshot import cost
from manyshot.cost import products
from manyshot.cost.recording import Recording
from manyshot.space.decision import Size

WIDTHS = (1, 2, 3, 6, 7)


def chain(*, kernel: Size | int = 3, groups: Size | int = 1) -> nn.Module:
    one, two = ms.choose(WIDTHS, "one"), ms.choose(WIDTHS, "two")
    return nn.Sequential(
        ms.nn.Conv2d(3, one, 3, 1, 1),
        nn.ReLU(),
        ms.nn.Conv2d(one, two, kernel, 1, kernel // 2, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        ms.nn.Linear(two, one),
    )


def depthwise() -> nn.Module:
    one, ratio = ms.choose(WIDTHS, "one"), ms.choose((1, 2, 3, 4), "ratio")
    wide = one * ratio
    return nn.Sequential(
        ms.nn.Conv2d(3, one, 1),
        ms.nn.Conv2d(one, wide, 1),
        ms.nn.Conv2d(wide, wide, 3, 1, 1, groups=wide),
        ms.nn.ConvTranspose2d(wide, one, 2, 2),
    )


def kernel_by_width() -> nn.Module:
    """Kernels are half a width, and a width, so that these are no mere factors."""
    one, two = ms.choose((2, 6, 10), "one"), ms.choose((1, 3, 5, 7, 9), "two")
    return nn.Sequential(
        ms.nn.Conv2d(3, one, 1),
        ms.nn.Conv2d(one, two, one // 2, padding=one // 4),
        ms.nn.Conv2d(two, two, two, padding=two // 2),
    )


def chosen() -> nn.Module:
    """A layer that is in one option, beside one that is in two places."""
    one, two = ms.choose(WIDTHS, "one"), ms.choose(WIDTHS, "two")
    tied = ms.nn.Conv2d(one, two, 1)
    options = [tied, nn.Sequential(ms.nn.Conv2d(one, one, 3, 1, 1), tied)]
    return nn.Sequential(ms.nn.Conv2d(3, one, 1), ms.nn.Choice([*options, tied], "op"))


NETWORKS = {
    "kernel": lambda: chain(kernel=ms.choose((1, 3, 5), "kernel")),
    "depthwise": depthwise,
    "kernel by width": kernel_by_width,
    "chosen": chosen,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_listing_and_of_extracted_subnets(name, monkeypatch) -> None:
    runs = []
    monkeypatch.setattr(
        Recording,
        "_run",
        lambda self, arch, run=Recording._run: (runs.append(arch), run(self, arch)),
    )
    monkeypatch.setattr(products, "LISTED", 4)
    net = ms.Supernet(NETWORKS[name]())
    table = cost.macs_table(net, (3, 4, 4))
    few = len(runs)
    monkeypatch.setattr(products, "LISTED", 10**9)
    listed = cost.macs_table(net, (3, 4, 4))
    assert few < len(runs) - few or name == "kernel by width"
    everything = list(net.space.enumerate())
    assert table(everything).tolist() == listed(everything).tolist()
    assert table.range() == listed.range()
    rng = np.random.default_rng(0)
    archs = [net.space.sample(rng) for _ in range(8)]
    expected = [subnet_costs(net, arch, (3, 4, 4)) for arch in archs]
    assert table(archs).tolist() == [macs for macs, _ in expected]
    assert cost.params(net, archs).tolist() == [params for _, params in expected]


class Padded(nn.Module):
    """Pads to a size that depends on a width, which the layer that then runs does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.width = ms.choose(WIDTHS, "width")
        self.out = ms.choose((1, 2, 3, 4), "out")
        self.first = ms.nn.Conv2d(3, self.width, 1)
        self.second = ms.nn.Conv2d(self.width, self.out, 1)

    def forward(self, x):
        x, wide = self.first(x), int(ms.value(self.width) == 6)
        return self.second(nn.functional.pad(x, (wide, wide)))


def test_a_layer_that_is_no_product_is_listed(monkeypatch) -> None:
    monkeypatch.setattr(products, "LISTED", 4)
    net = ms.Supernet(Padded())
    archs = list(net.space.enumerate())
    width, out = np.array([(WIDTHS[arch[0]], arch[1] + 1) for arch in archs]).T
    expected = 4 * 3 * width + width * out * np.where(width == 6, 2 * 4, 4)
    assert cost.macs(net, archs, (3, 2, 2)).tolist() == expected.tolist()
