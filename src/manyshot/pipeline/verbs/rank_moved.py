"""What moving the weights of a supernet did to its ranking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from manyshot.pipeline.stages.proxies import reference_scores
from manyshot.rank.moved import gain
from manyshot.rank.resampling import mean_over_turns
from manyshot.rank.sets import NEEDS, RankSet, rank_sets
from manyshot.rank.truth import TruthTable, arch_of, text_of
from manyshot.run_folder import AFTER, BEFORE, MovedRanking, MovedSet, Ranking

_NEEDS = {
    **NEEDS,
    "local by prediction": "another run, ranked before, as --reference: one that these weights "
    "chose would favour them",
    "local by search": "what no search has: its scores are of weights on their way to those after",
}
"""What a set lacks that neither the weights before nor those after chose."""


def moved_ranking(
    before: Ranking, after: Ranking, truth: TruthTable, others: Sequence[Path]
) -> MovedRanking:
    """The difference of two rankings of a run, on sets that neither of their weights chose.

    Args:
        before: by the weights before the search.
        after: by those after it.
        truth: that both are against, with the same share.
        others: other runs, ranked before, whose proxies choose the local set by prediction.
    """
    task = after.task
    scores = {
        moment: {p.arch: task.fitness_of(p.proxy_score, p.proxy_loss) for p in ranking.points}
        for moment, ranking in ((BEFORE, before), (AFTER, after))
    }
    # points are in the order of the table, and their architectures are canonical
    archs = tuple(arch_of(point.arch, f"the ranking of {after.run}") for point in after.points)
    truth = dataclasses.replace(truth, archs=archs)
    sets = rank_sets(
        truth,
        share=after.truth.share,
        prediction=reference_scores(others, task, truth),
        own_prediction=False,
        whole=any(each.whole for each in after.sets if each.name == "global"),
    )
    moved = tuple(_moved(ranked, scores) for ranked in sets)
    names = {each.name for each in moved}
    return MovedRanking(
        run=after.run,
        seed=after.seed,
        task=task,
        truth=after.truth,
        before=before.weights,
        after=after.weights,
        sets=moved,
        absent={name: why for name, why in _NEEDS.items() if name not in names},
    )


def _moved(ranked: RankSet, scores: dict[str, dict[str, float]]) -> MovedSet:
    """What it did on a set, by the scores before and after, by architecture."""
    texts = [text_of(arch) for arch in ranked.truth.archs]
    judged = ranked.judged({m: np.array([by[text] for text in texts]) for m, by in scores.items()})
    return MovedSet(
        name=ranked.chosen.name,
        why=ranked.why,
        architectures=len(texts),
        before=mean_over_turns(judged, "tau", BEFORE),
        after=mean_over_turns(judged, "tau", AFTER),
        gain=gain(judged),
        reliability=ranked.reliability(),
    )
