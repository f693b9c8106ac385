"""Evolution and random search: mechanics, on problems with a planted optimum."""

import collections
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from manyshot.search import (
    Evolution,
    EvolutionOptions,
    History,
    Limit,
    RandomOptions,
    RandomSearch,
    RegularisedOptions,
    best,
    make_searcher,
)
from manyshot.search.budgets import Budgets
from manyshot.space import Arch, Decision, SearchSpace

SMALL = EvolutionOptions(population=20, parents=5, mutants=10, crossovers=10)


def flat(counts: Sequence[int]) -> SearchSpace:
    return SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate(counts)])


def total(archs: Sequence[Arch]) -> np.ndarray:
    return np.array([sum(arch) for arch in archs], dtype=float)


def total_limit(limit: float) -> Limit:
    return Limit(f"total<={limit}", total, limit)


def generations(searcher, sizes: Sequence[int], score) -> list[list[Arch]]:
    asked = []
    for n in sizes:
        asked.append(searcher.ask(n))
        searcher.tell(asked[-1], [score(arch) for arch in asked[-1]])
    return asked


class Additive:
    """A score that adds one number per decision and option; its optimum is the best of each."""

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self.gains = [np.random.default_rng((seed, i)).random(m) for i, m in enumerate(counts)]
        self.optimum = tuple(int(gain.argmax()) for gain in self.gains)

    def __call__(self, arch: Arch) -> float:
        return float(sum(gain[option] for gain, option in zip(self.gains, arch, strict=True)))


@pytest.mark.parametrize(
    "options",
    [EvolutionOptions(), EvolutionOptions(regularised=True, tournament=15)],
    ids=["spos", "regularised"],
)
def test_the_planted_optimum_is_found(options: EvolutionOptions) -> None:
    """In at most 12 generations of 50: 600 of 65,536, where random draws have 1 chance in 109."""
    found = 0
    for seed in range(20):
        score = Additive([4] * 8, seed)
        searcher = Evolution(flat([4] * 8), seed=seed, options=options)
        generations(searcher, [50] * 12, score)
        found += best(searcher.history.scores) == [score.optimum]
    assert found >= 17


def test_children_of_zero_mutation_are_the_parents_so_random_ones_top_up() -> None:
    options = EvolutionOptions(
        population=10, parents=3, mutants=4, crossovers=0, mutation_probability=0.0, attempts=20
    )
    searcher = Evolution(flat([4] * 6), seed=0, options=options)
    generations(searcher, [10, 10, 10], sum)
    assert searcher.top_ups == 8  # four mutants in each of two generations; six were random anyway
    again = Evolution(
        flat([4] * 6),
        seed=0,
        options=EvolutionOptions(population=10, parents=3, mutants=4, crossovers=0, attempts=20),
    )
    generations(again, [10, 10, 10], sum)
    assert again.top_ups == 0


def differences(arch: Arch, parents: Sequence[Arch]) -> int:
    return min(sum(x != y for x, y in zip(arch, p, strict=True)) for p in parents)


@pytest.mark.parametrize("n", [1, 7, 50, 120])
def test_shares_of_mutants_and_crossovers_scale_with_n(n: int) -> None:
    """Parents from two all-different families: mutants stay near one, crossovers mix both."""
    options = EvolutionOptions(population=10, parents=2, mutants=6, crossovers=4)
    searcher = Evolution(flat([5] * 16), seed=3, options=options)
    families = [(4,) * 16, (3,) * 16]
    searcher.tell(families, [1.0, 1.0])
    weak = [tuple(row) for row in np.random.default_rng(0).integers(0, 3, (20, 16)).tolist()]
    searcher.tell(weak, [0.0] * 20)
    assert sorted(searcher.elites()) == sorted(families)
    crossed = sum(min(a.count(3), a.count(4)) >= 3 for a in searcher.ask(n))
    # A crossing has fewer than 3 genes of a parent once in 480; a mutant, 3 of the other never.
    assert crossed == pytest.approx(0.4 * n, abs=1 + n / 100)


def test_crossover_genes_come_from_the_parents() -> None:
    options = EvolutionOptions(population=10, parents=2, mutants=0, crossovers=10, attempts=5000)
    searcher = Evolution(flat([5] * 16), seed=3, options=options)
    searcher.tell([(4,) * 16, (3,) * 16], [1.0, 1.0])
    searcher.tell([(0,) * i + (1,) * (16 - i) for i in range(8)], [0.0] * 8)
    archs = searcher.ask(10)
    assert len(archs) == 10 and all(set(arch) == {3, 4} for arch in archs)


def test_every_generation_serves_every_limit_from_one_history() -> None:
    limits = [total_limit(8), total_limit(12), total_limit(16)]
    score = Additive([4] * 8, 1)
    searcher = Evolution(flat([4] * 8), seed=0, limits=limits, options=SMALL)
    asked = generations(searcher, [30] * 8, score)
    for archs in asked:
        costs = total(archs)
        assert (costs <= 16).all()
        assert (costs <= 8).sum() >= 10 and (costs <= 12).sum() >= 20
    for limit in limits:
        legal = [a for archs in asked for a in archs if sum(a) <= limit.limit]
        top = sorted(legal, key=lambda a: (-score(a), sum(a), a))[:5]
        assert best(searcher.history.scores, limit, 5) == top
        assert set(top) <= set(searcher.elites())
    # Proposals take turns, so a part of a generation serves all limits as well.
    turns = [[sum(arch) <= x.limit for x in limits] for arch in asked[-1]]
    assert all(np.any(turns[i : i + 3], axis=0).all() for i in range(0, 30, 3))


def test_the_last_generation_counts() -> None:
    searcher = Evolution(flat([4] * 8), seed=0, options=SMALL)
    generations(searcher, [20, 20], sum)
    last = searcher.ask(20)
    searcher.tell(last, [1000.0 + i for i in range(20)])
    assert best(searcher.history.scores, k=5) == last[:-6:-1] == searcher.elites()


def test_global_dedupe_never_repeats_and_per_generation_does() -> None:
    def repeats(dedupe: str) -> int:
        options = EvolutionOptions(
            population=20, parents=5, mutants=10, crossovers=10, dedupe=dedupe
        )
        asked = generations(Evolution(flat([4] * 8), seed=0, options=options), [20] * 10, sum)
        assert all(len(set(archs)) == 20 for archs in asked)
        return sum(map(len, asked)) - len({arch for archs in asked for arch in archs})

    assert repeats("global") == 0 < 20 < repeats("per_generation")


def test_regularised_evolution_forgets_the_old_however_good() -> None:
    options = EvolutionOptions(population=10, parents=3, regularised=True, tournament=10)
    searcher = Evolution(flat([5] * 12), seed=0, options=options)
    searcher.tell([(4,) * 12], [100.0])
    old = searcher.ask(9)
    searcher.tell(old, [0.0] * 9)
    # Alive: it is among ten draws of ten with probability 0.65, and mutants differ in about one
    # decision: 8 on average, with a standard error of 0.9.
    assert np.mean([a.count(4) for a in searcher.ask(20)]) > 5
    searcher.tell([(3,) * i + (2,) * (12 - i) for i in range(10)], [0.0] * 10)
    assert (4,) * 12 not in searcher.elites()
    assert np.mean([a.count(4) for a in searcher.ask(20)]) < 2
    searcher.tell([(4,) * 12], [200.0])  # scored again: not younger
    assert (4,) * 12 not in searcher.elites()


@pytest.mark.parametrize("limit", [99, 6])
def test_one_at_a_time_it_is_algorithm_1_of_real_et_al(limit: float) -> None:
    """A queue of the newest five: the child is one change from their best, the oldest dies.

    Of 200 entrants one is the best of five but for a chance of 0.8^200, so that parents are known.
    """
    space, rng = flat([3] * 7), np.random.default_rng(0)
    scores = {arch: float(rng.random()) for arch in space.enumerate()}
    options = {"population": 5, "parents": 1, "tournament": 200}
    searcher = make_searcher(
        "regularised_evolution", space, seed=0, limits=[total_limit(limit)], options=options
    )
    assert isinstance(searcher, Evolution)
    queue: collections.deque[Arch] = collections.deque()
    seen: set[Arch] = set()
    drawn = 0
    for _ in range(300):
        (child,) = searcher.ask(1)
        if len(queue) == 5:
            parent = max(queue, key=scores.__getitem__)
            drawn += differences(child, [parent]) != 1
            queue.popleft()
        assert sum(child) <= limit and child not in seen
        searcher.tell([child], [scores[child]])
        queue.append(child)
        seen.add(child)
    # Where ten mutants in a row were told or over the limit, a random network takes their place.
    assert drawn <= searcher.top_ups < 30


def test_an_ask_of_one_looks_at_the_newest_alone(monkeypatch) -> None:
    """Whatever was told: no row that is not among the newest is read."""
    limits = [total_limit(12), total_limit(16)]
    options = RegularisedOptions(population=10, parents=3)
    searcher = Evolution(flat([4] * 10), seed=0, limits=limits, options=options)
    generations(searcher, [500], sum)
    for budget in range(2):
        expected = searcher.budgets.rows(budget)
        for most in (1, 10, 499, 10_000):
            assert searcher.budgets.newest(budget, most).tolist() == expected[-most:].tolist()
    monkeypatch.setattr(Budgets, "rows", None)
    for name in ("scores", "scores_N", "fresh_N"):
        monkeypatch.setattr(History, name, None)
    for _ in range(5):
        archs = searcher.ask(1)
        searcher.tell(archs, [0.0])
        assert len(archs) == 1 and searcher.elites()


def test_a_change_is_one_and_uniform() -> None:
    space = SearchSpace([Decision(range(m), f"d{i}") for i, m in enumerate([1, 2, 4])])
    rng = np.random.default_rng(0)
    drawn = [space.change((0, 1, 2), rng) for _ in range(1200)]
    expected = {(0, 0, 2): 600, (0, 1, 0): 200, (0, 1, 1): 200, (0, 1, 3): 200}
    assert set(drawn) == set(expected)
    assert chisquare([drawn.count(a) for a in expected], list(expected.values())).pvalue > 1e-3
    with pytest.raises(ValueError, match="no decision of this space has a second option"):
        flat([1, 1]).change((0, 0), rng)


@pytest.mark.parametrize(("tournament", "expected"), [(1, 1 / 10), (3, 1 - 0.9**3)])
def test_tournament_picks_the_best_of_its_entrants(tournament: int, expected: float) -> None:
    """Drawn with replacement: the best of 10 is among k entrants with probability 1 - 0.9^k."""
    options = EvolutionOptions(
        population=10,
        parents=1,
        regularised=True,
        tournament=tournament,
        mutation_probability=0.05,
    )
    families = [(option,) * 30 for option in range(10)]
    wins, n = 0, 600
    searcher = Evolution(flat([10] * 30), seed=1, options=options)
    searcher.tell(families, [float(i == 7) for i in range(10)])
    for arch in searcher.ask(n):
        wins += max(set(arch), key=arch.count) == 7
    # Mutants of p 0.05 keep their family's majority. Copies (22 %) are redrawn, evenly.
    assert abs(wins / n - expected) < 3.5 * np.sqrt(expected * (1 - expected) / n)


def test_scores_of_older_weights_do_not_compete_unless_asked_to() -> None:
    archs = [(i, j, 0, 0) for i in range(4) for j in range(4)]
    for stale in (False, True):
        options = EvolutionOptions(
            population=10, parents=2, mutants=5, stale_scores=stale, crossovers=0
        )
        searcher = Evolution(flat([4] * 4), seed=0, options=options)
        searcher.tell(archs[:10], [float(i) for i in range(10)], weights_version=0)
        searcher.tell(archs[8:12], [-1.0, -2.0, -3.0, -4.0], weights_version=1)
        assert searcher.elites() == ([archs[7], archs[6]] if stale else [archs[8], archs[9]])


def test_a_limit_without_fresh_scores_falls_back_on_older_ones() -> None:
    limits = [total_limit(2), total_limit(12)]
    searcher = Evolution(flat([4] * 4), seed=0, limits=limits, options=SMALL)
    searcher.tell([(1, 0, 0, 0), (0, 1, 1, 0)], [0.1, 0.2], weights_version=0)
    searcher.tell([(3, 3, 0, 0)], [0.0], weights_version=1)
    assert searcher.elites() == [(0, 1, 1, 0), (1, 0, 0, 0), (3, 3, 0, 0)]


def test_ties_go_to_the_cheaper_then_to_tuple_order() -> None:
    searcher = Evolution(
        flat([4] * 3), seed=0, limits=[total_limit(9)], options=EvolutionOptions(parents=4)
    )
    archs = [(3, 3, 3), (0, 2, 1), (2, 0, 1), (3, 0, 0), (0, 0, 1), (1, 0, 0)]
    searcher.tell(archs, [0.5, 0.5, 0.5, 0.5, 0.4, 0.5])
    expected = [(1, 0, 0), (0, 2, 1), (2, 0, 1), (3, 0, 0)]
    assert searcher.elites() == expected == best(searcher.history.scores, total_limit(9), 4)


BASE = {"population": 12, "parents": 4, "mutants": 6, "crossovers": 4, "attempts": 40}
RULED = {**BASE, "regularised": True, "tournament": 6}


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (BASE, {"population": 13}),
        (BASE, {"parents": 2}),
        (BASE, {"mutants": 8}),
        (BASE, {"crossovers": 6}),
        (BASE, {"mutation_probability": 0.4}),
        (BASE, {"attempts": 1}),
        (BASE, {"mutation": "one"}),
        (RULED, {"mutation": "one"}),
        (BASE, {"dedupe": "per_generation"}),
        (BASE, {"stale_scores": True}),
        (BASE, {"regularised": True, "tournament": 12}),
        (RULED, {"tournament": 2}),
        (RULED, {"population": 9}),
    ],
)
def test_every_option_is_used(base: dict, change: dict) -> None:
    """Changing one changes the history."""

    def history(options: dict) -> list[list[Arch]]:
        searcher = Evolution(flat([3] * 5), seed=0, options=EvolutionOptions(**options))
        asked = []
        for version in range(8):
            asked.append(searcher.ask(12))
            scores = [sum(arch) - 100.0 * version for arch in asked[-1]]
            searcher.tell(asked[-1], scores, version)
        return asked

    assert history(base) != history({**base, **change})


def test_random_search_keeps_the_best_of_each_limit() -> None:
    limits = [total_limit(6), total_limit(14)]
    searcher = RandomSearch(flat([4] * 6), seed=0, limits=limits, options=RandomOptions(keep=3))
    generations(searcher, [40], sum)
    expected = [a for x in limits for a in best(searcher.history.scores, x, 3)]
    assert searcher.elites() == list(dict.fromkeys(expected))
    with pytest.raises(ValueError, match=r"RandomSearch.ask: n = 0: .*greater than or equal to 1"):
        searcher.ask(0)
