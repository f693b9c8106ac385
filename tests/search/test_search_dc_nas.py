"""DC-NAS: clusters that anybody would see, the best of each, its options."""

from collections.abc import Sequence

import numpy as np
import pytest

from manyshot.search import DCNAS, DCNASOptions, Limit, Searcher
from manyshot.search.chosen import chosen
from manyshot.search.dc_nas import clusters
from manyshot.space import Decision, SearchSpace
from manyshot.testing.searchers import SearcherSuite, nested_space


class TestDCNAS(SearcherSuite):
    def make_searcher(self, space: SearchSpace, seed: int, limits: Sequence[Limit]) -> Searcher:
        options = DCNASOptions(initial=20, clusters=4)
        return DCNAS(space, seed=seed, limits=limits, options=options)


SPACE = SearchSpace([Decision(range(4), f"d{i}") for i in range(12)])
FAMILIES = 3


def families() -> tuple[list, list[int]]:
    """30 architectures of three families that differ in one decision of twelve from their first."""
    archs, labels = [], []
    for family in range(FAMILIES):
        for changed in range(10):
            arch = [family] * 12
            arch[changed] = 3
            archs.append(tuple(arch))
            labels.append(family)
    return archs, labels


def test_clusters_are_the_families() -> None:
    archs, labels = families()
    found = clusters(chosen(SPACE, archs).astype(float), FAMILIES, seed=5)
    assert len(set(zip(found.tolist(), labels, strict=True))) == FAMILIES == len(set(found))


def test_no_more_clusters_than_architectures() -> None:
    archs, _ = families()
    assert len(set(clusters(chosen(SPACE, archs[:2]).astype(float), 5, 0).tolist())) == 2
    assert clusters(chosen(SPACE, archs[:1]).astype(float), 5, 0).tolist() == [0]


def test_options_of_decisions_that_do_not_matter_are_left_out() -> None:
    space = nested_space()
    one = space.canonical((0, 1, 0, 0, 1, 0, 0, 0))  # depth 1: the other two operations are out
    names = [d.name for d, active in zip(space.decisions, space.active(one), strict=True) if active]
    assert chosen(space, [one]).sum() == len(names) < len(space)


def test_the_best_of_every_family_goes_on_whatever_others_score() -> None:
    """The worst family scores below all others: its best is an elite and has as many mutants."""
    archs, labels = families()
    options = DCNASOptions(initial=30, clusters=FAMILIES, mutation_probability=0.05)
    searcher = DCNAS(SPACE, seed=0, options=options)
    scores = [100.0 * label + i % 10 for i, label in enumerate(labels)]
    searcher.tell(archs, scores)
    best = [archs[10 * family + 9] for family in range(FAMILIES)]
    assert sorted(searcher.elites()) == sorted(best)
    proposed = searcher.ask(60)
    nearest = [
        max(range(FAMILIES), key=lambda f: sum(a == b for a, b in zip(best[f], arch, strict=True)))
        for arch in proposed
    ]
    assert np.bincount(nearest).tolist() == [20, 20, 20] and searcher.top_ups == 0


def test_moved_weights_compare_the_best_anew() -> None:
    """Elites that are scored again at new weights are what counts from then on."""
    archs, labels = families()
    searcher = DCNAS(SPACE, seed=0, options=DCNASOptions(initial=30, clusters=FAMILIES))
    searcher.tell(archs, [float(label) for label in labels])
    elites = searcher.elites()
    searcher.tell(elites, [5.0, 4.0, 3.0], 1)
    assert set(searcher.elites()) == set(elites)  # all else is of older weights


@pytest.mark.parametrize(
    "change",
    [
        {"clusters": 2},
        {"initial": 60},
        {"mutation_probability": 0.5},
        {"attempts": 1},
        {"stale_scores": True},
    ],
)
def test_every_option_is_used(change: dict) -> None:
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(5)])

    def history(**options) -> list:
        limit = Limit("sum<=6", lambda archs: [sum(a) for a in archs], 6)
        searcher = DCNAS(space, seed=0, limits=[limit], options=DCNASOptions(**options))
        asked = []
        for version in range(5):
            asked.append(searcher.ask(20))
            scores = [float(a[0] * 3 + a[1] - 50 * version) for a in asked[-1]]
            searcher.tell(asked[-1], scores, version)
        return asked

    base = {"initial": 20, "attempts": 100}
    assert history(**base) != history(**{**base, **change})
