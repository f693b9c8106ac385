"""The pada sampler: probabilities by hand, the variance they are for, and norms in the loop."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from train_nets import Dropping, same, seeded, trainer, weights

import manyshot as ms
from kills import left_by_kills
from manyshot.train import PathImportance, Plan, PlannedPath, Taught, make_sampler, train
from manyshot.train.plan import learning_from_norms

SPACE = ms.SearchSpace([ms.choose(range(n), f"d{i}") for i, n in enumerate((3, 2))])


def learn(sampler, rows, step, steps):
    """Tells a sampler the norms of paths, in a step of so many."""
    for arch, norm in rows:
        sampler.measured(Plan((PlannedPath(arch),)), torch.tensor(norm))
    sampler.probe(np.random.default_rng(0), step, steps)
    sampler.feedback(Plan((PlannedPath(rows[-1][0]),)), [torch.tensor(1.0)])


def test_probabilities_of_planted_norms():
    sampler = PathImportance(SPACE, decay=0.75, importance=0.8, every=0.1)
    assert [p.tolist() for p in sampler.probabilities()] == [[1 / 3] * 3, [0.5] * 2]
    learn(sampler, [((0, 0), 4.0), ((0, 1), 8.0), ((1, 1), 2.0)], 50, 100)
    # d0: 0.75 * 4 + 0.25 * 8 = 5, then 2, and for the third option their mean, 3.5; of 10.5
    # d1: 4, and 0.75 * 8 + 0.25 * 2 = 6.5; of 10.5. Half-way importance counts 0.4
    expected = [0.4 * np.array([5, 2, 3.5]) / 10.5 + 0.2, 0.4 * np.array([4, 6.5]) / 10.5 + 0.3]
    for got, wanted in zip(sampler.probabilities(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    learn(sampler, [((0, 0), 100.0)], 55, 100)  # not due: nothing changes
    for got, wanted in zip(sampler.probabilities(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert sampler.report() is None
    learn(sampler, [((2, 0), 0.0)], 100, 100)  # what waited counts too
    last = [np.array([28.75, 2, 0]) / 30.75, np.array([0.75 * 28, 6.5]) / 27.5]
    expected = [0.8 * last[0] + 0.2 / 3, 0.8 * last[1] + 0.1]
    assert sampler.report()["importance"] == 0.8
    told = sampler.report()["probabilities"]
    for got, wanted in zip(told, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_paths_are_drawn_by_their_probabilities():
    sampler = PathImportance(SPACE)
    learn(sampler, [((0, 0), 4.0), ((1, 1), 2.0), ((2, 1), 6.0)], 75, 100)
    drawn = [sampler.plan(np.random.default_rng(i), i).paths[0].arch for i in range(3000)]
    first, second = sampler.probabilities()
    archs = list(itertools.product(range(3), range(2)))
    expected = [len(drawn) * first[a] * second[b] for a, b in archs]
    assert chisquare([drawn.count(arch) for arch in archs], expected).pvalue > 1e-3


def test_norms_of_zero_are_no_importance():
    sampler = PathImportance(SPACE)
    learn(sampler, [((0, 0), 0.0), ((1, 1), 0.0)], 100, 100)
    assert [p.tolist() for p in sampler.probabilities()] == [[1 / 3] * 3, [0.5] * 2]


def test_weighted_gradients_are_unbiased_and_vary_least_at_its_probabilities():
    """Two options with planted gradients: all expectations are sums of two terms."""
    space = ms.SearchSpace([ms.choose(range(2), "d")])
    gradients = np.array([[3.0, 4.0], [0.0, -1.0]])
    norms = np.linalg.norm(gradients, axis=1)

    def second_moment(chance):
        chances = np.array([chance, 1 - chance])
        return (chances * (0.5 / chances) ** 2 * norms**2).sum()

    sampler = PathImportance(space, weighted=True)
    learn(sampler, [((0,), norms[0]), ((1,), norms[1])], 100, 100)
    (chances,) = sampler.probabilities()
    np.testing.assert_allclose(chances, norms / norms.sum(), rtol=1e-12)
    factors = {}
    for seed in range(50):
        (path,) = sampler.plan(np.random.default_rng(seed), 0).paths
        factors[path.arch[0]] = path.weight
    mean = sum(chances[i] * factors[i] * gradients[i] for i in range(2))
    np.testing.assert_allclose(mean, gradients.mean(axis=0), rtol=1e-12)
    best = sum(chances[i] * factors[i] ** 2 * norms[i] ** 2 for i in range(2))
    grid = np.linspace(0.01, 0.99, 99)
    assert best <= min(map(second_moment, grid)) < second_moment(0.5)
    # the weight that a path had is taken out of its norm
    again = PathImportance(space, weighted=True)
    for i in range(2):
        path = PlannedPath((i,), weight=factors[i])
        again.measured(Plan((path,)), torch.tensor(factors[i] * norms[i]))
    again.probe(np.random.default_rng(0), 100, 100)
    again.feedback(Plan((path,)), [])
    np.testing.assert_allclose(again.probabilities()[0], chances, rtol=1e-6)


def test_a_norm_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"norms of gradients, and that of \(1, 0\) is nan: lower"):
        learn(PathImportance(SPACE), [((1, 0), float("nan"))], 50, 100)


# -- in the loop ---------------------------------------------------------------------------


def run_of(folder=None, options=None, net=None, **settings):
    net = net or seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))
    run = trainer(net, folder, "pada", **settings)
    if options:
        run.sampler = make_sampler("pada", net.space, options)
        run._measured = learning_from_norms(run.sampler)
    return run


def measured(**settings):
    """Of each step the norm that the sampler was told, and that of the move over the rate."""
    run = run_of(momentum=0.0, weight_decay=0.0, **settings)
    told, moved = [], []
    take, step = run.sampler.measured, run.optimisation.weights.step

    def stepping(*args, **kwargs):
        before = weights(run.net)
        step(*args, **kwargs)
        moves = [(now - before[name]).flatten() for name, now in weights(run.net).items()]
        moved.append(float(torch.cat(moves).norm()) / run.rate())

    def taking(plan, norm):
        take(plan, norm)
        told.append(float(norm))

    run.sampler.measured, run.optimisation.weights.step = taking, stepping
    train(run)
    return told, moved


def test_the_norm_is_of_the_whole_step_before_clipping():
    told, moved = measured()
    assert len(told) == 8
    assert told == pytest.approx(moved, rel=1e-3)  # float32 weights move by little
    in_parts, _ = measured(accumulate=2)
    assert in_parts == pytest.approx(told, rel=1e-3)
    clipped, shorter = measured(clip_norm=0.1)
    assert clipped[0] == told[0] > 0.1
    assert shorter == pytest.approx([0.1] * 8, rel=1e-2)


@pytest.mark.parametrize(
    "options", [{"importance": 0.0}, {"decay": 0.0}, {"every": 0.9}, {"weighted": True}]
)
def test_every_option_is_used(options):
    def planned(**more):
        sampler, plans = PathImportance(SPACE, **more), []
        for step in range(100):
            plan = sampler.plan(np.random.default_rng(step), step)
            norm = 0.1 + sum(plan.paths[0].arch) + (step % 3)
            learn(sampler, [(plan.paths[0].arch, norm)], step + 1, 100)
            plans.append(plan)
        return plans

    assert planned() == planned() != planned(**options)


def test_codes_of_a_sharing_scheme_take_no_part_in_the_norm():
    sharing = ms.sharing.KShot(2, warm_frac=0.2, last_std=1.0, update_mode="joint")
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0), sharing=sharing))
    run = run_of(net=net)
    codes = {id(p) for p in run.optimisation.codes.param_groups[0]["params"]}
    held = [p for group in run.optimisation.weights.param_groups for p in group["params"]]
    assert codes and not codes & {id(p) for p in held}
    train(run)
    assert run.optimisation.norm.isfinite()


@pytest.mark.parametrize("options", [{"every": 0.3}, {"every": 0.0, "weighted": True}])
def test_stopped_after_any_write_it_goes_on_to_the_same_end(options, tmp_path):
    whole = run_of(tmp_path / "whole", options)
    left = left_by_kills(tmp_path / "whole", lambda: train(whole))
    for _, folder in left:
        again = run_of(folder, options)
        train(again)
        assert same(weights(whole.net), weights(again.net))
        assert again.sampler.state_dict() == whole.sampler.state_dict()
        said = (folder / "sampler.jsonl").read_text()
        assert said == (tmp_path / "whole" / "sampler.jsonl").read_text()


def test_wrapped_it_is_told_norms_too():
    inner = PathImportance(SPACE)
    assert learning_from_norms(Taught(inner, "labels")) is inner
    assert learning_from_norms(ms.train.Uniform(SPACE)) is None
