"""Whether gains of targets differ by more than noise, and the logits that they justify."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

Verdict = Literal[
    "too few updates to tell", "indistinguishable from noise", "distinguishable from noise"
]

ROUNDING = 1e-8
"""Gains and gradients below this, for losses of order one, are rounding."""
CONFIDENCE = 0.95
"""Of so many sets of updates of noise alone the verdict is right."""
SLOPE, BOUND = 0.7, 1.0
"""Logits are so many standardised gains, and no further from zero than this."""
SHARES = tuple(tenth / 10 for tenth in range(11))
"""Of the noise's variance that losses themselves have: what is tried."""
DOUBT = 1.645**2 / 2
"""By so much less than the largest a restricted log-likelihood may be: a one-sided 95 % bound."""


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gains of the last updates say.

    Attributes:
        gain: the gain per update of each bin, float64, shape (K,); nan for fewer than two updates.
        standard_error: of each gain, in the same shape.
        signal_to_noise: the spread of the true gains over that of one update's noise, as estimated;
            nan while there are too few updates.
        level_noise: the share of one update's noise that losses themselves have, which does not add
            up over updates, in [0, 1]; nan while there are too few updates.
        kept: the share of the means' spread that is kept, in [0, 1): zero if noise alone makes one
            so large in more than 5 % of the cases.
        verdict: whether the gains differ by more than noise.
    """

    gain: Tensor
    standard_error: Tensor
    signal_to_noise: float
    level_noise: float
    kept: float
    verdict: Verdict

    def logits(self) -> Tensor:
        """log(K P): zero, that is 1 / K, for all bins by noise, and for bins of unknown gain."""
        logits = torch.zeros_like(self.gain)
        if self.kept == 0:
            return logits
        known = ~self.gain.isnan()
        gains = self.gain[known]
        scores = self.kept * (gains - gains.mean()) / gains.std()
        bounded = (SLOPE * scores).clamp(-BOUND, BOUND)
        logits[known] = bounded - bounded.logsumexp(0) + math.log(len(bounded))
        return logits

    def plain(self) -> dict[str, Any]:
        """For a record: lists and numbers, None for what is not known."""
        return {
            "gain": _plain(self.gain),
            "standard_error": _plain(self.standard_error),
            "signal_to_noise": _number(self.signal_to_noise),
            "level_noise": _number(self.level_noise),
            "verdict": self.verdict,
        }


def weighed(gains: Tensor, evaluated: int) -> Evidence:
    """Means of gains, compared with noise by an analysis of variance.

    A gain is the difference of two losses. Noise that the losses have, such as that of one step's
    weights, enters the gain of an update with one sign and that of the next with the other, and
    does not add up; noise of what happened in between does. So the noise of a bin's consecutive
    gains has the covariance s^2 ((1 - u) I + u T / 2), where T is 2 on the diagonal and -1 beside
    it, and u the share of the first kind. With u = 0 the best estimate of the gain per update is
    the mean, with u = 1 it is the slope of a straight line through the losses, whose standard error
    is seven times smaller for 16 updates.

    u is estimated by restricted likelihood for all bins together, and taken at the lower end of its
    95 % interval, so that evidence is rather understated. Then F is the variance of the estimates
    of bins over what noise gives them, and C its 95 % quantile under noise; what is kept of the
    spread is max(0, 1 - C / F). Centring each update takes 1 / `evaluated` of the noise's variance
    and of its degrees of freedom, which is accounted for.

    Args:
        gains: less the mean of their update, shape (K, N), newest last; nan where there is none.
        evaluated: how many bins an update has.

    Returns:
        The evidence. It takes two bins of two updates each; bins with fewer have no part in it.
    """
    from scipy import special  # slow to import

    counts = (~gains.isnan()).sum(1)
    known = counts >= 2
    unknown = torch.full((len(gains),), math.nan, dtype=torch.float64)
    if known.sum() < 2:
        return Evidence(unknown, unknown, math.nan, math.nan, 0.0, "too few updates to tell")
    fits = _Fits.of(gains, counts * known, (evaluated - 1) / evaluated)
    best = int((fits.likelihood >= fits.likelihood.max() - DOUBT).int().argmax())
    noise, variance = float(fits.noise[best]), fits.variance[best, known]
    mean, error = unknown.clone(), unknown.clone()
    mean[known], error[known] = fits.mean[best, known], (noise * variance).sqrt()
    spread, expected = float(mean[known].var()), noise * float(variance.mean())
    critical = float(special.fdtri(int(known.sum()) - 1, fits.free, CONFIDENCE))
    kept = max(0.0, 1 - critical * expected / spread) if spread > 0 else 0.0
    return Evidence(
        mean,
        error,
        math.sqrt(max(0.0, spread - expected) / noise),
        SHARES[best],
        kept,
        "distinguishable from noise" if kept > 0 else "indistinguishable from noise",
    )


@final
@dataclass(frozen=True, slots=True)
class _Fits:
    """Gains by generalised least squares, for each of the U `SHARES`.

    Attributes:
        mean: the estimate of each bin, shape (U, K).
        variance: of each estimate, for noise of one, in the same shape.
        noise: the estimated variance of one gain, shape (U,).
        likelihood: the restricted log-likelihood, but for a constant, shape (U,).
        free: the degrees of freedom of `noise`.
    """

    mean: Tensor
    variance: Tensor
    noise: Tensor
    likelihood: Tensor
    free: float

    @classmethod
    def of(cls, gains: Tensor, counts: Tensor, centring: float) -> _Fits:
        """The fits to the last `counts` gains of each bin, which is left out where that is zero."""
        mean = torch.zeros(len(SHARES), len(gains), dtype=torch.float64)
        variance, left = torch.zeros_like(mean), torch.zeros_like(mean[:, 0])
        logarithms = left.clone()
        for count in sorted(set(counts[counts > 0].tolist())):
            rows = counts == count
            whitening, determinant = _whitening(count)
            seen, one = whitening @ gains[rows, -count:].T, whitening.sum(2)
            precision = one.square().sum(1)
            mean[:, rows] = torch.einsum("un,unk->uk", one, seen) / precision.unsqueeze(1)
            variance[:, rows] = 1 / precision.unsqueeze(1)
            left += (seen - one.unsqueeze(2) * mean[:, rows].unsqueeze(1)).square().sum((1, 2))
            logarithms += rows.sum() * (determinant + precision.log())
        free = float((counts - 1).clamp(min=0).sum()) * centring
        noise = (left / free).clamp(min=ROUNDING**2)
        likelihood = -0.5 * (free * noise.log() + centring * logarithms)
        return cls(mean, variance, noise, likelihood, free)


@functools.cache
def _whitening(count: int) -> tuple[Tensor, Tensor]:
    """What makes the noise of so many consecutive gains white, by share, and log determinants.

    Returns:
        The inverse Cholesky factors of the covariances for a variance of one, shape (U, `count`,
        `count`), and the logarithms of the determinants of these, shape (U,).
    """
    beside = torch.diag(torch.full((count - 1,), -0.5, dtype=torch.float64), 1)
    shares = torch.tensor(SHARES, dtype=torch.float64).view(-1, 1, 1)
    whole = torch.eye(count, dtype=torch.float64)
    factors = torch.linalg.cholesky(whole + shares * (beside + beside.T))
    determinants = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    return torch.linalg.solve_triangular(factors, whole, upper=False), determinants


def _plain(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
