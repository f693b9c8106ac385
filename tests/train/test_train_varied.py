"""What keeps the generator varied: bonus, dead zone, temperature, uniform draws; what is said."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from shift_nets import Vit, known_costs, shift, supernet

from manyshot.train.samplers import members
from manyshot.train.samplers.complexity import Grid
from manyshot.train.samplers.members import Members


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def net():
    return supernet()


def after(sampler, step, steps):
    """The sampler, told that so many steps are done."""
    sampler.probe(rng(), step, steps)
    return sampler


@pytest.mark.parametrize(("done", "left"), [(0, 1.0), (3, 0.625), (8, 0.0), (10, 0.0)])
def test_the_penalty_with_dead_zone_and_bonus(net, done, left):
    """Lambda * mean max(0, |F - c| / step - z)^2 - beta * mean entropy, both of them annealed."""
    sampler = shift(net, resource_weight=0.7, dead_zone=0.5, entropy_weight=0.2, anneal=0.8)
    if done:
        after(sampler, done, 10)
    seen = []
    sampler.generator.register_forward_hook(lambda module, args, out: seen.append(out))
    plan = sampler.plan(rng(1), 0)
    [decoded] = seen
    archs = [
        tuple(int(decoded.policies[d][k].argmax()) for d in net.space.decisions) for k in range(4)
    ]
    away = np.abs(known_costs(Vit)["macs"](archs) - sampler.grid.centres) / sampler.grid.step
    expected = 0.7 * (np.maximum(0, away - 0.5 * left) ** 2).mean()
    expected -= 0.2 * left * float(decoded.entropy.detach().double().mean())
    # the entropy is float32
    assert plan.penalty.item() == pytest.approx(expected, rel=1e-6)
    assert (away < 0.5).any() or (away > 0.5).any()


@pytest.mark.parametrize(("done", "tau"), [(0, 2.0), (5, 1.0), (10, 0.5)])
def test_the_temperature_goes_from_start_to_end_by_equal_factors(net, done, tau):
    sampler = shift(net, tau=2.0, tau_end=0.5)
    if done:
        after(sampler, done, 10)
    asked = []
    sampler.generator.register_forward_hook(
        lambda module, args, kwargs, out: asked.append(kwargs["tau"]), with_kwargs=True
    )
    sampler.plan(rng(), 0)
    assert asked == [pytest.approx(tau, rel=1e-12)]


def enumerated(net, sampler) -> list[list[tuple[int, ...]]]:
    """The encodings within half a step of each target, by looking at all of them."""
    every = list(itertools.product(*(range(len(d.options)) for d in net.space.decisions)))
    costs, step = known_costs(Vit)["macs"](every), sampler.grid.step
    return [
        [arch for arch, cost in zip(every, costs, strict=True) if -step / 2 <= cost - c < step / 2]
        for c in sampler.grid.centres
    ]


def test_some_steps_train_what_is_drawn_uniformly_around_the_target(net):
    sampler = shift(net, mix_uniform=0.9, bins=3)
    bins = enumerated(net, sampler)
    found: list[list[tuple[int, ...]]] = [[], [], []]
    for seed in range(900):
        plan = sampler.plan(rng(seed), 0)
        [path] = plan.paths
        if path.policy is None:
            assert plan.penalty is None
            sampler.feedback(plan, [torch.ones(())])
            [target] = sampler.counts.nonzero().flatten().tolist()
            sampler.counts.zero_()
            assert path.arch in bins[target]
            found[target].append(path.arch)
            assert math.isinf(sampler.distance)  # the generator has not learnt
    mixed = sum(map(len, found))
    assert mixed == pytest.approx(810, abs=4 * math.sqrt(900 * 0.9 * 0.1))
    for own, drawn in zip(bins, found, strict=True):
        counts = [drawn.count(arch) for arch in own]
        assert chisquare(counts).pvalue > 1e-3


def test_the_entropy_of_sub_spaces_is_the_logarithm_of_their_members(net, monkeypatch):
    sampler = shift(net)
    bins, grid = enumerated(net, sampler), sampler.grid
    exact = sampler.members.entropy_nats
    assert exact == pytest.approx([math.log(len(own)) for own in bins], rel=1e-12)
    monkeypatch.setattr(members, "DRAWS", 200)  # of 216: drawn, no longer enumerated
    drawn = Members(net.space, sampler.table, grid, seed=0)
    assert len(drawn.drawn) == 200
    # of about 40 draws in a sub-space: a relative error of 1 / sqrt(40)
    assert drawn.entropy_nats == pytest.approx(exact, abs=4 / math.sqrt(40))


def test_a_sub_space_that_no_draw_hits_has_no_members(net):
    costs = known_costs(Vit)["macs"]
    least = costs.range()[0]
    found = Members(net.space, costs, Grid(least, least + 2, 2.0), seed=0)
    every = list(itertools.product(*(range(len(d.options)) for d in net.space.decisions)))
    cheapest = [arch for arch, cost in zip(every, costs(every), strict=True) if cost < least + 1]
    assert found.draw(0, rng()) in cheapest
    assert found.draw(1, rng()) is None  # the next cost is more than three above
    assert found.entropy_nats == [pytest.approx(math.log(len(cheapest))), None]


def test_probed_networks_are_of_their_sub_space_different_and_of_all_of_it(net):
    sampler = shift(net)
    bins = enumerated(net, sampler)
    for k, own in enumerate(bins):
        few = sampler.members.spread(k, 16, rng(k))
        assert len(few) == len(set(few)) == 16 and set(few) <= set(own)
        assert set(sampler.members.spread(k, len(own), rng(k))) == set(own)
    assert sampler.probed == shift(net).probed  # decided by the seed alone


def test_an_empty_sub_space_is_probed_by_what_is_nearest(net):
    costs = known_costs(Vit)["macs"]
    least = costs.range()[0]
    found = Members(net.space, costs, Grid(least, least + 2, 2.0), seed=0)
    assert set(found.spread(1, 3, rng(0))) <= {net.space.smallest}


def test_the_generator_learns_in_every_step_until_its_draws_are_near(net):
    sampler = shift(net, policy_every=3)
    learnt = []
    for step in range(9):
        sampler.distance = math.inf if step < 4 else 0.1
        plan = sampler.plan(rng(step), step)
        learnt.append(plan.penalty is not None)
        assert (plan.paths[0].policy is not None) == learnt[-1]
        sampler.feedback(plan, [torch.ones(())])
    assert learnt == [True] * 4 + [False, False, True, False, False]


def test_how_far_draws_are_is_averaged_over_the_steps_that_learn(net):
    sampler, expected = shift(net, resource_weight=1.0), None
    for step in range(4):
        plan = sampler.plan(rng(step), step)
        missed = plan.penalty.item()  # lambda is one, with no dead zone and no bonus
        expected = missed if expected is None else 0.9 * expected + 0.1 * missed
        sampler.plan(rng(99), step + 1)  # planning changes nothing but what feedback is about
        sampler.plan(rng(step), step)
        sampler.feedback(plan, [torch.ones(())])
        assert sampler.distance == pytest.approx(expected, rel=1e-12)


def test_reports_say_how_varied_draws_are(net):
    """Heads with given biases and no weights: independent choices of known entropy."""
    sampler, bias = shift(net, period=1), torch.tensor([2.0, 0.0, -1.0])
    expected = 0.0
    for key, head in sampler.generator.heads.items():
        head.weight.data.zero_()
        head.bias.data.copy_(bias[: head.out_features])
        p = bias[: head.out_features].double().softmax(0)
        expected -= float((p * p.log()).sum()) * sampler.generator.keys.count(key)
    after(sampler, 1, 20)
    report = sampler.report()
    assert report["entropy_nats"] == pytest.approx([expected] * 4, rel=1e-5)
    assert report["bin_entropy_nats"] == sampler.members.entropy_nats
    # 200 draws of a product of known choices: as many distinct ones as numpy's draws have
    sizes = [len(d.options) for d in net.space.decisions]
    shares = [bias[:n].double().softmax(0).numpy() for n in sizes]
    counts = []
    for seed in range(20):
        generator = rng(seed)
        columns = [generator.choice(n, 200, p=p) for n, p in zip(sizes, shares, strict=True)]
        counts.append(len(np.unique(np.stack(columns, 1), axis=0)))
    low, high = np.mean(counts) - 5 * np.std(counts), np.mean(counts) + 5 * np.std(counts)
    assert all(low < distinct < high for distinct in report["distinct"])
