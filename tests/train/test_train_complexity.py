"""The learnt distribution over costs, against closed forms and autograd."""

import io
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from manyshot.train.samplers.complexity import ComplexityDistribution, enumerated_gradient

PAPER = {"rule": "paper", "ema": 0.0, "floor": 0.0, "clip": math.inf}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def skewed(**options) -> ComplexityDistribution:
    """Five bins with logits 0, 0.5 ... 2, and a fresh Adam."""
    distribution = ComplexityDistribution(5, **{"rule": "paper", **options})
    logits = torch.arange(5, dtype=torch.float64) / 2
    distribution.load_state_dict({**distribution.state_dict(), "logits": logits})
    return distribution


# -- drawing -------------------------------------------------------------------------------


def test_it_starts_uniform_and_drawing_does_not_move_it():
    """Uniform costs with B at rest: the baseline of the paper's figure 4."""
    distribution = ComplexityDistribution(8)
    before, generator = distribution.state_dict(), rng()
    drawn = [distribution.sample(generator) for _ in range(4000)]
    assert chisquare(np.bincount(drawn, minlength=8)).pvalue > 1e-3
    assert distribution.probabilities().tolist() == [1 / 8] * 8
    assert torch.equal(distribution.logits, before["logits"])


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_draws_are_of_the_softmax_with_a_floor(floor):
    distribution, generator = skewed(floor=floor), rng(1)
    softmax = np.exp(np.arange(5) / 2) / np.exp(np.arange(5) / 2).sum()
    expected = (1 - floor) * softmax + floor / 5
    # 1e-15: the rounding of five float64 exponentials below one
    assert distribution.sampling_probabilities().numpy() == pytest.approx(expected, abs=1e-15)
    assert distribution.probabilities().numpy() == pytest.approx(softmax, abs=1e-15)
    counts = np.bincount([distribution.sample(generator) for _ in range(5000)], minlength=5)
    assert chisquare(counts, 5000 * expected).pvalue > 1e-3


def test_up_to_16_bins_are_all_evaluated():
    generator = rng()
    assert ComplexityDistribution(16).strata(generator).tolist() == list(range(16))
    assert generator.bit_generator.state == rng().bit_generator.state


def test_of_more_bins_one_of_each_of_8_groups_is_evaluated():
    distribution, generator = ComplexityDistribution(39), rng()
    drawn = np.array([distribution.strata(generator) for _ in range(1000)])
    ends = np.cumsum([0, 5, 5, 5, 5, 5, 5, 5, 4])
    for column, start, end in zip(drawn.T, ends[:-1], ends[1:], strict=True):
        counts = np.bincount(column, minlength=39)
        assert counts[start:end].sum() == 1000
        assert chisquare(counts[start:end]).pvalue > 1e-3


# -- the enumerated estimator --------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_enumerated_gradient_equals_autograd(seed):
    logits = torch.tensor(rng(seed).normal(size=9), requires_grad=True)
    deltas = torch.tensor(rng(seed + 100).normal(size=9))
    (expected,) = torch.autograd.grad((logits.softmax(0) * deltas).sum(), logits)
    found = enumerated_gradient(logits.detach().softmax(0), deltas)
    # values below one in float64, two orders of summation
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_bin_without_a_delta_counts_as_the_mean():
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    deltas = torch.tensor([3.0, -1.0, math.nan, 2.0], dtype=torch.float64)
    filled = deltas.clone()
    filled[2] = (0.1 * 3 - 0.2 + 0.4 * 2) / 0.7
    expected = p * (filled - (p * filled).sum())
    # as above
    torch.testing.assert_close(enumerated_gradient(p, deltas), expected, rtol=0, atol=1e-12)


def by_hand(deltas, lr, ema, clip):
    """The whole rule written again in numpy: averages, gradient, Adam as published, clip."""
    logits, first, second, average = (np.zeros(len(deltas[0])) for _ in range(4))
    for t, delta in enumerate(deltas, start=1):
        average = delta if t == 1 else ema * average + (1 - ema) * delta
        p = np.exp(logits) / np.exp(logits).sum()
        gradient = p * (average - p @ average)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        logits = logits - lr * step
        logits = np.clip(logits, logits.mean() - clip, logits.mean() + clip)
    return logits, average


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("clip", [0.15, math.inf])
@pytest.mark.parametrize("signal", ["signed", "abs"])
def test_updates_equal_the_rule_written_by_hand(ema, clip, signal):
    distribution = ComplexityDistribution(
        6, rule="paper", lr=2e-2, ema=ema, clip=clip, signal=signal
    )
    deltas = rng().normal(0, 0.01, (40, 6))
    for delta in deltas:
        distribution.update(delta)
    used = deltas if signal == "signed" else -abs(deltas)
    logits, averages = by_hand(used, 2e-2, ema, clip)
    # 40 Adam steps of about 2e-2 in float64; Adam divides rounding by the root of the second moment
    assert distribution.logits.numpy() == pytest.approx(logits, abs=1e-10)
    assert distribution.averages.numpy() == pytest.approx(averages, abs=1e-15)


@pytest.mark.parametrize("rule", ["bounded", "paper"])
@pytest.mark.parametrize(("signal", "delta"), [("signed", -1.0), ("abs", -1.0), ("abs", 1.0)])
def test_the_target_whose_loss_still_falls_gains(signal, delta, rule):
    distribution = ComplexityDistribution(4, rule=rule, signal=signal)
    for _ in range(2):
        distribution.update([delta, 0.0, 0.0, 0.0])
    logits = distribution.logits
    assert logits[0] > 0 and (logits[1:] < 0).all()
    assert distribution.probabilities()[0] > 1 / 4


@pytest.mark.parametrize("options", [{"rule": "bounded"}, {"rule": "paper"}, PAPER])
@pytest.mark.parametrize(
    "deltas",
    [
        *(torch.full((5,), c) for c in (0.0, 1e-9, -3e-4, 0.37, -1e10)),
        *(torch.full((5,), c, dtype=torch.float64) for c in (1 / 3, -1e10)),
        [1e-9, 0.0, -1e-9, 0.0, 0.0],  # a float32 loss of order one holds no such change
        [1e10, np.nextafter(1e10, 0), 1e10, 1e10, 1e10],
    ],
)
def test_rounding_moves_nothing(deltas, options):
    """Adam would blow it up to full steps, and a division by its spread to full size."""
    distribution = skewed(**options) if options["rule"] == "paper" else ComplexityDistribution(5)
    before = distribution.logits.clone()
    for _ in range(20):
        distribution.update(deltas)
    assert torch.equal(distribution.logits, before)


def test_only_the_evaluated_bins_are_averaged():
    distribution = ComplexityDistribution(20, rule="paper", ema=0.75)
    distribution.update([-1.0, 1.0, 3.0], bins=[4, 0, 19])
    assert distribution.averages[[0, 4, 19]].tolist() == [1.0, -1.0, 3.0]
    assert distribution.averages.isnan().sum() == 17
    moved = distribution.logits != 0
    assert moved.nonzero().flatten().tolist() == [4, 19]  # bin 0 is at the mean of the three
    distribution.update([5.0, 1.0], bins=np.array([19, 7]))
    assert distribution.averages[[0, 4, 7, 19]].tolist() == [1.0, -1.0, 1.0, 3.5]


def test_the_clip_bounds_every_ratio():
    clipped = ComplexityDistribution(6, rule="paper", lr=0.1, clip=0.5)
    free = ComplexityDistribution(6, **PAPER)
    for _ in range(100):
        clipped.update([-1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
        free.update_from(torch.tensor([-1.0, 1.0, 1.0, 1.0, 1.0, 1.0]))
    logits = clipped.logits
    assert 0.5 < logits.max() - logits.min() <= 1.0 + 1e-12  # rounding of the mean
    # Adam's steps are lr when the gradient never changes, but for its epsilon of 1e-8
    assert free.logits.tolist() == pytest.approx([0.1, *[-0.1] * 5], rel=1e-6)


def simulate(taus, updates=4800, **options) -> np.ndarray:
    """Probabilities after training of targets whose loss falls as 1 + 5 exp(-n / tau).

    n is how much each has been trained: 60,000 at first, and then by 100 per update, of which 80 %
    is shared by all and the rest goes by probability.
    """
    distribution = ComplexityDistribution(len(taus), **options)
    n = np.full(len(taus), 60_000.0)
    for _ in range(updates):
        grown = n + 100 * (0.2 * len(taus) * distribution.probabilities().numpy() + 0.8)
        distribution.update(5 * np.exp(-grown / taus) - 5 * np.exp(-n / taus))
        n = grown
    return distribution.probabilities().numpy()


SLOW_LAST = np.linspace(30_000, 50_000, 8)


@pytest.mark.slow
def test_mass_moves_as_far_as_by_other_code_for_the_same_model():
    """That found 0.84 on the upper half, P_1 0.04 and P_8 0.36."""
    p = simulate(SLOW_LAST, **PAPER)
    # half a unit in the last place that was recorded
    assert p[4:].sum() == pytest.approx(0.84, abs=5e-3)
    assert p[[0, 7]] == pytest.approx([0.04, 0.36], abs=5e-3)


def test_mass_moves_to_what_trains_slowest():
    assert simulate(SLOW_LAST[::-1], updates=1600, **PAPER)[4:].sum() < 0.25
    assert simulate(SLOW_LAST, updates=1600, rule="paper")[4:].sum() > 0.75
    # falls that all targets share pull back to uniform by the bounded rule, per draw as they are
    p = simulate(SLOW_LAST, updates=100)
    assert (np.diff(p) > 0).all() and p[4:].sum() > 0.5


@pytest.mark.parametrize("rule", ["bounded", "paper"])
def test_equal_targets_stay_equal(rule):
    p = simulate(np.full(8, 40_000.0), updates=500, rule=rule)
    assert p.tolist() == [1 / 8] * 8


# -- the pathwise estimator ----------------------------------------------------------------


def pathwise(distribution, before, after, draws, seed=0, tau=1.0) -> torch.Tensor:
    """Of J(o) = <o, after> - <o, before>, as a caller would compute it."""
    generator = torch.Generator().manual_seed(seed)
    one_hots, logits = distribution.straight_through(draws, generator, tau=tau)
    change = (one_hots @ after - one_hots @ before).sum()
    (arriving,) = torch.autograd.grad(change, one_hots, retain_graph=True)
    return torch.autograd.grad(one_hots, logits, arriving / draws)[0]


def test_pathwise_points_where_the_exact_gradient_does():
    distribution = skewed()
    losses = torch.tensor(rng(3).normal(size=(2, 5)))
    exact = enumerated_gradient(distribution.probabilities(), losses[1] - losses[0])
    found = pathwise(distribution, *losses, draws=20_000)
    # biased by design (a soft Jacobian at hard draws), here by far less than a right angle
    assert torch.cosine_similarity(found, exact, dim=0) > 0.9
    few = [pathwise(distribution, *losses, draws=8, seed=s) for s in range(50)]
    cosines = torch.cosine_similarity(torch.stack(few), exact, dim=1)
    assert cosines.mean() > 0


def test_pathwise_flips_with_the_weights_and_vanishes_between_equals():
    distribution = skewed()
    old, new = torch.tensor(rng(4).normal(size=(2, 5)))
    there, back = pathwise(distribution, old, new, 8), pathwise(distribution, new, old, 8)
    assert there.abs().max() > 0
    assert torch.equal(there, -back)
    assert not pathwise(distribution, old, old, 8).any()


def test_straight_through_draws_are_one_hots_of_the_probabilities():
    distribution = skewed()
    before = distribution.logits.clone()
    one_hots, again = (
        distribution.straight_through(20_000, torch.Generator().manual_seed(7))[0] for _ in range(2)
    )
    assert torch.equal(one_hots, again)
    assert one_hots.dtype == torch.float64 and one_hots.shape == (20_000, 5)
    assert one_hots.unique().tolist() == [0.0, 1.0] and (one_hots.sum(1) == 1).all()
    expected = 20_000 * distribution.probabilities().numpy()
    assert chisquare(one_hots.sum(0).detach().numpy(), expected).pvalue > 1e-3
    (one_hots @ before).sum().backward()
    assert torch.equal(distribution.logits, before)
    assert distribution.logits.grad is None  # a backward pass cannot leak into the next step


def test_a_pathwise_step_descends_at_the_present_rate():
    distribution = ComplexityDistribution(3, rule="paper")
    assert distribution.lr == 1e-3
    distribution.lr = 0.01
    distribution.update_from(torch.tensor([1.0, -2.0, 0.0]))
    # Adam's first step is lr in every coordinate with a gradient, but for its epsilon of 1e-8
    assert distribution.logits.tolist() == pytest.approx([-0.01, 0.01, 0.0], abs=1e-9)


# -- state and errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"window": 5}, {"rule": "paper", "lr": 0.1, "clip": 1.0}],
    ids=["bounded", "paper"],
)
@pytest.mark.parametrize("done", [0, 1, 30])
def test_a_reloaded_one_takes_the_same_next_steps(done, options):
    deltas = rng(5).normal(0, 0.01, (done + 5, 20))
    deltas[:, 3] -= 0.1
    distribution, copy = (ComplexityDistribution(20, **options) for _ in range(2))
    for delta in deltas[:done]:
        distribution.update(delta[:8], bins=distribution.strata(rng(done)))
    file = io.BytesIO()
    torch.save(distribution.state_dict(), file)
    file.seek(0)
    kept = distribution.state_dict()
    copy.load_state_dict(torch.load(file, weights_only=True))
    for delta in deltas[done:]:
        for each in (distribution, copy):
            each.update(delta)
        assert torch.equal(distribution.logits, copy.logits)
    assert distribution.logits.any()
    for _ in range(2):  # neither later steps nor those after loading change a state
        copy.load_state_dict(kept)
        for delta in deltas[done:]:
            copy.update(delta)
        assert torch.equal(distribution.logits, copy.logits)
        assert torch.equal(distribution.averages.nan_to_num(9), copy.averages.nan_to_num(9))
        assert torch.equal(distribution.gains.nan_to_num(9), copy.gains.nan_to_num(9))


def test_a_state_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"the state has 8 bins, this one 9"):
        ComplexityDistribution(9).load_state_dict(ComplexityDistribution(8).state_dict())


def test_a_state_of_another_rule_or_window_is_refused():
    state = ComplexityDistribution(8).state_dict()
    with pytest.raises(ValueError, match=r"the state is of rule = 'bounded', this one of .*'paper"):
        ComplexityDistribution(8, rule="paper").load_state_dict(state)
    with pytest.raises(ValueError, match=r"a window of 16 updates, this one of 4"):
        ComplexityDistribution(8, window=4).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bins": 0}, "bins must be at least 1, got bins=0"),
        ({"lr": 0.0}, "lr must be above zero"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\)"),
        ({"floor": 1.5}, r"floor must be in \[0, 1\]"),
        ({"clip": 0.0}, "clip must be above zero"),
        ({"window": 1}, "window must be at least 2, got .*window=1,"),
        ({"rule": "papers"}, r"rule must be one of \('bounded', 'paper'\), got .*'papers'"),
        ({"signal": "square"}, r"signal must be one of \('signed', 'abs'\).*'square'"),
    ],
)
def test_settings_out_of_bounds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ComplexityDistribution(**{"bins": 8, "rule": "paper", **options})


@pytest.mark.parametrize("option", [{"lr": 1e-3}, {"ema": 0.9}, {"floor": 0.0}, {"clip": 3.0}])
def test_what_is_of_the_papers_rule_alone_is_refused_without_it(option):
    with pytest.raises(ValueError, match="lr, ema, floor and clip are of rule = 'paper': leave"):
        ComplexityDistribution(8, **option)
    with pytest.raises(ValueError, match=r"moves a distribution of rule = 'paper', this one has"):
        ComplexityDistribution(2).update_from([0.0, 1.0])


@pytest.mark.parametrize(
    ("deltas", "bins", "message"),
    [
        ([1.0], None, r"deltas must be 3 finite numbers, got \[1.0\]"),
        ([1.0, math.nan, 0.0], None, "deltas must be 3 finite numbers"),
        ([1.0, 2.0], [0, 3], r"different ones of 0..2, got \[0, 3\]"),
        ([1.0, 2.0], [-1, 0], r"different ones of 0..2, got \[-1, 0\]"),
        ([1.0, 2.0], [1, 1], r"different ones of 0..2, got \[1, 1\]"),
    ],
)
def test_bad_updates_are_refused_and_change_nothing(deltas, bins, message):
    distribution = ComplexityDistribution(3, rule="paper")
    with pytest.raises(ValueError, match=message):
        distribution.update(deltas, bins)
    with pytest.raises(ValueError, match="gradient must be 3 finite numbers"):
        distribution.update_from([0.0, math.inf, 0.0])
    assert not distribution.logits.any()
    assert distribution.averages.isnan().all() and distribution.gains.isnan().all()
