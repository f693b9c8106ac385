"""Our own searchers pass the suite that we ship for those of others."""

from collections.abc import Sequence

import numpy as np
import pytest

from manyshot.search import (
    NSGA2,
    Evolution,
    EvolutionOptions,
    Limit,
    MCTSearch,
    NSGA2Options,
    PredictorOptions,
    RandomSearch,
    Searcher,
    WeakPredictor,
    make_searcher,
)
from manyshot.space import Arch, SearchSpace, VisitTree
from manyshot.testing.searchers import SearcherSuite, nested_space, weight


class TestRandomSearch(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return RandomSearch(space, seed=seed, limits=limits)


class TestEvolution(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = EvolutionOptions(population=20, parents=5, mutants=10, crossovers=8)
        return Evolution(space, seed=seed, limits=limits, options=options)


class TestEvolutionWithDefaults(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return Evolution(space, seed=seed, limits=limits)


class TestRegularisedEvolution(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return make_searcher("regularised_evolution", space, seed=seed, limits=limits)


class TestEvolutionThatReproposes(SearcherSuite):
    dedupes_globally = False

    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = EvolutionOptions(
            population=20, parents=5, mutants=10, crossovers=10, dedupe="per_generation"
        )
        return Evolution(space, seed=seed, limits=limits, options=options)


class TestNSGA2(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = NSGA2Options(population=20, objective=weight)
        return NSGA2(space, seed=seed, limits=limits, options=options)


class TestPredictor(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = PredictorOptions(initial=15, top=30, pool=200)
        return WeakPredictor(space, seed=seed, limits=limits, options=options)


class TestMCT(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return MCTSearch(space, seed=seed, limits=limits)


class Planted:
    """A sampler that knows some networks."""

    def __init__(self, space: SearchSpace) -> None:
        rng = np.random.default_rng(0)
        self.tree, self.archs = VisitTree(space, decay=0.9), [space.largest]
        for i in range(60):
            self.archs.append(space.sample(rng))
            self.tree.visit(self.archs[-1], 1 + i / 60)

    def pool(self) -> list[Arch]:
        return self.archs[:30]


class TestMCTOnATree(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return MCTSearch(space, seed=seed, limits=limits, sampler=Planted(space))


class TestEvolutionFromAPool(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = EvolutionOptions(population=40, parents=5, mutants=15, crossovers=15)
        return Evolution(space, seed=seed, limits=limits, sampler=Planted(space), options=options)


class TestLocalSearch(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return make_searcher("local", space, seed=seed, limits=limits)


class TestLocalSearchThatMovesAtOnce(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = {"improvement": "first", "starts": 5}
        return make_searcher("local", space, seed=seed, limits=limits, options=options)


class TestBananas(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = {"members": 2, "layers": (8,), "epochs": 3, "mutants": 20}
        return make_searcher("bananas", space, seed=seed, limits=limits, options=options)


class TestTPE(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        pytest.importorskip("optuna")
        return make_searcher("optuna", space, seed=seed, limits=limits)


class TestCMAES(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        pytest.importorskip("cmaes")
        options = {"sampler": "cma_es"}
        return make_searcher("optuna", space, seed=seed, limits=limits, options=options)


class TestReinforce(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return make_searcher("reinforce", space, seed=seed, limits=limits, options={"lr": 0.3})


class Broken:
    """A random searcher with one fault at a time."""

    def __init__(self, inner: RandomSearch, fault: str) -> None:
        self.inner, self.fault, self.calls = inner, fault, 0
        self.out: list[Arch] = []

    def ask(self, n: int) -> list[Arch]:
        self.calls += 1
        if self.fault == "overlaps":
            self.out = self.out or self.inner.ask(n)
            return self.out
        if self.fault == "remembers":
            self.out += [arch for arch in self.inner.ask(3 * n) if arch not in self.out][:n]
            return self.out[-n:]
        if self.fault == "needs a spread" and len(set(self.inner.history.scores.values())) == 1:
            return self.inner.ask(n)[:1]
        if self.fault == "small spaces only" and self.inner.space.size > 2916:
            return [self.inner.space.largest]
        if self.fault == "repeats":
            return (self.inner.ask(n) * 2)[:n] if n < 2 else self.inner.ask(n - 1)[:1] * 2
        if self.fault == "hidden state" and self.calls > 2:
            return self.inner.ask(n)[::-1] + []
        if self.fault == "not canonical":
            return [(0, 2, 2, 2, 1, 1, 2, 2)]
        return self.inner.ask(n)

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        known = self.inner.history.scores
        if self.fault == "own only" and not self.calls:
            return
        if self.fault == "overlaps":
            self.out = []
        if self.fault == "keeps old scores":
            pairs = [(a, s) for a, s in zip(archs, scores, strict=True) if a not in known]
            archs, scores = [a for a, _ in pairs], [s for _, s in pairs]
        self.inner.tell(archs, scores, weights_version)

    def elites(self) -> list[Arch]:
        return self.inner.elites()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("repeats", "test_proposals_are_legal_canonical_and_unique"),
        ("not canonical", "test_proposals_are_legal_canonical_and_unique"),
        ("hidden state", "test_replay_equals_uninterrupted"),
        ("keeps old scores", "test_a_later_tell_replaces_the_score"),
        ("over the limit", "test_proposals_are_within_the_limit"),
        ("over the limit", "test_infeasible_names_the_limit"),
        ("over the limit", "test_no_network_is_evaluated_twice"),
        ("ignores the seed", "test_same_seed_same_history"),
        ("overlaps", "test_two_proposals_before_a_tell_have_nothing_in_common"),
        ("remembers", "test_proposals_not_told_are_forgotten"),
        ("needs a spread", "test_equal_scores_are_scores"),
        ("over the limit", "test_equal_scores_are_scores"),
        ("small spaces only", "test_large_spaces_are_searched_too"),
        ("own only", "test_what_was_not_proposed_may_be_told"),
        ("over the limit", "test_what_was_not_proposed_may_be_told"),
    ],
)
def test_the_suite_finds(fault: str, check: str) -> None:
    class Suite(SearcherSuite):
        def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
            seed = 0 if fault == "ignores the seed" else seed
            limits = () if fault == "over the limit" else limits
            return Broken(RandomSearch(space, seed=seed, limits=limits), fault)

    with pytest.raises(AssertionError):
        getattr(Suite(), check)()


def test_the_suites_space_has_inactive_decisions_and_aliases() -> None:
    space = nested_space()
    encodings = list(space.enumerate())
    assert space.size == len(encodings) == 2916
    assert len({space.canonical(arch) for arch in encodings}) == (4 + 4 * 4 + 4 * 4 * 3) * (
        1 + 2 + 4
    )  # by depth, by skips
