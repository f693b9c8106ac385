"""Which architectures a supernet's order is judged on: the whole space, and its top."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from manyshot.rank.reliability import over_turns, reliability
from manyshot.rank.resampling import JudgedSet, Turn
from manyshot.rank.selection import FrozenSet
from manyshot.rank.truth import TruthTable
from manyshot.run_folder import Reliability
from manyshot.space import Arch

SMALLEST = 5
"""A local set of fewer architectures is not made."""
NEEDS = {
    "local by truth": "two runs of the best to be made, three to be judged: truth.plan = 'best' "
    "with other truth.seeds",
    "local by prediction": f"more than {SMALLEST} architectures",
    "local by search": f"a search that scored {SMALLEST} architectures of the truth",
}
"""What a local set that cannot be made lacks."""


@final
@dataclass(frozen=True)
class RankSet:
    """A set of architectures to rank, and the truth that judges it.

    Attributes:
        chosen: the architectures, and what chose them.
        why: how they were chosen, a sentence.
        truth: their accuracies, by the runs that may judge them.
        whole: whether they are all architectures of a space, or the best of all: then they are no
            draw from anything.
        turns: of a set of which several chose in turn the set of each, whose `why` names it; the
            set has the architectures of all, and its statistics are means over turns.
    """

    chosen: FrozenSet
    why: str
    truth: TruthTable
    whole: bool = False
    turns: tuple[RankSet, ...] = ()

    @property
    def each(self) -> tuple[RankSet, ...]:
        """The sets that statistics are means over: those of the turns, or the set itself."""
        return self.turns or (self,)

    def judged(self, scores: Mapping[str, npt.NDArray[np.float64]]) -> JudgedSet:
        """The set with scores of its architectures, in the order of its truth; higher is better."""
        return JudgedSet(self.truth.fitness_NR, scores, self.whole, turns=turns_of(self))

    def reliability(self, draws: int = 0) -> Reliability:
        """How reliable its truth is; draws are those of `manyshot.rank.reliability`."""
        return over_turns(
            [reliability(t.truth.fitness_NR, whole=self.whole, draws=draws) for t in self.each]
        )


def rank_sets(
    truth: TruthTable,
    *,
    share: float = 0.1,
    prediction: Mapping[str, Mapping[Arch, float]] | None = None,
    own_prediction: bool = True,
    history: Mapping[Arch, float] | None = None,
    whole: bool = False,
) -> Iterator[RankSet]:
    """The global set and the local ones, as far as they can be made.

    - Local by truth: the best `share` by one run, judged by the others, so that no seed's luck both
      chooses and judges. All runs that have every architecture choose in turn, as which of them
      chooses decides much; where fewer than two have every architecture, the run that has most
      chooses, and it needs a second run for those chosen. It takes two runs to be made and three to
      be judged, as whoever chooses is no judge and one run alone has no reliability.
    - Local by prediction: the best `share` by the proxy of a supernet, which should not be the one
      that is judged; several choose in turn.
    - Local by search: the best of what a search scored.

    Where some architectures have more runs than others, all but the set by truth are judged by the
    runs that all have (see `TruthTable.even`).

    Args:
        truth: the truth of the architectures that have a proxy score.
        share: the share of the architectures, in (0, 1], that a local set has.
        prediction: proxy scores that choose, by the name of the supernet.
        own_prediction: whether these are of the weights that are judged.
        history: proxy scores of all that a search scored.
        whole: whether the truth has all architectures of its space.

    Raises:
        ValueError: if `share` is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(
            f"share of the architectures in a local set must be in (0, 1], got {share}"
        )
    even = truth.even
    everything = FrozenSet("global", truth.archs)
    yield RankSet(everything, f"all {len(truth):,} architectures that have a truth", even, whole)
    count = max(SMALLEST, math.ceil(share * len(truth)))
    if count < len(truth):
        yield from _by_truth(truth, count, whole)
        if prediction:
            yield from _by_prediction(even, count, prediction, own_prediction, whole)
    if history is not None:
        scores = {arch: history[arch] for arch in truth.archs if arch in history}
        why = f"the best of {len(history):,} that the search scored, as far as they have a truth"
        yield from _best(even, "local by search", why, scores, count, False)


def _by_truth(truth: TruthTable, count: int, whole: bool) -> Iterator[RankSet]:
    """The set that the runs with every architecture choose in turn, or the run that has most."""
    name, even = "local by truth", truth.even
    if len(even.runs) > 1 and even.complete.all():
        turns = []
        for run, chooser in enumerate(even.runs):
            chosen = FrozenSet.top(name, even.archs, even.fitness_NR[:, run].tolist(), count)
            turns.append(_turn(even.without_run(run), chosen, chooser, whole))
        why = f"the {count} best by each run in turn, judged by the others"
        yield _in_turn(even, name, why, turns, whole)
        return
    has_NR = ~np.isnan(truth.scores_NR)
    run = int(has_NR.sum(axis=0).argmax())
    rows = np.flatnonzero(has_NR[:, run])
    archs = [truth.archs[i] for i in rows]
    if len(truth.runs) < 2 or len(archs) < count:
        return
    chosen = FrozenSet.top(name, archs, truth.fitness_NR[rows, run].tolist(), count)
    rest = truth.without_run(run)
    if set(chosen.archs) <= set(rest.archs):
        why = (
            f"the {count} best by {truth.runs[run]}, which does not judge them; no other run has "
            "every architecture, so that none can choose in its turn"
        )
        yield _turn(rest, chosen, why, whole)


def _by_prediction(
    truth: TruthTable,
    count: int,
    prediction: Mapping[str, Mapping[Arch, float]],
    own_prediction: bool,
    whole: bool,
) -> Iterator[RankSet]:
    """The set that supernets choose in turn."""
    name = "local by prediction"
    why = f"the {count} best by the proxy score of a reference supernet"
    if own_prediction:
        why = (
            f"the {count} best by this supernet's own proxy score, to see how it orders these, and "
            "not to compare it with another supernet: the choice favours it"
        )
    turns: list[RankSet] = []
    for chooser, scores_of in prediction.items():
        scores = {arch: scores_of[arch] for arch in truth.archs if arch in scores_of}
        says = why if len(prediction) == 1 else chooser
        turns += _best(truth, name, says, scores, count, whole)
    if len(turns) < 2:
        yield from turns
        return
    why = f"the {count} best by the proxy score of each of {len(turns)} reference supernets in turn"
    yield _in_turn(truth, name, why, turns, whole)


def _turn(truth: TruthTable, chosen: FrozenSet, why: str, whole: bool) -> RankSet:
    """The architectures that one chooser chose, judged by the runs of a table."""
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    return RankSet(chosen, why, truth.subset(row_of[arch] for arch in chosen.archs), whole)


def _in_turn(
    truth: TruthTable, name: str, why: str, turns: Sequence[RankSet], whole: bool
) -> RankSet:
    """A set of which several chose in turn."""
    chosen = {arch for turn in turns for arch in turn.chosen.archs}
    rows = [i for i, arch in enumerate(truth.archs) if arch in chosen]
    union = truth.subset(rows)
    return RankSet(FrozenSet(name, union.archs), why, union, whole, tuple(turns))


def _best(
    truth: TruthTable,
    name: str,
    why: str,
    scores: Mapping[Arch, float],
    count: int,
    whole: bool,
) -> Iterator[RankSet]:
    if min(count, len(scores)) < SMALLEST:
        return
    archs = list(scores)
    chosen = FrozenSet.top(name, archs, [scores[a] for a in archs], min(count, len(archs)))
    yield _turn(truth, chosen, why, whole)


def turns_of(ranked: RankSet) -> tuple[Turn, ...]:
    """The turns of a set as rows of its table and columns of its runs."""
    row_of = {arch: i for i, arch in enumerate(ranked.truth.archs)}
    runs = ranked.truth.runs
    return tuple(
        Turn(
            np.array([row_of[arch] for arch in turn.chosen.archs]),
            np.array([run in turn.truth.runs for run in runs]),
            runs.index(turn.why) if turn.why in {*runs} - {*turn.truth.runs} else None,
        )
        for turn in ranked.turns
    )
