"""By how much an order is better after the weights moved: against explicit resamples, coverage."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from manyshot import show
from manyshot.rank.moved import AFTER, BEFORE, gain
from manyshot.rank.resampling import JudgedSet
from manyshot.report.rank import moved_sections
from manyshot.run_folder import MovedRanking, MovedSet, Reliability, Statistic
from manyshot.tables import rank as tables


def judged(rng, n, runs, gains=(0.5, 0.5), noise=0.3, whole=False):
    worth_N = rng.normal(size=n)
    truth_NR = worth_N[:, None] + rng.normal(0, noise, (n, runs))
    scores = {
        moment: worth_N + rng.normal(0, sd, n)
        for moment, sd in zip((BEFORE, AFTER), gains, strict=True)
    }
    return JudgedSet(truth_NR, scores, whole)


def test_the_interval_by_architectures_is_that_of_explicit_resamples():
    """400 resamples by scipy, one run of the truth: within the noise of either bootstrap."""
    rng = np.random.default_rng(0)
    one = judged(rng, 40, 1, gains=(1.0, 0.5))
    found = gain(one)

    def tau(moment, rows):
        return stats.kendalltau(one.scores[moment][rows], one.truth_NR[rows, 0]).statistic

    every = np.arange(40)
    assert found.value == pytest.approx(tau(AFTER, every) - tau(BEFORE, every))
    drawn = [rng.integers(40, size=40) for _ in range(400)]
    sd = np.std([tau(AFTER, rows) - tau(BEFORE, rows) for rows in drawn], ddof=1)
    half = (found.high - found.low) / 2
    assert half == pytest.approx(stats.t.ppf(0.975, 39) * sd, rel=0.15)
    assert found.interval == "crossed"


def test_intervals_cover_a_gain_of_zero():
    """Both as noisy, 30 architectures, 3 runs: 60 problems, 95 % give or take 3.5 sd (9.8 %)."""
    rng = np.random.default_rng(1)
    found = [gain(judged(rng, 30, 3), draws=200) for _ in range(60)]
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.85 <= covered <= 1


def test_a_large_gain_is_told():
    found = gain(judged(np.random.default_rng(2), 60, 3, gains=(5.0, 0.1)))
    assert found.low > 0


def test_of_a_whole_space_only_runs_are_drawn():
    """Without several runs there is nothing to draw, and no interval."""
    rng = np.random.default_rng(3)
    one = gain(judged(rng, 30, 1, whole=True))
    assert one.value is not None
    assert one.low is None
    some = gain(judged(rng, 30, 4, whole=True))
    assert some.low < some.value < some.high


def test_a_constant_score_has_no_gain():
    own = judged(np.random.default_rng(4), 10, 2)
    found = gain(JudgedSet(own.truth_NR, {**own.scores, AFTER: np.ones(10)}))
    assert (found.value, found.low) == (None, None)


def moved(reliable, low, high):
    """A record of one set."""
    unknown = dict.fromkeys(("one_run", "between", "within", "needed", "ceiling"))
    mean = Statistic(value=None if reliable == "old" else reliable, low=None, high=None)
    own = MovedSet(
        name="global",
        why="all",
        architectures=9,
        before=0.1,
        after=0.3,
        gain=Statistic(value=0.0 if low is None else (low + high) / 2, low=low, high=high),
        reliability=None if reliable == "old" else Reliability(mean=mean, runs=3.0, **unknown),
    )
    return MovedRanking.model_construct(sets=(own,), absent={}, truth=SimpleNamespace(name="t"))


@pytest.mark.parametrize(
    ("reliable", "low", "high", "said", "words"),
    [
        (0.5, 0.1, 0.3, "cannot judge", "this set cannot judge"),
        (0.5, -0.3, -0.1, "cannot judge", "this set cannot judge"),
        (0.9, 0.1, 0.3, "better after", "this set can judge"),
        (0.9, -0.3, -0.1, "worse after", "this set can judge"),
        (0.9, -0.1, 0.1, "not distinguishable", "this set can judge"),
        (None, 0.1, 0.3, "not known", "too few scores differ"),
        (0.5, None, None, "not known", "this set cannot judge"),
        ("old", 0.1, 0.3, "not known", "rank the run again"),
    ],
)
def test_a_set_that_cannot_judge_says_of_no_weights_that_they_are_better(
    reliable, low, high, said, words
):
    record = moved(reliable, low, high)
    table = tables.moved(record)
    assert table.rows[0]["Verdict"] == said
    assert words in table.note
    [section] = moved_sections(record)
    assert table in section.parts
    rankings = [SimpleNamespace(sets=(), moment=moment) for moment in (BEFORE, AFTER)]
    shown, *_ = show.moved_tables(*rankings, record, Path("page.html"))
    assert [str(cell) for cell in shown.columns[-1].cells] == [said]


def test_an_interval_of_a_gain_ends_at_two_and_the_table_says_so():
    """Two runs of which one reverses the other: Student's quantile of one degree is 12.7."""
    x = np.arange(6.0)
    truth_NR = np.stack([x, -2 * x], axis=1)
    found = gain(JudgedSet(truth_NR, {BEFORE: x, AFTER: -x}, whole=True))
    assert (found.value, found.low, found.high, found.cut) == (2, -2, 2, True)
    record = moved(0.9, 0.1, 0.3)
    assert "cut there" not in tables.moved(record).note
    own = record.sets[0].model_copy(update={"gain": found})
    assert "cut there" in tables.moved(record.model_copy(update={"sets": (own,)})).note
