"""Which decisions a network has, their names and order, and when they matter."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_nets import Block, images, make
from torch import nn

import manyshot as ms


def names(model):
    return [d.name for d in ms.Supernet(model).space.decisions]


def test_names_default_to_module_paths():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((4, 8))
            self.blocks = nn.ModuleList(
                [nn.Sequential(ms.nn.Conv2d(3, width, 1), ms.nn.Choice([nn.ReLU(), nn.Tanh()]))]
            )
            self.tail = ms.nn.Depth([nn.ReLU()], (0, 1))
            self.scale = ms.choose((1, 2))
            self.more = [{"offset": ms.choose((0, 1))}]

    expected = ["blocks.0.0.out_channels", "blocks.0.1", "tail", "scale", "more.0.offset"]
    assert names(Net()) == expected


def test_names_of_scopes_and_given_names():
    with ms.scope("stage"), ms.scope("block3"):
        model = nn.Sequential(
            ms.nn.Choice([nn.ReLU(), nn.Tanh()], "op"), ms.nn.Depth([nn.ReLU()], (0, 1), "depth")
        )
    outside = ms.nn.Choice([nn.ReLU(), nn.Tanh()], "op")
    expected = ["stage.block3.op", "stage.block3.depth", "op"]
    assert names(nn.Sequential(model, outside)) == expected


def test_two_decisions_of_one_name_are_an_error_with_the_way_out():
    options = [nn.ReLU(), nn.Tanh()]
    first = ms.nn.Choice(options, "op")
    second = ms.nn.Choice([*options, nn.GELU()], "op")
    pattern = r"'op'.*Decision\(op: 0, 1\) and Decision\(op: 0, 1, 2\).*ms\.scope"
    with pytest.raises(ValueError, match=pattern):
        ms.Supernet(nn.Sequential(first, second))


def test_sharing_a_decision_means_holding_the_same_object():
    width = ms.choose((4, 8), "width")
    shared = ms.choose(("a", "b"), "shared")
    model = nn.Sequential(
        ms.nn.Conv2d(3, width, 1),
        ms.nn.Choice([nn.ReLU(), nn.Tanh()], shared),
        ms.nn.Choice([nn.Sigmoid(), nn.ELU()], shared),
        ms.nn.Conv2d(width, 4, 1),
    )
    net, x = ms.Supernet(model), images(2)
    assert [d.name for d in net.space.decisions] == ["width", "shared"]
    first = model[3].weight[:, :4], model[0].weight[:4], model[0].bias[:4]
    hidden = torch.nn.functional.conv2d(x, first[1], first[2]).tanh()
    expected = torch.nn.functional.conv2d(nn.ELU()(hidden), first[0], model[3].bias)
    assert torch.equal(net(x, (0, 1)), expected)


def test_copied_blocks_are_new_decisions():
    block = nn.Sequential(ms.nn.Choice([nn.ReLU(), nn.Tanh()]), ms.nn.Choice([nn.ReLU(), nn.ELU()]))
    model = nn.Sequential(block, copy.deepcopy(block), copy.deepcopy(block))
    assert names(model) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    net = ms.Supernet(model)
    assert len({id(d) for d in net.space.decisions}) == 6
    x = torch.tensor([-1.0])
    assert not torch.equal(net(x, (1, 1, 1, 1, 1, 1)), net(x, (1, 1, 0, 1, 1, 1)))


def test_copied_blocks_with_a_given_name_are_an_error():
    block = ms.nn.Choice([nn.ReLU(), nn.Tanh()], "op")
    with pytest.raises(ValueError, match="two decisions are named 'op'"):
        ms.Supernet(nn.Sequential(block, copy.deepcopy(block)))


def test_sharing_inside_a_copied_block_is_kept():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((2, 4))
            self.one, self.two = ms.nn.Linear(3, width), ms.nn.Linear(width * 2 // 2, 3)

        def forward(self, x):
            return self.two(self.one(x))

    pair = Pair()
    net = ms.Supernet(nn.Sequential(pair, copy.deepcopy(pair)))
    assert [d.name for d in net.space.decisions] == ["0.one.out_features", "1.one.out_features"]
    assert net(torch.randn(2, 3), (0, 1)).shape == (2, 3)


def test_a_foreign_decision_raises_with_the_way_out():
    foreign = ms.choose((1, 2), "foreign")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ms.nn.Linear(3, ms.choose((2, 3), "width"))

        def forward(self, x):
            return self.fc(x) * ms.value(self.expression())

    for expression in (lambda self: foreign, lambda self: foreign * 2):
        Net.expression = expression
        with pytest.raises(LookupError, match=r"foreign.*hold it in a module.*before ms\.Superne"):
            ms.Supernet(Net())(torch.randn(1, 3))
    kinds = ms.choose(("a", "b"), "kinds")
    Net.expression = lambda self: kinds
    with pytest.raises(LookupError, match=r"kinds.*hold it in a module"):
        ms.Supernet(Net())(torch.randn(1, 3))


def test_the_order_is_that_of_definition_not_of_use():
    later_used = ms.choose((2, 4), "first")
    model = nn.Sequential(
        ms.nn.Choice([nn.ReLU(), nn.Tanh()], "second"), ms.nn.Linear(3, later_used)
    )
    assert names(model) == ["first", "second"]


def test_a_network_without_decisions_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no decisions.*ms\.nn\.Choice.*ms\.choose"):
        ms.Supernet(nn.Linear(2, 2))


def test_smallest_and_largest_rank_by_value_and_by_parameters():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = ms.choose((8, 2, 4), "width")
            self.op = ms.nn.Choice(
                {"big": nn.Linear(9, 9), "none": nn.Identity(), "also": nn.ReLU()}, "op"
            )
            self.depth = ms.nn.Depth([nn.ReLU()] * 3, (2, 3, 1), "depth")

    space = ms.Supernet(Net()).space
    assert space.smallest == (1, 1, 2) and space.largest == (0, 0, 1)


def test_a_shared_choice_ranks_by_the_sum_over_its_blocks():
    shared = ms.choose(("a", "b"), "shared")
    model = nn.Sequential(
        ms.nn.Choice([nn.Linear(2, 2), nn.Identity()], shared),
        ms.nn.Choice([nn.Identity(), nn.Linear(3, 3)], shared),
    )
    assert ms.Supernet(model).space.largest == (1,)


def test_active_decisions_by_hand():
    net = make("nasty")
    space = net.space
    at = {d.name: i for i, d in enumerate(space.decisions)}
    assert list(at) == ["width", "ratio", "kernel", "nested", "op", "depth"]
    # The network holds width, ratio and kernel itself, so they always matter; "nested" does not.
    for arch in space.enumerate():
        expected = [True] * 6
        expected[at["nested"]] = arch[at["op"]] == 2
        assert list(space.active(arch)) == expected


def test_a_decision_used_in_two_options_matters_in_both():
    width = ms.choose((2, 4), "width")
    pairs = [nn.Sequential(ms.nn.Linear(3, width), ms.nn.Linear(width, 3)) for _ in range(2)]
    space = ms.Supernet(ms.nn.Choice([nn.ReLU(), *pairs], "op")).space
    active = {arch: space.active(arch)[0] for arch in space.enumerate()}
    assert active == {(w, op): op > 0 for w in range(2) for op in range(3)}


class Inactive(nn.Module):
    """Every kind of nesting: a choice in a choice, sizes in options, choices in dropped blocks."""

    def __init__(self):
        super().__init__()
        hidden, inner = ms.choose((2, 3, 5), "hidden"), ms.choose((1, 2), "inner")
        shared = ms.choose((4, 6), "shared")
        bottleneck = nn.Sequential(
            ms.nn.Conv2d(3, hidden, 1), ms.nn.BatchNorm2d(hidden), ms.nn.Conv2d(hidden, 3, 1)
        )
        nested = ms.nn.Choice(
            {"tanh": nn.Tanh(), "deep": ms.nn.Depth([Block(3)], (0, 1))}, "nested"
        )
        self.op = ms.nn.Choice({"relu": nn.ReLU(), "neck": bottleneck, "nest": nested}, "op")
        last = nn.Sequential(ms.nn.Conv2d(3, 2 * inner, 1), ms.nn.Conv2d(2 * inner, 3, 1))
        wide = nn.Sequential(ms.nn.Conv2d(3, shared, 1), ms.nn.Conv2d(shared, 3, 1))
        also = nn.Sequential(ms.nn.Conv2d(3, shared, 1), ms.nn.Conv2d(shared, 3, 1))
        self.tail = ms.nn.Depth([wide, ms.nn.Choice([last, also], "which")], (0, 1, 2), "depth")

    def forward(self, x):
        return self.tail(self.op(x))


NET, X = ms.Supernet(Inactive(), input_shape=(3, 4, 4)).train(), torch.randn(2, 3, 4, 4)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_inactive_decisions_change_nothing(seed):
    rng = np.random.default_rng(seed)
    space = NET.space
    arch, other = space.sample(rng), space.sample(rng)
    active = space.active(arch)
    alias = tuple(a if on else b for a, b, on in zip(arch, other, active, strict=True))
    canonical = space.canonical(arch)
    assert canonical == tuple(a if on else 0 for a, on in zip(arch, active, strict=True))
    assert space.canonical(alias) == canonical
    logits = NET(X, arch)
    assert torch.equal(NET(X, alias), logits)
    assert torch.equal(NET(X, canonical), logits)
    assert torch.equal(NET.extract(canonical)(X), logits)


def test_active_decisions_change_something():
    # The property above is not empty: every decision is inactive somewhere, or changes logits.
    space = NET.space
    changed, inactive = set(), set()
    for arch in space.enumerate():
        for i, on in enumerate(space.active(arch)):
            if not on:
                inactive.add(space.decisions[i].name)
    rng = np.random.default_rng(0)
    for _ in range(60):
        arch = space.sample(rng)
        logits = NET(X, arch)
        others = ((i, o) for i, n in enumerate(space.counts) for o in range(n) if o != arch[i])
        for i, option in others:
            neighbour = (*arch[:i], option, *arch[i + 1 :])
            if space.active(arch)[i] and space.active(neighbour)[i]:
                assert not torch.equal(logits, NET(X, neighbour)), (arch, neighbour)
                changed.add(space.decisions[i].name)
    assert changed == {d.name for d in space.decisions}
    assert inactive == changed - {"op", "depth"}


@pytest.mark.parametrize(
    ("arch", "message"),
    [((0,), "has 1 entries"), ((0, 0, 0, 0, 9, 0), r"op: option 9 is not in 0\.\.2 \(skip, ")],
)
def test_an_architecture_outside_the_space_is_refused(arch, message):
    net = make("nasty")
    with pytest.raises(ValueError, match=message):
        net(images(1), arch)
    with pytest.raises(ValueError, match=message):
        net.extract(arch)
