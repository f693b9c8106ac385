"""Local search, beside one that is written down plainly."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from manyshot.search import Limit, LocalOptions, LocalSearch, generations
from manyshot.search.local import neighbours
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import nested_space


def flat(counts: Sequence[int]) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def total_limit(limit: float) -> Limit:
    return Limit(f"total<={limit}", lambda archs: [float(sum(arch)) for arch in archs], limit)


class Rugged:
    """A random score for every architecture, so that there are many local optima."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.scores = {arch: float(rng.random()) for arch in space.enumerate()}

    def __call__(self, arch: Arch) -> float:
        return self.scores[arch]


def search(searcher: LocalSearch, score: Callable[[Arch], float], many: int, size: int = 1):
    asked = []
    for archs in generations(searcher, many, size, searcher.space):
        searcher.tell(archs, [score(arch) for arch in archs])
        asked += archs
    return asked


def near(space: SearchSpace, arch: Arch, limit: float) -> set[Arch]:
    """All that differ in one decision, by comparing with everything."""
    differ = lambda other: sum(x != y for x, y in zip(arch, other, strict=True))  # noqa: E731
    return {a for a in space.enumerate() if differ(a) == 1 and sum(a) <= limit}


@pytest.mark.parametrize("limit", [99, 5])
def test_what_is_asked_one_at_a_time_is_a_plain_climb(limit: float) -> None:
    """Best improvement: all neighbours, then the best, until none is better; then anew."""
    space = flat([3] * 5)
    score = Rugged(space, 0)
    searcher = LocalSearch(space, seed=0, limits=[total_limit(limit)])
    asked = search(searcher, score, 243)
    assert set(asked) == {a for a in space.enumerate() if sum(a) <= limit}
    known: set[Arch] = set()
    looked: set[Arch] = set()
    left, climbs = asked, 0
    while left:
        start, left = left[0], left[1:]
        known.add(start)
        if start in looked:
            continue
        at, climbs = start, climbs + 1
        while True:
            around = near(space, at, limit)
            looked |= {at, *around}
            new = around - known
            scored, left = left[: len(new)], left[len(new) :]
            assert set(scored) == new
            known |= new
            best = max(around, key=score)
            if score(best) < score(at):
                break
            at = best
    assert climbs >= 5


def test_the_first_that_is_better_is_moved_to() -> None:
    """A climb never looks on once it has seen something better."""
    space = flat([4] * 4)
    score = Rugged(space, 1)
    options = LocalOptions(improvement="first")
    asked = search(LocalSearch(space, seed=3, options=options), score, 60)
    at = asked[0]
    moves = 0
    for arch in asked[1:]:
        if arch not in near(space, at, 99):
            break  # the next climb has begun
        if score(arch) > score(at):
            at, moves = arch, moves + 1
    else:
        raise AssertionError("the first climb has no end")
    assert moves >= 2
    assert all(score(other) < score(at) for other in near(space, at, 99))


def test_a_climb_begins_at_the_best_of_so_many() -> None:
    space = flat([4] * 4)
    score = Rugged(space, 2)
    for starts in (1, 6):
        searcher = LocalSearch(space, seed=1, options=LocalOptions(starts=starts))
        asked = search(searcher, score, starts + 5)
        best = max(asked[:starts], key=score)
        assert set(asked[starts:]) <= near(space, best, 99)


def test_several_climbs_at_once_end_where_they_must() -> None:
    """A score that is a sum has one optimum within each limit that changes of one reach: all."""
    space, limits = flat([4] * 6), [total_limit(18), Limit("d0<=1", lambda a: [x[0] for x in a], 1)]
    searcher = LocalSearch(space, seed=0, limits=limits)
    search(searcher, lambda arch: float(sum(arch)), 200, size=7)
    assert searcher.history.was_told((3,) * 6) and searcher.history.was_told((1, 3, 3, 3, 3, 3))


def test_what_is_left_of_a_proposal_is_random_and_may_begin_the_next_climb() -> None:
    space = flat([3] * 4)
    searcher = LocalSearch(space, seed=0)
    top = (2, 2, 2, 2)
    searcher.tell([top], [9.0])
    archs = searcher.ask(12)
    assert set(archs[:8]) == near(space, top, 99)
    searcher.tell(archs, [float(i == 10) for i in range(12)])
    assert set(searcher.ask(4)) <= near(space, archs[10], 99) - set(archs)


def test_neighbours_are_canonical_networks_of_one_change() -> None:
    space = nested_space()
    networks = {space.canonical(arch) for arch in space.enumerate()}
    for arch in sorted(networks)[::17]:
        found = neighbours(space, arch)
        assert len(found) == len(set(found)) and set(found) < networks - {arch}
        expected = set()
        for other in space.enumerate():
            if sum(x != y for x, y in zip(arch, other, strict=True)) == 1:
                expected.add(space.canonical(other))
        assert set(found) == expected - {arch}


def test_a_score_that_is_told_again_counts() -> None:
    """Where a climb is may become worse than a neighbour that was told before."""
    space = flat([2] * 2)
    searcher = LocalSearch(space, seed=0)
    searcher.tell([(0, 0)], [1.0])
    searcher.tell([(0, 1)], [0.5])
    searcher.tell([(0, 0)], [0.0])
    searcher.tell([(1, 0)], [0.2])  # all neighbours are told: on to the better of them
    assert searcher.ask(1) == [(1, 1)]
    assert searcher.elites() == [(0, 1), (1, 0), (0, 0)]
