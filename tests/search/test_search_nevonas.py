"""NEvoNAS: novelty by loops over sets, its two objectives, its options."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from manyshot.search import Limit, NEvoNAS, NEvoNASOptions, Searcher
from manyshot.search.nevonas import novelty
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import SearcherSuite, nested_space


class TestNEvoNAS(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return NEvoNAS(space, seed=seed, limits=limits)


SPACE = SearchSpace([Decision(range(4), f"d{i}") for i in range(5)])


def distance(space: SearchSpace, one: Arch, two: Arch) -> float:
    """Of Jaccard, by sets."""
    pairs = [
        {(i, option) for i, option in enumerate(arch) if space.active(arch)[i]}
        for arch in (one, two)
    ]
    return 1 - len(pairs[0] & pairs[1]) / len(pairs[0] | pairs[1])


@pytest.mark.parametrize("neighbours", [1, 3, 1000])
def test_novelty_is_the_mean_distance_to_the_nearest_others(neighbours: int) -> None:
    space = nested_space()
    archs = list(dict.fromkeys(space.canonical(a) for a in space.enumerate()))[::17]
    expected = []
    for arch in archs:
        others = sorted(distance(space, arch, other) for other in archs if other != arch)
        expected.append(np.mean(others[:neighbours]))
    assert novelty(space, archs, neighbours) == pytest.approx(expected)


def test_novelty_by_hand() -> None:
    """Two of four options in common are 2 of 6 pairs; one alone is not novel."""
    space = SearchSpace([Decision(range(2), f"d{i}") for i in range(4)])
    assert novelty(space, [(0, 0, 0, 0), (0, 0, 1, 1)], 5) == pytest.approx([2 / 3, 2 / 3])
    assert novelty(space, [(0, 0, 0, 0)], 5).tolist() == [0.0]
    assert novelty(space, [], 5).tolist() == []


def dominated(point: Sequence[float], points: Sequence[Sequence[float]]) -> bool:
    """Whether another is nowhere worse and somewhere better; both are maximised."""
    return any(
        all(x >= y for x, y in zip(other, point, strict=True)) and tuple(other) != tuple(point)
        for other in points
    )


def test_survivors_are_the_front_of_score_and_novelty() -> None:
    """Against double loops, within each limit; what is novel survives with the worst score."""
    limits = [Limit("sum<=6", lambda archs: [sum(a) for a in archs], 6)]
    options = NEvoNASOptions(population=100, neighbours=2)
    searcher = NEvoNAS(SPACE, seed=0, limits=limits, options=options)
    cluster = [(0, 0, 0, *tail) for tail in itertools.product(range(3), repeat=2)]
    archs = [*cluster, (1, 1, 1, 1, 1), (3, 3, 3, 3, 3)]
    scores = [*range(5, 5 + len(cluster)), 0.0, 100.0]
    searcher.tell(archs, scores)
    points = []
    for arch, score in zip(archs, scores, strict=True):
        others = sorted(distance(SPACE, arch, other) for other in archs if other != arch)
        points.append((score, sum(others[:2]) / 2))
    legal = [i for i, arch in enumerate(archs) if sum(arch) <= 6]
    front = {archs[i] for i in legal if not dominated(points[i], [points[j] for j in legal])}
    elites = searcher.elites()
    assert set(elites) == {archs[i] for i in legal}
    assert set(elites[: len(front)]) == front and (1, 1, 1, 1, 1) in front


def test_it_evolves_towards_the_best() -> None:
    """The later proposals score better than the first, random ones, and stay varied."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(12)])
    searcher = NEvoNAS(space, seed=0)
    means = []
    for _ in range(12):
        archs = searcher.ask(20)
        scores = [float(sum(arch)) for arch in archs]
        searcher.tell(archs, scores)
        means.append(np.mean(scores))
    assert np.mean(means[-3:]) > means[0] + 3 and searcher.top_ups == 0


@pytest.mark.parametrize(
    "change",
    [
        {"neighbours": 1},
        {"population": 10},
        {"crossover_probability": 0.1},
        {"mutation_probability": 0.5},
        {"attempts": 1},
        {"stale_scores": True},
    ],
)
def test_every_option_is_used(change: dict) -> None:
    def history(**options) -> list:
        limit = Limit("sum<=6", lambda archs: [sum(a) for a in archs], 6)
        searcher = NEvoNAS(SPACE, seed=0, limits=[limit], options=NEvoNASOptions(**options))
        asked = []
        for version in range(6):
            asked.append(searcher.ask(20))
            scores = [float(a[0] * 3 + a[1] - 50 * version) for a in asked[-1]]
            searcher.tell(asked[-1], scores, version)
        return asked

    base = {"attempts": 100}
    assert history(**base) != history(**{**base, **change})
