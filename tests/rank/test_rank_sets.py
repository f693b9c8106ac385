"""Sets of architectures, and all statistics of one, against scipy and by hand."""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import (
    TruthTable,
    bootstrap,
    kendall,
    pearson,
    rank_set,
    rank_sets,
    regret,
    sparse_tau,
    weighted_tau,
)
from manyshot.rank.sentences import verdict
from manyshot.run_folder import Statistic

NAN = math.nan


def made(n, runs=3, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    own_N = rng.uniform(0.3, 0.9, n)
    scores_NR = np.clip(own_N[:, None] + noise * rng.standard_normal((n, runs)), 0, 1)
    return TruthTable(
        "made",
        tuple((i // 10, i % 10) for i in range(n)),
        tuple(f"seed {i}" for i in range(runs)),
        scores_NR,
    )


def sets(truth, **kwargs):
    return {own.chosen.name: own for own in rank_sets(truth, **kwargs)}


def scores_of(truth, column_N):
    return dict(zip(truth.archs, np.asarray(column_N, float).tolist(), strict=True))


class TestSets:
    def test_every_run_chooses_in_its_turn_and_the_others_judge(self):
        truth = made(60)
        local = sets(truth)["local by truth"]
        assert [turn.why for turn in local.turns] == list(truth.runs)
        for run, turn in enumerate(local.turns):
            best = np.argsort(-truth.scores_NR[:, run])[:6]
            others = [i for i in range(3) if i != run]
            assert turn.chosen.archs == tuple(truth.archs[i] for i in best)
            assert turn.truth.runs == tuple(truth.runs[i] for i in others)
            np.testing.assert_array_equal(
                turn.truth.scores_NR, truth.scores_NR[np.ix_(best, others)]
            )
        assert set(local.chosen.archs) == {a for turn in local.turns for a in turn.chosen.archs}

    def test_one_run_cannot_choose_and_rank_set(self):
        assert list(sets(made(60, runs=1))) == ["global"]

    def test_two_more_seeds_for_the_top_are_enough(self):
        truth = made(60)
        best = np.argsort(-truth.scores_NR[:, 0])[:6]
        rest = np.setdiff1d(np.arange(60), best)
        truth.scores_NR[rest, 1:] = NAN
        local = sets(truth)["local by truth"]
        assert set(local.chosen.archs) == {truth.archs[i] for i in best}
        truth.scores_NR[best[0], 1:] = NAN
        assert "local by truth" not in sets(truth)

    def test_local_by_prediction(self):
        truth = made(60)
        proxy_N = np.random.default_rng(3).random(60)
        local = sets(truth, prediction={"a": scores_of(truth, proxy_N)})["local by prediction"]
        assert local.chosen.archs == tuple(truth.archs[i] for i in np.argsort(-proxy_N)[:6])
        assert "favours" in local.why
        np.testing.assert_array_equal(
            local.truth.scores_NR, truth.scores_NR[np.argsort(-proxy_N)[:6]]
        )
        two = {"a": scores_of(truth, proxy_N), "b": scores_of(truth, -proxy_N)}
        reference = sets(truth, prediction={"a": two["a"]}, own_prediction=False)
        assert "reference" in reference["local by prediction"].why
        both = sets(truth, prediction=two, own_prediction=False)["local by prediction"]
        assert [turn.why for turn in both.turns] == ["a", "b"]
        worst = tuple(truth.archs[i] for i in np.argsort(proxy_N)[:6])
        assert both.turns[0].chosen.archs == local.chosen.archs
        assert both.turns[1].chosen.archs == worst and both.turns[1].truth.runs == truth.runs

    def test_local_by_search_has_what_is_in_the_truth(self):
        truth = made(60)
        history = {truth.archs[i]: float(i) for i in range(20)} | {(99, 99): 100.0}
        local = sets(truth, history=history)["local by search"]
        assert local.chosen.archs == tuple(truth.archs[i] for i in range(19, 13, -1))
        few = {truth.archs[i]: float(i) for i in range(4)}
        assert "local by search" not in sets(truth, history=few)

    def test_share(self):
        turns = sets(made(60), share=0.5)["local by truth"].turns
        assert [len(turn.truth) for turn in turns] == [30, 30, 30]
        with pytest.raises(ValueError, match=r"\(0, 1\], got 0"):
            sets(made(60), share=0)


@pytest.fixture(scope="module")
def truth():
    return made(40, noise=0.1)


@pytest.fixture(scope="module")
def proxy_N(truth):
    rng = np.random.default_rng(5)
    return np.round(truth.scores_N + 0.1 * rng.standard_normal(40), 2)  # with ties


@pytest.fixture(scope="module")
def record(truth, proxy_N):
    [everything] = [own for own in rank_sets(truth) if own.chosen.name == "global"]
    macs = scores_of(truth, np.arange(40))
    return rank_set(everything, {"proxy": scores_of(truth, proxy_N), "macs": macs})


class TestStatistics:
    def test_correlations_are_scipys(self, truth, proxy_N, record):
        found, true_N = record.predictors["proxy"], truth.scores_N
        assert len(np.unique(proxy_N)) < 40
        for name, function in (
            ("kendall", stats.kendalltau),
            ("spearman", stats.spearmanr),
            ("pearson", stats.pearsonr),
        ):
            assert getattr(found, name).value == pytest.approx(function(proxy_N, true_N).statistic)
            assert getattr(found, name).low < getattr(found, name).value < getattr(found, name).high
            assert getattr(found, name).interval == "BCa"
        assert found.clear_pairs.interval is None

    def test_regret_and_ranks_by_hand(self, truth, proxy_N, record):
        found, true_N = record.predictors["proxy"], truth.scores_N
        picked = true_N[proxy_N == proxy_N.max()]
        assert found.regret.value == pytest.approx((true_N.max() - picked).mean())
        assert list(found.best_rank) == ["1", "4", "5", "10"]
        order = np.lexsort((true_N, -proxy_N))
        expected = 1 + np.count_nonzero(true_N > true_N[order[:5]].max())
        assert found.best_rank["5"] == expected
        assert set(found.overlap) == {"4", "5", "10"}

    def test_beats_is_the_difference_of_taus(self, record):
        own, macs = (record.predictors[name] for name in ("proxy", "macs"))
        expected = own.kendall.value - macs.kendall.value
        assert own.beats.value == pytest.approx(expected)
        assert own.beats.low > 0 and macs.beats is None

    def test_beats_has_the_interval_of_differences_on_the_same_draws(self, truth, proxy_N, record):
        def difference(proxy_N, macs_N, truth_N):
            return kendall(proxy_N, truth_N) - kendall(macs_N, truth_N)

        columns = proxy_N, np.arange(40), truth.scores_N
        expected = bootstrap(difference, *columns, seed=0, draws=500)
        found = record.predictors["proxy"].beats
        assert (found.low, found.high) == (expected.low, expected.high)
        assert found.interval == expected.method == "BCa"

    def test_weighted_and_sparse_taus_are_scipys(self, truth, proxy_N, record):
        own, true_N = record.predictors["proxy"], truth.scores_N
        assert own.weighted.value == pytest.approx(stats.weightedtau(proxy_N, true_N).statistic)
        rounded = [float(f"{value:.3f}") for value in true_N]
        assert own.sparse.value == pytest.approx(stats.kendalltau(proxy_N, rounded).statistic)
        assert sparse_tau([1, 2, 3], [0.1, 0.2, 0.3], 10) is None
        assert weighted_tau([1, 1], [1, 2]) is None
        with pytest.raises(ValueError, match="resolution must be"):
            sparse_tau([1, 2], [1, 2], 0)

    def test_regret_has_the_interval_of_its_truths_runs(self, truth, proxy_N, record):
        """Of a truth of three runs the six pairs that two draws can make, one and one twice."""
        pairs = list(itertools.product(range(3), repeat=2))
        regrets = [regret(proxy_N, truth.scores_NR[:, list(two)].mean(axis=1)) for two in pairs]
        reach = stats.t.ppf(0.975, 2) * np.std(regrets)
        found = record.predictors["proxy"].regret
        assert found.interval == "runs"
        assert found.high == pytest.approx(found.value + reach, rel=0.1)
        assert found.low == pytest.approx(max(0, found.value - reach), rel=0.1)

    def test_no_architecture_of_a_whole_space_is_resampled(self, truth, proxy_N):
        predictors = {"proxy": scores_of(truth, proxy_N), "macs": scores_of(truth, np.arange(40))}
        ranked = sets(truth, whole=True)["global"]
        found = rank_set(ranked, predictors)
        own = found.predictors["proxy"]
        pairs = list(itertools.product(range(3), repeat=2))
        truths = [truth.scores_NR[:, list(two)].mean(axis=1) for two in pairs]
        taus, others = (
            np.array([stats.kendalltau(column_N, t).statistic for t in truths])
            for column_N in (proxy_N, np.arange(40))
        )
        for statistic, values in ((own.kendall, taus), (own.beats, taus - others)):
            reach = stats.t.ppf(0.975, 2) * np.std(values)
            assert statistic.interval == "runs"
            assert statistic.high - statistic.value == pytest.approx(reach, rel=0.1)
        assert own.spearman.low is None and found.whole
        one = rank_set(sets(made(40, runs=1), whole=True)["global"], predictors)
        assert one.predictors["proxy"].kendall.low is one.predictors["proxy"].regret.low is None
        assert "too few" not in verdict(one)

    def test_beats_is_said(self, record):
        assert "better than counting MACs" in verdict(record)

    def test_about_the_set(self, truth, record):
        assert record.architectures == 40 and record.judged_by == truth.runs
        taus = [
            stats.kendalltau(truth.scores_NR[:, i], truth.scores_NR[:, j]).statistic
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        assert record.run_to_run == pytest.approx(np.mean(taus))
        assert record.null_sd == pytest.approx(math.sqrt(2 * 85 / (9 * 40 * 39)))
        assert f"tau {np.mean(taus):.2f}" in verdict(record)

    def test_a_constant_proxy_is_undefined(self, truth):
        [everything, *_] = rank_sets(truth)
        record = rank_set(everything, {"proxy": scores_of(truth, np.ones(40))})
        own = record.predictors["proxy"]
        undefined = Statistic(value=None, low=None, high=None)
        assert own.kendall == own.spearman == own.pearson == undefined
        assert "interval" not in own.kendall.plain()
        assert own.regret.value == pytest.approx(truth.scores_N.max() - truth.scores_N.mean())
        assert "undefined" in verdict(record)

    def test_worse_and_not_distinguishable(self, truth):
        [everything, *_] = rank_sets(truth)
        good, noise = truth.scores_N, np.random.default_rng(0).random(40)
        for own, macs, said in (
            (noise, good, "worse than counting MACs"),
            (good, good + 1e-9 * noise, "not distinguishable from counting MACs"),
        ):
            record = rank_set(
                everything, {"proxy": scores_of(truth, own), "macs": scores_of(truth, macs)}
            )
            assert said in verdict(record)

    def test_one_architecture_has_no_tau(self):
        truth = made(1)
        [everything] = rank_sets(truth)
        record = rank_set(everything, {"proxy": scores_of(truth, [0.5])})
        assert record.null_sd is None and record.run_to_run is None
        assert record.predictors["proxy"].kendall.value is None
        assert record.predictors["proxy"].regret.value == 0


def test_intervals_end_where_values_do():
    """Of five architectures Student's interval of a tau would go far beyond 1."""
    truth = made(14, noise=0.2)
    predictors = {
        name: scores_of(truth, np.arange(14) ** k) for name, k in (("proxy", 1), ("macs", 2))
    }
    predictors["proxy"] = scores_of(truth, truth.scores_NR[:, 0])
    ends = []
    for own in (sets(truth)["local by truth"], sets(truth, whole=True)["global"]):
        for of in rank_set(own, predictors).predictors.values():
            for statistic, most in ((of.kendall, 1), (of.beats, 2), (of.beats_free, 2)):
                if statistic is not None and statistic.low is not None:
                    assert -most <= statistic.low <= statistic.value <= statistic.high <= most
                    ends += [abs(statistic.low) / most, abs(statistic.high) / most]
    assert 1 in ends


def test_unequal_runs_judge_the_top_alone():
    """The best by seed 0 have two more runs; elsewhere their mean would be less lucky."""
    truth = made(60)
    best = np.argsort(-truth.scores_NR[:, 0])[:6]
    truth.scores_NR[np.setdiff1d(np.arange(60), best), 1:] = NAN
    found = sets(
        truth,
        prediction={"a": scores_of(truth, np.arange(60))},
        history=scores_of(truth, best_first(60)),
    )
    for name, own in found.items():
        expected = ("seed 1", "seed 2") if name == "local by truth" else ("seed 0",)
        assert own.truth.runs == expected, name
    np.testing.assert_array_equal(found["global"].truth.scores_N, truth.scores_NR[:, 0])


def best_first(n):
    return np.arange(n, 0, -1)


def test_an_architecture_without_the_choosing_run_is_not_chosen():
    truth = made(60)
    best = int(np.argmax(truth.scores_NR[:, 1]))
    truth.scores_NR[best, 1] = NAN
    truth.scores_NR[:3, 0], truth.scores_NR[:2, 2] = NAN, NAN
    local = sets(truth)["local by truth"]
    assert "seed 1" in local.why and truth.archs[best] not in local.chosen.archs
    assert local.truth.runs == ("seed 0", "seed 2")


def test_what_the_verdict_says_without_a_ceiling():
    truth = made(60, runs=2)
    local = sets(truth)["local by truth"]
    record = rank_set(local, {"proxy": scores_of(truth, np.arange(60))})
    assert "only one run judges them" in verdict(record)
    truth.scores_NR[:] = 0.5
    record = rank_set(sets(truth)["global"], {"proxy": scores_of(truth, np.arange(60))})
    assert "how well two training runs agree is undefined" in verdict(record)


class TestTooFewToTell:
    """That an order is no random one is said only where it could be told."""

    def ranked(self, n, noise, seed=0):
        truth = made(n, noise=0.0)
        proxy_N = truth.scores_N + noise * np.random.default_rng(seed).standard_normal(n)
        return rank_set(sets(truth)["global"], {"proxy": scores_of(truth, proxy_N)})

    @pytest.mark.parametrize("n", [2, 3])
    def test_the_same_order_of_two_or_three_may_be_chance(self, n):
        """By chance it comes once in two, or in six, and every draw repeats it."""
        record = self.ranked(n, 0.0)
        assert record.predictors["proxy"].kendall.value == pytest.approx(1)
        assert f"these {n} architectures are too few to tell" in verdict(record)

    def test_an_interval_that_holds_0(self):
        record = self.ranked(12, 0.4)
        own = record.predictors["proxy"].kendall
        assert own.low < 0 < own.value < own.high
        said = verdict(record)
        assert said.startswith("these 12 architectures are too few to tell the proxy's order from ")
        assert f"(tau {own.value:.2f}, 95 % interval {own.low:.2f} to {own.high:.2f})" in said
        [needed] = re.findall(r"about ([\d,]+) would be needed", said)
        needed = int(needed.replace(",", ""))
        shrunk = math.sqrt(12 / needed)  # as the width of an interval does
        assert needed > 12 and own.value - shrunk * (own.value - own.low) >= 0
        assert own.value > 2 * math.sqrt(2 * (2 * needed + 5) / (9 * needed * (needed - 1)))

    def test_enough_are_not_too_few(self):
        record = self.ranked(60, 0.1)
        assert record.predictors["proxy"].kendall.low > 0.2
        assert verdict(record).startswith("the proxy orders these 60 architectures with tau ")
        assert "too few" not in verdict(record)

    def test_a_tau_of_0_has_no_number_that_would_be_enough(self):
        truth = TruthTable(
            "made", ((0,), (1,), (2,), (3,)), ("seed 0",), np.arange(4.0)[:, None] / 4
        )
        record = rank_set(sets(truth)["global"], {"proxy": scores_of(truth, [2, 1, 3, 0][::-1])})
        zero = record.predictors["proxy"].kendall.model_copy(update={"value": 0.0})
        statistics = record.predictors["proxy"].model_copy(update={"kendall": zero})
        said = verdict(record.model_copy(update={"predictors": {"proxy": statistics}}))
        assert "too few" in said and "would be needed" not in said


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_pearson_does_not_under_or_overflow(scale):
    rng = np.random.default_rng(0)
    x_N, y_N = rng.random((2, 30))
    assert pearson(scale * x_N, y_N) == pytest.approx(np.corrcoef(x_N, y_N)[0, 1])
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert pearson([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    nearly_constant = [1, 1, 1 + 5e-14]  # with digits of 2e-16
    assert pearson(nearly_constant, [1, 2, 4]) == pytest.approx(5 / 28**0.5, abs=0.02)
    assert pearson([1, 1], [1, 2]) is None and pearson([1], [1]) is None


class TestTurns:
    """A set of which several choose in turn, against means of scipy's statistics."""

    @pytest.fixture(scope="class")
    @classmethod
    def chosen(cls):
        truth = made(60, runs=4, noise=0.08)
        rng = np.random.default_rng(9)
        proxies = {
            "proxy": truth.scores_N + 0.05 * rng.standard_normal(60),
            "macs": truth.scores_N + 0.3 * rng.standard_normal(60),
        }
        return truth, proxies

    def record(self, truth, proxies):
        own = {name: scores_of(truth, column_N) for name, column_N in proxies.items()}
        return rank_set(sets(truth, share=0.25)["local by truth"], own)

    def by_hand(self, truth, column_N, runs=(0, 1, 2, 3)):
        taus = []
        for run in runs:
            best = np.argsort(-truth.scores_NR[:, run])[:15]
            judge = truth.scores_NR[:, [i for i in runs if i != run]].mean(axis=1)
            taus.append(stats.kendalltau(column_N[best], judge[best]).statistic)
        return np.mean(taus)

    def test_values_are_means_over_choosers(self, chosen):
        truth, proxies = chosen
        record = self.record(truth, proxies)
        assert record.architectures == 15 and len(record.turns) == 4
        assert [turn.by for turn in record.turns] == list(truth.runs)
        for name, column_N in proxies.items():
            found = record.predictors[name].kendall
            assert found.value == pytest.approx(self.by_hand(truth, column_N))
            assert found.low < found.value < found.high and found.interval == "crossed"
        gain = record.predictors["proxy"].beats
        taus = [record.predictors[name].kendall.value for name in ("proxy", "macs")]
        assert gain.value == pytest.approx(taus[0] - taus[1]) and gain.interval == "crossed"
        lost = []
        for run in range(4):
            best = np.argsort(-truth.scores_NR[:, run])[:15]
            judge = np.delete(truth.scores_NR, run, axis=1).mean(axis=1)[best]
            lost.append(judge.max() - judge[np.argmax(proxies["proxy"][best])])
        assert record.predictors["proxy"].regret.value == pytest.approx(np.mean(lost))

    def test_supernets_that_choose_in_turn_are_judged_by_all_runs(self, chosen):
        truth, proxies = chosen
        others = {"a": -proxies["macs"], "b": truth.scores_N + np.sin(np.arange(60.0))}
        prediction = {name: scores_of(truth, column_N) for name, column_N in others.items()}
        ranked = sets(truth, prediction=prediction, own_prediction=False)["local by prediction"]
        own = {name: scores_of(truth, column_N) for name, column_N in proxies.items()}
        tau = rank_set(ranked, own).predictors["proxy"].kendall
        best = [np.argsort(-column_N)[:6] for column_N in others.values()]
        taus = [stats.kendalltau(proxies["proxy"][b], truth.scores_N[b]).statistic for b in best]
        assert tau.value == pytest.approx(np.mean(taus))
        assert tau.low < tau.value < tau.high and tau.interval == "crossed"

    def test_it_does_not_matter_which_run_is_first(self, chosen):
        truth, proxies = chosen
        other = dataclasses.replace(
            truth, runs=truth.runs[::-1], scores_NR=truth.scores_NR[:, ::-1].copy()
        )
        one, two = (self.record(own, proxies).predictors["proxy"] for own in (truth, other))
        assert one.kendall.value == pytest.approx(two.kendall.value)
        assert one.regret.value == pytest.approx(two.regret.value)

    def test_the_reliability_is_by_mean_variances(self, chosen):
        truth, proxies = chosen
        record = self.record(truth, proxies)
        betweens, withins = [], []
        for run in range(4):
            best = np.argsort(-truth.scores_NR[:, run])[:15]
            block = np.delete(truth.scores_NR, run, axis=1)[best]
            rows, columns = block.mean(1, keepdims=True), block.mean(0, keepdims=True)
            rest = ((block - rows - columns + block.mean()) ** 2).sum() / (14 * 2)
            between = (3 * ((rows - block.mean()) ** 2).sum() / 14 - rest) / 3
            betweens.append(between)
            withins.append(rest)
        expected = np.mean(betweens) / (np.mean(betweens) + np.mean(withins) / 3)
        assert record.reliability.mean.value == pytest.approx(max(0, expected))
        assert record.reliability.runs == pytest.approx(3)
