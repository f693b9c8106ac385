"""A searcher whose options are a dataclass: the constructor that ours share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive, type_arguments
from manyshot.search.base import BaseSearcher
from manyshot.search.limit import Cost, Limit
from manyshot.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SearcherOptions:
    """What every searcher of ours takes; the options of each extend it."""

    attempts: Positive = 500
    """Random draws per network wanted before giving up."""


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class VersionedOptions(SearcherOptions):
    """Likewise of a searcher that may leave out scores told at older weights versions."""

    stale_scores: bool = False
    """Whether scores told at older weights versions count; if not, only those of the latest version
    do, as long as there are any."""


Options = TypeVar("Options", bound=SearcherOptions)


class OptionedSearcher(BaseSearcher, Generic[Options]):
    """A `BaseSearcher` with a dataclass of options: `class Mine(OptionedSearcher[MineOptions])`.

    It needs no constructor of its own. Which of its options say what every searcher has to know it
    names in `random_start_option` and `elites_option`; what it keeps besides, it makes in `set_up`.

    Attributes:
        options: its options.
        random_start: see `LearnsFromScores`; there is none if the searcher learns from no score.
        random_start_option: the option that says it, if one does.
        elites_option: the option that says how many of the best `elites` returns for each limit, if
            one does.
    """

    random_start_option: ClassVar[str] = ""
    elites_option: ClassVar[str] = ""
    options: Options
    random_start: int

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        limits: Sequence[Limit] = (),
        sampler: object = None,
        options: Options | None = None,
        costs: Mapping[str, Cost] | None = None,
    ) -> None:
        """Makes a searcher that was told nothing.

        Args:
            space: what is searched.
            seed: the seed of the random stream.
            limits: alternatives, of which each proposal satisfies one.
            sampler: the one that the supernet was trained by, which may have a pool.
            options: its options; by default all have their defaults.
            costs: recorded beside those of the limits, by name.

        Raises:
            ValueError: if two limits have one name, or the options are another searcher's.
        """
        kind: Any = next(iter(type_arguments(type(self), SearcherOptions)), SearcherOptions)
        if not isinstance(options, kind | None):
            raise ValueError(
                f"{type(self).__name__} takes options of {kind.__name__}, "
                f"got {type(options).__name__}"
            )
        self.options = options or kind()
        attempts = self.options.attempts
        super().__init__(
            space, seed=seed, limits=limits, sampler=sampler, attempts=attempts, costs=costs
        )
        if self.elites_option:
            self._keep = getattr(self.options, self.elites_option)
        if self.random_start_option:
            self.random_start = getattr(self.options, self.random_start_option)
        if isinstance(self.options, VersionedOptions):
            self.stale_scores = self.options.stale_scores
        self.set_up()

    def set_up(self) -> None:
        """Makes what is its own, at the end of construction; by default nothing."""
