"""What a searcher is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from manyshot.space import Arch, SearchSpace


@runtime_checkable
class Searcher(Protocol):
    """Proposes architectures and learns from their scores.

    The caller alternates `ask`, (training and) scoring, `tell`. A searcher is a function of its
    construction and of what it was told: to resume, construct it anew and repeat the tells in the
    same groups. Proposals that were asked for and not told by the next `tell` are forgotten.
    `manyshot.testing.searchers.SearcherSuite` checks all of this for a searcher of your own.
    """

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` distinct architectures to score, all canonical and within the limits.

        There are fewer only when no more can be found.

        Raises:
            Infeasible: if no architecture met a limit within the attempts allowed.
        """
        ...

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Reports scores, higher is better; a later score of an architecture replaces the earlier.

        Args:
            archs: canonical architectures, proposed by `ask` or not.
            scores: one finite number each.
            weights_version: which supernet weights they were scored with.
        """
        ...

    def elites(self) -> list[Arch]:
        """The told architectures that the next proposals build on, such as those to re-score."""
        ...


@runtime_checkable
class LearnsFromScores(Protocol):
    """A searcher whose proposals come to depend on the scores told.

    A recipe under which it would never look at a score is refused.

    Attributes:
        random_start: so many architectures are told before a proposal depends on a score.
        stale_scores: whether scores that were told at older weights versions count.
    """

    random_start: int
    stale_scores: bool


@runtime_checkable
class Pools(Protocol):
    """A sampler that knows architectures which it thinks good, with which a search may begin."""

    def pool(self) -> Sequence[Arch]:
        """Encodings, the best first; none if it knows none.

        Of a sampler that can `narrow` they are of the view that it was told last.
        """
        ...


def pooled(sampler: object, space: SearchSpace) -> tuple[Arch, ...]:
    """The networks that a sampler thinks good, canonical and distinct, the best first.

    Args:
        sampler: the one that a supernet was trained by; one without a pool has none.
        space: what is searched.

    Raises:
        ValueError: if one of them is not in the space.
    """
    pool = sampler.pool() if isinstance(sampler, Pools) else ()
    archs = space.check_proposed(pool, f"the pool of sampler {type(sampler).__name__}")
    return tuple(dict.fromkeys(map(space.canonical, archs)))
