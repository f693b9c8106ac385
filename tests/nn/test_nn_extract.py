"""What an extracted network is made of."""

import pytest
import torch
from nn_nets import (
    INPUT,
    NETWORKS,
    Block,
    Config,
    archs,
    calibrated,
    hand,
    images,
    make,
)
from torch import nn

import manyshot as ms
from manyshot.nn.drop_path import DropPath
from manyshot.nn.elastic import PlainParameter
from manyshot.nn.layer import Layer
from manyshot.space import Size


def held(thing, seen=None):
    """Everything reachable from `thing` through attributes and containers."""
    seen = {} if seen is None else seen
    if id(thing) in seen or isinstance(thing, torch.Tensor | str | int | float | type):
        return seen
    seen[id(thing)] = thing
    if isinstance(thing, dict):
        inner = thing.values()
    elif isinstance(thing, list | tuple | set):
        inner = thing
    elif isinstance(thing, nn.Module):
        inner = vars(thing).values()
    elif isinstance(thing, Config):
        inner = (thing.width, thing.hidden)
    else:
        inner = ()
    for item in inner:
        held(item, seen)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_searchable_is_left_anywhere(name):
    net = make(name)
    assert any(isinstance(thing, Layer) for thing in held(net).values())
    for arch in archs(net, 4):
        things = held(net.extract(arch)).values()
        assert not [t for t in things if isinstance(t, Layer | Size)]
        ours = {type(t) for t in things if type(t).__module__.startswith("manyshot.nn")}
        assert ours <= {PlainParameter, DropPath}  # which acts in training alone


def test_sizes_are_integers_however_they_are_held():
    net = make("nasty")
    arch = net.space.from_text("1-1-1-0-1-2")  # width 12, ratio 3, kernel 5
    assert net.space.choices(arch)["width"] == 12
    subnet = net.extract(arch)
    assert subnet.width == 12 and type(subnet.width) is int
    assert subnet._half == 6 and type(subnet._half) is int
    assert subnet.sizes == [12, (36, {"kernel": 5})]
    assert subnet.config == Config(12, 36)


def test_sizes_inside_foreign_objects_still_have_a_value():
    class Shelf:
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((2, 4), "width")
            self.shelf = Shelf()
            self.shelf.double = 2 * width
            self.fc = ms.nn.Linear(3, width)

        def forward(self, x):
            return self.fc(x) * ms.value(self.shelf.double)

    net, x = ms.Supernet(Net()), torch.randn(5, 3)
    for arch in ((0,), (1,)):
        assert torch.equal(net(x, arch), net.extract(arch)(x))


def test_structure_by_hand():
    net = make("nasty")
    subnet = net.extract(hand(net, width=8, ratio=2, kernel=3, op=1, nested=0, depth=1))
    inverted = subnet.op
    assert type(inverted).__name__ == "Inverted"
    assert (inverted.expand.in_channels, inverted.expand.out_channels) == (8, 16)
    depthwise = inverted.depthwise
    assert (depthwise.groups, depthwise.kernel_size, depthwise.padding) == (16, (3, 3), (1, 1))
    assert type(subnet.tail) is nn.Sequential and len(subnet.tail) == 1
    assert type(subnet.tail[0]) is Block and type(subnet.tail[0].conv) is nn.Conv2d
    assert (subnet.four_groups.groups, subnet.groups_of_4.groups) == (4, 2)
    assert subnet.groups_of_4.padding == "same"
    nothing = net.extract(hand(net, width=8, ratio=2, kernel=3, op=0, nested=0, depth=0))
    assert type(nothing.op) is nn.Identity and len(nothing.tail) == 0
    nested = net.extract(hand(net, width=8, ratio=2, kernel=3, op=2, nested=1, depth=0))
    assert type(nested.op) is nn.Sequential and type(nested.op[0]) is Block


def test_parameters_counted_by_hand():
    net = make("nasty")
    w = 12
    block = w * w * 9 + 2 * w
    fixed = (3 * 9 + 1) * w + 2 * w  # stem
    fixed += w * (w // 4) * 9 + w  # four groups
    fixed += w * 4 * 9 + w  # groups of four
    fixed += w  # position
    fixed += block  # shared, held twice
    fixed += w * w + w  # a tied pair with one bias
    fixed += 100 + (w + 1) * 10 + 20  # embed tied to decode, project, batch norm held twice
    h = 3 * w
    inverted = w * h + 2 * h + (25 + 1) * h + (h + 1) * w + 2 * w
    for op, nested, depth, more in [
        (0, 0, 0, 0),
        (1, 0, 1, inverted + block),
        (2, 1, 3, block + 3 * block),
    ]:
        arch = hand(net, width=12, ratio=3, kernel=5, op=op, nested=nested, depth=depth)
        assert sum(p.numel() for p in net.extract(arch).parameters()) == fixed + more


@pytest.mark.parametrize("number", range(3))
def test_ties_and_shared_modules_stay(number):
    net = make("nasty")
    subnet = net.extract(archs(net, 3)[number])
    assert subnet.decode.weight is subnet.embed.weight
    assert subnet.tied.two.weight is subnet.tied.one.weight
    assert subnet.again is subnet.shared and subnet.post_again is subnet.post
    assert subnet.order[0] is subnet.stem and subnet.order[1] is subnet.op
    assert subnet.alternatives["norms"] == [subnet.post]
    assert subnet.alternatives["all"][1].parent == [subnet]


def test_a_plain_layer_tied_to_an_elastic_one_stays_tied_where_all_of_it_is_used():
    class Net(nn.Module):
        def __init__(self, first):
            super().__init__()
            width = ms.choose((2, 4), "width")
            elastic, plain = ms.nn.Linear(4, width, bias=False), nn.Linear(4, 4, bias=False)
            elastic.weight = plain.weight
            self.a, self.b = (elastic, plain) if first else (plain, elastic)

        def forward(self, x):
            return self.a(x).sum() + self.b(x).sum()

    for first in (True, False):
        net, x = ms.Supernet(Net(first)), torch.randn(3, 4)
        large, small = net.extract((1,)), net.extract((0,))
        assert large.a.weight is large.b.weight
        assert small.a.weight is not small.b.weight
        assert torch.equal(net(x, (0,)), small(x)) and torch.equal(net(x, (1,)), large(x))


def test_an_unchosen_option_that_is_registered_elsewhere_is_in_every_network():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((2, 4), "width")
            self.stem = ms.nn.Conv2d(3, width, 1)
            self.op = ms.nn.Choice({"skip": nn.Identity(), "block": Block(width)}, "op")
            self.alias = self.op.options["block"]

        def forward(self, x):
            return self.op(self.stem(x)) + self.alias(self.stem(x))

    net, x = ms.Supernet(Net(), input_shape=INPUT), images(4)
    assert net.space.uses == {}
    for arch in net.space.enumerate():
        net.train()
        assert torch.equal(net(x, arch), net.extract(arch)(x))
        net.eval()
        stats = calibrated(net, arch, x)
        assert torch.equal(net(x, arch, stats=stats), net.extract(arch, stats=stats)(x))
