"""Fronts against double loops; NSGA-II against exhaustive search."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot.search import NSGA2, Limit, NSGA2Options, make_searcher, non_dominated
from manyshot.search import leading as leading_fronts
from manyshot.search.leading import Leading
from manyshot.search.pareto import fronts, rank_and_crowding
from manyshot.space import Decision, SearchSpace, choose

QUICK = settings(deadline=None, derandomize=True, max_examples=150)
POINTS = st.integers(1, 3).flatmap(
    lambda d: st.lists(st.tuples(*[st.integers(0, 4)] * d), min_size=1, max_size=30)
)


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def front(points) -> list[bool]:
    return [not any(dominates(other, point) for other in points) for point in points]


@QUICK
@given(POINTS)
def test_non_dominated_equals_the_double_loop(points) -> None:
    """On a coarse grid, so that duplicates and ties in one objective are common."""
    assert non_dominated(points).tolist() == front(points)
    order = np.random.default_rng(0).permutation(len(points))
    assert (
        non_dominated(np.array(points)[order]).tolist() == np.array(front(points))[order].tolist()
    )


def test_non_dominated_edges() -> None:
    assert non_dominated(np.zeros((0, 2))).tolist() == []
    assert non_dominated([[1, 1], [1, 1]]).tolist() == [True, True]
    assert non_dominated([[-np.inf, 3], [0, 2], [np.inf, 2]]).tolist() == [True, True, False]
    for bad in ([1.0, 2.0], [[1.0, np.nan]], np.zeros((3, 0))):
        with pytest.raises(ValueError, match=r"shape \(N, D\)"):
            non_dominated(bad)


@QUICK
@given(POINTS)
def test_ranks_are_fronts_peeled_off_one_by_one(points) -> None:
    rank, crowding = rank_and_crowding(points, len(points))
    left, number = list(range(len(points))), 0
    while left:
        on_front = front([points[i] for i in left])
        peeled = [i for i, on in zip(left, on_front, strict=True) if on]
        assert all(rank[i] == number for i in peeled)
        for column in zip(*[points[i] for i in peeled], strict=True):
            for end in {min(column), max(column)} if len(set(column)) > 1 else ():
                ends = [crowding[i] for i, x in zip(peeled, column, strict=True) if x == end]
                assert np.inf in ends
        left, number = [i for i in left if i not in peeled], number + 1


def test_crowding_by_hand() -> None:
    points = [[0, 10], [1, 7], [4, 2], [10, 0], [11, 11]]
    rank, crowding = rank_and_crowding(points, 5)
    assert rank.tolist() == [0, 0, 0, 0, 1]
    # Deb et al. 2002: neighbours' distance per objective over its range, here divided by D = 2.
    inner = [(4 - 0) / 10 + (10 - 2) / 10, (10 - 1) / 10 + (7 - 0) / 10]
    assert crowding[1:3] * (inner[0] / crowding[1]) == pytest.approx(inner)
    assert np.isinf(crowding[[0, 3, 4]]).all()


SPACE = SearchSpace([Decision(range(4), f"d{i}") for i in range(5)])
GAINS = np.random.default_rng(0).integers(0, 6, (5, 4))


def score(arch) -> float:
    return float(sum(GAINS[i][option] for i, option in enumerate(arch)))


def cost(archs) -> list[int]:
    return [sum((i + 2) * option for i, option in enumerate(arch)) for arch in archs]


def run(searcher: NSGA2, generations: int, score=score) -> list[list[tuple[int, ...]]]:
    asked = []
    for _ in range(generations):
        asked.append(searcher.ask(20))
        searcher.tell(asked[-1], [score(arch) for arch in asked[-1]])
    return asked


@pytest.mark.parametrize("cap", [None, 30])
def test_front_equals_brute_force(cap: int | None) -> None:
    """640 of 1,024 architectures asked for: the true front, whole, in score and cost."""
    limits = [] if cap is None else [Limit("cost<=30", cost, cap)]
    options = NSGA2Options(population=40, objective=cost)
    searcher = NSGA2(SPACE, seed=0, limits=limits, options=options)
    asked = run(searcher, 32 if cap is None else 16)
    legal = [a for a in itertools.product(range(4), repeat=5) if cap is None or cost([a])[0] <= cap]
    assert all(arch in legal for archs in asked for arch in archs)
    points = [(-score(a), cost([a])[0]) for a in legal]
    true_front = {p for p, on in zip(points, front(points), strict=True) if on}
    elites = searcher.elites()
    assert {(-score(a), cost([a])[0]) for a in elites} == true_front
    told = [arch for archs in asked for arch in archs]
    on_front = front([(-score(a), cost([a])[0]) for a in told])
    expected = [a for a, on in zip(told, on_front, strict=True) if on]
    assert elites == sorted(expected, key=lambda a: (cost([a])[0], a))


def test_it_searches_near_the_front() -> None:
    """Later generations dominate the first, random one: mechanics, on an additive problem."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(12)])
    options = NSGA2Options(objective=lambda archs: [sum(a) for a in archs])
    searcher = NSGA2(space, seed=0, options=options)
    counts = []
    for _ in range(10):
        archs = searcher.ask(50)
        scores = [sum(option * i for i, option in enumerate(arch)) for arch in archs]
        searcher.tell(archs, scores)
        points = [
            (-s, sum(a))
            for s, a in zip(searcher.history.scores.values(), searcher.history.archs, strict=True)
        ]
        counts.append(sum(front(points)[:50]))
    assert counts[-1] < counts[0] and searcher.top_ups == 0


def test_survival_and_tournaments_prefer_the_uncrowded() -> None:
    """Ten families on one front, four survive: both ends, the loneliest and a neighbour of it."""
    space = SearchSpace([Decision(range(10), f"d{i}") for i in range(30)])
    costs = [0, 1, 2, 3, 4, 5, 50, 97, 98, 100]
    options = NSGA2Options(
        objective=lambda archs: [costs[arch[0]] for arch in archs],
        population=4,
        crossover_probability=0.0,
        mutation_probability=0.05,
    )
    searcher = NSGA2(space, seed=0, options=options)
    searcher.tell([(i,) * 30 for i in range(10)], costs)
    families = [max(set(arch), key=arch.count) for arch in searcher.ask(400)]
    assert {0, 6, 9} < set(families) <= {0, 5, 6, 7, 9} and len(set(families)) == 4
    # An end loses a tournament never, an inner one unless it meets an inner one: 1 time in 4.
    ends = sum(family in (0, 9) for family in families)
    assert abs(ends / 400 - 3 / 4) < 3.5 * np.sqrt(3 / 16 / 400)


class Sorting(NSGA2):  # type: ignore[misc]  # final for users
    """As NSGA2, with fronts and survivors from a sort of everything told, each time."""

    def _first_fronts(self):
        within = self.budgets.each[0]
        archs = self.history.archs
        rows = [i for i, a in enumerate(archs) if all(x.satisfied([a])[0] for x in within)]
        fresh = [i for i in rows if self.history.fresh_N[i]]
        return np.array(rows if self.stale_scores or not fresh else fresh, dtype=np.intp)

    def fill(self, portion):
        rows, options = self._first_fronts(), self.options
        if portion.begins:
            return
        archs = [self.history.archs[i] for i in rows]
        rank, crowding = rank_and_crowding(self._points(rows), options.population)
        order = sorted(range(len(rows)), key=lambda i: (rank[i], -crowding[i], archs[i]))
        survivors, rng = order[: options.population], portion.rng

        def parent():
            a, b = (int(i) for i in rng.integers(len(survivors), size=2))
            one, two = survivors[a], survivors[b]
            return archs[two if (rank[two], -crowding[two]) < (rank[one], -crowding[one]) else one]

        def child():
            one, two = parent(), parent()
            if rng.random() < options.crossover_probability:
                one = self.space.crossover(one, two, rng)
            return self.space.mutate(one, rng, options.mutation_probability)

        portion.breed(child)


@pytest.mark.parametrize("population", [2, 7, 40, 500])
def test_survivors_are_those_of_sorting_everything(population: int) -> None:
    """Scores and costs of few values, so that ranks and crowding are often equal; 400 told."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(8)])
    limits = [Limit("d0<=2", lambda archs: [arch[0] for arch in archs], 2)]
    options = NSGA2Options(population=population, objective=lambda archs: [sum(a) for a in archs])
    asked = []
    for kind in (NSGA2, Sorting):
        searcher = kind(space, seed=3, limits=limits, options=options)
        random = np.random.default_rng(0).integers(0, 4, (400, 8)).tolist()
        searcher.tell([tuple(a) for a in random], [float(a[1] + a[2] // 2) for a in random])
        asked.append(run(searcher, 4, lambda a: float(a[1] + a[2] // 2)))
    assert asked[0] == asked[1]


TOLD = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 255), st.integers(0, 9)), min_size=1, max_size=40),
        st.integers(0, 2),  # the weights version: it may go back, too
    ),
    min_size=1,
    max_size=8,
)
DIGITS = SearchSpace([Decision(range(4), f"d{i}") for i in range(4)])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(TOLD, st.integers(2, 6), st.booleans())
def test_fronts_kept_up_to_date_are_those_of_sorting_everything(told, population, stale) -> None:
    """Better and better ones are told, some again, some over the limit, at any weights version."""
    limits = [Limit("d0<=2", lambda archs: [arch[0] for arch in archs], 2)]
    objective = lambda archs: [a[1] * a[2] - 3 * a[3] for a in archs]  # noqa: E731
    options = NSGA2Options(population=population, objective=objective, stale_scores=stale)
    kept, plain = (
        kind(DIGITS, seed=1, limits=limits, options=options) for kind in (NSGA2, Sorting)
    )
    for step, (pairs, version) in enumerate(told):
        archs = [tuple(int(c) for c in np.base_repr(i, 4).zfill(4)) for i, _ in pairs]
        scores = [float(score + step) for _, score in pairs]
        for searcher in (kept, plain):
            searcher.tell(archs, scores, version)
        assert kept.elites() == plain.elites()
        if kept.budgets.rows(0).size:
            assert kept.ask(3) == plain.ask(3)


@QUICK
@given(POINTS.filter(lambda points: len(points[0]) == 2), st.integers(1, 5), st.integers(1, 4))
def test_leading_rows_are_whole_fronts_of_all(points, wanted, at_once) -> None:
    """Until it says that all must be sorted anew; then from there on."""
    points_N2 = np.array(points)
    leading = Leading(wanted)
    for end in range(at_once, len(points) + at_once, at_once):
        new = np.arange(end - at_once, min(end, len(points)))
        if not leading.add(new, lambda rows: points_N2[rows]):
            leading = Leading(wanted)
            assert leading.add(np.arange(new[-1] + 1), lambda rows: points_N2[rows])
        rank, _ = rank_and_crowding(points_N2[: new[-1] + 1], len(points))
        behind = rank[leading.rows].max()
        assert leading.rows.tolist() == np.flatnonzero(rank <= behind).tolist()
        assert len(leading.rows) >= min(wanted, len(rank))


def test_a_point_ahead_of_the_one_front_that_is_kept_has_all_sorted_anew() -> None:
    """What lay behind that front was forgotten, and the new front is of one point alone."""
    count = 2 * leading_fronts._RESERVE
    front = [(i, count - i) for i in range(count)]
    points_N2 = np.array([*front, (count, count), (-1, -1)], dtype=float)
    leading = Leading(2)
    assert leading.add(np.arange(count + 1), lambda rows: points_N2[rows])
    assert leading.rows.tolist() == list(range(count))
    assert not leading.add(np.array([count + 1]), lambda rows: points_N2[rows])


def test_an_ask_sorts_the_first_fronts_alone(monkeypatch) -> None:
    """However much was told: 3,000 random ones, then generations of 20, of which few are sorted."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(10)])
    options = NSGA2Options(population=20, objective=lambda archs: [sum(a) for a in archs])
    searcher = NSGA2(space, seed=0, options=options)
    rng = np.random.default_rng(0)
    worth = rng.normal(size=(10, 4))
    score = lambda arch: float(worth[np.arange(10), arch].sum())  # noqa: E731
    archs = list(dict.fromkeys(map(tuple, rng.integers(0, 4, (3000, 10)).tolist())))
    searcher.tell(archs, [score(arch) for arch in archs])
    searcher.elites()
    sizes = []
    monkeypatch.setattr(
        leading_fronts, "fronts", lambda points, n: sizes.append(len(points)) or fronts(points, n)
    )
    run(searcher, 12, score)
    assert sizes and max(sizes) < 300


def test_one_of_the_limits_holds_and_infeasible_names_them() -> None:
    """Limits are alternatives, as for every searcher; the first says what is minimised."""
    few = Limit("d0<=1", lambda archs: [arch[0] for arch in archs], 1)
    cheap = Limit("cost<=25", cost, 25)
    searcher = NSGA2(SPACE, seed=0, limits=[cheap, few])
    asked = [arch for archs in run(searcher, 8) for arch in archs]
    assert (few.satisfied(asked) | cheap.satisfied(asked)).all()
    assert not few.satisfied(asked).all() and not cheap.satisfied(asked).all()
    searcher.tell([(3, 3, 3, 3, 3)], [1e9])  # told, but over the limits: no elite
    assert (3, 3, 3, 3, 3) not in searcher.elites()
    searcher.tell([(3, 3, 3, 3, 3)], [1e9], weights_version=1)  # nothing fresh within the limits
    assert len(searcher.elites()) > 1
    never = Limit("cost<=-1", cost, -1)
    with pytest.raises(ValueError, match=r"0 of .*met cost<=-1; .*costs 0 \(cost<=-1\)"):
        NSGA2(SPACE, seed=0, limits=[never]).ask(3)


@pytest.mark.parametrize(
    "change",
    [
        {"population": 10},
        {"crossover_probability": 0.2},
        {"mutation_probability": 0.5},
        {"attempts": 1},
        {"stale_scores": True},
    ],
)
def test_every_option_is_used(change: dict) -> None:
    def history(**options) -> list:
        limit = Limit("cost<=20", cost, 20)
        searcher = NSGA2(SPACE, seed=0, limits=[limit], options=NSGA2Options(**options))
        asked = []
        for version in range(6):
            asked.append(searcher.ask(20))
            searcher.tell(asked[-1], [score(a) - 50 * version for a in asked[-1]], version)
        return asked

    base = {"population": 20, "attempts": 100}
    assert history(**base) != history(**{**base, **change})


def test_nsga2_by_name_serves_several_budgets_with_one_front() -> None:
    space = SearchSpace([choose(range(4), f"d{i}") for i in range(6)])
    cost = lambda archs: np.asarray(archs, float).sum(1)  # noqa: E731
    limits = [Limit("low", cost, 5), Limit("high", cost, 12)]
    options = {"population": 20}
    searcher = make_searcher("nsga2", space, seed=0, limits=limits, options=options)
    for _ in range(6):
        archs = searcher.ask(20)
        assert (cost(archs) <= 12).all()
        searcher.tell(archs, cost(archs).tolist())
    costs = cost(searcher.elites())
    assert costs.max() == 12  # the loosest budget is used to its end
    assert (costs <= 5).any()
