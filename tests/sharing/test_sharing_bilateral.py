"""Left and right channels: what trains, how often, how paths are scored and delivered."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn import LEFT, RIGHT
from manyshot.sharing import Bilateral, Passes, PlacesChannels
from manyshot.testing.sharing import SharingSuite
from manyshot.train import Plan, PlannedPath
from manyshot.train.compute import Compute, passes_of
from manyshot.train.gradients import accumulate
from manyshot.train.optimisation import Trained
from manyshot.train.samplers import Complement


def net_of(options=(2, 4, 6, 8), **more):
    """Two widths, batch norms, and a classifier."""
    torch.manual_seed(0)
    one, two = ms.choose(options, "one"), ms.choose(options, "two")
    layers = [ms.nn.Linear(4, one), ms.nn.BatchNorm1d(one), nn.ReLU(), ms.nn.Linear(one, two)]
    layers += [ms.nn.BatchNorm1d(two), nn.ReLU(), ms.nn.Linear(two, 3)]
    return ms.Supernet(nn.Sequential(*layers), sharing=Bilateral(), **more)


def batch(n=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def placed(net):
    """`PlacesChannels.trained`, as a step calls it."""

    def placing(arch, loss_of):
        return net.sharing.trained(arch, loss_of, np.random.default_rng(0))

    return placing


def test_it_says_how_channels_are_placed():
    net = net_of()
    assert isinstance(net.sharing, PlacesChannels)
    assert net.placement((0, 3)) is LEFT
    assert net.scored((0, 3)) == (LEFT, RIGHT)
    assert net.scored((3, 3)) == (LEFT,), "both sides are the same"
    assert ms.Supernet(nn.Sequential(ms.nn.Linear(4, ms.choose((1, 2))))).scored((0,)) == (LEFT,)


def test_a_step_has_the_gradient_of_the_mean_loss_of_both_sides():
    """The oracle trains the two extracted networks, and puts their gradients in their places."""
    net, (x, y), arch = net_of().double(), batch(), (1, 2)
    x = x.double()
    losses = accumulate(
        net,
        Plan((PlannedPath(arch, weight=0.5),)),
        x,
        y,
        largest=net.space.largest,
        placing=placed(net),
    )
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    mean = 0.0
    for placement, one, two in ((LEFT, slice(4), slice(6)), (RIGHT, slice(4, 8), slice(2, 8))):
        small = net.extract(arch, placement=placement)
        loss = F.cross_entropy(small(x), y)
        loss.backward()
        mean += loss.item() / 2
        rows = {"0": one, "1": one, "3": two, "4": two, "6": slice(None)}
        columns = {"3": one, "6": two}
        for name, parameter in small.named_parameters():
            layer = name.split(".")[0]
            index = (rows[layer],)
            if parameter.dim() == 2:
                index += (columns.get(layer, slice(None)),)
            expected[f"model.{name}"][index] += 0.5 * 0.5 * parameter.grad
    assert [loss.item() for loss in losses] == pytest.approx([mean], rel=1e-12)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-12)


def trained_counts(net, paths):
    """How often every channel of the first width was in a loss, in halves of one, by gradients.

    The loss is the sum of the first layer's outputs, whose gradient in a bias is the number of rows
    that had it.
    """
    counts = torch.zeros(net.model[0].bias.shape)
    for arch in paths:
        sides = net.sharing.trained(arch, None, None)
        for side in sides:
            net.zero_grad()
            with net.selecting(arch, placement=side):
                net.model[0](torch.ones(1, 4)).sum().backward()
            counts += net.model[0].bias.grad * 2 / len(sides)
    return counts.tolist()


def test_with_complements_every_channel_trains_equally_often():
    net = net_of()
    sampler = Complement(net.space, net.space.decisions)
    for step in range(40):
        paths = []
        for half in range(2):
            plan = sampler.plan(np.random.default_rng((step, half)), 2 * step + half)
            sampler.feedback(plan, [torch.zeros(())])
            paths += [path.arch for path in plan.paths]
        counts = trained_counts(net, paths)
        assert len(set(counts)) == 1, (paths, counts)


def test_over_all_widths_channels_train_as_often_as_the_closed_form():
    """In n + 1 halves of a loss of n widths, of which one has both sides in the same forward."""
    net = net_of()
    assert trained_counts(net, [(i, 0) for i in range(4)]) == [5.0] * 8
    left_alone = [sum(i < w for w in (2, 4, 6, 8)) for i in range(8)]
    assert left_alone == [4, 4, 3, 3, 2, 2, 1, 1], "what the first channels alone would have"


def test_a_path_is_scored_by_the_mean_of_its_sides():
    """The oracle scores the two extracted networks."""
    net, data = net_of().eval(), [batch(32, seed) for seed in (1, 2)]
    for arch in ((0, 1), (2, 3), (3, 3)):
        sides = []
        for placement in (LEFT, RIGHT):
            stats = ms.evaluate.calibrate(net, arch, data, placement=placement)
            small = net.extract(arch, stats=stats, placement=placement)
            with torch.no_grad():
                for x, _ in data:
                    logits = net(x, arch, stats=stats, placement=placement)
                    assert torch.equal(small(x), logits)
            sides.append(ms.evaluate.score_module(small, data))
        found = ms.evaluate.score(net, arch, calibration=iter(data), validation=iter(data), parts=2)
        assert found.value == pytest.approx(sum(s.value for s in sides) / 2, abs=1e-12)
        assert found.loss == pytest.approx(sum(s.loss for s in sides) / 2, rel=1e-12)
        assert found.metrics["accuracy"] == found.value and len(found.parts) == 2
        given = ms.evaluate.calibrate(net, arch, data, placement=RIGHT)
        alone = ms.evaluate.score(net, arch, calibration=given, validation=data)
        assert alone.loss == sides[1].loss, "with statistics of a side it is that side's"
    together = ms.evaluate.Population(net, [(0, 1), (2, 3)], calibration=data, validation=data)
    assert together.method.startswith("one by one: Bilateral scores an architecture with several")
    for arch, scored in together:
        assert scored == ms.evaluate.score(net, arch, calibration=data, validation=data)


def test_what_it_takes_is_counted():
    net = net_of()
    compute = Compute(
        lambda archs: [100] * len(archs), net.space.largest, passes=passes_of(net.sharing)
    )
    plan = Plan((PlannedPath((0, 0)), PlannedPath((3, 3))))
    compute.take([Trained(0, "weights", plan, [], 7)])
    assert compute.macs == 7 * 100 * 3 * (2 + 1)
    assert net.sharing.passes((0, 0)) == Passes(0, 2)
    assert passes_of(ms.sharing.OneShot()) is None


def test_networks_without_widths_and_policies_are_refused():
    with pytest.raises(
        ValueError, match=r"Bilateral says which .* no layer of elastic width: give"
    ):
        ms.Supernet(ms.zoo.tiny(), sharing=Bilateral())
    net, (x, y) = net_of(), batch()
    one = net.space.decisions[0]
    policy = {one: torch.tensor([1.0, 0, 0, 0], requires_grad=True)}
    plan = Plan((PlannedPath((0, 0), policy=policy),))
    with pytest.raises(ValueError, match="has a policy, whose masks are of the first channels"):
        accumulate(net, plan, x, y, largest=net.space.largest, placing=placed(net))


class TestBilateral(SharingSuite):
    def make_sharing(self):
        return Bilateral()
