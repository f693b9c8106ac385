"""Methods compared over seeds: paired intervals and what is said of them."""

import numpy as np
import pytest
from scipy import stats

from manyshot.rank import compare
from manyshot.rank.compare import interval
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
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(0.4625) and found.n == 4


def test_intervals_of_nothing_are_undefined():
    assert interval([]) == Mean(mean=None, low=None, high=None, n=0)
    assert interval([0.5]) == Mean(mean=0.5, low=None, high=None, n=1)


def test_differences_are_paired_by_seed():
    """Seeds differ by far more than methods: only pairs can tell them apart."""
    base = {0: 0.1, 1: 0.5, 2: 0.9}
    runs = [run("a", seed, tau=value + 0.02 + 0.001 * seed) for seed, value in base.items()]
    runs += [run("b", seed, tau=base[seed]) for seed in (2, 0, 1)]
    own = pair(compare(runs), "a", "b", "tau")
    expected = stats.ttest_rel([r.metrics["tau"] for r in runs[:3]], list(base.values()))
    assert (own.low, own.high) == pytest.approx(tuple(expected.confidence_interval()))
    assert own.difference == pytest.approx(0.021) and own.n == 3
    assert own.verdict == "better" and "a is better than b" in own.sentence


@pytest.mark.parametrize(
    ("metric", "verdict"), [("tau global", "worse"), ("regret global", "better")]
)
def test_less_regret_is_better(metric, verdict):
    runs = [run("a", s, **{metric: 0.1 + 0.001 * s}) for s in range(3)]
    runs += [run("b", s, **{metric: 0.2}) for s in range(3)]
    assert pair(compare(runs), "a", "b", metric).verdict == verdict


def test_of_an_error_less_is_better():
    runs = [run("a", s, **{"finished MAE": 0.1 + 0.001 * s, "tau": 0.5}) for s in range(3)]
    runs += [run("b", s, **{"finished MAE": 0.2, "tau": 0.4 + 0.001 * s}) for s in range(3)]
    found = compare(runs, ["regret", "finished"])
    assert {p.metric: p.verdict for p in found.pairs} == {"finished MAE": "better", "tau": "better"}
    assert pair(compare(runs), "a", "b", "finished MAE").verdict == "worse"


def test_not_distinguishable():
    runs = [run("a", s, tau=v) for s, v in enumerate((0.1, 0.5, 0.4))]
    runs += [run("b", s, tau=v) for s, v in enumerate((0.3, 0.4, 0.3))]
    own = pair(compare(runs), "a", "b", "tau")
    assert own.low < 0 < own.high and own.verdict == "not distinguishable"
    assert "a and b are not distinguishable" in own.sentence


@pytest.mark.parametrize(
    ("seeds", "said"), [((0, 7), "as 1 seed has both"), ((8, 9), "as no seeds have both")]
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
