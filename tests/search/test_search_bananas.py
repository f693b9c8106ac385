"""BANANAS: what is a path, how an ensemble picks, beside closed forms and brute force."""

import itertools
import types
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from manyshot.rank.published import nas_bench_201_space, nas_bench_macro_space
from manyshot.search import Bananas, BananasOptions, Limit, make_searcher
from manyshot.search.bananas import paths
from manyshot.search.modelled import Modelled, one_hot, options_of
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import nested_space


def flat(counts: Sequence[int]) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def test_paths_of_a_cell_are_those_from_its_input_to_its_output() -> None:
    """By walking along the edges of the graph, whose order the space has: 01 02 12 03 13 23."""
    edges = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]

    def walks(node: int) -> list[tuple[int, ...]]:
        if node == 3:
            return [()]
        return [(i, *rest) for i, (a, b) in enumerate(edges) if a == node for rest in walks(b)]

    space = nas_bench_201_space()
    assert set(paths(space, 1000)) == set(walks(0))
    assert options_of(space, [(0,) * 6], paths(space, 1000)).shape == (1, 5 + 25 + 25 + 125)
    short = paths(space, 60)  # the path of three edges is left out; its middle is an edge alone
    assert set(short) == {(3,), (0, 4), (1, 5), (2,)}
    assert paths(nas_bench_macro_space(), 1000) == [(i,) for i in range(8)]
    assert set(paths(nested_space(), 1000)) == {(0, 1, 4), (0, 2, 5), (0, 3), (6,), (7,)}


def test_features_are_one_per_combination_of_a_path() -> None:
    space = flat([2, 3, 2])
    archs = list(space.enumerate())
    groups = [(0, 2), (1,)]
    found = options_of(space, archs, groups)
    for row, arch in zip(found, archs, strict=True):
        expected = [
            float(tuple(arch[i] for i in group) == choice)
            for group in groups
            for choice in itertools.product(*(range(int(space.counts[i])) for i in group))
        ]
        assert row.tolist() == expected
    np.testing.assert_array_equal(
        one_hot(space, archs), np.array([space.one_hot(arch) for arch in archs])
    )


class Known:
    """A member of the ensemble that predicts a known number for every architecture."""

    def __init__(self, table: dict[bytes, float]) -> None:
        self.table = table

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.array([self.table[row.tobytes()] for row in features])


def members(space: SearchSpace, each: Sequence[dict[Arch, float]]) -> list[Known]:
    archs = list(space.enumerate())
    key = {arch: row.tobytes() for arch, row in zip(archs, one_hot(space, archs), strict=True)}
    return [Known({key[arch]: value for arch, value in own.items()}) for own in each]


def test_thompson_sampling_picks_with_the_probability_of_the_closed_form(monkeypatch) -> None:
    """Two new networks, known means and deviations: which is drawn higher is a normal's tail."""
    space = flat([2, 2])
    told, new = [(0, 0), (0, 1)], [(1, 0), (1, 1)]
    values = [{**dict.fromkeys(told, 9.0), new[0]: 0.7 + 0.5 * d, new[1]: d} for d in (-1, 1)]
    known, pool = members(space, values), types.SimpleNamespace(archs=new)
    monkeypatch.setattr(Bananas, "fitted", lambda self, rng, rows: known)
    monkeypatch.setattr(Modelled, "mutants", lambda self, *args, **more: pool)
    picked = []
    for seed in range(400):
        options = BananasOptions(initial=2, encoding="one_hot")
        searcher = Bananas(space, seed=seed, options=options)
        searcher.tell(told, [1.0, 0.0])
        picked += searcher.ask(1)
    assert set(picked) == set(new)
    # Means 0.7 and 0, deviations 0.5 and 1: 0.73; of 400 a standard deviation of 0.022.
    expected = norm.cdf(0.7 / np.hypot(0.5, 1))
    assert abs(picked.count((1, 0)) / 400 - expected) < 4 * 0.022


def test_each_member_in_turn_has_its_best(monkeypatch) -> None:
    space = flat([3, 3])
    archs = list(space.enumerate())
    pool = types.SimpleNamespace(archs=archs)
    monkeypatch.setattr(Modelled, "mutants", lambda self, *args, **more: pool)
    values = [{a: float(sum(a)) for a in archs}, {a: float(a[0] - a[1]) for a in archs}]
    monkeypatch.setattr(Bananas, "fitted", lambda self, rng, rows: members(space, values))
    options = BananasOptions(initial=2, acquisition="ts", encoding="one_hot")
    searcher = Bananas(space, seed=0, options=options)
    searcher.tell([(0, 0), (1, 1)], [0.0, 1.0])
    assert searcher.ask(4) == [(2, 2), (2, 0), (1, 2), (1, 0)]


def test_only_mutants_of_the_best_within_each_limit_are_predicted() -> None:
    """In 4^20 encodings no random network is near the best told; all proposals are."""
    space = flat([4] * 20)
    limit = Limit("total<=50", lambda archs: [float(sum(arch)) for arch in archs], 50)
    options = BananasOptions(initial=5, members=2, layers=(4,), epochs=1, parents=1)
    searcher = Bananas(space, seed=0, limits=[limit], options=options)
    archs = searcher.ask(10)
    searcher.tell([(3,) * 20, *archs], [9.0, *[float(i) for i in range(10)]])
    assert searcher.elites() == [archs[9]]  # the best of all is over the limit
    for arch in searcher.ask(10):
        assert sum(arch) <= 50
        assert 0 < sum(x != y for x, y in zip(arch, archs[9], strict=True)) <= 7


def test_it_learns_a_sum() -> None:
    """30 of 65,536 at random, then 50 more: the last ten are nearer to the best."""
    options = {"initial": 30, "members": 3, "layers": (16,), "epochs": 30}
    searcher = make_searcher("bananas", flat([4] * 8), seed=0, options=options)
    for size in (30, 20, 20, 10):
        archs = searcher.ask(size)
        searcher.tell(archs, [float(sum(arch)) for arch in archs])
    assert np.mean([sum(arch) for arch in archs]) > 17  # 12 at random, 24 at most


@pytest.mark.parametrize(
    "change",
    [
        {"initial": 12},
        {"members": 3},
        {"layers": (5,)},
        {"epochs": 2},
        {"encoding": "one_hot"},
        {"acquisition": "ts"},
        {"mutants": 12},
        {"parents": 2},
        {"stale_scores": True},
    ],
)
def test_every_option_is_used(change: dict) -> None:
    """Changing one changes the history."""

    def history(options: dict) -> list[list[Arch]]:
        base = {"initial": 8, "members": 2, "layers": (4,), "epochs": 1, "mutants": 30}
        searcher = make_searcher("bananas", nested_space(), seed=0, options={**base, **options})
        asked = []
        for version in range(3):
            asked.append(searcher.ask(10))
            scores = [sum(arch) - 100.0 * version for arch in asked[-1]]
            searcher.tell(asked[-1], scores, version)
        return asked

    assert history({}) != history(change)
