"""The bounded rule of the distribution over costs: noise, planted signals, and the closed loop."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from manyshot.train.samplers.complexity import ComplexityDistribution
from manyshot.train.samplers.evidence import _Fits, weighed

K, UPDATES = 8, 22
"""Targets and updates of the study on digits."""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def planted(seed: int, truth, *, bins: int = K, updates: int = UPDATES) -> np.ndarray:
    """Probabilities after falls of loss by `truth` beside noise of one, all of them hundredths."""
    generator, distribution = rng(seed), ComplexityDistribution(bins)
    for _ in range(updates):
        seen = distribution.strata(generator)
        falls = truth[seen] + generator.standard_normal(len(seen))
        distribution.update(-0.01 * falls, seen)
    return distribution.probabilities().numpy()


# -- what it is for ------------------------------------------------------------------------


@pytest.mark.parametrize(("bins", "seeds"), [(K, 40), (39, 20)])
def test_noise_leaves_probabilities_near_uniform(bins, seeds):
    """Within 20 % in 95 % of the seeds: the verdict is right for so many sets of updates."""
    found = np.array([planted(seed, np.zeros(bins), bins=bins) for seed in range(seeds)])
    away = np.abs(bins * found - 1).max(1)
    assert (away <= 0.2).mean() >= 0.95
    assert abs(bins * found.mean(0) - 1).max() <= 0.2


def test_a_planted_signal_of_half_the_noise_moves_mass_the_right_way():
    truth = np.linspace(-1, 1, K)
    truth *= 0.5 / truth.std()
    found = np.array([planted(seed, truth) for seed in range(40)])
    assert (found @ truth > 1e-9).mean() >= 0.95
    assert np.corrcoef(found.mean(0), truth)[0, 1] > 0.9


def of_levels(seed, truth, share=1.0, updates=UPDATES) -> np.ndarray:
    """Probabilities after falls by `truth`, where `share` of the noise is of the losses."""
    generator, distribution = rng(seed), ComplexityDistribution(K)
    losses = generator.standard_normal((updates + 1, K)) * math.sqrt(share / 2)
    walks = generator.standard_normal((updates, K)) * math.sqrt(1 - share)
    for change in np.diff(losses, axis=0) + walks - truth:
        distribution.update(0.01 * change)
    return distribution.probabilities().numpy()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_noise_of_the_losses_themselves_leaves_probabilities_near_uniform(share):
    found = np.array([of_levels(seed, np.zeros(K), share) for seed in range(60)])
    assert (np.abs(K * found - 1).max(1) <= 0.2).mean() >= 0.95


def test_where_noise_does_not_add_up_a_quarter_of_it_is_signal_enough():
    truth = np.linspace(-1, 1, K)
    truth *= 0.25 / truth.std()
    found = np.array([of_levels(seed, truth) for seed in range(40)])
    assert (found @ truth > 1e-9).mean() >= 0.95


def final_loss(seed: int, noise: float, shared: float, learns: bool) -> float:
    """The mean loss of equal targets, 2 exp(-n / 1500), after 40 updates of 100 draws.

    n is how much a target was trained: its own draws times their number, but for a share that goes
    to all alike. Probes see the loss with noise.
    """
    generator, distribution = rng(seed), ComplexityDistribution(K)
    n = np.zeros(K)
    for _ in range(40):
        draws = generator.multinomial(100, distribution.sampling_probabilities().numpy())
        grown = n + (1 - shared) * K * draws + shared * 100
        change = 2 * np.exp(-grown / 1500) - 2 * np.exp(-n / 1500)
        noted = change + noise * generator.standard_normal(K)
        if learns:
            distribution.update(noted)
        n = grown
    return float(np.mean(2 * np.exp(-n / 1500)))


@pytest.mark.parametrize(("noise", "shared"), [(0.0, 0.0), (0.03, 0.0), (0.1, 0.0), (0.03, 0.5)])
def test_the_closed_loop_with_equal_targets_ends_no_worse_than_uniform(noise, shared):
    """The paper's rule rewards what was just trained, and ends at 2.4 and 1.3 times the loss."""
    learnt, uniform = (
        np.mean([final_loss(seed, noise, shared, learns) for seed in range(4)])
        for learns in (True, False)
    )
    # measured: within 0.2 %
    assert learnt <= 1.01 * uniform


# -- the formula ---------------------------------------------------------------------------


def by_least_squares(values_KN: np.ndarray) -> tuple[float, float]:
    """F of bins in a model of bins and updates, and the variance of what it leaves."""
    bins, updates = values_KN.shape
    k, n = np.indices(values_KN.shape).reshape(2, -1)
    y = values_KN.ravel()

    def left(*factors: np.ndarray) -> float:
        columns = np.hstack([np.ones((len(y), 1)), *factors])
        return float(np.square(y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]).sum())

    both = left(np.eye(bins)[k], np.eye(updates)[n])
    noise = both / ((bins - 1) * (updates - 1))
    return (left(np.eye(updates)[n]) - both) / (bins - 1) / noise, noise


@pytest.mark.parametrize("signal", [0.0, 0.4, 1.0, 5.0])
@pytest.mark.parametrize("updates", [2, 16])
def test_evidence_is_an_analysis_of_variance(signal, updates):
    values = rng(3).normal(size=(6, updates)) + signal * np.arange(6)[:, None] + rng(4).normal()
    centred = values - values.mean(0)
    f, noise = by_least_squares(values)
    critical = stats.f.ppf(0.95, 5, 5 * (updates - 1))
    found = weighed(torch.from_numpy(centred), 6)
    assert found.kept == pytest.approx(max(0.0, 1 - critical / f), abs=1e-9)
    assert found.standard_error.numpy() == pytest.approx([math.sqrt(noise / updates)] * 6)
    assert found.signal_to_noise == pytest.approx(math.sqrt(max(0, f - 1) / updates), abs=1e-9)
    telling = "distinguishable" if f > critical else "indistinguishable"
    assert found.verdict == f"{telling} from noise"
    mean = centred.mean(1)
    z = (mean - mean.mean()) / mean.std(ddof=1) * found.kept
    expected = np.exp(np.clip(0.7 * z, -1, 1))
    # a sum of six exponentials and a logarithm, in float64
    assert found.logits().softmax(0).numpy() == pytest.approx(expected / expected.sum(), abs=1e-12)


def test_with_noise_of_the_losses_alone_gains_are_slopes_of_straight_lines():
    """Plain least squares through 17 losses, which know nothing of covariances."""
    losses = rng(6).normal(size=(17, 5)) - 0.3 * np.arange(17)[:, None] * np.arange(5)
    gains = torch.from_numpy(-np.diff(losses, axis=0).T.copy())
    fits = _Fits.of(gains, torch.full((5,), 16), 1.0)
    lines = [stats.linregress(np.arange(17), own) for own in losses.T]
    assert fits.mean[-1].numpy() == pytest.approx([-line.slope for line in lines], rel=1e-9)
    left = sum(
        np.square(own - line.slope * np.arange(17) - line.intercept).sum()
        for own, line in zip(losses.T, lines, strict=True)
    )
    # a gain has twice the variance of a loss
    assert float(fits.noise[-1]) == pytest.approx(2 * left / (5 * 15), rel=1e-9)
    spread = np.square(np.arange(17) - 8).sum()
    assert (fits.noise[-1] * fits.variance[-1]).numpy() == pytest.approx(
        [left / (5 * 15) / spread] * 5
    )


@pytest.mark.parametrize("tenths", [3, 10])
def test_the_likelihood_is_that_of_contrasts(tenths):
    """Restricted likelihood is the plain one of all that means do not change, by scipy."""
    values = rng(8).normal(size=(3, 6))
    found = _Fits.of(torch.from_numpy(values), torch.full((3,), 6), 1.0).likelihood.numpy()
    contrasts = np.linalg.svd(np.ones((1, 6)))[2][1:]

    def by_hand(u: float) -> float:
        own = np.eye(6) - u / 2 * (np.eye(6, k=1) + np.eye(6, k=-1))
        own = contrasts @ own @ contrasts.T
        seen = values @ contrasts.T
        noise = np.einsum("ki,ij,kj->", seen, np.linalg.inv(own), seen) / seen.size
        return stats.multivariate_normal(cov=noise * own).logpdf(seen).sum()

    # each but for a constant
    expected = by_hand(tenths / 10) - by_hand(0.0)
    assert found[tenths] - found[0] == pytest.approx(expected, abs=1e-9)


def test_the_share_of_noise_that_does_not_add_up_is_rather_understated():
    found = []
    for seed in range(40):
        losses = rng(seed).normal(size=(17, K))
        gains = np.diff(losses, axis=0)
        found.append(weighed(torch.from_numpy((gains - gains.mean(1, keepdims=True)).T), K))
    shares = [evidence.level_noise for evidence in found]
    assert np.mean(shares) > 0.8
    white = rng(9).normal(size=(40, 16, K))
    shares = [
        weighed(torch.from_numpy((own - own.mean(1, keepdims=True)).T), K).level_noise
        for own in white
    ]
    assert np.mean(np.array(shares) == 0) >= 0.9


def test_gains_are_per_draw_and_of_the_last_updates():
    distribution, generator = ComplexityDistribution(5, window=3), rng(1)
    kept = []
    for _ in range(8):
        drawn = 5 * distribution.probabilities().numpy()
        delta = generator.normal(0, 0.01, 5) - 0.1 * np.array([0, 0, 0, 1, 9])
        distribution.update(delta)
        gains = -delta / np.maximum(drawn, 0.25)
        kept.append(gains - gains.mean())
    assert drawn.max() > 1.5 and drawn.min() < 1  # so that the division matters
    assert distribution.gains.numpy() == pytest.approx(np.array(kept[-3:]).T, abs=1e-12)


def test_hardly_drawn_targets_count_as_drawn_a_quarter_as_often_as_by_chance():
    distribution = ComplexityDistribution(4)
    logits = torch.tensor([-5.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    distribution.load_state_dict({**distribution.state_dict(), "logits": logits})
    rest = 4 / (3 + math.exp(-5))
    distribution.update([-1.0, 0.0, 0.0, -1.0])
    gains = np.array([4, 0, 0, 1 / rest])
    assert distribution.gains[:, -1].numpy() == pytest.approx(gains - gains.mean(), rel=1e-12)


def test_probabilities_are_bounded_and_come_back():
    distribution, generator = ComplexityDistribution(K), rng(2)
    for _ in range(30):
        distribution.update(generator.normal(0, 1e-3, K) - np.array([1e6, *[0.0] * (K - 1)]))
        p = distribution.probabilities()
        assert p.max() / p.min() <= math.exp(2) * (1 + 1e-12)
    assert p[0] == p.max() and p[0] > 2 / K
    assert torch.equal(p, distribution.sampling_probabilities())
    for _ in range(16):
        distribution.update(generator.normal(0, 1, K))
    assert abs(K * distribution.probabilities() - 1).max() <= 0.2


def test_bins_that_were_never_seen_stay_uniform():
    distribution, generator = ComplexityDistribution(39), rng(5)
    seen = np.array([0, 4, 9, 14, 20, 26, 30, 38])
    for _ in range(4):
        distribution.update(generator.normal(0, 1e-3, 8) - 0.01 * np.arange(8), seen)
    p = distribution.probabilities().numpy()
    others = np.setdiff1d(np.arange(39), seen)
    assert p[others] == pytest.approx(1 / 39, rel=1e-12)
    assert (np.diff(p[seen]) > -1e-12).all() and p[38] > 2 * p[0]
    evidence = distribution.evidence().plain()
    assert [k for k in range(39) if evidence["gain"][k] is not None] == seen.tolist()
    assert [k for k in range(39) if evidence["standard_error"][k] is not None] == seen.tolist()


def test_one_update_is_too_few_to_tell():
    distribution = ComplexityDistribution(3)
    distribution.update([-5.0, 1.0, 2.0])
    assert distribution.evidence().plain() == {
        "gain": [None] * 3,
        "standard_error": [None] * 3,
        "signal_to_noise": None,
        "level_noise": None,
        "verdict": "too few updates to tell",
    }
    assert distribution.probabilities().tolist() == [1 / 3] * 3


def test_the_papers_rule_is_told_of_noise_too():
    distribution, generator = ComplexityDistribution(K, rule="paper", lr=0.05), rng(7)
    for _ in range(UPDATES):
        distribution.update(generator.normal(0, 0.01, K))
    p = distribution.probabilities()
    assert distribution.evidence().verdict == "indistinguishable from noise"
    assert p.max() / p.min() > 1.5  # noise has moved it
