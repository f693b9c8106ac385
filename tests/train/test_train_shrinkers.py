"""What each shrinker drops, or opens, against loops that say it by hand."""

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from train_nets import seeded

import manyshot as ms
from manyshot.space import Decision, SearchSpace
from manyshot.testing.samplers import SamplerSuite
from manyshot.testing.shrinkers import ShrinkerSuite
from manyshot.train import (
    Balanced,
    BalancedDrop,
    Elite,
    Judged,
    Progressive,
    Slimming,
    Stage,
    make_shrinker,
)


class TestElite(ShrinkerSuite):
    def make_shrinker(self, space):
        return Elite(keep=(2, 1), population=6, patience=2)


class TestSlimming(ShrinkerSuite):
    def make_shrinker(self, space):
        return Slimming()


class TestBalancedDrop(ShrinkerSuite):
    def make_shrinker(self, space):
        return BalancedDrop(samples=20)


class TestProgressive(ShrinkerSuite):
    def make_shrinker(self, space):
        return Progressive(space, opens=["op", "width:2", "w*", "last"])


class TestBalanced(SamplerSuite):
    def make_sampler(self, space):
        return Balanced(space, seed=3)


@functools.cache
def tiny():
    return seeded(lambda: ms.Supernet(ms.zoo.tiny(width=2)))


WORTH = np.random.default_rng(1).normal(size=(4, 4))
PAIRS = np.random.default_rng(2).normal(size=(4, 4))


def judge(archs):
    """A made-up fitness, with pairs of neighbouring layers in it."""
    fitness = [
        sum(WORTH[i, o] for i, o in enumerate(arch))
        + sum(PAIRS[one, other] for one, other in itertools.pairwise(arch))
        for arch in archs
    ]
    return [Judged(value, 10 - 2 * value) for value in fitness]


def stage_of(space=None, number=1, of=1, **how):
    how = {"judge": judge, "allows": lambda view: True, "fits": lambda arch: True, **how}
    rng = np.random.default_rng(number)
    return Stage(tiny(), space or tiny().space, number=number, of=of, rng=rng, **how)


def test_the_elite_decides_what_is_most_frequent():
    """The best network stays whole; of the others, the shares of five are counted by hand."""
    elite = Elite(keep=(3, 2, 1), patience=20)
    space = tiny().space
    ranked = elite.evolve(stage_of())
    best = max(space.enumerate(), key=lambda arch: judge([arch])[0].fitness)
    assert ranked[0] == best and len(set(ranked)) == len(ranked)
    found = [judge([arch])[0].fitness for arch in ranked]
    assert found == sorted(found, reverse=True)
    first = elite.shrink(stage_of(of=3))
    for i in range(4):
        counts = Counter(arch[i] for arch in ranked[:5])
        assert [first.scores[i, o] for o in range(4)] == [counts[o] / 5 for o in range(4)]
        kept = [first.scores[i, o] for o in first.space.allowed[i] if o != best[i]]
        gone = [first.scores[i, o] for o in range(4) if o not in first.space.allowed[i]]
        assert best[i] in first.space.allowed[i]
        assert len(kept) == 2 and max(gone) <= min(kept)
    view = first.space
    for number in (2, 3):
        smaller = elite.shrink(stage_of(view, number, 3)).space
        assert [len(options) for options in smaller.allowed] == [4 - number] * 4
        assert all(set(b) <= set(a) for a, b in zip(view.allowed, smaller.allowed, strict=True))
        view = smaller
    assert list(view.enumerate()) == [best]


def test_an_evolution_ends_when_its_best_stays():
    scored = []

    def alike(archs):
        scored.append(len(archs))
        return [Judged(1.0, 1.0) for _ in archs]

    Elite(patience=3, population=5).evolve(stage_of(judge=alike))
    # the first of equals by the order of architectures may change, and then the end waits
    assert sum(scored) <= 256 and scored[0] <= 5


@pytest.mark.parametrize("most", [1, 3, 6, 11])
def test_slimming_is_greedy_from_the_largest(most):
    """Against loops: the size step that costs least, until the sum of indices is small enough."""
    space = tiny().space
    # of equal sizes the first is taken as the largest, so that it goes first
    order = [sorted(range(4), key=lambda o, d=d: (space.ranks(d)[o], -o)) for d in space.decisions]
    cost = [{option: order[i].index(option) for option in range(4)} for i in range(4)]

    def fits(arch):
        return sum(cost[i][o] for i, o in enumerate(arch)) <= most

    steps, places = 0, [3, 3, 3, 3]
    while sum(places) > most:
        smaller = [[p - (i == j) for j, p in enumerate(places)] for i in range(4) if places[i] > 0]
        steps += len(smaller)
        arch = [tuple(order[i][p] for i, p in enumerate(one)) for one in smaller]
        fitness = [judged.fitness for judged in judge(arch)]
        places = smaller[int(np.argmax(fitness))]
    asked = []

    def counted(archs):
        asked.extend(archs)
        return judge(archs)

    shrunk = Slimming().shrink(stage_of(fits=fits, judge=counted))
    assert shrunk.space.largest == tuple(order[i][p] for i, p in enumerate(places))
    assert len(asked) == steps
    for i, place in enumerate(places):
        assert set(shrunk.space.allowed[i]) == set(order[i][: place + 1])
    assert Slimming().shrink(stage_of()).space is space  # it fits already


def test_slimming_leaves_networks_within_smaller_budgets():
    """The first layer must stay as wide as it is; it ends where no more may go."""
    largest = tiny().space.largest
    keeps = {"allows": lambda view: largest[0] in view.allowed[0], "fits": lambda arch: False}
    shrunk = Slimming().shrink(stage_of(**keeps))
    assert shrunk.space.allowed[0] == (0, 1, 2, 3)
    assert [len(options) for options in shrunk.space.allowed[1:]] == [1, 1, 1]


def test_options_of_high_loss_go():
    """Means over all 256 networks by numpy."""
    space = tiny().space
    archs = np.array(list(space.enumerate()))
    losses = np.array([judged.loss for judged in judge(map(tuple, archs.tolist()))])
    means = {(i, o): losses[archs[:, i] == o].mean() for i in range(4) for o in range(4)}
    shrunk = BalancedDrop(drop=3, samples=256).shrink(stage_of())
    assert shrunk.scores == {key: pytest.approx(-mean) for key, mean in means.items()}
    worst = sorted(means, key=means.__getitem__)[-3:]
    gone = {(i, o) for i in range(4) for o in range(4) if o not in shrunk.space.allowed[i]}
    assert gone == set(worst)
    each = BalancedDrop(per="decision", samples=256).shrink(stage_of()).space
    assert [len(options) for options in each.allowed] == [3] * 4


def test_updates_are_dealt_out_equally():
    """Equal after as many steps as options, never more than one apart; anew in a view."""
    space = SearchSpace([Decision(range(n), f"d{n}") for n in (2, 3, 5, 1)])
    sampler = Balanced(space, seed=1)
    view = space.restricted({space.decisions[2]: (0, 3, 4)})

    def counted(sampler, space, steps):
        held = [Counter(dict.fromkeys(options, 0)) for options in space.allowed]
        for done, step in enumerate(steps, 1):
            [path] = sampler.plan(np.random.default_rng(0), step).paths
            for own, option in zip(held, path.arch, strict=True):
                own[option] += 1
                assert max(own.values()) - min(own.values()) <= 1
                assert max(own.values()) == -(-done // len(own))
        return held

    whole = counted(sampler, space, range(30))
    assert [set(own.values()) for own in whole] == [{15}, {10}, {6}, {30}]
    sampler.narrow(view, 31)
    narrow = counted(sampler, view, range(31, 31 + 12))
    assert [set(own.values()) for own in narrow] == [{6}, {4}, {4}, {12}]
    orders = [[plan.paths[0].arch[2] for plan in (
        Balanced(space, seed=seed).plan(np.random.default_rng(0), step) for step in range(20))]
        for seed in (1, 2)]  # fmt: skip
    assert orders[0] != orders[1] and orders[0][:5] != orders[0][5:10]


def test_options_open_by_their_size():
    net = tiny()
    space = net.space
    opens = ["layer[01]", "layer2:2", "layer2:3"]
    shrinker = make_shrinker("progressive", space, {"opens": opens})
    assert shrinker.stages == 3
    views = [shrinker.begin(net)]
    views += [shrinker.shrink(stage_of(views[-1], i, 3)).space for i in (1, 2, 3)]
    assert views[0].largest == space.largest
    assert [tuple(map(len, view.allowed)) for view in views] == [
        *((1, 1, 1, 4), (4, 4, 1, 4), (4, 4, 2, 4), (4, 4, 3, 4))
    ]
    ranks = space.ranks(space.decisions[2])
    order = sorted(range(4), key=lambda o: -ranks[o])
    assert [set(view.allowed[2]) for view in views] == [set(order[:n]) for n in (1, 1, 2, 3)]


@pytest.mark.parametrize(
    ("opens", "words"),
    [
        (["laier0"], "no decision is named so; did you mean 'layer0'"),
        (["layer0:1"], "after the colon give how many options are open, 2 or more"),
        (["layer0", "layer0:2"], "opens nothing that is not open before it"),
        ([], "opens names nothing"),
    ],
)
def test_a_schedule_that_opens_nothing_is_refused(opens, words):
    with pytest.raises(ValueError, match=words):
        make_shrinker("progressive", tiny().space, {"opens": opens})


def test_the_best_network_stays_though_its_options_are_rare():
    """Where all others of the elite are far from it."""
    space = tiny().space.restricted({d: (0, 3) for d in tiny().space.decisions})

    def judge(archs):
        return [Judged(9.0 if min(arch) == 3 else -sum(arch), 0.0) for arch in archs]

    shrunk = Elite(keep=(1,), population=80, patience=1).shrink(stage_of(space, judge=judge))
    assert shrunk.scores[0, 0] > shrunk.scores[0, 3] > 0
    assert shrunk.space.allowed == ((3,),) * 4
