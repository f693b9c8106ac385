"""DC-NAS: like architectures are compared with one another, and then the best of each kind."""

from __future__ import annotations

import functools
from typing import Annotated, final

import numpy as np
import numpy.typing as npt
from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive, Probability
from manyshot.search.base import Portion
from manyshot.search.chosen import chosen
from manyshot.search.optioned import OptionedSearcher, VersionedOptions
from manyshot.seeding import stream
from manyshot.space import Arch


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class DCNASOptions(VersionedOptions):
    """The options of `DCNAS`; their defaults are ours."""

    clusters: Annotated[int, Field(ge=2)] = 5
    """Groups of like architectures within each limit."""

    initial: Positive = 50
    """Random architectures told before anything is grouped."""

    mutation_probability: Probability = 0.1
    """Probability that a decision of a cluster's best is redrawn, perhaps to the same option."""


@final
class DCNAS(OptionedSearcher[DCNASOptions]):
    """Clusters like architectures; the best of each cluster go on, whatever the others score.

    Random architectures come first. Then all whose scores count are clustered by k-means, and
    proposals are mutants of the best of each cluster, equally many of every one. `elites` are these
    best: the final comparison is among scores of one kind, so that with `[shifting]` the supernet
    trains on the best of all clusters, and scores them again, before they are compared. On frozen
    weights any two scores can be compared anyway, and what clusters do is keep proposals varied.
    With several limits each proposal is made for one of them in turn, which has its own clusters.

    Reference: Wang, Xu and Tao 2020, "DC-NAS: Divide-and-Conquer Neural Architecture Search"
    (arXiv:2005.14456), from its abstract: features of sampled networks, k-means, networks judged
    within clusters, and the best of each merged are the paper's. Its features are changes of
    parameters or of outputs of every layer while a network trains. A searcher sees no network, so
    that ours are the chosen (decision, option) pairs, of decisions that matter. That to merge means
    a final comparison is inferred. That the best of clusters are mutated, where the paper samples
    once, is ours, and so are the numbers and the limits.
    """

    random_start_option = "initial"

    def fill(self, portion: Portion) -> None:
        """Mutates the best of every cluster, equally many of each."""
        if portion.begins or not portion.want:
            return
        best = self.best(portion.budget)
        for place, i in enumerate(portion.rng.permutation(len(best)).tolist()):
            child = functools.partial(
                self.space.mutate, best[i], portion.rng, self.options.mutation_probability
            )
            portion.breed(child, len(range(place, portion.want, len(best))))

    def best(self, budget: int) -> list[Arch]:
        """The best of every cluster within a budget, of the scores that count."""
        rows = self.competing(budget)
        if not rows.size:
            return []
        features_NF = chosen(self.space, [self.history.archs[i] for i in rows])
        seed = stream(self.seed, "clusters")
        label_N = clusters(features_NF.astype(np.float64), self.options.clusters, seed)
        return [
            self.budgets.ranked(budget, rows[label_N == label], 1)[0]
            for label in np.unique(label_N)
        ]


def clusters(features_NF: npt.NDArray[np.float64], count: int, seed: int) -> npt.NDArray[np.int64]:
    """The cluster of each of N rows by k-means, (N,); one thread alone, so that no bit differs.

    Args:
        features_NF: the rows.
        count: how many clusters; fewer if fewer rows differ.
        seed: of where their means begin.
    """
    from sklearn.cluster import KMeans  # takes a second to import
    from threadpoolctl import threadpool_limits

    count = min(count, len(np.unique(features_NF, axis=0)))
    means = KMeans(count, n_init=4, random_state=seed % 2**32)
    with threadpool_limits(1):
        return np.asarray(means.fit_predict(features_NF), dtype=np.int64)
