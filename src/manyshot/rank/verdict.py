"""What the result of a run is worth, from its records alone.

Everything here is measured inside the run, from what is cheap: what guessing would score, the order
that two halves of the validation images give, the order by MACs, and networks that no search chose
(`manyshot.search.controls`), finished and tested as the winners are. Which of it is said, and from
where on, is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyshot.rank.correlation import jackknife, kendall, null_sd
from manyshot.rank.crossed import OF_TAUS, with_ends
from manyshot.run_folder import (
    ControlKind,
    ControlRecord,
    Difference,
    MetricRecord,
    ScoreLine,
    Statistic,
    TaskRecord,
    TestedRecord,
    VerdictRecord,
    WinnerRecord,
)

BARELY = 0.1
"""A best proxy score that gains less than so much of what guessing leaves is barely above it."""
FEWEST = 10
"""Fewer random networks, and nothing is said of their order."""
FEWEST_FINISHED = 6
"""Fewer finished networks, and nothing is said of theirs."""
CONFIDENCE = 0.95
BY_REWARD = (
    "Winners were chosen by a reward, of their scores and a cost, and are compared by scores alone."
)
AT_RANDOM = (
    "The search itself drew its networks at random: how far winners beat random networks is how "
    "well the supernet's scores chose among them."
)
KINDS: dict[ControlKind, str] = {
    "largest": "the largest networks within their budgets",
    "random": "random networks within their budgets",
    "scaled": "uniformly scaled networks",
}
"""What controls are called, of several budgets."""
Parts = Mapping[str, Sequence[float]]
"""For each architecture the metric on parts of the test images."""


def interval_of_test_score(
    score: float, images: int, metric: MetricRecord, parts: Sequence[float]
) -> tuple[float, float] | None:
    """The bounds of a 95 % interval of a test score, by the images that happen to be there.

    Of an accuracy Wilson's interval; of any other metric Student's, from the metric on parts of the
    images. None if there are no parts.

    Args:
        score: the metric on all images.
        images: how many they are.
        metric: what it is.
        parts: the metric on disjoint parts of equal size.

    Reference: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if metric.name == "accuracy" and metric.share:
        from scipy import stats  # slow to import

        test = stats.binomtest(round(score * images), images)
        bounds = test.proportion_ci(CONFIDENCE, method="wilson")
        return float(bounds.low), float(bounds.high)
    half = _half_width(np.asarray(parts, dtype=np.float64))
    return None if half is None else (score - half, score + half)


def _half_width(parts_P: npt.NDArray[np.float64]) -> float | None:
    """Half of Student's interval of a mean of parts; None of fewer than two, or if undefined."""
    if len(parts_P) < 2 or not np.isfinite(parts_P).all():
        return None
    from scipy import stats  # slow to import

    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, len(parts_P) - 1)
    return float(quantile * parts_P.std(ddof=1) / math.sqrt(len(parts_P)))


def difference(
    pairs: Sequence[tuple[TestedRecord, Sequence[TestedRecord]]], task: TaskRecord, parts: Parts
) -> Difference:
    """By how much winners are better than their controls, on average over budgets.

    Args:
        pairs: for each budget the winner and its controls, at least one.
        task: says the direction of the metric.
        parts: the metric on parts of the test images, of all that have some.
    """
    turn = task.metric.oriented
    gains, by_part = [], []
    for winner, controls in pairs:
        gains.append(
            turn(winner.test_score) - float(np.mean([turn(c.test_score) for c in controls]))
        )
        rows = [parts.get(network.arch, ()) for network in (winner, *controls)]
        if len({len(row) for row in rows}) == 1 and rows[0]:
            first, *others = np.asarray(rows, dtype=np.float64)
            by_part.append(first - np.mean(others, axis=0))
    value = float(np.mean(gains))
    half = None
    if len(by_part) == len(pairs) and len({len(row) for row in by_part}) == 1:
        half = _half_width(np.mean(by_part, axis=0))
    bounds = {} if half is None else {"low": value - half, "high": value + half}
    return Difference(value=value, budgets=len(pairs), **bounds)


def verdict(
    task: TaskRecord,
    winners: Sequence[WinnerRecord],
    controls: Sequence[ControlRecord],
    drawn: Sequence[ScoreLine],
    *,
    parts: Parts,
    chance: float | None,
    within: Mapping[str, Iterable[str]] | None,
    at_random: bool = False,
) -> VerdictRecord:
    """What a run says of its own result.

    Args:
        task: of the run.
        winners: one per budget.
        controls: of each budget those that there are.
        drawn: the records of networks drawn at random before the search learnt from scores.
        parts: the metric on parts of the test images, by architecture.
        chance: what guessing scores on the validation images; None if that is not known.
        within: for each budget the architectures among `drawn` that are within it; None if their
            scores are of other weights than the winners', or the search drew all it looked at.
        at_random: whether the search drew at random all that it looked at.
    """
    fitness = [task.fitness_of(line.proxy_score, line.proxy_loss) for line in drawn]
    measured = VerdictRecord.of(
        {
            "worth": "unknown",
            "words": (),
            "chance": chance,
            "best_proxy": _best(task, [*winners, *drawn]),
            "random_networks": len(drawn),
            **_order(drawn, fitness),
            **_finished(task, [*winners, *controls]),
            "improved": _improved(task, winners, drawn, within) if drawn and within else None,
            "controls": {
                kind: difference(pairs, task, parts).plain()
                for kind in KINDS
                if (pairs := _pairs(kind, winners, controls))
            },
        }
    )
    by_reward = any(winner.reward is not None for winner in winners)
    worth, words = _judged(measured, task, len(winners), by_reward=by_reward)
    if by_reward:
        words.append(BY_REWARD)
    if at_random and "random" in measured.controls:
        words.append(AT_RANDOM)
    return measured.model_copy(update={"worth": worth, "words": tuple(words)})


def _improved(
    task: TaskRecord,
    winners: Sequence[WinnerRecord],
    drawn: Sequence[ScoreLine],
    within: Mapping[str, Iterable[str]],
) -> int:
    """In how many budgets the winner ranks above all random networks within it."""
    fitness = {line.arch: line.fitness(task) for line in drawn}
    return sum(
        winner.fitness(task)
        > max((fitness[arch] for arch in within.get(winner.budget, ())), default=-math.inf)
        for winner in winners
    )


def _best(task: TaskRecord, networks: Iterable[TestedRecord | ScoreLine]) -> float | None:
    scores = [network.proxy_score for network in networks]
    return max(scores, key=task.metric.oriented, default=None)


def _order(drawn: Sequence[ScoreLine], fitness: Sequence[float]) -> dict[str, float | None]:
    """What the random networks say of the order by the supernet."""
    if len(drawn) < FEWEST:
        return {}
    found: dict[str, float | None] = {
        "macs_tau": kendall(fitness, [line.macs for line in drawn]),
        "params_tau": kendall(fitness, [line.params for line in drawn]),
        "spread": float(np.std(fitness, ddof=1)),
    }
    halves = _halves(drawn)
    if halves is not None:
        first_N, second_N = halves
        found["halves_tau"] = kendall(first_N, second_N)
        found["error"] = float(np.sqrt(np.mean((first_N - second_N) ** 2)) / 2)
    return found


def _halves(lines: Sequence[ScoreLine]) -> npt.NDArray[np.float64] | None:
    """(2, N): by what networks rank on each half of the images; None if that is not on record."""
    halves = [line.halves for line in lines if line.halves is not None]
    return np.asarray(halves).T if lines and len(halves) == len(lines) else None


def halves_tau(lines: Sequence[ScoreLine]) -> float | None:
    """How far two random halves of the validation images agree on the order of networks.

    None of fewer than `FEWEST`, or if it is undefined or not on record.
    """
    halves = None if len(lines) < FEWEST else _halves(lines)
    return None if halves is None else kendall(*halves)


def is_noise(tau: float | None, networks: int) -> bool:
    """Whether two halves agree on so many networks no more than chance would."""
    return tau is not None and tau < 2 * null_sd(networks)


def _finished(task: TaskRecord, networks: Sequence[TestedRecord]) -> dict[str, Any]:
    """How the finished networks order, by the supernet and by MACs."""
    distinct = list({network.arch: network for network in networks}.values())
    if len(distinct) < FEWEST_FINISHED:
        return {"finished": len(distinct)}
    tested = [task.metric.oriented(network.test_score) for network in distinct]
    proxies = [task.fitness_of(network.proxy_score, network.proxy_loss) for network in distinct]
    macs = [network.macs for network in distinct]
    gain = _gain(proxies, macs, tested)
    bounds = jackknife(_gain, proxies, macs, tested)
    ends = None if bounds is None else (bounds.low, bounds.high)
    beats = with_ends(gain, ends, OF_TAUS, "jackknife")
    return {
        "finished": len(distinct),
        "proxy_test_tau": kendall(proxies, tested),
        "macs_test_tau": kendall(macs, tested),
        "beats_macs": None if gain is None else beats.plain(),
    }


def _gain(mine: npt.ArrayLike, theirs: npt.ArrayLike, truth: npt.ArrayLike) -> float | None:
    """By how much Kendall's tau of one order is above that of another; None if undefined."""
    one, other = kendall(mine, truth), kendall(theirs, truth)
    return None if one is None or other is None else one - other


def _pairs(
    kind: ControlKind, winners: Sequence[WinnerRecord], controls: Sequence[ControlRecord]
) -> list[tuple[WinnerRecord, list[ControlRecord]]]:
    """Winners with their controls of a kind, of the budgets that have some."""
    pairs = (
        (winner, [c for c in controls if c.kind == kind and c.budget == winner.budget])
        for winner in winners
    )
    return [(winner, beside) for winner, beside in pairs if beside]


def _judged(
    measured: VerdictRecord, task: TaskRecord, budgets: int, *, by_reward: bool
) -> tuple[str, list[str]]:
    """The worth of a result, and sentences that say why."""
    against = [_against(kind, diff, task.metric) for kind, diff in measured.controls.items()]
    order = _words_on_order(measured, budgets, by_reward=by_reward)
    if said := _meaningless(measured, task.metric):
        return "nothing", [said, *against]
    if not measured.controls:
        words = "There were no controls, so nothing here says what the search was worth."
        return "unknown", [words, *order]
    beaten = [diff.low is not None and diff.low > 0 for diff in measured.controls.values()]
    return ("good" if all(beaten) else "doubtful"), [*against, *order]


def _meaningless(measured: VerdictRecord, metric: MetricRecord) -> str | None:
    """Why the order by the supernet means nothing, if it does not."""
    best, chance = measured.best_proxy, measured.chance
    if best is not None and chance is not None and metric.higher_is_better:
        skill = (best - chance) / (1.0 - chance) if chance < 1.0 else 0.0
        if skill < BARELY:
            return (
                f"The supernet is barely above guessing ({_score(best, metric)}, guessing gives "
                f"{_score(chance, metric)}), so its ranking means nothing: train longer "
                "(train.epochs), or look at the data."
            )
    tau, n = measured.halves_tau, measured.random_networks
    if tau is not None and is_noise(tau, n):
        return (
            f"Two halves of the validation images order {n} random networks no more alike than "
            f"chance would (τ {tau:.2f}), so the ranking is noise: train longer (train.epochs), or "
            "keep more images for validation (data.validation)."
        )
    return None


def _against(kind: ControlKind, diff: Difference, metric: MetricRecord) -> str:
    """One sentence on winners and one kind of controls."""
    unit = " points" if metric.share else f" of {metric.name}"
    scale = 100.0 if metric.share else 1.0
    size = f"{abs(diff.value) * scale:.2f}"
    if diff.low is None or diff.high is None:
        side = "ahead of" if diff.value > 0 else "behind"
        return f"Winners are {size}{unit} {side} {KINDS[kind]}, by how much chance is not known."
    size = f"{size} ± {(diff.high - diff.low) / 2 * scale:.2f}{unit}"
    if diff.low > 0:
        return f"Winners beat {KINDS[kind]} by {size}."
    if diff.high < 0:
        return f"Winners lose to {KINDS[kind]} by {size}."
    side = "ahead" if diff.value > 0 else "behind"
    if diff.value == 0:
        return f"Winners are level with {KINDS[kind]} (0 ± {size.partition(' ± ')[2]})."
    return f"Winners are not distinguishable from {KINDS[kind]} ({size} {side})."


def _words_on_order(measured: VerdictRecord, budgets: int, *, by_reward: bool) -> list[str]:
    """Sentences on how far the order by the supernet is to be trusted."""
    words = []
    proxy, macs, gain = measured.proxy_test_tau, measured.macs_test_tau, measured.beats_macs
    if proxy is not None and macs is not None and gain is not None:
        words.append(_beside_macs(measured.finished, proxy, macs, gain))
    if measured.improved is not None:
        did = "improved" if measured.improved or budgets > 1 else "did not improve"
        by = "its reward" if by_reward else "the supernet's own scores"
        within = f"in {measured.improved} of {budgets} budgets" if budgets > 1 else "in its budget"
        words.append(
            f"The search {did} on its {measured.random_networks} random networks {within}, by {by}."
        )
    return words


def _beside_macs(networks: int, proxy: float, macs: float, gain: Statistic) -> str:
    """Whether the supernet orders the finished networks better than MACs, as far as can be told."""
    said = f"τ {proxy:.2f} against {macs:.2f}"
    if gain.low is None or gain.high is None:
        return (
            f"Whether the supernet orders the {networks} finished networks better than counting "
            f"MACs cannot be told ({said})."
        )
    said = f"{said}; 95 % interval of the difference {gain.low:.2f} to {gain.high:.2f}"
    if gain.low <= 0 <= gain.high:
        return (
            f"The {networks} networks that were finished are too few to tell the supernet's order "
            f"from counting MACs ({said})."
        )
    side = "better" if gain.low > 0 else "worse"
    return (
        f"Of the {networks} networks that were finished, the supernet's order is {side} than "
        f"counting MACs ({said})."
    )


def _score(value: float, metric: MetricRecord) -> str:
    return f"{100 * value:.1f} %" if metric.share else f"{value:.4g}"
