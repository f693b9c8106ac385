"""The searchers by name, and making one from names and options alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyshot.plugins import build
from manyshot.search.bananas import Bananas
from manyshot.search.evolution import Evolution, regularised_evolution
from manyshot.search.limit import Limit
from manyshot.search.local import LocalSearch
from manyshot.search.nsga2 import NSGA2
from manyshot.search.optuna_samplers import OptunaSearch
from manyshot.search.predictor import WeakPredictor
from manyshot.search.random_search import RandomSearch
from manyshot.search.reinforce import Reinforce
from manyshot.search.searcher import Searcher
from manyshot.space import SearchSpace

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "random": RandomSearch,
    "evolution": Evolution,
    "regularised_evolution": regularised_evolution,
    "nsga2": NSGA2,
    "predictor": WeakPredictor,
    "bananas": Bananas,
    "local": LocalSearch,
    "optuna": OptunaSearch,
    "reinforce": Reinforce,
}
"""The searchers that come with manyshot."""

RANDOM_START = {
    "evolution": "population",
    "regularised_evolution": "population",
    "nsga2": "population",
    "predictor": "initial",
    "bananas": "initial",
    "local": "starts",
    "optuna": "initial",
}
"""By searcher, the option that says how many architectures it draws at random at first."""


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
        name: a key of `SEARCHERS`, or `package.module:attribute`.
        space: what is searched; like `seed` and `limits`, for a searcher with such a parameter.
        seed: the seed of the random stream.
        limits: what proposals must satisfy.
        options: the searcher's options by name.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    return build(
        "searcher",
        name,
        options or {},
        table=SEARCHERS,
        contract=Searcher,
        context={"space": space, "seed": seed, "limits": limits},
    )
