"""Searchers by name."""

import pytest

import manyshot.search as search
from manyshot.search import SEARCHERS, Limit, Searcher, make_searcher
from manyshot.space import Decision, SearchSpace

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


def test_public_names_are_documented() -> None:
    for name in search.__all__:
        assert name in ("Cost", "SEARCHERS") or getattr(search, name).__doc__
