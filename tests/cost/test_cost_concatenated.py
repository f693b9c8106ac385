"""Costs of networks that concatenate much: exact, and without trying all combinations."""

import itertools

import numpy as np
import pytest
import torch
import torchvision
from cost_networks import subnet_costs
from torch import nn

import manyshot as ms
from manyshot import cost
from manyshot.conversion import convert
from manyshot.cost import recording
from manyshot.cost.concatenated import _solved


class Dense(nn.Module):
    """Branches whose outputs are joined, by a layer of the given kind."""

    def __init__(self, joined, parts=10):
        super().__init__()
        self.widths = [ms.choose((1, 2, 3), f"w{i}") for i in range(parts)]
        self.branches = nn.ModuleList(ms.nn.Conv2d(3, w, 1) for w in self.widths)
        self.joined = joined(ms.concat(*self.widths))

    def forward(self, x):
        return self.joined(torch.cat([branch(x) for branch in self.branches], 1))


def drawn(space, count):
    rng = np.random.default_rng(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


def test_many_parts_by_hand():
    """(2 x 2 pixels): branches of 3 inputs, and a layer of 4, 6 or 8 outputs and kernel 1 or 3."""
    out, kernel = ms.choose((4, 6, 8), "out"), ms.choose((1, 3), "kernel")
    joined = lambda total: ms.nn.Conv2d(total, out, kernel, padding=kernel // 2)  # noqa: E731
    net = ms.Supernet(Dense(joined))
    archs = drawn(net.space, 30)
    expected = []
    for arch in archs:
        chosen = net.space.choices(arch)
        total = sum(int(chosen[f"w{i}"]) for i in range(10))
        o, k = int(chosen["out"]), int(chosen["kernel"])
        expected.append((4 * total * (3 + o * k * k), total * 4 + total * o * k * k + o))
    assert cost.macs(net, archs, (3, 2, 2)).tolist() == [macs for macs, _ in expected]
    assert cost.params(net, archs).tolist() == [params for _, params in expected]


LAYERS = {
    "depthwise": lambda total: ms.nn.Conv2d(total, total, 3, padding=1, groups=total),
    "square": lambda total: ms.nn.Conv2d(total, total, 1),
    "two": lambda total: nn.Sequential(ms.nn.Conv2d(total, total, 1), ms.nn.Conv2d(total, 2, 1)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_inputs_and_outputs_are_concatenated(name):
    net = ms.Supernet(Dense(LAYERS[name], parts=8))
    archs = drawn(net.space, 4)
    expected = [subnet_costs(net, arch, (3, 4, 4)) for arch in archs]
    assert cost.macs(net, archs, (3, 4, 4)).tolist() == [macs for macs, _ in expected]
    assert cost.params(net, archs).tolist() == [params for _, params in expected]


def test_a_choice_of_layers_on_many_parts():
    options = lambda total: ms.nn.Choice(  # noqa: E731
        [ms.nn.Conv2d(total, 4, 1), ms.nn.Conv2d(total, 4, 3, padding=1)], "op"
    )
    net = ms.Supernet(Dense(options))
    archs = drawn(net.space, 4)
    expected = [subnet_costs(net, arch, (3, 4, 4)) for arch in archs]
    assert cost.macs(net, archs, (3, 4, 4)).tolist() == [macs for macs, _ in expected]
    assert cost.params(net, archs).tolist() == [params for _, params in expected]


def test_what_is_no_polynomial_of_sums_is_an_error():
    class Cubic(nn.Module):
        def __init__(self, total):
            super().__init__()
            self.total = total

        def forward(self, x):
            n = ms.value(self.total)
            square = x.new_ones(n, n)
            return square @ square

    with pytest.raises(cost.CostMismatch, match=r"'joined'.*concatenated.*sum"):
        cost.macs_table(ms.Supernet(Dense(Cubic)), (3, 2, 2))


def test_polynomials_are_of_the_lowest_terms():
    monomials = [(), (0,), (0, 0)]
    assert _solved(monomials, {(2,): 7, (5,): 16}) == {(): 1, (0,): 3}
    assert _solved(monomials, {(s,): 2 * s * s + 1 for s in (2, 3, 5, 9)}) == {(): 1, (0, 0): 2}
    assert _solved(monomials, {(s,): s**3 for s in (2, 3, 5, 9)}) is None
    assert _solved(monomials, {(2,): 1, (4,): 2}) is None  # halves
    assert _solved(monomials, {(3,): 12}) == {(): 12}
    both = [(), (0,), (1,), (0, 0), (0, 1), (1, 1)]
    pairs = itertools.product((2, 3, 7), repeat=2)
    assert _solved(both, {(a, b): 3 * a * b + b for a, b in pairs}) == {(1,): 1, (0, 1): 3}


@pytest.mark.parametrize("varied", [0, 10**9], ids=["held sizes first", "every decision varied"])
def test_dense_network(monkeypatch, varied):
    """As DenseNet-121, of fewer layers: by what modules hold, and by varying every decision."""
    monkeypatch.setattr(recording, "MAX_VARIED", varied)
    torch.manual_seed(0)
    model = torchvision.models.DenseNet(8, (5, 4), 16, num_classes=10)
    net = convert(model, torch.randn(2, 3, 32, 32), ratios=(0.5, 1.0), divisor=2)
    archs = drawn(net.space, 3)
    expected = [subnet_costs(net, arch, (3, 32, 32)) for arch in archs]
    table = cost.macs_table(net)
    assert table(archs).tolist() == [macs for macs, _ in expected]
    assert table.range() == (expected[0][0], expected[1][0])
    params = cost.params_table(net)
    assert params(archs).tolist() == [params for _, params in expected]
    assert params.range() == (expected[0][1], expected[1][1])


def test_what_modules_see_besides_what_they_hold_is_found(monkeypatch):
    """Sizes of images that a decision elsewhere makes: what is held alone contradicts itself."""

    class Resized(nn.Module):
        def __init__(self):
            super().__init__()
            self.size, width = ms.choose((4, 6, 8), "size"), ms.choose((2, 4), "width")
            self.first, self.last = ms.nn.Conv2d(3, width, 1), ms.nn.Conv2d(width, 2, 1)

        def forward(self, x):
            side = ms.value(self.size)
            return self.last(self.first(nn.functional.interpolate(x, size=(side, side))))

    monkeypatch.setattr(recording, "MAX_VARIED", 0)
    net = ms.Supernet(Resized())
    archs = list(net.space.enumerate())
    sizes = [((4, 6, 8)[s], (2, 4)[w]) for s, w in archs]
    expected = [side * side * width * 5 for side, width in sizes]
    assert cost.macs(net, archs, (3, 8, 8)).tolist() == expected
