"""Free baselines and pairs of like cost, by hand and by brute force."""

import importlib
import itertools
from typing import get_args

import numpy as np
import pytest

from manyshot.evaluate.zero_cost import NAMES
from manyshot.rank import TruthTable, rank_set, rank_sets
from manyshot.rank.baselines import COSTS, FREE
from manyshot.rank.like_cost import LikePairs
from manyshot.rank.sentences import verdict
from manyshot.run_folder import FreeBaseline, Statistic


@pytest.fixture(scope="module")
def made():
    """The truth goes with cost alone; the proxy is cost with a little noise."""
    rng = np.random.default_rng(0)
    macs_N = np.round(100 * np.exp(rng.uniform(0, 1, 60)))
    truth_NR = 0.3 + 0.001 * macs_N[:, None] + 0.002 * rng.standard_normal((60, 4))
    truth = TruthTable("made", tuple((i,) for i in range(60)), tuple("abcd"), truth_NR)
    columns = {
        "proxy": macs_N + rng.standard_normal(60),
        "macs": macs_N,
        "params": truth_NR.mean(axis=1) + 0.05 * rng.standard_normal(60),
        "synflow": macs_N**2 + 1e-6 * truth_NR.mean(axis=1),
    }
    predictors = {
        name: dict(zip(truth.archs, map(float, column_N), strict=True))
        for name, column_N in columns.items()
    }
    [everything] = [own for own in rank_sets(truth) if own.chosen.name == "global"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("manyshot.rank.statistics"), "DRAWS", 20)
        return truth, columns, rank_set(everything, predictors)


def test_pairs_of_like_cost_are_counted_by_hand(made):
    truth, columns, record = made
    costs = columns["macs"].tolist()
    like = [
        (i, j)
        for i, j in itertools.combinations(range(60), 2)
        if max(costs[i], costs[j]) / min(costs[i], costs[j]) <= 1.1
    ]
    assert record.like_cost_pairs == len(like)
    mean_N = truth.scores_N
    for name, x_N in columns.items():
        signs = [(np.sign(x_N[i] - x_N[j]), np.sign(mean_N[i] - mean_N[j])) for i, j in like]
        above = sum(a * b for a, b in signs)
        below = np.sqrt(sum(abs(a) for a, _ in signs) * sum(abs(b) for _, b in signs))
        found = record.predictors[name].like_cost
        assert found.value == pytest.approx(above / below)
        assert found.low < found.value < found.high and found.interval == "crossed"


def test_pairs_of_like_cost_are_those_of_brute_force():
    """With networks of one cost, of none or less, and of costs that differ by the factor itself."""
    costs_N = np.array([3.0, 0, 1, 1.1, 1, 1.2, 0, 2.5, 1.1000001, 2.75, 3.3, -1, -1])
    like = {
        (i, j)
        for i, j in itertools.permutations(range(len(costs_N)), 2)
        if max(costs_N[i], costs_N[j]) <= 1.1 * min(costs_N[i], costs_N[j])
    }
    assert {(1, 6), (2, 4), (2, 3), (0, 10)} < like and (2, 8) not in like
    pairs = LikePairs(costs_N)
    assert 2 * len(pairs) == len(like)
    assert {tuple(pair) for pair in np.argwhere(pairs.matrix()).tolist()} == like
    assert {(i, j) for i in range(len(costs_N)) for j in pairs.of(i).tolist()} == like
    products = [costs_N[i] * j for i, j in like if i < j]
    assert pairs.mean(lambda i, others: costs_N[i] * others) == pytest.approx(np.mean(products))


def test_every_free_baseline_has_a_name_and_a_score():
    assert (*FREE,) == get_args(FreeBaseline) == (*COSTS, *NAMES)


def test_the_best_free_baseline_is_the_one_to_beat(made):
    _, _, record = made
    taus = {name: own.kendall.value for name, own in record.predictors.items()}
    best = max(("macs", "params", "synflow"), key=taus.get)
    assert record.best_free == best != "params"
    proxy = record.predictors["proxy"]
    assert proxy.beats_free.value == pytest.approx(taus["proxy"] - taus[best])
    assert proxy.beats_free.low is not None
    assert record.predictors["macs"].beats_free is None
    words = verdict(record)
    assert f"{record.like_cost_pairs:,} pairs" in words and "differ by 10 % at most" in words
    assert {"macs": "counting MACs", "synflow": "synflow"}[best] in words


def test_intervals_of_tau_stay_within_what_tau_can_be_and_say_so():
    """A whole space of two runs, of which one reverses the other."""
    x = np.arange(6.0)
    truth = TruthTable(
        "t", tuple((i,) for i in range(6)), ("a", "b"), np.stack([0.05 * x, 0.6 - 0.1 * x], 1)
    )
    columns = {"proxy": x, "macs": -x, "params": np.array([1.0, 3, 2, 5, 4, 6])}
    predictors = {
        name: dict(zip(truth.archs, map(float, c), strict=True)) for name, c in columns.items()
    }
    everything, *_ = rank_sets(truth, whole=True)
    record = rank_set(everything, predictors)
    tau, beats = record.predictors["proxy"].kendall, record.predictors["proxy"].beats
    assert (tau.value, tau.low, tau.high) == pytest.approx((-1, -1, 1))
    assert (beats.value, beats.low, beats.high) == pytest.approx((-2, -2, 2))
    assert tau.cut is beats.cut is True


@pytest.mark.parametrize(("reliable", "can"), [(0.79, False), (0.81, True), (None, False)])
def test_pairs_of_like_cost_are_judged_by_their_own_reliability(made, reliable, can):
    """That of all pairs is higher, as the truth goes with cost, and says nothing of these."""
    record = made[2]
    assert record.reliability.mean.value > record.like_cost_reliability.mean.value
    mean = Statistic(value=reliable, low=None, high=None)
    own = record.like_cost_reliability.model_copy(update={"mean": mean})
    words = verdict(record.model_copy(update={"like_cost_reliability": own}))
    assert ("of which the truth cannot judge" in words) is not can
    low = record.model_copy(
        update={"reliability": own, "like_cost_reliability": record.reliability}
    )
    assert "of which the truth cannot judge" not in verdict(low)
