"""Searchers by name."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import pytest
from pydantic.dataclasses import dataclass

import manyshot.search as search
from manyshot.manual.options import Option
from manyshot.manual.slots import slot_of
from manyshot.plugins import STRICT, Positive
from manyshot.search import (
    SEARCHERS,
    BaseSearcher,
    Evolution,
    LearnsFromScores,
    Limit,
    NSGA2Options,
    OptionedSearcher,
    Portion,
    RandomSearch,
    Searcher,
    SearcherOptions,
    VersionedOptions,
    make_searcher,
)
from manyshot.search.table import takes_sampler
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import SearcherSuite, nested_space, score, weight_limit

T = TypeVar("T")
SPACE = SearchSpace([Decision((0, 1, 2), f"d{i}") for i in range(4)])
LIMIT = Limit("total<=5", lambda archs: [sum(arch) for arch in archs], 5)


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_entry_makes_a_searcher(name: str) -> None:
    searcher = make_searcher(name, SPACE, seed=3, limits=[LIMIT], options={"attempts": 77})
    assert isinstance(searcher, Searcher)
    assert (searcher.space, searcher.seed) == (SPACE, 3)
    assert list(searcher.limits) == [LIMIT]
    assert searcher.options.attempts == 77
    archs = searcher.ask(5)
    searcher.tell(archs, [float(sum(arch)) for arch in archs])
    assert searcher.elites()


def test_nsga2_needs_a_cost() -> None:
    with pytest.raises(ValueError, match="nsga2 needs a cost to minimise.*option 'objective'"):
        make_searcher("nsga2", SPACE, seed=0)
    options = {"objective": lambda archs: [-sum(arch) for arch in archs]}
    searcher = make_searcher("nsga2", SPACE, seed=0, options=options)
    searcher.tell([(0, 0, 0, 0), (2, 2, 2, 2)], [1.0, 1.0])
    assert searcher.elites() == [(2, 2, 2, 2)]
    assert list(options) == ["objective"]  # the caller's mapping is left alone


class Good:
    """A sampler that thinks some networks good, some of which are over the limit or aliases."""

    def __init__(self, space: SearchSpace, archs: Sequence[Arch]) -> None:
        self.space, self.archs = space, archs

    def pool(self) -> Sequence[Arch]:
        return self.archs


BEGIN_OTHERWISE = {
    "random": "others are compared with it",
    "perturbation": "its means are over random paths",
}


def in_turns(within: list[list[Arch]], order: tuple[int, int]) -> list[Arch]:
    """Three for each of two limits in turn, none twice."""
    parts: list[list[Arch]] = []
    for budget in order:
        parts.append([a for a in within[budget] if a not in sum(parts, [])][:3])
    return [arch for pair in zip(*parts, strict=True) for arch in pair]


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_searcher_begins_with_the_pool_of_the_sampler(name: str) -> None:
    """In its order, within each limit, until it learns from scores; then with random networks."""
    space = nested_space(more=4)
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(200)]
    limits = [weight_limit(13), weight_limit(16)]
    first, second = (
        make_searcher(name, space, seed=3, limits=limits, sampler=sampler)
        for sampler in (Good(space, archs), Good(space, []))
    )
    assert takes_sampler(name) == (name not in BEGIN_OTHERWISE)
    good = list(dict.fromkeys(map(space.canonical, archs)))
    if name in BEGIN_OTHERWISE:
        assert first.ask(6) == second.ask(6)
        return
    proposed = first.ask(6)
    within = [[a for a in good if limit.satisfied([a])[0]] for limit in limits]
    if name == "nsga2":  # whose limits are joined to one
        assert proposed == within[1][:6]
    else:
        assert proposed in [in_turns(within, order) for order in ((0, 1), (1, 0))]
    alone = make_searcher(name, space, seed=3, limits=limits)
    assert second.ask(6) == alone.ask(6)  # an empty pool is none


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in BEGIN_OTHERWISE])
def test_the_pool_is_left_when_scores_are_known(name: str) -> None:
    """What was told in plenty is learnt from, and random networks fill the rest."""
    space = nested_space(more=4)
    rng = np.random.default_rng(1)
    told = list(dict.fromkeys(space.canonical(space.sample(rng)) for _ in range(80)))
    rng = np.random.default_rng(2)
    pool = [a for a in (space.sample(rng) for _ in range(40)) if space.canonical(a) not in told]
    asked = []
    for archs in (pool, []):
        sampler = Good(space, archs)
        searcher = make_searcher(name, space, seed=3, limits=[weight_limit(16)], sampler=sampler)
        searcher.tell(told, score(told))
        asked.append(searcher.ask(5))
    assert asked[0] == asked[1]


class Nearest(BaseSearcher):
    """A searcher of a user's: changes of one decision of the best."""

    random_start = 4

    def fill(self, portion: Portion) -> None:
        best = self.best(portion.budget)
        if not portion.begins:
            portion.breed(
                lambda: self.space.change(best[portion.rng.integers(len(best))], portion.rng)
            )


class TestOneOnTheBase(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return Nearest(space, seed=seed, limits=limits, keep=5)


def test_one_on_the_base_begins_with_the_pool_and_says_what_it_was() -> None:
    sampler = Good(SPACE, [(0, 0, 0, 1), (2, 2, 2, 2), (0, 0, 1, 0), (0, 0, 0, 1)])
    searcher = make_searcher(f"{__name__}:Nearest", SPACE, seed=0, limits=[LIMIT], sampler=sampler)
    archs = searcher.ask(4)
    assert archs[:2] == [(0, 0, 0, 1), (0, 0, 1, 0)] and len(archs) == 4
    searcher.tell(archs, [float(arch == (0, 0, 0, 1)) for arch in archs])
    assert isinstance(searcher, LearnsFromScores) and searcher.stale_scores
    assert searcher.elites()[0] == (0, 0, 0, 1) and searcher.top_ups == 0


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class StrideOptions(VersionedOptions):
    """The options of `Stride`."""

    first: Positive = 4
    """Random networks before anything is changed."""

    best: Positive = 10
    """Of which changes are made."""


class Stride(OptionedSearcher[StrideOptions]):
    """A searcher of a user's with options, and no constructor."""

    random_start_option, elites_option = "first", "best"

    def set_up(self) -> None:
        self.budgets_at_first = len(self.budgets)

    def fill(self, portion: Portion) -> None:
        best = self.best(portion.budget)
        if not portion.begins:
            portion.breed(
                lambda: self.space.change(best[portion.rng.integers(len(best))], portion.rng)
            )


class Further(Stride):
    """One that extends it."""


@dataclass
class Note:
    """What `Noted` keeps: a dataclass, but no options."""


class Keeps(Generic[T]):
    """Something else that is generic."""


class Noted(Keeps[Note], Stride):
    """One with two bases that are generic."""


class TestOneWithOptions(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        return Stride(space, seed=seed, limits=limits, options=StrideOptions(best=5))


@pytest.mark.parametrize("name", ["Stride", "Further", "Noted"])
def test_one_with_options_needs_no_constructor(name: str) -> None:
    """They are read, checked and described, its own before those that all searchers have."""
    plugin = f"{__name__}:{name}"
    options = {"first": 3, "best": 2, "attempts": 77, "stale_scores": True}
    searcher = make_searcher(plugin, SPACE, seed=0, limits=[LIMIT], options=options)
    assert searcher.options == StrideOptions(**options)
    assert (searcher.random_start, searcher.stale_scores) == (3, True)
    assert searcher.budgets_at_first == 1
    searcher.tell([(0, 0, 0, i) for i in range(3)], [1.0, 2.0, 3.0])
    assert searcher.elites() == [(0, 0, 0, 2), (0, 0, 0, 1)]
    default = make_searcher(plugin, SPACE, seed=0)
    assert default.options == StrideOptions() and not default.stale_scores
    with pytest.raises(ValueError, match="has no option 'bet'; did you mean 'best'.*first, best,"):
        make_searcher(plugin, SPACE, seed=0, options={"bet": 3})
    with pytest.raises(ValueError, match="best = 0: Input should be greater than or equal to 1"):
        make_searcher(plugin, SPACE, seed=0, options={"best": 0})
    said = slot_of("search").plugin(plugin)
    assert [o.name for o in said.options] == ["first", "best", "stale_scores", "attempts"]
    assert said.options[1] == Option(
        "best", "whole number >= 1", "10", "Of which changes are made."
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class NeedingOptions(SearcherOptions):
    """One has no default."""

    wanted: int


class Needing(OptionedSearcher[NeedingOptions]):
    """A searcher that cannot do without an option."""


def test_an_option_without_a_default_is_needed() -> None:
    with pytest.raises(ValueError, match="Needing': wanted is needed$"):
        make_searcher(f"{__name__}:Needing", SPACE, seed=0)


def test_options_of_another_searcher_are_refused() -> None:
    for make in (Evolution, Stride):
        with pytest.raises(ValueError, match=f"^{make.__name__} takes options of .*NSGA2Options"):
            make(SPACE, seed=0, options=NSGA2Options())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^RandomSearch takes options of RandomOptions, got dict"):
        RandomSearch(SPACE, seed=0, options={"keep": 3})  # type: ignore[arg-type]


def test_public_names_are_documented() -> None:
    for name in search.__all__:
        assert name in ("Cost", "SEARCHERS") or getattr(search, name).__doc__
