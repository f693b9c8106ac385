"""Random search: the baseline that every other searcher must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.limit import Limit
from manyshot.search.optioned import OptionedSearcher, SearcherOptions
from manyshot.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RandomOptions(SearcherOptions):
    """The options of `RandomSearch`."""

    keep: Positive = 10
    """How many of the best `elites` returns, for each limit."""


@final
class RandomSearch(OptionedSearcher[RandomOptions]):
    """Uniform random networks within the limits, none proposed twice.

    With several limits each proposal is drawn for one of them in turn. It takes no sampler's pool,
    since it is what others are compared with.

    Reference: Random search as a baseline (Li & Talwalkar 2019, arXiv:1902.07638, who found it hard
    to beat). Drawing without replacement over distinct networks is ours.
    """

    elites_option = "keep"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        options: RandomOptions | None = None,
    ) -> None:
        """Makes a searcher; see `OptionedSearcher`.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            options: how many it keeps, and how often it tries.
        """
        super().__init__(space, seed=seed, limits=limits, options=options)

    def fill(self, portion: Portion) -> None:
        """Leaves all to chance."""
        portion.at_random = portion.want
