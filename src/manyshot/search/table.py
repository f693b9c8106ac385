"""The searchers by name, and making one from names and options alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyshot.plugins import build, look_up
from manyshot.search.bananas import Bananas
from manyshot.search.dc_nas import DCNAS
from manyshot.search.evolution import Evolution, regularised_evolution
from manyshot.search.limit import Limit
from manyshot.search.local import LocalSearch
from manyshot.search.mct import MCTSearch
from manyshot.search.nevonas import NEvoNAS
from manyshot.search.nsga2 import NSGA2
from manyshot.search.optuna_samplers import OptunaSearch
from manyshot.search.perturbation import Perturbation
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
    "nevonas": NEvoNAS,
    "dc_nas": DCNAS,
    "perturbation": Perturbation,
    "mct": MCTSearch,
}
"""The searchers that come with manyshot."""

START_BY_SPACE = frozenset({"mct"})
"""Those of which the space and the sampler have a say in `random_start`, so that settings alone do
not tell how many that are."""


def make_searcher(
    name: str,
    space: SearchSpace,
    *,
    seed: int,
    limits: Sequence[Limit] = (),
    options: Mapping[str, Any] | None = None,
    sampler: object = None,
) -> Searcher:
    """Makes a searcher by name.

    Args:
        name: a key of `SEARCHERS`, or `package.module:attribute`.
        space: what is searched; like `seed`, `limits` and `sampler`, for a searcher with such a
            parameter.
        seed: the seed of the random stream.
        limits: what proposals must satisfy.
        options: the searcher's options by name.
        sampler: the sampler that the supernet was trained by, as it was when training ended; None
            where nothing was trained. What it knows is said by protocols such as `Pools`.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    return build(
        "searcher",
        name,
        options or {},
        table=SEARCHERS,
        contract=Searcher,
        context={"space": space, "seed": seed, "limits": limits, "sampler": sampler},
    )


def takes_sampler(name: str) -> bool:
    """Whether a searcher has a parameter `sampler`, so that it can make use of a trained one.

    Raises:
        ValueError: for an unknown name, or one that cannot be imported or called.
    """
    return "sampler" in inspect.signature(look_up("searcher", name, SEARCHERS)).parameters
