"""The weak predictor: mechanics, on problems whose regression and optimum are known."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from manyshot.search import Limit, PredictorOptions, WeakPredictor, best, make_searcher, predictor
from manyshot.search.modelled import networks
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import nested_space


def flat(counts: Sequence[int]) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def total(archs: Sequence[Arch]) -> np.ndarray:
    return np.array([sum(arch) for arch in archs], dtype=float)


def total_limit(limit: float) -> Limit:
    return Limit(f"total<={limit}", total, limit)


class Pairs:
    """A score of pairs of options alone, which no sum over single options gives.

    The score of two decisions is 1 if they are equal modulo a shift of the pair; the sums over
    one option are all equal.
    """

    def __init__(self, decisions: int, options: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.pairs = [(i, i + 1, int(rng.integers(options))) for i in range(decisions - 1)]
        self.options = options

    def __call__(self, arch: Arch) -> float:
        return float(sum((arch[i] + shift) % self.options == arch[j] for i, j, shift in self.pairs))


def told(searcher, sizes: Sequence[int], score) -> list[list[Arch]]:
    asked = []
    for n in sizes:
        asked.append(searcher.ask(n))
        searcher.tell(asked[-1], [score(arch) for arch in asked[-1]])
    return asked


def test_it_learns_pairs_of_options() -> None:
    """Of 4,096 networks 4 are optimal: 240 random ones have one with 22 %; no sum points there."""
    found = 0
    for seed in range(5):
        score = Pairs(6, 4, seed)
        searcher = WeakPredictor(flat([4] * 6), seed=seed, options=PredictorOptions(top=20))
        told(searcher, [20] * 12, score)
        found += max(searcher.history.scores.values()) == 5
    assert found >= 4


def oracle(space: SearchSpace, archs: Sequence[Arch], scores: Sequence[float], alpha: float):
    """Ridge regression on explicit features: one-hots and products of all pairs of them.

    (m / D + 1)^2 with m equal decisions is 1 + 2 m / D + m^2 / D^2; m^2 counts ordered pairs.
    """

    def features(arch: Arch) -> np.ndarray:
        x = space.one_hot(arch).astype(float)
        products = np.outer(x, x).ravel() / len(space)
        return np.concatenate([[1.0], np.sqrt(2 / len(space)) * x, products])

    f_NF = np.array([features(arch) for arch in archs])
    y = (np.array(scores) - np.mean(scores)) / np.std(scores)
    weights = np.linalg.solve(f_NF.T @ f_NF + alpha * np.eye(f_NF.shape[1]), f_NF.T @ y)
    return lambda arch: float(features(arch) @ weights)


def test_proposals_are_the_predicted_best() -> None:
    """With `top` as large as the proposal, all of them; predictions by the oracle."""
    space = flat([3] * 5)
    options = PredictorOptions(initial=30, top=8)
    searcher = WeakPredictor(space, seed=1, options=options)
    rng = np.random.default_rng(0)
    archs = [tuple(a) for a in rng.permutation(list(space.enumerate()))[:40].tolist()]
    scores = rng.random(40).tolist()
    searcher.tell(archs, scores)
    predict = oracle(space, archs, scores, alpha=0.1)
    rest = sorted(set(space.enumerate()) - set(archs), key=predict, reverse=True)
    assert set(searcher.ask(8)) == set(rest[:8])
    assert set(searcher.ask(3)) < set(rest[8:16])  # what was proposed is out; 3 of the next 8
    assert set(searcher.ask(20)) <= set(rest[:31])  # more than `top`: as many as wanted


def test_the_newest_are_fitted_and_pools_are_predicted_in_parts(
    monkeypatch,
) -> None:
    """By the oracle on the newest 30 of 40; one of the others told again gets no younger."""
    monkeypatch.setattr(predictor, "_FITTED", 30)
    monkeypatch.setattr(predictor, "_PREDICTED", 7)
    space = flat([3] * 5)
    searcher = WeakPredictor(space, seed=1, options=PredictorOptions(initial=30, top=8))
    rng = np.random.default_rng(0)
    archs = [tuple(a) for a in rng.permutation(list(space.enumerate()))[:40].tolist()]
    scores = rng.random(40).tolist()
    searcher.tell(archs, scores)
    searcher.tell(archs[:1], [9.0])
    predict = oracle(space, archs[10:], scores[10:], alpha=0.1)
    rest = sorted(set(space.enumerate()) - set(archs), key=predict, reverse=True)
    assert set(searcher.ask(8)) == set(rest[:8])
    assert searcher.elites()[0] == archs[0]  # the best of all told


def test_proposals_are_a_uniform_sample_of_the_top() -> None:
    space = flat([3] * 4)
    archs = list(space.enumerate())[::4]
    counts: dict[Arch, int] = {}
    for seed in range(150):
        searcher = WeakPredictor(space, seed=seed, options=PredictorOptions(top=6))
        searcher.tell(archs, [float(sum(arch)) for arch in archs])
        for arch in searcher.ask(2):
            counts[arch] = counts.get(arch, 0) + 1
    assert len(counts) == 6
    # Each is drawn with 1/3 in 150 searches: 50, with a standard deviation of 5.8.
    assert all(abs(count - 50) < 4 * 5.8 for count in counts.values())


def test_members_propose_the_best_of_each_in_turn() -> None:
    """Each a ridge regression on scores drawn with replacement, by the oracle on the same draws."""
    space = flat([3] * 5)
    searcher = WeakPredictor(space, seed=1, options=PredictorOptions(initial=30, members=3))
    rng = np.random.default_rng(0)
    archs = [tuple(a) for a in rng.permutation(list(space.enumerate()))[:40].tolist()]
    scores = rng.random(40).tolist()
    searcher.tell(archs, scores)
    stream = searcher.history.generator(1)
    draws = [stream.choice(np.arange(40), 40) for _ in range(3)]
    rest = sorted(set(space.enumerate()) - set(archs))
    predicts = [
        oracle(space, [archs[i] for i in rows], [scores[i] for i in rows], alpha=0.1)
        for rows in draws
    ]
    wanted: list[Arch] = []
    for turn in range(7):
        wanted.append(max((a for a in rest if a not in wanted), key=predicts[turn % 3]))
    assert set(searcher.ask(7)) == set(wanted)
    everything = searcher.ask(len(rest))  # a space that ends, ends
    assert set(everything) == set(rest) - set(wanted)


def test_random_until_initial_are_told() -> None:
    """As random search would: what is told does not matter, then it does."""
    space = flat([4] * 6)
    for count, same in ((19, True), (20, False)):
        asked = []
        for sign in (1, -1):
            searcher = WeakPredictor(space, seed=2)
            archs = searcher.ask(count)
            searcher.tell(archs, [sign * float(sum(arch)) for arch in archs])
            asked.append(searcher.ask(10))
        assert (asked[0] == asked[1]) is same
        if not same:
            assert np.mean(total(asked[0])) > np.mean(total(asked[1])) + 5


@pytest.mark.parametrize("decisions", [6, 12])
def test_within_limits_the_best_of_each_is_sought(decisions: int) -> None:
    """Small and large: score = cost, so the best of each budget are those at its limit."""
    limits = [total_limit(decisions), total_limit(2 * decisions)]
    space = flat([4] * decisions)
    options = PredictorOptions(top=10, pool=300)
    searcher = WeakPredictor(space, seed=0, limits=limits, options=options)
    *_, last = told(searcher, [20] * 4, sum)
    cost = total(last)
    assert (cost <= decisions).sum() >= 10 and (cost <= 2 * decisions).all()
    assert np.median(np.sort(cost)[:10]) >= decisions - 1
    assert np.median(np.sort(cost)[10:]) >= 2 * decisions - 2


def test_a_pool_is_random_networks_and_mutants() -> None:
    """In 4^20 encodings no random network of 300 is near the best told; its mutants are."""
    space = flat([4] * 20)
    options = PredictorOptions(top=5, pool=300, parents=1)
    searcher = WeakPredictor(space, seed=0, options=options)
    told(searcher, [40], sum)
    near = (3,) * 20
    searcher.tell([near], [60.0])
    for arch in searcher.ask(5):
        assert 0 < sum(option != 3 for option in arch) <= 6


def test_scores_of_older_weights_are_fitted_only_if_asked_or_new_ones_are_few() -> None:
    space = flat([4] * 5)
    archs = [tuple(a) for a in np.random.default_rng(0).integers(0, 4, (200, 5)).tolist()]
    archs = list(dict.fromkeys(archs))[:80]
    for stale, count, sign in ((False, 30, -1), (False, 19, 1), (True, 30, 1)):
        options = PredictorOptions(top=5, stale_scores=stale)
        searcher = WeakPredictor(space, seed=0, options=options)
        searcher.tell(archs[count:], [100.0 * sum(arch) for arch in archs[count:]])
        searcher.tell(archs[:count], [-float(sum(arch)) for arch in archs[:count]], 1)
        mean = float(np.mean(total(searcher.ask(5))))
        assert (mean > 7.5) == (sign > 0), (stale, count, mean)


def test_elites_are_the_best_of_each_limit() -> None:
    limits = [total_limit(5), total_limit(12)]
    searcher = WeakPredictor(
        flat([4] * 6), seed=0, limits=limits, options=PredictorOptions(parents=3)
    )
    told(searcher, [40, 10], sum)
    expected = [a for limit in limits for a in best(searcher.history.scores, limit, 3)]
    assert searcher.elites() == list(dict.fromkeys(expected))


def test_elites_compete_by_the_scores_that_are_fitted() -> None:
    """Those of the latest version within each limit, as long as there are any."""
    limits = [total_limit(3), total_limit(18)]
    space = flat([4] * 6)
    everything = sorted(space.enumerate(), key=sum)
    old, new = everything[:30], everything[-30:]
    for stale in (False, True):
        options = PredictorOptions(parents=1, stale_scores=stale)
        searcher = WeakPredictor(space, seed=0, limits=limits, options=options)
        searcher.tell(old, [10.0 + i for i in range(30)])
        searcher.tell(new, [float(i) for i in range(30)], weights_version=1)
        assert searcher.elites() == [old[-1]] + [new[-1]] * (not stale)


def test_limits_share_no_proposal() -> None:
    """One limit has nothing told within it and is sampled; the other's best are within it too."""
    space = flat([4] * 4)
    limits, options = [total_limit(1), total_limit(12)], PredictorOptions(top=5)
    searcher = WeakPredictor(space, seed=0, limits=limits, options=options)
    over = [arch for arch in space.enumerate() if sum(arch) > 1]
    for seed in range(4):
        searcher.tell(over[seed::8], [-float(sum(arch)) for arch in over[seed::8]])
        archs = searcher.ask(10)
        assert len(set(archs)) == 10
        assert (total(archs) <= 1).sum() == 5


def test_networks_are_the_canonical_encodings() -> None:
    space = nested_space()
    expected = sorted({space.canonical(arch) for arch in space.enumerate()})
    assert list(networks(space)) == expected


def test_regularised_evolution_is_evolution_with_its_defaults() -> None:
    space = flat([4] * 6)
    defaults = {"regularised": True, "population": 20, "parents": 5, "tournament": 5}
    defaults |= {"mutation": "one"}
    for options in ({}, {"tournament": 3}):
        made = make_searcher("regularised_evolution", space, seed=4, options=options)
        same = make_searcher("evolution", space, seed=4, options={**defaults, **options})
        assert told(made, [15] * 5, sum) == told(same, [15] * 5, sum)
        assert made.elites() == same.elites()
    with pytest.raises(ValueError, match="regularised = False: .*should be True"):
        make_searcher("regularised_evolution", space, seed=0, options={"regularised": False})


def test_what_is_slow_to_import_is_imported_only_when_it_is_needed() -> None:
    slow = "{'sklearn', 'scipy', 'pymoo'}"
    code = f"import sys, manyshot.search; sys.exit(str({slow} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
