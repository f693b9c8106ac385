"""The set that supernets of other seeds choose, against scipy's tau of every chooser."""

import numpy as np
import pytest
from scipy import stats

from manyshot.rank.crossed import difference
from manyshot.rank.other_seeds import by_other_seeds
from manyshot.rank.resampling import mean_over_turns, resample
from manyshot.run_folder import ComparedRun

METHODS, SEEDS, N = ("a", "b"), (0, 1, 2, 3), 50


def rows(methods=METHODS, seeds=SEEDS):
    images = {"trained": 1, "total": 1}
    return [
        ComparedRun(folder=f"{m}-{s}", method=m, seed=s, images=images, metrics={})
        for m in methods
        for s in seeds
    ]


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(0)
    worth_N = rng.standard_normal(N)
    truth_NR = worth_N[:, None] + 0.3 * rng.standard_normal((N, 3))
    scores = {row.folder: worth_N + 0.8 * rng.standard_normal(N) for row in rows()}
    return scores, truth_NR


def tau(scores_N, chooser_N, truth_NR):
    best = np.argsort(-chooser_N)[:10]
    return stats.kendalltau(scores_N[best], truth_NR.mean(axis=1)[best]).statistic


def by_hand(scores, truth_NR, method, seeds=SEEDS):
    """Mean over pairs of a judged seed and another that chooses, by supernets of all methods."""
    return np.mean(
        [
            tau(scores[f"{method}-{seed}"], scores[f"{other}-{chooser}"], truth_NR)
            for seed in seeds
            for other in METHODS
            for chooser in seeds
            if chooser != seed
        ]
    )


def test_every_supernet_chooses_for_all_but_its_own_seed(made):
    scores, truth_NR = made
    judged, union = by_other_seeds(rows(), scores, truth_NR, share=0.2)
    chosen = {i for own in scores.values() for i in np.argsort(-own)[:10].tolist()}
    assert set(union) == chosen
    for seed in SEEDS:
        wanted = np.mean(
            [
                tau(scores[f"a-{seed}"], scores[f"{m}-{s}"], truth_NR)
                for m in METHODS
                for s in SEEDS
                if s != seed
            ]
        )
        assert mean_over_turns(judged, "tau", f"a-{seed}") == pytest.approx(wanted)


def test_what_seeds_add_is_the_jackknifes(made):
    scores, truth_NR = made
    judged, _ = by_other_seeds(rows(), scores, truth_NR, share=0.2, whole=True)
    every = {m: by_hand(scores, truth_NR, m) for m in METHODS}
    pseudo = {
        m: [
            4 * every[m] - 3 * by_hand(scores, truth_NR, m, [s for s in SEEDS if s != left])
            for left in SEEDS
        ]
        for m in METHODS
    }
    for m in METHODS:
        found = [judged.spread["tau"][f"{m}-{seed}"] for seed in SEEDS]
        assert found == pytest.approx(pseudo[m])
        assert np.mean(found) == pytest.approx(every[m])
    one_run, _ = by_other_seeds(rows(), scores, truth_NR[:, :1], share=0.2, whole=True)
    values = {
        m: {s: (f"{m}-{s}", mean_over_turns(one_run, "tau", f"{m}-{s}")) for s in SEEDS}
        for m in METHODS
    }
    drawn = resample(one_run, "tau", [row.folder for row in rows()], draws=20)
    found = difference(values["a"], values["b"], drawn)  # nothing but seeds is drawn
    spread = [one_run.spread["tau"][f"a-{s}"] - one_run.spread["tau"][f"b-{s}"] for s in SEEDS]
    assert found.error == pytest.approx(stats.sem(spread))


def test_it_needs_two_seeds_that_all_methods_have(made):
    scores, truth_NR = made
    assert by_other_seeds(rows(seeds=(0,)), scores, truth_NR, share=0.2) is None
    apart = [*rows(("a",), (0, 1)), *rows(("b",), (2, 3))]
    assert by_other_seeds(apart, scores, truth_NR, share=0.2) is None
    uneven = [*rows(("a",), (0, 1)), *rows(("b",), (0, 1, 2))]
    judged, _ = by_other_seeds(uneven, scores, truth_NR, share=0.2)
    assert len(judged.turns) == 4 and judged.spread == {}
    assert by_other_seeds(rows(), scores, truth_NR, share=1.0) is None
