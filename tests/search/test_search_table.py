"""Searchers by name."""

import pytest

import manyshot.search as search
from manyshot.search import SEARCHERS, Limit, Searcher, make_searcher
from manyshot.space import Decision, SearchSpace

SPACE = SearchSpace([Decision((0, 1, 2), f"d{i}") for i in range(4)])
LIMIT = Limit("total<=5", lambda archs: [sum(arch) for arch in archs], 5)


def outsider(space, *, seed, limits, options):
    return search.RandomSearch(space, seed=seed + 1, limits=limits, **options)


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_entry_makes_a_searcher(name: str) -> None:
    searcher = make_searcher(name, SPACE, seed=3, limits=[LIMIT], options={"attempts": 77})
    assert isinstance(searcher, Searcher)
    assert (searcher.space, searcher.seed, searcher.limits) == (SPACE, 3, (LIMIT,))
    assert searcher.config.attempts == 77
    archs = searcher.ask(5)
    searcher.tell(archs, [float(sum(arch)) for arch in archs])
    assert searcher.elites()


@pytest.mark.parametrize("name", SEARCHERS)
def test_an_unknown_option_names_the_nearest(name: str) -> None:
    with pytest.raises(ValueError, match=r"has no option 'atempts'; did you mean 'attempts'\?"):
        make_searcher(name, SPACE, seed=0, limits=[LIMIT], options={"atempts": 1})
    with pytest.raises(ValueError, match="attempts must be a whole number at least 1, got 0"):
        make_searcher(name, SPACE, seed=0, limits=[LIMIT], options={"attempts": 0})


def test_unknown_searchers_list_what_exists() -> None:
    with pytest.raises(
        ValueError,
        match="'evolutoin'; did you mean 'evolution'. have evolution, nsga2, predictor, random, "
        "regularised_evolution, or",
    ):
        make_searcher("evolutoin", SPACE, seed=0)


def test_outsiders() -> None:
    name = "manyshot.search.table:make_random"
    made = make_searcher(name, SPACE, seed=1, limits=[LIMIT])
    assert made.ask(5) == make_searcher("random", SPACE, seed=1, limits=[LIMIT]).ask(5)
    for name, message in [
        ("no_such_package:make", "'no_such_package:make' cannot be imported: No module named"),
        ("manyshot.search:nothing", "cannot be imported: .*has no attribute 'nothing'"),
        ("manyshot.search.draft:_BATCH", "is 64, not a function"),
        (":", "unknown searcher ':'"),
    ]:
        with pytest.raises(ValueError, match=message):
            make_searcher(name, SPACE, seed=1)


def test_nsga2_needs_a_cost() -> None:
    with pytest.raises(ValueError, match="nsga2 needs a cost to minimise.*option 'objective'"):
        make_searcher("nsga2", SPACE, seed=0)
    with pytest.raises(ValueError, match="got objective 'macs'"):
        make_searcher("nsga2", SPACE, seed=0, options={"objective": "macs"})
    options = {"objective": lambda archs: [-sum(arch) for arch in archs]}
    searcher = make_searcher("nsga2", SPACE, seed=0, options=options)
    searcher.tell([(0, 0, 0, 0), (2, 2, 2, 2)], [1.0, 1.0])
    assert searcher.elites() == [(2, 2, 2, 2)]
    assert list(options) == ["objective"]  # the caller's mapping is left alone


def test_public_names_are_documented() -> None:
    for name in search.__all__:
        assert name in ("Cost", "SEARCHERS") or getattr(search, name).__doc__
