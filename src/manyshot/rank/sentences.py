"""What a set's statistics say, in plain sentences."""

from __future__ import annotations

import math

from manyshot.rank.baselines import ordering_by
from manyshot.rank.correlation import null_sd
from manyshot.rank.like_cost import MOST_PAIRED
from manyshot.rank.reliability import judges, words
from manyshot.run_folder import RankedSet, Statistic


def verdict(ranked: RankedSet) -> str:
    """A set's record in plain sentences: whether it can judge, the proxy beside MACs, the ceiling.

    A set that cannot judge, or of which that is not known, says of no order that it is better.
    Where the 95 % interval of tau holds 0, or tau is within two standard deviations of unrelated
    orders, the architectures are too few to tell, and the sentence says how many would be needed.
    """
    n, tau, known = ranked.architectures, ranked.predictors["proxy"].kendall, ranked.reliability
    judged = known is None or judges(known) is True
    if tau.value is None:
        parts = ["tau of the proxy is undefined: its scores, or the truth, are all equal"]
    elif is_untold(ranked):
        beside = _beside_free(ranked, only_told=True) if judged else ""
        parts = [f"{_untold(tau, n)}{beside}"]
    else:
        said = f"the proxy orders these {n} architectures with tau {tau.value:.2f}"
        parts = [f"{said}{_beside_free(ranked) if judged else ''}"]
    like = _at_like_cost(ranked)
    if like is not None:
        parts.append(like)
    if known is not None:
        parts.insert(len(parts) if judged else 0, words(known))
        if known.ceiling is not None:
            bounds = ""
            if known.ceiling_bounds is not None:
                low, high = known.ceiling_bounds
                bounds = f" (95 % interval {low:.2f} to {high:.2f})"
            parts.append(
                "who knew what each is worth would order their mean with tau "
                f"{known.ceiling:.2f}{bounds}"
            )
    runs = ranked.run_to_run
    if runs is not None:
        parts.append(f"one training run orders another's with tau {runs:.2f}")
    elif {len(turn.judged_by) for turn in ranked.turns or (ranked,)} == {1}:
        parts.append("only one run judges them, so how well runs agree is unknown")
    else:
        parts.append("how well two training runs agree is undefined")
    return "; ".join(parts)


def is_untold(ranked: RankedSet) -> bool:
    """Whether a set has too few architectures to tell the proxy's order from a random one.

    Those of a whole space are no draw, and an interval by runs of the truth is no matter of theirs.
    """
    tau, n = ranked.predictors["proxy"].kendall, ranked.architectures
    if ranked.whole and tau.value is not None:
        return abs(tau.value) <= 2 * null_sd(n)
    if tau.value is None or tau.low is None or tau.high is None:
        return True
    return tau.low <= 0 <= tau.high or abs(tau.value) <= 2 * null_sd(n)


def _untold(tau: Statistic, n: int) -> str:
    """That `n` architectures are too few, and how many would be enough."""
    assert tau.value is not None
    bounds = ""
    if tau.low is not None and tau.high is not None:
        bounds = f", 95 % interval {tau.low:.2f} to {tau.high:.2f}"
    needed = _needed(tau, n)
    more = "" if needed is None else f"; for a tau of this size about {needed:,} would be needed"
    return (
        f"these {n} architectures are too few to tell the proxy's order from a random one (tau "
        f"{tau.value:.2f}{bounds}){more}"
    )


def _needed(tau: Statistic, n: int) -> int | None:
    """About how many architectures would tell a tau of this size from 0; None if it is 0.

    The interval shrinks with the root of their number, and so does `null_sd`.
    """
    if not tau.value:
        return None
    needed = max(2, math.ceil(16 / (9 * tau.value**2)))
    while 2 * null_sd(needed) >= abs(tau.value):
        needed += 1
    beyond = tau.low if tau.value > 0 else tau.high  # the end of the interval towards 0
    if beyond is not None:
        needed = max(needed, math.ceil(n * ((tau.value - beyond) / tau.value) ** 2))
    return max(needed, n + 1)


def _beside_free(ranked: RankedSet, *, only_told: bool = False) -> str:
    """Whether the proxy is told apart from the best free baseline; nothing if that is not known.

    Args:
        ranked: the record.
        only_told: whether to say nothing either where it is not.
    """
    proxy, best = ranked.predictors["proxy"], ranked.best_free or "macs"
    beats = proxy.beats_free or proxy.beats
    if beats is None or beats.low is None or beats.high is None:
        return ""
    said = "not distinguishable from"
    if beats.low > 0 or beats.high < 0:
        said = "better than" if beats.low > 0 else "worse than"
    elif only_told:
        return ""
    return f", {said} {ordering_by(best)} ({ranked.predictors[best].kendall.value:.2f})"


def _at_like_cost(ranked: RankedSet) -> str | None:
    """What is said of pairs of like cost; None if that is not known.

    They are judged by the reliability of the truth on these pairs, which is lower than that of all
    where the truth goes with cost.
    """
    like, pairs = ranked.predictors["proxy"].like_cost, ranked.like_cost_pairs
    known = ranked.like_cost_reliability
    if like is None or like.value is None or not pairs or known is None:
        return None
    said = f"among networks whose multiply-adds differ by 10 % at most its tau is {like.value:.2f}"
    if like.low is None or like.high is None:
        if ranked.architectures <= MOST_PAIRED:
            return None
        return (
            f"{said} ({pairs:,} pairs; of more than {MOST_PAIRED:,} networks without an interval)"
        )
    between = f"95 % interval {like.low:.2f} to {like.high:.2f}, {pairs:,} pairs"
    if judges(known) is not True:
        of = "unknown" if known.mean.value is None else f"{known.mean.value:.2f}"
        return (
            f"{said} ({between}), of which the truth cannot judge: its reliability on these pairs "
            f"is {of}"
        )
    if like.low <= 0:
        return f"{said} ({between}), so that it is not known to order more than costs"
    return f"{said} ({between})"
