"""What a run says of its result, on planted records."""

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import jackknife
from manyshot.rank.verdict import _gain, difference, interval_of_test_score, verdict
from manyshot.run_folder import (
    ACCURACY,
    ControlRecord,
    MetricRecord,
    ScoreLine,
    TaskRecord,
    WinnerRecord,
)

TASK = TaskRecord(name="classification", metric=ACCURACY, fitness="metric")
ERROR = MetricRecord(name="MAE", higher_is_better=False, share=False)
BUDGETS = ("macs<=10", "macs<=20", "macs<=30")


def network(kind, budget, arch, macs, proxy, test, **more):
    record = {
        "budget": budget, "arch": arch, "macs": macs, "params": macs, "latency_ms": 1.0,
        "proxy_score": proxy, "proxy_loss": 1 - proxy, "test_score": test, "test_loss": 1 - test,
        "test_metrics": {}, **more,
    }  # fmt: skip
    if kind == "winner":
        return WinnerRecord(**record, choices={}, files={})
    return ControlRecord(**record, kind=kind)


def line(arch, proxy, macs, halves=None):
    return ScoreLine(
        generation=0, role="candidate", arch=arch, proxy_score=proxy, proxy_loss=1 - proxy,
        macs=macs, params=macs, weights_version=0, calibration="c", validation_images=100,
        weights="w", images_forwarded=1, halves=halves,
    )  # fmt: skip


def drawn(n=20, *, noise=0.0, level=0.8, seed=0):
    """Random networks whose halves agree but for noise; MACs have nothing to do with it."""
    rng = np.random.default_rng(seed)
    values = level + 0.1 * rng.random(n)
    macs = rng.permutation(n) + 1
    return [
        line(f"{i}", float(v), int(m), tuple((v + noise * rng.standard_normal(2)).tolist()))
        for i, (v, m) in enumerate(zip(values, macs, strict=True))
    ]


def planted(gain, spread=0.01, kinds=("largest", "random"), seed=0):
    """Winners and controls; parts of the test images differ by `gain`, give or take `spread`."""
    rng = np.random.default_rng(seed)
    winners, controls, parts = [], [], {}
    for i, budget in enumerate(BUDGETS):
        base = 0.7 + 0.05 * i
        names = {kind: f"{i}-{k}" for k, kind in enumerate(("winner", *kinds))}
        for kind, arch in names.items():
            mean = base + (gain if kind == "winner" else 0.0)
            parts[arch] = (mean + spread * rng.standard_normal(20)).tolist()
            score = float(np.mean(parts[arch]))
            made = network(kind, budget, arch, 10 * (i + 1), score - 0.1, score)
            (winners if kind == "winner" else controls).append(made)
    return winners, controls, parts


def judged(gain, *, chance=0.1, lines=None, within=None, **options):
    winners, controls, parts = planted(gain, **options)
    lines = drawn() if lines is None else lines
    return verdict(TASK, winners, controls, lines, parts=parts, chance=chance, within=within)


def test_clear_winners_are_good():
    found = judged(0.05)
    assert found.worth == "good"
    assert found.words[0].startswith("Winners beat the largest networks within their budgets by 5")
    assert found.words[1].startswith("Winners beat random networks within their budgets by ")
    low, high = found.controls["largest"].low, found.controls["largest"].high
    assert low < found.controls["largest"].value < high and high - low < 0.02


def test_winners_that_are_no_better_are_doubtful():
    found = judged(0.0)
    assert found.worth == "doubtful"
    assert "not distinguishable from the largest networks" in found.words[0]
    lost = judged(-0.05)
    assert lost.worth == "doubtful" and lost.words[0].startswith("Winners lose to the largest")


def test_level_with_chance_the_ranking_means_nothing():
    found = judged(0.05, chance=0.72)  # the best proxy is 0.9 at most: 0.1 of the rest is 0.748
    assert found.worth == "good"
    found = judged(0.05, chance=0.9, lines=drawn(level=0.7))
    assert found.worth == "nothing"
    assert found.words[0].startswith("The supernet is barely above guessing (")
    assert "guessing gives 90.0 %" in found.words[0]
    assert judged(0.05, chance=None).worth == "good"


def test_halves_that_disagree_are_noise():
    found = judged(0.05, lines=drawn(noise=5.0))
    assert found.worth == "nothing" and "order 20 random networks no more alike" in found.words[0]
    halves = np.array([row.halves for row in drawn(noise=5.0)])
    assert found.halves_tau == pytest.approx(stats.kendalltau(*halves.T).statistic)
    assert found.error == pytest.approx(np.sqrt(((halves[:, 0] - halves[:, 1]) ** 2).mean()) / 2)
    assert judged(0.05, lines=drawn(noise=0.01)).worth == "good"


def test_few_random_networks_say_nothing():
    found = judged(0.05, lines=drawn(9, noise=5.0))
    assert found.worth == "good" and found.halves_tau is None and found.random_networks == 9


def test_orders_of_finished_networks_are_compared_with_macs():
    winners, controls, parts = planted(0.05)
    found = verdict(TASK, winners, controls, [], parts=parts, chance=None, within=None)
    networks = [*winners, *controls]
    tests = [n.test_score for n in networks]
    assert found.finished == 9 and found.proxy_test_tau == pytest.approx(1.0)  # planted so
    wanted = stats.kendalltau([n.macs for n in networks], tests).statistic
    assert found.macs_test_tau == pytest.approx(wanted)
    gain = found.beats_macs
    assert gain.value == pytest.approx(1 - wanted) and gain.low < gain.value < gain.high
    assert any("are too few to tell" in words for words in found.words) == (gain.low <= 0)
    turned = [n.model_copy(update={"macs": 100 - n.macs}) for n in networks]
    found = verdict(TASK, turned[:3], turned[3:], [], parts=parts, chance=None, within=None)
    assert any("is better than counting MACs (τ 1.00 against" in words for words in found.words)
    turned = [n.model_copy(update={"proxy_score": -n.proxy_score}) for n in networks]
    found = verdict(TASK, turned[:3], turned[3:], [], parts=parts, chance=None, within=None)
    assert any("is worse than counting MACs (τ -1.00 against" in words for words in found.words)


def test_few_finished_networks_do_not_tell_an_order_from_that_by_macs():
    """Six networks whose taus are 0.73 and 0.47, as runs with few budgets have them."""
    orders = zip([1, 2, 3, 4, 6, 5], [1, 3, 2, 4, 6, 5], [2, 1, 3, 4, 5, 6], strict=True)
    networks = [
        network("winner", "macs<=9", f"{i}", 10 * macs, proxy / 10, test / 10)
        for i, (proxy, macs, test) in enumerate(orders)
    ]
    found = verdict(TASK, networks, [], [], parts={}, chance=None, within=None)
    assert found.proxy_test_tau > found.macs_test_tau and found.beats_macs.low < 0
    [said] = [words for words in found.words if "counting MACs" in words]
    assert "networks that were finished are too few to tell the supernet's order from" in said
    assert "95 % interval of the difference -" in said and "better" not in said
    turned = [n.model_copy(update={"macs": 100 - n.macs}) for n in networks]
    wide = verdict(TASK, turned, [], [], parts={}, chance=None, within=None).beats_macs
    assert wide.high == 2.0 and wide.cut  # as far as two taus can be apart
    few = verdict(TASK, networks[:5], [], [], parts={}, chance=None, within=None)
    assert few.beats_macs is None and not any("counting" in words for words in few.words)


def test_equal_orders_are_seldom_told_apart():
    """Two orders that are equally close to the truth differ by chance alone."""
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(120):
        truth, *noises = rng.standard_normal((3, 8))
        found = jackknife(_gain, *(0.5 * truth + noise for noise in noises), truth)
        told += not found.low <= 0 <= found.high
    assert told <= 12  # 6 are expected at most, and more than 12 are in one of 100 such trials


def test_a_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(1).standard_normal(7)
    found = jackknife(lambda column: float(np.mean(column)), values)
    wanted = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(wanted) and found.method == "jackknife"
    assert jackknife(lambda column: None, values) is None


def test_a_search_is_compared_with_its_random_networks():
    winners, _, _ = planted(0.0)
    lines = [line("7", winners[0].proxy_score + 0.01, 5), line("8", 0.0, 15)]
    within = {BUDGETS[0]: ["7"], BUDGETS[1]: ["7", "8"], BUDGETS[2]: ["8"]}
    found = verdict(TASK, winners, [], lines, parts={}, chance=None, within=within)
    above = [winners[0].proxy_score + 0.01, winners[0].proxy_score + 0.01, 0.0]
    wanted = sum(w.proxy_score > best for w, best in zip(winners, above, strict=True))
    assert found.improved == wanted >= 1
    assert found.worth == "unknown" and "There were no controls" in found.words[0]
    moved = verdict(TASK, winners, [], lines, parts={}, chance=None, within=None)
    assert moved.improved is None


def test_a_random_search_says_what_random_networks_show_of_it():
    winners = [network("winner", BUDGETS[0], "0", 9, 0.9, 0.9)]
    common = {"parts": {}, "chance": None, "within": None}
    for kinds, said in ((("random",), True), (("largest",), False), ((), False)):
        controls = [network(kind, BUDGETS[0], "1", 9, 0.5, 0.5) for kind in kinds]
        words = verdict(TASK, winners, controls, [], **common, at_random=True).words
        assert any("drew its networks at random" in sentence for sentence in words) is said
        other = verdict(TASK, winners, controls, [], **common).words
        assert not any("drew its networks" in sentence for sentence in other)


def test_with_a_reward_a_search_is_compared_by_it():
    """The best scores of all, and still no better where the reward of a random one is higher."""
    winners, controls, parts = planted(0.0)
    lines = [row.model_copy(update={"reward": 0.5}) for row in drawn(level=0.1)]
    within = dict.fromkeys(BUDGETS, [row.arch for row in lines])

    def found(reward):
        won = [w.model_copy(update={"reward": reward}) for w in winners]
        return verdict(TASK, won, controls, lines, parts=parts, chance=0.1, within=within)

    assert (found(0.4).improved, found(0.6).improved) == (0, 3)
    assert found(0.6).words[-2].endswith("in 3 of 3 budgets, by its reward.")
    assert "compared by scores alone" in found(0.6).words[-1]
    assert not any("reward" in words for words in judged(0.0).words)


def test_a_difference_is_that_of_paired_parts_and_turned_where_lower_is_better():
    winners, controls, parts = planted(0.05, kinds=("largest",))
    pairs = [(w, [c]) for w, c in zip(winners, controls, strict=True)]
    found = difference(pairs, TASK, parts)
    gains = np.mean(
        [np.subtract(parts[w.arch], parts[c.arch]) for w, (c,) in pairs], axis=0
    )  # of 20 parts
    wanted = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.value == pytest.approx(gains.mean()) and found.budgets == 3
    errors = TaskRecord(name="regression", metric=ERROR, fitness="metric")
    turned = difference(pairs, errors, parts)
    assert turned.value == pytest.approx(-found.value)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_without_parts_a_difference_has_no_bounds():
    winners, controls, _ = planted(0.05, kinds=("largest",))
    pairs = [(w, [c]) for w, c in zip(winners, controls, strict=True)]
    found = difference(pairs, TASK, {})
    assert found.low is None
    seen = verdict(TASK, winners, controls, [], parts={}, chance=None, within=None)
    assert seen.worth == "doubtful" and "is not known" in seen.words[0]


def test_intervals_are_wilsons_for_accuracies_and_students_for_the_rest():
    wanted = stats.binomtest(90, 120).proportion_ci(0.95, method="wilson")
    assert interval_of_test_score(0.75, 120, ACCURACY, ()) == pytest.approx(
        (wanted.low, wanted.high)
    )
    assert interval_of_test_score(1.0, 50, ACCURACY, ())[0] == pytest.approx(0.929, abs=1e-3)
    parts = np.random.default_rng(1).random(20)
    wanted = stats.t.interval(0.95, 19, loc=2.0, scale=stats.sem(parts))
    assert interval_of_test_score(2.0, 120, ERROR, parts.tolist()) == pytest.approx(wanted)
    assert interval_of_test_score(2.0, 120, ERROR, [1.0]) is None
    assert interval_of_test_score(2.0, 120, ERROR, [1.0, float("nan")]) is None
