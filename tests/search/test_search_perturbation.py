"""DARTS-PT on paths: closed forms, and the rule in plain loops over complete tables."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from manyshot.search import Limit, Perturbation, PerturbationOptions, Searcher
from manyshot.search.perturbation import hurts_most
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import SearcherSuite, nested_space, weight_limit


class TestPerturbation(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = PerturbationOptions(samples=20)
        return Perturbation(space, seed=seed, limits=limits, options=options)


def additive(options: int, decisions: int, seed: int) -> tuple[SearchSpace, np.ndarray]:
    """A space, and the gain of every option of every decision."""
    space = SearchSpace([Decision(range(options), f"d{i}") for i in range(decisions)])
    return space, np.random.default_rng(seed).random((decisions, options))


def gain(gains: np.ndarray, arch: Arch) -> float:
    return float(sum(gains[i, option] for i, option in enumerate(arch)))


@pytest.mark.parametrize("seed", range(5))
def test_a_dead_operation_is_never_kept(seed: int) -> None:
    """One option of every decision takes more than all others together can give."""
    space, gains = additive(4, 6, seed)
    dead = np.random.default_rng(seed + 50).integers(4, size=6)
    gains[np.arange(6), dead] = -3
    limits = [Limit("sum<=12", lambda archs: [sum(a) for a in archs], 12)]
    options = PerturbationOptions(samples=40)
    searcher = Perturbation(space, seed=seed, limits=limits, options=options)
    for _ in range(20):
        archs = searcher.ask(20)
        searcher.tell(archs, [gain(gains, arch) for arch in archs])
    kept = searcher.kept()
    assert len(kept) == 6, "not all decisions are taken"
    assert not [i for i, option in kept.items() if option == dead[i]]
    assert tuple(kept[i] for i in range(6)) in searcher.history.archs


@pytest.mark.parametrize("seed", range(3))
def test_of_a_complete_additive_table_the_best_option_is_kept(seed: int) -> None:
    """The mean without an option is lower the more it gives, whatever the order of decisions."""
    space, gains = additive(3, 4, seed)
    options = PerturbationOptions(samples=space.size)
    searcher = Perturbation(space, seed=seed, options=options)
    while archs := searcher.ask(20):
        searcher.tell(archs, [gain(gains, arch) for arch in archs])
    kept = searcher.kept()
    assert tuple(kept[i] for i in range(4)) == tuple(gains.argmax(1).tolist())
    assert tuple(kept) == searcher.order


def by_loops(space: SearchSpace, order: Sequence[int], table: dict[Arch, float]) -> dict[int, int]:
    """The rule on a complete table, architecture by architecture."""

    def holds(arch: Arch, i: int) -> int | None:
        return arch[i] if space.active(arch)[i] else None

    kept: dict[int, int] = {}
    left = dict(table)
    for i in order:
        candidates = sorted({holds(arch, i) for arch in left} - {None})
        if not candidates:
            continue
        means = []
        for option in candidates:
            without = [score for arch, score in left.items() if holds(arch, i) != option]
            means.append(sum(without) / len(without) if without else -np.inf)
        kept[i] = candidates[means.index(min(means))]
        left = {arch: s for arch, s in left.items() if holds(arch, i) in (kept[i], None)}
    return kept


@pytest.mark.parametrize("seed", range(2))
def test_complete_tables_within_limits_equal_plain_loops(seed: int) -> None:
    """Random scores, decisions that matter at times, two that commute, two limits, any order."""
    space = nested_space()
    limits = [weight_limit(5), weight_limit(7)]
    networks = sorted({space.canonical(arch) for arch in space.enumerate()})
    rng = np.random.default_rng(seed)
    table = {arch: float(rng.random()) for arch in networks}
    options = PerturbationOptions(samples=len(networks))
    searcher = Perturbation(space, seed=seed, limits=limits, options=options)
    while archs := searcher.ask(100):
        searcher.tell(archs, [table[arch] for arch in archs])
    for budget, limit in enumerate(limits):
        legal = {arch: s for arch, s in table.items() if limit.satisfied([arch])[0]}
        assert searcher.kept(budget) == by_loops(space, searcher.order, legal)


def test_only_the_first_samples_decide() -> None:
    """What is told later has a say in later decisions alone, unless it replaces a score."""
    space = SearchSpace([Decision(range(2), f"d{i}") for i in range(2)])
    searcher = Perturbation(space, seed=0, options=PerturbationOptions(samples=2))
    first, second = searcher.order
    searcher.tell([(0, 0), (1, 1)], [1.0, 0.0])
    assert searcher.kept()[first] == 0 and searcher.random_start == 2
    alone = [0, 0]
    alone[second] = 1
    searcher.tell([tuple(alone)], [5.0])
    assert searcher.kept() == {first: 0, second: 1}
    searcher.tell([(1, 1)], [9.0])
    assert searcher.kept()[first] == 1


def test_proposals_have_what_is_kept() -> None:
    """Also in a space too large to be listed; then what is left is told to its last network."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(9)])
    searcher = Perturbation(space, seed=1, options=PerturbationOptions(samples=30))
    seen = 0
    while len(kept := searcher.kept()) < 9:
        archs = searcher.ask(10)
        assert searcher.top_ups or all(a[i] == o for a in archs for i, o in kept.items())
        searcher.tell(archs, [float(sum(arch)) for arch in archs])
        seen += 10
    assert seen < 400
    assert tuple(kept[i] for i in range(9)) in searcher.history.archs


@pytest.mark.parametrize(
    ("options", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1),
        ([0, 1, 2, -1], [1, 5, 2, 9], 1),
        ([0, 1], [2, 2], 0),
        ([2, 2], [1, 3], 2),
        ([2, -1], [1, 3], 2),
        ([-1, -1], [1, 3], None),
    ],
)
def test_what_hurts_most_by_hand(options, scores, expected) -> None:
    assert hurts_most(np.array(options), np.array(scores, float)) == expected


@pytest.mark.parametrize("change", [{"samples": 10}, {"keep": 2}, {"attempts": 1}])
def test_every_option_is_used(change: dict) -> None:
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(9)])

    def history(**options) -> list:
        limit = Limit("sum<=6", lambda archs: [sum(a) for a in archs], 6)
        searcher = Perturbation(
            space, seed=0, limits=[limit], options=PerturbationOptions(**options)
        )
        asked = []
        for _ in range(5):
            asked.append(searcher.ask(20))
            searcher.tell(asked[-1], [float(a[0] * 3 + a[1]) for a in asked[-1]])
        return [*asked, searcher.elites()]

    base = {"samples": 30, "attempts": 100}
    assert history(**base) != history(**{**base, **change})


def test_a_table_of_one_network_is_decided() -> None:
    """Limits that leave one: every decision has its only option."""
    space = SearchSpace([Decision(range(3), f"d{i}") for i in range(3)])
    limits = [Limit("sum<=0", lambda archs: [sum(a) for a in archs], 0)]
    searcher = Perturbation(space, seed=0, limits=limits)
    assert searcher.kept() == {}
    assert searcher.ask(3) == [(0, 0, 0)]
    searcher.tell([(0, 0, 0)], [1.0])
    assert searcher.kept() == dict.fromkeys(searcher.order, 0)
    assert searcher.ask(3) == [] and len(list(itertools.chain(searcher.elites()))) == 1
