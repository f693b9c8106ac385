"""The sets of architectures that all compared runs are judged on, and what orders them for free.

N counts architectures of the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manyshot.rank.baselines import COSTS, FREE
from manyshot.rank.correlation import mean_of
from manyshot.rank.like_cost import MOST_PAIRED, LikePairs
from manyshot.rank.other_seeds import NAME as OTHER_SEEDS
from manyshot.rank.other_seeds import by_other_seeds
from manyshot.rank.reliability import reliability_at_like_cost
from manyshot.rank.resampling import CROSSED, JudgedSet, Turn, mean_over_turns
from manyshot.run_folder import Baseline, ComparedRun, FreeBaseline, RankedSet, Ranking

LIKE_COST = "global at like cost"
"""The set of all architectures, of which pairs of like multiply-adds count."""
Floats = npt.NDArray[np.float64]


class MadeSet(NamedTuple):
    """A set that is made of all rankings together."""

    judged: JudgedSet
    rows: tuple[int, ...]
    """Its architectures, as rows of the truth."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The statistics that it has: regret has no pairs, so like cost has none."""
        return CROSSED if self.judged.costs_N is None else ("tau",)

    def metrics(self, name: str, folder: str) -> dict[str, float | None]:
        """The statistics of one of its columns of scores."""
        return {f"{kind} {name}": mean_over_turns(self.judged, kind, folder) for kind in self.kinds}


def frozen_sets(ranked: Sequence[Ranking]) -> list[RankedSet]:
    """The sets of the first ranking that have the same architectures in all.

    A set that each run chose for itself favours whoever chose, and is another for each.
    """
    each = [{own.name: (own.archs, own.turns) for own in r.sets} for r in ranked]
    sets = ranked[0].sets if ranked else ()
    return [s for s in sets if all(own.get(s.name) == (s.archs, s.turns) for own in each)]


def lacking_scores(ranked: Sequence[Ranking]) -> int:
    """How many rankings have no scores of every run of the truth, so that none are resampled."""
    return sum(any(point.scores is None for point in ranking.points) for ranking in ranked)


def judged_sets(
    rows: Sequence[ComparedRun], ranked: Sequence[Ranking], frozen: Collection[RankedSet]
) -> dict[str, JudgedSet]:
    """The frozen sets with all scores, as far as the rankings have those of every run."""
    if not ranked or lacking_scores(ranked):
        return {}
    points, runs = ranked[0].points, ranked[0].truth.runs
    place = {point.arch: i for i, point in enumerate(points)}
    fitness_NR, proxies = _truth_of(ranked[0]), _proxies(rows, ranked)
    judged = {}
    for each in frozen:
        own_rows = [place[arch] for arch in each.archs]
        place_in = {arch: i for i, arch in enumerate(each.archs)}
        judged[each.name] = JudgedSet(
            fitness_NR[own_rows][:, [runs.index(run) for run in each.judged_by]],
            {folder: column_N[own_rows] for folder, column_N in proxies.items()},
            whole=each.whole is True,
            reliability=each.reliability,
            turns=tuple(
                Turn(
                    np.array([place_in[arch] for arch in turn.archs]),
                    np.array([run in turn.judged_by for run in each.judged_by]),
                    each.judged_by.index(turn.by) if turn.by in each.judged_by else None,
                )
                for turn in each.turns or ()
            ),
        )
    return judged


def _truth_of(ranking: Ranking) -> Floats:
    """The scores of every run of the truth, (N, R); higher is better, nan where there is none."""
    scores_NR = np.array([point.scores for point in ranking.points], np.float64)  # None is nan
    return scores_NR if ranking.truth.metric.higher_is_better else -scores_NR


def _proxies(rows: Sequence[ComparedRun], ranked: Sequence[Ranking]) -> dict[str, Floats]:
    """By folder the proxy scores of the truth's architectures, in the order of the first ranking.

    The rankings are of one table, so that all have the same architectures.
    """
    archs = [point.arch for point in ranked[0].points]
    proxies = {}
    for row, ranking in zip(rows, ranked, strict=True):
        of = ranking.task.fitness_of
        own = {p.arch: of(p.proxy_score, p.proxy_loss) for p in ranking.points}
        proxies[row.folder] = np.array([own[arch] for arch in archs])
    return proxies


def made_sets(
    rows: Sequence[ComparedRun], ranked: Sequence[Ranking], judged: Mapping[str, JudgedSet]
) -> dict[str, MadeSet]:
    """Sets that are made of all rankings together.

    All architectures, of which only pairs of like cost count, and what supernets of other seeds
    choose. Without the scores of every run of the truth there is none.
    """
    if not judged:
        return {}
    points = ranked[0].points
    made: dict[str, MadeSet] = {}
    if "global" in judged:
        [everything] = [own for own in ranked[0].sets if own.name == "global"]
        place = {point.arch: i for i, point in enumerate(points)}
        of_all = tuple(place[arch] for arch in everything.archs)
        macs_N = np.array([points[i].macs for i in of_all], np.float64)
        if len(of_all) <= MOST_PAIRED and len(LikePairs(macs_N)):
            own = judged["global"]
            known = reliability_at_like_cost(own.truth_NR, macs_N)
            like = dataclasses.replace(own, costs_N=macs_N, reliability=known)
            made[LIKE_COST] = MadeSet(like, of_all)
    found = by_other_seeds(
        rows,
        _proxies(rows, ranked),
        _truth_of(ranked[0]),
        share=ranked[0].truth.share,
        whole=any(own.name == "global" and own.whole for own in ranked[0].sets),
    )
    if found is not None:
        made[OTHER_SEEDS] = MadeSet(*found)
    return made


def with_made_sets(
    rows: Sequence[ComparedRun], made: Mapping[str, MadeSet]
) -> tuple[ComparedRun, ...]:
    """Rows with the metrics of sets that were made of all rankings."""
    return tuple(
        row.model_copy(update={"metrics": row.metrics | _metrics(made, row.folder)}) for row in rows
    )


def _metrics(made: Mapping[str, MadeSet], folder: str) -> dict[str, float | None]:
    return {k: v for name, own in made.items() for k, v in own.metrics(name, folder).items()}


def baselines(
    ranked: Sequence[Ranking], frozen: Collection[RankedSet], made: Mapping[str, MadeSet]
) -> tuple[Baseline, ...]:
    """What orders without a supernet, and the ceiling by the noise of the truth.

    Those without training hang on the seed of each run: their metrics are means over rankings.
    """
    if not frozen:
        return ()
    each = [own.predictors for ranking in ranked for own in ranking.sets if own.name == "global"]
    free = [name for name in FREE if each and all(name in predictors for predictors in each)]
    ceilings = {s.name: s.reliability.ceiling for s in frozen if s.reliability is not None}
    for name, own in made.items():
        if own.judged.reliability is not None and own.judged.costs_N is None:
            ceilings[name] = own.judged.reliability.ceiling
    return (
        *(_baseline(name, ranked, frozen, made) for name in free),
        Baseline(name="ceiling", metrics={f"tau {name}": tau for name, tau in ceilings.items()}),
    )


def _baseline(
    name: FreeBaseline,
    ranked: Sequence[Ranking],
    frozen: Collection[RankedSet],
    made: Mapping[str, MadeSet],
) -> Baseline:
    """A free baseline that all rankings have, on frozen sets and on those that were made."""
    metrics: dict[str, float | None] = {}
    for each in frozen:
        alike = [own.predictors[name] for r in ranked for own in r.sets if own.name == each.name]
        metrics[f"regret {each.name}"] = mean_of([own.regret.value for own in alike])
        metrics[f"tau {each.name}"] = mean_of([own.kendall.value for own in alike])
    for of, own in made.items():
        columns = [_scores_of(ranking, name)[list(own.rows)] for ranking in ranked]
        scores = {str(i): column_N for i, column_N in enumerate(columns)}
        free = own._replace(judged=dataclasses.replace(own.judged, scores=scores))
        values = [free.metrics(of, each) for each in scores]
        metrics |= {metric: mean_of([own[metric] for own in values]) for metric in values[0]}
    return Baseline(name=name, metrics=metrics)


def _scores_of(ranking: Ranking, baseline: FreeBaseline) -> Floats:
    """What a baseline scores the truth's architectures."""
    if baseline in COSTS:
        return np.array([getattr(point, baseline) for point in ranking.points], np.float64)
    return np.array([(point.zero_cost or {})[baseline] for point in ranking.points], np.float64)
