"""The searchers by name, and making one from names and options alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from manyshot.lookup import look_up
from manyshot.search.evolution import Evolution, EvolutionConfig
from manyshot.search.limit import Limit, any_of
from manyshot.search.nsga2 import NSGA2, NSGA2Config
from manyshot.search.options import configured
from manyshot.search.predictor import PredictorConfig, WeakPredictor
from manyshot.search.random_search import RandomConfig, RandomSearch
from manyshot.search.searcher import Searcher
from manyshot.space import SearchSpace


class SearcherFactory(Protocol):
    """Makes a searcher; the signature that every entry of `SEARCHERS` has."""

    def __call__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit],
        options: Mapping[str, Any],
    ) -> Searcher:
        """Makes a searcher.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: what proposals must satisfy.
            options: the searcher's own options by name.
        """
        ...


def make_random(
    space: SearchSpace, *, seed: int, limits: Sequence[Limit], options: Mapping[str, Any]
) -> RandomSearch:
    """Makes a `RandomSearch`, whose options are the fields of `RandomConfig`."""
    return RandomSearch(space, seed=seed, limits=limits, config=configured(RandomConfig, options))


def make_evolution(
    space: SearchSpace, *, seed: int, limits: Sequence[Limit], options: Mapping[str, Any]
) -> Evolution:
    """Makes an `Evolution`, whose options are the fields of `EvolutionConfig`."""
    return Evolution(space, seed=seed, limits=limits, config=configured(EvolutionConfig, options))


REGULARISED: Mapping[str, Any] = {"population": 20, "parents": 5, "tournament": 5}
"""The defaults of `regularised_evolution` that differ from those of `EvolutionConfig`."""


def make_regularised(
    space: SearchSpace, *, seed: int, limits: Sequence[Limit], options: Mapping[str, Any]
) -> Evolution:
    """Makes a regularised `Evolution`; options are those of `EvolutionConfig` but `regularised`.

    By default 20 are alive, and the best of 5 of them drawn at random has the next mutant: for
    hundreds of scores. (The paper has 100 and 25, for 20,000.)

    Raises:
        ValueError: if `regularised` is among the options.
    """
    if "regularised" in options:
        raise ValueError(
            "searcher 'regularised_evolution' has no option 'regularised': it always is; for "
            "another evolution take the searcher 'evolution'"
        )
    given = {**REGULARISED, "regularised": True, **options}
    return make_evolution(space, seed=seed, limits=limits, options=given)


def make_predictor(
    space: SearchSpace, *, seed: int, limits: Sequence[Limit], options: Mapping[str, Any]
) -> WeakPredictor:
    """Makes a `WeakPredictor`, whose options are the fields of `PredictorConfig`."""
    config = configured(PredictorConfig, options)
    return WeakPredictor(space, seed=seed, limits=limits, config=config)


def make_nsga2(
    space: SearchSpace, *, seed: int, limits: Sequence[Limit], options: Mapping[str, Any]
) -> NSGA2:
    """Makes an `NSGA2`, whose options are `objective` and the fields of `NSGA2Config`.

    `objective` is a `Limit` or a cost function; by default it is the cost of the first limit.
    Several limits are budgets served by one front: a proposal is within at least one of them.

    Raises:
        ValueError: if there is neither an objective nor a limit.
    """
    rest = dict(options)
    objective = rest.pop("objective", limits[0] if limits else None)
    if not callable(objective) and not isinstance(objective, Limit):
        raise ValueError(
            f"nsga2 needs a cost to minimise, got objective {objective!r}; give a limit, or the "
            "option 'objective': a Limit, or a function from architectures to costs"
        )
    config = configured(NSGA2Config, rest)
    held = [any_of(limits)] if len(limits) > 1 else limits
    return NSGA2(space, seed=seed, objective=objective, limits=held, config=config)


SEARCHERS: dict[str, SearcherFactory] = {
    "random": make_random,
    "evolution": make_evolution,
    "regularised_evolution": make_regularised,
    "nsga2": make_nsga2,
    "predictor": make_predictor,
}
"""The searchers that come with manyshot."""


def make_searcher(
    name: str,
    space: SearchSpace,
    *,
    seed: int,
    limits: Sequence[Limit] = (),
    options: Mapping[str, Any] | None = None,
) -> Searcher:
    """Makes a searcher by name.

    Args:
        name: a key of `SEARCHERS`, or the `package.module:attribute` of a factory.
        space: what is searched.
        seed: the seed of the random stream.
        limits: what proposals must satisfy.
        options: the searcher's own options by name.

    Raises:
        ValueError: for an unknown name (the message lists the known ones), a factory that cannot be
            imported, or an unknown option.
    """
    factory = cast(SearcherFactory, look_up("searcher", name, SEARCHERS))
    return factory(space, seed=seed, limits=limits, options=options or {})
