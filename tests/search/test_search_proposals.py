"""What may be proposed: new networks within the limits, as long as there are any."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from manyshot.search import Evolution, EvolutionOptions, Infeasible, Limit, RandomSearch
from manyshot.search.loop import generations as asked_of
from manyshot.search.loop import learns
from manyshot.search.searcher import pooled
from manyshot.space import Arch, Commutation, Decision, SearchSpace
from manyshot.testing.searchers import nested_space

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


def test_first_population_is_uniform_over_networks() -> None:
    """Three commuting decisions: 8 encodings of 4 networks, of which two have 3 encodings."""
    layers = [Decision(("skip", "conv"), f"d{i}") for i in range(3)]
    space = SearchSpace(layers, commutations=[Commutation(tuple(layers), 0)])
    for make in (Evolution, RandomSearch):
        firsts = [make(space, seed=seed).ask(1)[0] for seed in range(600)]
        networks = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)]
        counts = [firsts.count(arch) for arch in networks]
        assert sum(counts) == 600 and chisquare(counts).pvalue > 1e-3


def test_first_population_reaches_small_networks_of_deep_spaces() -> None:
    """With depth 1, 18 of 24 widths are inactive: one encoding in 4^18 is a representative."""
    depth = Decision((1, 2, 3, 4), "depth")
    width = [Decision((1, 2, 3, 4), f"width{i}") for i in range(24)]
    uses = {w: [((depth, frozenset(range(i // 6, 4))),)] for i, w in enumerate(width)}
    limit = Limit("depth<=1", lambda archs: np.array([arch[0] for arch in archs]), 0)
    archs = Evolution(SearchSpace([depth, *width], uses=uses), seed=0, limits=[limit]).ask(20)
    assert len(archs) == 20 and all(arch[0] == 0 for arch in archs)
    # The six active widths are uniform, not bunched near the smallest.
    assert chisquare(np.bincount(np.array(archs)[:, 1:7].ravel(), minlength=4)).pvalue > 1e-3


def test_proposals_one_at_a_time_serve_every_limit() -> None:
    limits = [total_limit(6), Limit("total>=18", lambda archs: 18 - total(archs), 0)]
    for options in (SMALL, EvolutionOptions(population=20, regularised=True)):
        searcher = Evolution(flat([4] * 8), seed=0, limits=limits, options=options)
        first = [sum(arch) <= 6 for (arch,) in generations(searcher, [1] * 60, sum)]
        assert 15 <= sum(first) <= 45


def test_proposals_not_told_yet_are_not_proposed_again() -> None:
    for dedupe in ("global", "per_generation"):
        options = EvolutionOptions(population=5, parents=2, mutants=2, crossovers=2, dedupe=dedupe)
        searcher = Evolution(flat([3] * 4), seed=0, options=options)
        generations(searcher, [10], sum)
        asked = [arch for _ in range(6) for arch in searcher.ask(5)]
        assert len(set(asked)) == 30


def test_fewer_only_when_exhausted() -> None:
    limit = total_limit(2)  # 1 + 8 + 36 = 45 architectures of 4^8
    searcher = Evolution(flat([4] * 8), seed=0, limits=[limit], options=SMALL)
    asked = generations(searcher, [20, 20, 20, 20], sum)
    assert [len(archs) for archs in asked] == [20, 20, 5, 0]


def test_a_limit_that_is_used_up_leaves_its_share_to_the_others() -> None:
    limits = [total_limit(1), total_limit(12)]  # 9 architectures, and many
    searcher = Evolution(flat([4] * 8), seed=0, limits=limits, options=SMALL)
    assert [len(archs) for archs in generations(searcher, [20] * 4, sum)] == [20] * 4


def test_infeasible_only_while_nothing_feasible_is_known() -> None:
    def lacking(archs: Sequence[Arch]) -> list[int]:
        return [0 if arch.count(5) >= 8 else 8 for arch in archs]  # no slope leads there

    fives = Limit("fives>=8", lacking, 0)
    searcher = Evolution(flat([10] * 10), seed=0, limits=[fives, total_limit(99)], options=SMALL)
    with pytest.raises(Infeasible) as error:
        searcher.ask(4)
    for part in (
        "0 of 1,000",
        "and 20,000 bred towards it",
        "met fives>=8;",
        "0-0-0-0-0-0-0-0-0-0",
        "costs 8",
        "'attempts' (now",
    ):
        assert part in str(error.value)
    searcher.tell([(5,) * 10], [1.0])
    assert [a.count(5) >= 8 for a in searcher.ask(8)].count(True) == 4


def test_a_limit_near_the_smallest_is_reached_though_no_random_draw_meets_it() -> None:
    """Of 10^10 architectures 66 cost no more than 2; walks from the smallest find all of them."""
    searcher = Evolution(flat([10] * 10), seed=0, limits=[total_limit(2)], options=SMALL)
    asked = generations(searcher, [40, 40], sum)
    assert [len(archs) for archs in asked] == [40, 26]


def test_who_proposes_what_is_not_in_the_view_is_named() -> None:
    """A searcher of the whole space, and a sampler whose pool is of it."""

    class Pool:
        def pool(self) -> list[Arch]:
            return [(1, 0), (0, 1)]

    space = flat([2, 2])
    view = space.restricted({space.decisions[1]: [0]})
    said = r"proposed architecture \(., 1\): d1: option 1 \(1\) is not allowed in this view"
    with pytest.raises(ValueError, match=f"^searcher RandomSearch {said}"):
        list(asked_of(RandomSearch(space, seed=0), 4, 4, view))
    with pytest.raises(ValueError, match=f"^the pool of sampler Pool {said}"):
        pooled(Pool(), view)
    [asked] = asked_of(RandomSearch(view, seed=0), 2, 2, view)
    assert {*asked} == {(0, 0), (1, 0)}


@pytest.mark.parametrize("arch", [(0.0, 1.0), ("0", "1"), "0-1", 3, None, ([0], 1), (0, 0.5)])
def test_who_proposes_what_is_no_architecture_is_named(arch: object) -> None:
    with pytest.raises(ValueError, match="^sampler Mine proposed .*a tuple of option indices"):
        flat([2, 2]).check_proposed([arch], "sampler Mine")  # type: ignore[list-item]


def test_rows_of_an_array_are_architectures() -> None:
    """They come to be scored as tuples of Python's numbers, whatever a searcher's own."""
    space = flat([2, 3])
    rows = np.array(list(space.enumerate()))[[4, 0, 3, 5]]

    class Rows:
        def ask(self, n: int) -> np.ndarray:
            return rows[:n]

    [archs] = asked_of(Rows(), 4, 4, space)  # type: ignore[arg-type]
    assert archs == [tuple(row) for row in rows.tolist()]
    assert all(type(option) is int for arch in archs for option in arch)


class Fixed:
    """Proposes what it was made with, whatever is asked for."""

    random_start, stale_scores = 0, True

    def __init__(self, archs: Sequence[Arch]) -> None:
        self.archs = list(archs)

    def ask(self, n: int) -> list[Arch]:
        return self.archs

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Learns nothing."""

    def elites(self) -> list[Arch]:
        return []


def test_who_breaks_the_contract_of_ask_is_named() -> None:
    """An alias, a network twice, and more than was asked for; a repeat of what was told is none."""
    layers = [Decision(("skip", "conv"), f"d{i}") for i in range(2)]
    space = SearchSpace(layers, commutations=[Commutation(tuple(layers), 0)])
    for archs, said in (
        (
            [(0, 1)],
            r"proposed architecture \(0, 1\), an alias of \(1, 0\): propose space.canonical",
        ),
        ([(1, 0), (1, 1), (1, 0)], r"proposed architecture \(1, 0\) 2 times at once: the 3 of"),
        ([(1, 0), (1, 1), (0, 0), (0, 0)], "proposed 4 architectures, asked for 3 at most"),
    ):
        with pytest.raises(ValueError, match=f"^searcher Fixed {said}"):
            next(asked_of(Fixed(archs), 6, 3, space))
    assert list(asked_of(Fixed([(1, 0), (1, 1)]), 4, 2, space)) == [[(1, 0), (1, 1)]] * 2
    nothing = Fixed([])
    nothing.archs = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="^searcher Fixed proposed None: give architectures"):
        next(asked_of(nothing, 6, 3, space))


def test_a_search_learns_if_one_of_its_proposals_is_made_after_the_random_start() -> None:
    """Beside the proposals of a search, each with what was told before it."""
    for start in range(5):
        searcher = Fixed([])
        searcher.random_start = start
        for candidates in range(1, 9):
            for size in range(1, 10):
                before = range(0, candidates, size)
                expected = any(told >= start for told in before)
                assert learns(searcher, candidates, size) == expected


def test_where_no_search_learns_scores_decide_nothing() -> None:
    """And where one does, they do: of evolution, whose last proposal is of other networks then."""
    space = nested_space(more=2)
    for candidates, size in ((20, 20), (24, 12), (25, 12), (30, 10), (20, 10), (21, 10), (16, 8)):
        options = EvolutionOptions(population=10, parents=2, mutants=5, crossovers=5)
        searches = []
        for sign in (1, -1):
            searcher = Evolution(space, seed=0, options=options)
            proposed = []
            for archs in asked_of(searcher, candidates, size, space):
                searcher.tell(archs, [float(sign * sum(arch)) for arch in archs])
                proposed += archs
            searches.append(proposed)
        assert (searches[0] != searches[1]) == learns(searcher, candidates, size)
