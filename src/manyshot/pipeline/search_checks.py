"""What would fail only when the search begins, or teach it nothing, found before training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from pydantic import ValidationError

from manyshot.cost import CostTable
from manyshot.plugins import explained
from manyshot.recipe import Recipe, RecipeError, SearchSettings, ShiftingSettings
from manyshot.search import Cost, LearnsFromScores, Limit, Reward, Searcher
from manyshot.search.limit import within
from manyshot.search.loop import learns, why_random
from manyshot.search.reach import ATTEMPTS, reach
from manyshot.seeding import numpy_rng
from manyshot.space import SearchSpace

GENERATOR = "generator"
"""The `search.name` that takes winners from the sampler."""
LISTED = 20_000
"""A space of at most so many encodings is listed to find one within a budget."""
CALLED = 1_000
"""So many architectures are looked at for one within a budget on a cost that is a function."""
WEIGHTS = 33
"""So many ways to weigh two costs are tried to prove that no architecture is within both limits."""


def check_search(recipe: Recipe) -> None:
    """Refuses to shift a supernet without a search, and a generator that nothing has trained.

    Raises:
        RecipeError: then.
    """
    search, shifting = recipe.search.name, recipe.shifting.name
    if search != GENERATOR:
        return
    if recipe.moves:
        raise RecipeError(
            f"search.name = {search!r} takes winners from a trained sampler, and a transfer trains "
            "none: take a searcher, such as search.name = 'evolution'"
        )
    if not recipe.train.epochs:
        raise RecipeError(
            f"train.epochs = 0 trains no generator, from which search.name = {search!r} takes "
            "winners: take a searcher, such as search.name = 'evolution'"
        )
    if shifting != "none":
        raise RecipeError(
            f"shifting.name = {shifting!r} trains what a search proposes, and search.name = "
            f"{search!r} is none: take a searcher, or shifting.name = 'none'"
        )


def check_reward(recipe: Recipe) -> None:
    """Refuses a reward that says nothing, or one of losses.

    Raises:
        RecipeError: then.
    """
    if recipe.search.reward.target is None:
        return
    try:
        Reward(**recipe.search.reward.model_dump())
    except ValidationError as error:
        raise RecipeError(f"search.reward: {explained(error)}") from error
    if recipe.evaluate.fitness == "loss":
        raise RecipeError(
            "search.reward multiplies the score by a power of a cost, and with evaluate.fitness = "
            "'loss' networks rank by their losses, of which it would reward what is dear: set "
            "evaluate.fitness = 'metric', or leave search.reward out"
        )


def check_stale(shifting: ShiftingSettings, searcher: Searcher) -> None:
    """Refuses a search that forgets its elites: scores of old weights, kept but not looked at.

    Raises:
        RecipeError: then.
    """
    forgets = isinstance(searcher, LearnsFromScores) and not searcher.stale_scores
    if shifting.name != "none" and shifting.elites == "keep" and forgets:
        raise RecipeError(
            "shifting.elites = 'keep' leaves elites with scores of older weights, at which the "
            "search does not look: set search.options.stale_scores = true, or shifting.elites = "
            "'score'"
        )


def check_breeding(searcher: Searcher, search: SearchSettings) -> None:
    """Refuses a search that ends before it learns from a score.

    Raises:
        RecipeError: if no score would ever be used, because `candidates` are not above the random
            start, or the last of them are proposed before so many were told.
    """
    if not isinstance(searcher, LearnsFromScores):
        return
    how = (searcher, search.candidates, search.generation)
    if not learns(*how):
        raise RecipeError(why_random(*how, section="search."))


def check_joint(
    text: str, space: SearchSpace, costs: Mapping[str, Cost], largest: Mapping[str, float]
) -> None:
    """Refuses limits that no architecture meets together, as far as that can be found out.

    A small space is listed. In a large one it is proven where some weighted sum of two costs, each
    as a share of its limit, is above 1 for all architectures; else it is refused if a search for
    one is in vain. With a cost that is a function, a short search is all there is.

    Args:
        text: the budget.
        space: the search space.
        costs: by metric.
        largest: by metric, the largest cost allowed.

    Raises:
        RecipeError: then.
    """
    limits = [Limit(f"{metric}<={most:g}", costs[metric], most) for metric, most in largest.items()]
    way_out = "raise one of its limits, or leave one out"
    tables = {m: cost for m in largest if isinstance(cost := costs[m], CostTable)}
    is_exact, attempts = len(tables) == len(largest), ATTEMPTS
    if not is_exact:
        attempts = CALLED
    if is_exact and space.size <= LISTED:
        if within(list(space.enumerate()), limits).any():
            return
        raise RecipeError(
            f"budget {text!r}: none of the {space.size:,} architectures is within all of it: "
            f"{way_out}"
        )
    if reach(space, limits, numpy_rng("any", "survey"), attempts) is not None:
        return
    for pair in itertools.combinations(tables, 2):
        if _exclude_each_other(tables, {metric: largest[metric] for metric in pair}):
            raise RecipeError(
                f"budget {text!r}: no architecture is within its limits on {pair[0]} and "
                f"{pair[1]} together, though each can be met: {way_out}"
            )
    raise RecipeError(
        f"budget {text!r}: none was found within all of it among {attempts:,} architectures, bred "
        f"towards it from the smallest, the largest and random ones: {way_out}"
    )


def _exclude_each_other(costs: Mapping[str, CostTable], largest: Mapping[str, float]) -> bool:
    """Whether two limits are proven to exclude each other.

    For an architecture within both, any mean of the two costs as shares of their limits is at most
    1. The least mean over the space is exact, so that above 1 there is none.
    """
    (one, most), (other, most_other) = largest.items()
    for weight in np.linspace(0, 1, WEIGHTS).tolist():
        pairs = [(costs[one], weight / most), (costs[other], (1 - weight) / most_other)]
        try:
            least, _ = CostTable.weighed(pairs).range()
        except ValueError:  # too many decisions multiply one another: it stays unproven
            return False
        if least > 1 + 1e-9:
            return True
    return False
