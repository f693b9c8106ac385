"""The mct sampler: rewards by hand, its three stages, and a search that goes on from its tree."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import manyshot as ms
from manyshot.search import MCTOptions, MCTSearch, make_searcher
from manyshot.train import MCTSampler, Plan, PlannedPath

SPACE = ms.SearchSpace([ms.choose(range(n), f"d{i}") for i, n in enumerate((3, 4, 2))])


def loss_of(arch):
    return 1.0 + 0.5 * arch[0] + 0.2 * arch[1] + 0.1 * arch[2]


def go(sampler, steps, total, loss=loss_of, seed=0):
    """The paths of so many steps of `total`."""
    archs = []
    for step in range(steps):
        plan = sampler.plan(np.random.default_rng((seed, step)), step)
        assert sampler.probe(np.random.default_rng(0), step + 1, total) is None
        sampler.feedback(plan, [torch.tensor(loss(path.arch)) for path in plan.paths])
        archs.append(plan.paths[0].arch)
    return archs


def test_rewards_are_ratios_of_a_moving_average_to_the_loss():
    sampler = MCTSampler(SPACE, decay=0.75, warmup=0.0, build=0.9)
    average, expected = None, 0.0
    for arch, loss in (((0, 0, 0), 2.0), ((0, 1, 0), 4.0), ((0, 2, 0), 0.0)):
        average = loss if average is None else 0.75 * average + 0.25 * loss
        expected += average / loss if loss else 10
        sampler.probe(np.random.default_rng(0), 1, 100)
        sampler.feedback(Plan((PlannedPath(arch),)), [torch.tensor(loss)])
    assert sampler.tree.children()[0].tolist() == [3, 0, 0]
    assert sampler.tree.children()[1][0] == pytest.approx(expected)
    # 1, then 2.5 / 4
    assert sampler.tree.children((0,))[1][:2] == pytest.approx([1, 0.625])
    with pytest.raises(ValueError, match="ratio of losses, and one is -1"):
        sampler.feedback(Plan((PlannedPath((0, 0, 0)),)), [torch.tensor(-1.0)])


def test_losses_of_zero_are_rewarded_alike():
    sampler = MCTSampler(SPACE, warmup=0.0)
    go(sampler, 5, 50, loss=lambda arch: 0.0)
    visits, rewards, _ = sampler.tree.children()
    assert rewards.tolist() == visits.tolist()


def test_it_is_uniform_then_fills_the_tree_then_draws_from_it():
    sampler = MCTSampler(SPACE, warmup=0.25, build=0.25)
    archs = go(sampler, 50, 200)
    assert sampler.tree.children()[0].sum() == 1  # of the step that is a quarter
    archs += go(sampler_at(sampler, 50), 50, 200, seed=1)
    counts = [sum(arch[0] == option for arch in archs) for option in range(3)]
    assert chisquare(counts).pvalue > 1e-3
    late = go(sampler_at(sampler, 100), 100, 200, seed=2)
    assert sum(arch[0] == 0 for arch in late) > 60  # what loses least


def sampler_at(sampler, step):
    """The sampler, whose steps are counted on from `step`."""

    class Later:
        def plan(self, rng, _):
            return sampler.plan(rng, step)

        def probe(self, rng, done, total):
            return sampler.probe(rng, step + done, total)

        feedback = staticmethod(sampler.feedback)

    return Later()


def test_without_values_paths_are_uniform():
    sampler = MCTSampler(
        SPACE, warmup=0.0, build=0.0, exploration=0.0, communication=0.0, temperature=1e12
    )
    archs = go(sampler, 1200, 1200)
    assert chisquare([archs.count(arch) for arch in SPACE.enumerate()]).pvalue > 1e-3


def test_a_search_goes_on_from_the_tree_of_training():
    sampler = MCTSampler(SPACE, warmup=0.0, build=0.9)
    go(sampler, 300, 400)
    options = {"temperature": 0.02, "rollouts": 1}
    searcher = make_searcher("mct", SPACE, seed=0, options=options, sampler=sampler)
    first = searcher.ask(6)
    best = sorted(SPACE.enumerate(), key=loss_of)
    assert {*first} <= {*best[:12]}  # before any score
    assert searcher.random_start == 0
    without = make_searcher("mct", SPACE, seed=0, options=options)
    assert without.random_start == 2 and {*without.ask(6)} != {*first}
    before = sampler.tree.children()[0].tolist()
    searcher.tell(first, [0.0] * 6)
    searcher.ask(6)
    assert sampler.tree.children()[0].tolist() == before  # it is not the search's to change
    other = ms.SearchSpace([ms.choose(range(2), "d")])
    with pytest.raises(ValueError, match="tree is of another space"):
        MCTSearch(other, seed=0, sampler=sampler)


def test_scores_move_the_search():
    """Additive scores on 3 x 4 x 2: later proposals are better, by ranks that have no unit."""
    for factor in (1.0, 1e-6):
        searcher = MCTSearch(SPACE, seed=1, options=MCTOptions(temperature=0.02))
        asked = []
        for _ in range(4):
            archs = searcher.ask(3)
            searcher.tell(archs, [-factor * loss_of(arch) for arch in archs])
            asked.append(archs)
        if factor == 1.0:
            first = asked
    assert asked == first
    means = [np.mean([loss_of(arch) for arch in archs]) for archs in asked]
    assert np.mean(means[2:]) < means[0]


def test_elites_are_the_best_at_the_latest_weights():
    searcher = MCTSearch(SPACE, seed=0, options=MCTOptions(keep=2))
    searcher.tell([(0, 0, 0), (1, 0, 0)], [9.0, 8.0], weights_version=0)
    searcher.tell([(2, 0, 0), (2, 1, 0)], [1.0, 2.0], weights_version=1)
    assert searcher.elites() == [(2, 1, 0), (2, 0, 0)]
    stale = MCTSearch(SPACE, seed=0, options=MCTOptions(keep=2, stale_scores=True))
    stale.tell([(0, 0, 0), (1, 0, 0)], [9.0, 8.0], weights_version=0)
    stale.tell([(2, 0, 0), (2, 1, 0)], [1.0, 2.0], weights_version=1)
    assert stale.elites() == [(0, 0, 0), (1, 0, 0)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 5.0},
        {"communication": 3.0},
        {"exploration": 3.0},
        {"rollouts": 6},
        {"decay": 0.1},
    ],
)
def test_every_option_of_the_search_is_used(options):
    space = ms.SearchSpace([ms.choose(range(4), f"d{i}") for i in range(5)])

    def asked(**more):
        searcher, rng = (
            MCTSearch(space, seed=2, options=MCTOptions(**more)),
            np.random.default_rng(0),
        )
        archs = list(dict.fromkeys(space.sample(rng) for _ in range(60)))
        searcher.tell(archs, [-loss_of(arch) - arch[3] * arch[4] for arch in archs])
        return searcher.ask(20)

    assert asked() != asked(**options)
