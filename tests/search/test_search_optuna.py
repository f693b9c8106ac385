"""Optuna's samplers: the adapter beside a study that is made by hand."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from manyshot.search import Limit, make_searcher
from manyshot.space import Arch, Decision, SearchSpace

optuna = pytest.importorskip("optuna")
pytest.importorskip("cmaes")
MIXED = [Decision((8, 16, 24, 32), "width"), Decision(("skip", "conv", "pool"), "op")]
MIXED += [Decision((3, 5, 7), "kernel"), Decision((1,), "fixed"), Decision(("a", "b"), "branch")]


def total_limit(limit: float) -> Limit:
    return Limit(f"total<={limit}", lambda archs: [float(sum(arch)) for arch in archs], limit)


def flat(counts: Sequence[int]) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def some(space: SearchSpace, count: int) -> tuple[list[Arch], list[float]]:
    rng = np.random.default_rng(0)
    archs = list(space.enumerate())
    chosen = [archs[i] for i in rng.permutation(len(archs))[:count]]
    return chosen, rng.random(count).tolist()


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_are_those_of_a_study_by_hand(sampler: str) -> None:
    """It is told what is within the limit, by the latest scores; numbers have an order."""
    space = SearchSpace(MIXED)
    archs, scores = some(space, 40)
    options = {"sampler": sampler, "initial": 5}
    searcher = make_searcher("optuna", space, seed=3, limits=[total_limit(4)], options=options)
    searcher.tell(archs[:30], [0.0] * 30)
    searcher.ask(3)
    searcher.tell(archs[20:], scores[20:])
    searcher.tell(archs[:20], scores[:20])
    proposed = searcher.ask(4)

    distributions = {
        "0": optuna.distributions.IntDistribution(0, 3),
        "1": optuna.distributions.CategoricalDistribution((0, 1, 2)),
        "2": optuna.distributions.IntDistribution(0, 2),
        "3": optuna.distributions.IntDistribution(0, 0),
        "4": optuna.distributions.CategoricalDistribution((0, 1)),
    }
    study = by_hand(space, sampler, distributions, archs, scores, seed_of(searcher, seed=3))
    drawn: list[Arch] = []
    while len(drawn) < 4:
        params = study.ask(distributions).params
        arch = tuple(params[name] for name in "01234")
        if sum(arch) <= 4 and arch not in archs and arch not in drawn:
            drawn.append(arch)
    assert proposed == drawn


def seed_of(searcher, seed: int) -> int:
    """The seed that the proposal just made gave its sampler: second of its stream's numbers."""
    searcher.history._asks -= 1
    rng = searcher.history.generator(seed)
    rng.integers(1)
    return int(rng.integers(2**31))


def by_hand(space, sampler, distributions, archs, scores, seed):
    make = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=1),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }[sampler]
    study = optuna.create_study(direction="maximize", sampler=make())
    for arch, score in zip(archs, scores, strict=True):
        if sum(arch) <= 4:
            params = {str(i): option for i, option in enumerate(arch)}
            trial = optuna.trial.create_trial(
                params=params, distributions=distributions, value=score
            )
            study.add_trial(trial)
    return study


def test_cma_es_moves_to_where_scores_are_high() -> None:
    """A sum: the mean of what is drawn goes up, and stays there when one score says otherwise."""
    options = {"sampler": "cma_es", "initial": 8}
    searcher = make_searcher("optuna", flat([9] * 6), seed=0, options=options)
    means = []
    for _ in range(12):
        archs = searcher.ask(10)
        searcher.tell(archs, [float(sum(arch)) for arch in archs])
        means.append(np.mean(archs))
    assert means[0] < 5 < 6.5 < means[-1]  # 4 at random, 8 at most
    searcher.tell([(0,) * 6], [99.0])
    again = searcher.ask(5)
    assert np.mean(again) > 6


def test_options_of_cma_es_are_equal_shares_of_a_range() -> None:
    """Before anything is learnt: a normal around the middle, and all options of both ends come."""
    space = flat([2, 1, 4])
    searcher = make_searcher("optuna", space, seed=0, options={"sampler": "cma_es", "initial": 1})
    draw = searcher._learners[0].draws(0)
    drawn = [draw() for _ in range(2000)]
    assert {arch[1] for arch in drawn} == {0}
    assert chisquare(np.bincount([arch[0] for arch in drawn])).pvalue > 1e-3
    # A quarter of the range is 1.5 deviations from the middle, cut to the range.
    counts = np.bincount([arch[2] for arch in drawn])
    tail = 0.0655  # of the normal between 1.5 and 3 deviations, among those within 3
    expected = 2000 * np.array([tail, 0.5 - tail, 0.5 - tail, tail])
    assert chisquare(counts, expected).pvalue > 1e-3


def test_a_gaussian_process_proposes_what_is_new_and_the_same_again() -> None:
    space = flat([3] * 3)
    archs = list(space.enumerate())
    told = [arch for arch in archs if sum(arch) <= 4]
    asked = []
    for _ in range(2):
        options = {"sampler": "gp", "initial": 5}
        searcher = make_searcher("optuna", space, seed=0, options=options)
        searcher.tell(told[:10], [float(sum(arch)) for arch in told[:10]])
        asked.append(searcher.ask(2))
    assert asked[0] == asked[1] and len(set(asked[0])) == 2
    assert not set(asked[0]) & set(told[:10])


def test_spaces_of_one_decision_and_of_none_to_make() -> None:
    for sampler in ("tpe", "cma_es"):
        options = {"sampler": sampler, "initial": 2}
        searcher = make_searcher("optuna", flat([5, 1]), seed=0, options=options)
        asked: list[Arch] = []
        for _ in range(3):
            archs = searcher.ask(2)
            searcher.tell(archs, [float(sum(arch)) for arch in archs])
            asked += archs
        assert sorted(asked) == [(i, 0) for i in range(5)]


@pytest.mark.parametrize(("sampler", "module"), [("tpe", "optuna"), ("cma_es", "cmaes")])
def test_without_the_packages_it_says_what_to_install(monkeypatch, sampler, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"'{sampler}' needs Optuna.*manyshot\[optuna\]"):
        make_searcher("optuna", flat([3, 3]), seed=0, options={"sampler": sampler})


def test_what_optuna_says_to_others_is_left_as_it_is() -> None:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        make_searcher("optuna", flat([3, 3]), seed=0)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
