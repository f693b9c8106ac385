"""Uses that a network declares, beside those that its nesting gives."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot import cost
from manyshot.space import Commutation


def pair(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)]


class Net(nn.Module):
    """`inner` only in option 1 of `outer`; `twice` there too, and behind it; `free` behind."""

    def __init__(self, declared=lambda decisions: {}) -> None:
        super().__init__()
        outer, inner, twice, free = (
            ms.choose(("0", "1"), name) for name in ("outer", "inner", "twice", "free")
        )
        held = nn.Sequential(ms.nn.Choice(pair(2), inner), ms.nn.Choice(pair(2), twice))
        self.body = nn.Sequential(
            ms.nn.Choice([nn.Identity(), held], outer),
            ms.nn.Choice(pair(2), twice),
            ms.nn.Choice(pair(2), free),
        )
        self._declared = lambda: declared(
            {"outer": outer, "inner": inner, "twice": twice, "free": free}
        )

    def forward(self, x):
        return self.body(x)


class Declaring(Net):
    def uses(self):
        return self._declared()


def space(declared) -> ms.SearchSpace:
    return ms.Supernet(Declaring(declared)).space


def test_nesting_and_declaration_must_both_hold():
    one = frozenset({1})
    found = space(
        lambda d: {
            d["inner"]: [((d["free"], one),)],
            d["twice"]: [((d["free"], one),), ((d["outer"], one),)],
            d["free"]: [((d["outer"], one), (d["inner"], one))],
        }
    )
    for arch in itertools.product(range(2), repeat=4):
        outer, inner, _, free = arch
        expected = (
            True,
            bool(outer and free),
            bool(free or outer),
            bool(outer and inner),
        )
        assert found.active(arch) == expected
    assert found.canonical((0, 1, 1, 1)) == (0, 0, 0, 0)


def test_without_conditions_a_declaration_changes_nothing():
    plain = ms.Supernet(Net()).space
    assert set(plain.uses) == {plain.decisions[1]}
    found = space(lambda d: {d["inner"]: [()], d["free"]: [(), ((d["inner"], frozenset({0})),)]})
    assert found.to_dict() == plain.to_dict()


def test_what_matters_nowhere_is_always_inactive():
    found = space(lambda d: {d["free"]: []})
    assert not any(found.active(arch)[3] for arch in found.enumerate())


def test_declarations_of_several_modules_add_up():
    class Inside(nn.Module):
        def uses(self):
            return self.declared()

    net = Declaring(lambda d: {d["free"]: [((d["outer"], frozenset({1})),)]})
    net.inside = Inside()
    inner, free = (net.body[0].option(1)[0].decision, net.body[2].decision)
    net.inside.declared = lambda: {free: [((inner, frozenset({1})),)]}
    found = ms.Supernet(net).space
    for arch in found.enumerate():
        assert found.active(arch)[3] == bool(arch[0] or arch[1])


def test_decisions_that_are_not_held_cannot_be_declared():
    foreign = ms.choose(("a", "b"), "foreign")
    with pytest.raises(ValueError, match=r"foreign.*hold every decision"):
        space(lambda d: {foreign: []})
    with pytest.raises(ValueError, match=r"foreign.*hold every decision"):
        space(lambda d: {d["free"]: [((foreign, frozenset({0})),)]})


@pytest.mark.parametrize("commuting", ["twice", "free"])
def test_declared_decisions_cannot_commute(commuting):
    class Commuting(Declaring):
        def commutations(self):
            choices = {c.decision.name: c.decision for c in self.body if hasattr(c, "decision")}
            return [Commutation((choices[commuting],), 0)]

    with pytest.raises(ValueError, match=f"{commuting} cannot commute"):
        ms.Supernet(Commuting(lambda d: {d["free"]: [((d["twice"], frozenset({0})),)]}))
    ms.Supernet(Commuting(lambda d: {}))


def test_costs_and_weights_are_as_without():
    torch.manual_seed(0)
    plain = ms.Supernet(Net()).eval()
    torch.manual_seed(0)
    never = ms.Supernet(Declaring(lambda d: dict.fromkeys(d.values(), ()))).eval()
    archs = list(plain.space.enumerate())
    np.testing.assert_array_equal(cost.params(plain, archs), cost.params(never, archs))
    expected = cost.macs(plain, archs, (2, 4, 4))
    np.testing.assert_array_equal(expected, cost.macs(never, archs, (2, 4, 4)))
    images = torch.randn(2, 2, 4, 4)
    for arch in archs:
        assert torch.equal(plain(images, arch), never(images, arch))
        assert torch.equal(never.extract(arch)(images), never(images, arch))
