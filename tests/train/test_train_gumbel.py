"""Straight-through Gumbel softmax: exact one-hots, right frequencies, the soft draw's gradient."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, gumbel_r, kstest
from train_nets import random_states

from manyshot.train.gumbel import gumbel, straight_through

LOGITS = torch.tensor([0.0, 1.0, -1.5, 0.3])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
def test_frequencies_are_the_softmax_at_any_temperature(tau):
    noise = gumbel((50_000, 4), generator())
    counts = straight_through(LOGITS.expand(50_000, 4), noise, tau=tau).sum(0)
    expected = 50_000 * LOGITS.double().softmax(0)
    assert chisquare(counts.double(), expected).pvalue > 1e-3


def test_noise_is_standard_gumbel():
    """In quantiles: 1e-3 is a chance of one in a thousand, once, as the draw is fixed."""
    noise = gumbel((20_000,), generator())
    assert noise.isfinite().all()
    assert kstest(noise.numpy(), gumbel_r.cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entries_are_exactly_zero_and_one(dtype):
    logits = torch.randn(2000, 7, generator=generator(1)).to(dtype) * 3
    drawn = straight_through(logits, gumbel(logits.shape, generator()), tau=0.7)
    assert drawn.dtype == dtype
    assert ((drawn == 0) | (drawn == 1)).all()
    assert (drawn.sum(-1) == 1).all()


@pytest.mark.parametrize("noisy", [True, False])
@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0])
def test_gradient_is_that_of_the_soft_draw(tau, noisy):
    """Against autograd through softmax; float64, a few roundings."""
    start = torch.randn(5, 3, 4, generator=generator(1), dtype=torch.float64)
    noise = gumbel(start.shape, generator()).double() if noisy else None
    weights = torch.randn(start.shape, generator=generator(2), dtype=torch.float64)
    hard, soft = start.clone().requires_grad_(), start.clone().requires_grad_()
    (straight_through(hard, noise, tau=tau) * weights).sum().backward()
    scores = (soft if noise is None else soft + noise) / tau
    (scores.softmax(-1) * weights).sum().backward()
    np.testing.assert_allclose(hard.grad, soft.grad, rtol=0, atol=1e-14)
    assert hard.grad.abs().min() > 0


def test_without_noise_it_is_the_likeliest_option():
    assert straight_through(LOGITS).tolist() == [0, 1, 0, 0]


def test_noise_is_a_function_of_the_generator_alone():
    before = random_states()
    first = gumbel((3, 4), generator(5))
    assert torch.equal(first, gumbel((3, 4), generator(5)))
    assert not torch.equal(first, gumbel((3, 4), generator(6)))
    assert random_states() == before


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_are_positive(tau):
    with pytest.raises(ValueError, match=f"tau must be positive and finite, got {tau}"):
        straight_through(LOGITS, tau=tau)
