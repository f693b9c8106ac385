"""Methods compared over seeds: paired intervals and what is said of them."""

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import compare, reliability
from manyshot.rank.compare import are_equal, mean_over_seeds
from manyshot.rank.resampling import JudgedSet
from manyshot.run_folder import ComparedRun, Mean


def run(method, seed, *, images=100, **metrics):
    return ComparedRun(
        folder=f"{method}-{seed}",
        method=method,
        seed=seed,
        images={"trained": images, "total": images + 50},
        metrics=metrics,
    )


def pair(found, first, second, metric):
    [own] = [p for p in found.pairs if (p.first, p.second, p.metric) == (first, second, metric)]
    return own


def test_intervals_are_students():
    values = [0.3, 0.5, 0.45, 0.6]
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = mean_over_seeds(values)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(0.4625) and found.n == 4


def test_intervals_of_nothing_are_undefined():
    assert mean_over_seeds([]) == Mean(mean=None, low=None, high=None, n=0)
    assert mean_over_seeds([0.5]) == Mean(mean=0.5, low=None, high=None, n=1)


def test_differences_are_paired_by_seed():
    """Seeds differ by far more than methods: only pairs can tell them apart."""
    base = {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.3, 4: 0.7}
    runs = [run("a", seed, tau=value + 0.02 + 0.001 * seed) for seed, value in base.items()]
    runs += [run("b", seed, tau=base[seed]) for seed in (2, 0, 1, 4, 3)]
    own = pair(compare(runs), "a", "b", "tau")
    expected = stats.ttest_rel([r.metrics["tau"] for r in runs[:5]], list(base.values()))
    assert (own.low, own.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert own.difference == pytest.approx(0.022) and own.n == 5
    assert own.p == pytest.approx(expected.pvalue) and own.corrected == own.p
    assert own.verdict == "better" and "a is better than b" in own.sentence


@pytest.mark.parametrize(
    ("metric", "verdict"), [("tau global", "worse"), ("regret global", "better")]
)
def test_less_regret_is_better(metric, verdict):
    runs = [run("a", s, **{metric: 0.1 + 0.001 * s}) for s in range(5)]
    runs += [run("b", s, **{metric: 0.2}) for s in range(5)]
    assert pair(compare(runs), "a", "b", metric).verdict == verdict


def test_of_an_error_less_is_better():
    runs = [run("a", s, **{"finished MAE": 0.1 + 0.001 * s, "tau": 0.5}) for s in range(5)]
    runs += [run("b", s, **{"finished MAE": 0.2, "tau": 0.4 + 0.001 * s}) for s in range(5)]
    found = compare(runs, ["regret", "finished"])
    assert {p.metric: p.verdict for p in found.pairs} == {"finished MAE": "better", "tau": "better"}
    assert pair(compare(runs), "a", "b", "finished MAE").verdict == "worse"


def test_not_distinguishable():
    runs = [run("a", s, tau=v) for s, v in enumerate((0.1, 0.5, 0.4, 0.2, 0.3))]
    runs += [run("b", s, tau=v) for s, v in enumerate((0.3, 0.4, 0.3, 0.1, 0.4))]
    own = pair(compare(runs), "a", "b", "tau")
    assert own.low < 0 < own.high and own.verdict == "not distinguishable"
    assert "a and b are not distinguishable" in own.sentence


@pytest.mark.parametrize(
    ("seeds", "said"), [((0, 7), "as 1 seed has both"), ((8, 9), "all 2 seeds differ by -0.4")]
)
def test_too_few_shared_seeds(seeds, said):
    runs = [run("a", s, tau=0.5) for s in (0, 1)] + [run("b", s, tau=0.9) for s in seeds]
    own = pair(compare(runs), "a", "b", "tau")
    assert own.verdict == "undefined" and said in own.sentence and own.low is None


@pytest.mark.parametrize("by", [0.0, 0.1])
def test_equal_differences_say_nothing_of_their_spread(by):
    runs = [run("a", s, tau=0.5 + by) for s in range(2)] + [run("b", s, tau=0.5) for s in range(2)]
    own = pair(compare(runs), "a", "b", "tau")
    assert own.verdict == "undefined" and f"all 2 seeds differ by {by:+.4f}" in own.sentence


def test_undefined_values_are_left_out():
    runs = [run("a", s, tau=0.5 + s / 100) for s in range(3)]
    runs += [run("b", s, tau=None if s == 1 else 0.4) for s in range(3)]
    found = compare(runs)
    assert pair(found, "a", "b", "tau").n == 2
    of_b = found.methods[1].metrics["tau"]
    assert of_b.n == 2 and of_b.mean == pytest.approx(0.4)


def test_unequal_training_is_said():
    runs = [run("a", s, tau=0.5, images=100) for s in range(2)]
    runs += [run("b", s, tau=0.5, images=105) for s in range(2)]
    runs += [run("c", s, tau=0.5, images=106) for s in range(2)]
    found = compare(runs)
    assert pair(found, "a", "b", "tau").equal_images
    own = pair(found, "a", "c", "tau")
    assert not own.equal_images and "100 and 106 images" in own.sentence
    assert found.methods[0].images == 150


def test_a_metric_that_only_one_has():
    found = compare([run("a", 0, tau=0.5), run("b", 0, other=0.5)])
    assert pair(found, "a", "b", "other").verdict == "undefined"
    assert found.methods[0].metrics["other"].mean is None


def test_a_seed_twice_is_refused():
    with pytest.raises(ValueError, match="a-0 and a-0 are both method 'a' with seed 0"):
        compare([run("a", 0, tau=0.5), run("a", 0, tau=0.5)])
    with pytest.raises(ValueError, match="at least one run"):
        compare([])


def test_below_five_seeds_there_is_no_direction():
    for seeds, verdict in ((4, "too few seeds"), (5, "better")):
        runs = [run("a", s, tau=0.5 + 0.001 * s) for s in range(seeds)]
        runs += [run("b", s, tau=0.1) for s in range(seeds)]
        own = pair(compare(runs), "a", "b", "tau")
        assert own.verdict == verdict and own.low > 0
        few = "a and b differ by +0.4015" in own.sentence and "that takes 5" in own.sentence
        assert few == (seeds == 4) and (own.corrected is None) == few


def test_seeds_that_methods_do_not_share_are_not_paired():
    rng = np.random.default_rng(0)
    a, b = rng.random(6), rng.random(6)
    runs = [run("a", s, tau=v) for s, v in enumerate(a)]
    runs += [run("b", 100 + s, tau=v) for s, v in enumerate(b)]
    own = pair(compare(runs), "a", "b", "tau")
    wanted = stats.ttest_ind(a, b, equal_var=False)
    assert not own.paired and own.p == pytest.approx(wanted.pvalue)
    assert "at least 6 seeds, which are not the same" in own.sentence


def test_families_are_corrected_each_for_itself():
    """The reference by the primary metric; by each set of others; pairs without the reference."""
    rng = np.random.default_rng(1)
    metrics = ("tau", "finished one", "finished two", "tau here", "regret here")
    values = {m: 0.1 * i + 0.05 * rng.standard_normal((6, 5)) for i, m in enumerate("abc")}
    runs = [
        run(m, s, **dict(zip(metrics, map(float, values[m][s]), strict=True)))
        for m in "abc"
        for s in range(6)
    ]
    found = compare(runs, primary="tau here")
    assert (found.primary, found.reference) == ("tau here", "a")
    families = {
        "tau here (primary), with a": 2,  # with b and with c
        "set here, with a": 2,  # regret
        "finished winners, with a": 4,
        "tau, with a": 2,
        "set here, pairs without a": 2,
        "finished winners, pairs without a": 2,
        "tau, pairs without a": 1,
    }
    assert found.families == families
    by_name = {name: [] for name in families}
    for own in found.pairs:
        column = metrics.index(own.metric)
        p = stats.ttest_rel(values[own.first][:, column], values[own.second][:, column]).pvalue
        assert own.p == pytest.approx(p) and own.primary == (own.metric == "tau here")
        assert own.resampled == ("seeds",)
        by_name[own.family_name].append(own)
    for name, own in by_name.items():
        ordered = sorted(own, key=lambda one: one.p)
        assert ordered[0].corrected == pytest.approx(min(1, len(own) * ordered[0].p))
        assert ordered[-1].corrected >= ordered[-1].p
        assert {one.family for one in own} == {len(own)} == {families[name]}
    with pytest.raises(ValueError, match="'tau hree'; did you mean 'tau here'[?] it is one of tau"):
        compare(runs, primary="tau hree")


def test_intervals_end_where_values_do():
    """Two seeds of shares near 1: Student's interval would reach far beyond 100 %."""
    assert stats.t.interval(0.95, 1, 0.95, stats.sem([0.9, 1.0]))[1] > 1
    found = mean_over_seeds([0.9, 1.0], (0.0, 1.0))
    assert (found.low > 0, found.high, found.cut) == (True, 1.0, True)
    assert mean_over_seeds([0.5, 0.51, 0.52], (0.0, 1.0)).cut is None
    runs = [run("a", s, tau=(0.9, 1.0)[s], other=s) for s in range(2)]
    runs += [run("b", s, tau=(-0.9, 0.8)[s], other=0) for s in range(2)]
    own = pair(compare(runs), "a", "b", "tau")
    assert (own.low, own.high, own.cut) == (-2.0, 2.0, True)
    assert pair(compare(runs), "a", "b", "other").cut is None


@pytest.mark.parametrize(("noise", "verdict"), [(0.05, "better"), (4.0, "cannot judge")])
def test_a_set_whose_truth_is_noise_judges_nothing(noise, verdict):
    rng = np.random.default_rng(2)
    worth_N = rng.standard_normal(60)
    truth_NR = worth_N[:, None] + noise * rng.standard_normal((60, 2))
    scores = {f"a-{s}": worth_N + 0.1 * rng.standard_normal(60) for s in range(5)}
    scores |= {f"b-{s}": worth_N + 3 * rng.standard_normal(60) for s in range(5)}
    own = JudgedSet(truth_NR, scores, reliability=reliability(truth_NR))
    taus = {f: stats.kendalltau(v, truth_NR.mean(axis=1)).statistic for f, v in scores.items()}
    runs = [run(f[0], int(f[2:]), **{"tau all": float(tau)}) for f, tau in taus.items()]
    found = pair(compare(runs, sets={"all": own}), "a", "b", "tau all")
    assert found.verdict == verdict
    assert ("this set cannot judge" in found.sentence) == (verdict == "cannot judge")


@pytest.mark.parametrize(
    ("amounts", "equal"), [((100, 105), True), ((100, 106), False), ((0, 0), True), ((), True)]
)
def test_budgets_are_equal_within_five_percent(amounts, equal):
    assert are_equal(amounts) is equal
