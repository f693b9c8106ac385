"""Whether gains of targets differ by more than noise, and the logits that they justify."""

from __future__ import annotations

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


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gains of the last updates say.

    Attributes:
        gain: the mean gain of each bin, float64, shape (K,); nan for fewer than two updates.
        standard_error: of each mean, in the same shape.
        signal_to_noise: the spread of the true gains over that of one update's noise, as estimated;
            nan while there are too few updates.
        kept: the share of the means' spread that is kept, in [0, 1): zero if noise alone makes one
            so large in more than 5 % of the cases.
        verdict: whether the gains differ by more than noise.
    """

    gain: Tensor
    standard_error: Tensor
    signal_to_noise: float
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
            "signal_to_noise": None if math.isnan(self.signal_to_noise) else self.signal_to_noise,
            "verdict": self.verdict,
        }


def weighed(gains: Tensor, evaluated: int) -> Evidence:
    """Means of gains, compared with noise by an analysis of variance.

    The noise of one update is estimated from how the gains of a bin differ between its updates, for
    all bins together. F is the variance of the means of bins over what noise gives them, and C its
    95 % quantile under noise; what is kept of the spread is max(0, 1 - C / F). Centring each update
    takes 1 / `evaluated` of the noise's variance and of its degrees of freedom, which is accounted
    for.

    Args:
        gains: less the mean of their update, shape (K, N); nan where there is none.
        evaluated: how many bins an update has.

    Returns:
        The evidence. It takes two bins of two updates each; bins with fewer have no part in it.
    """
    from scipy import special  # slow to import

    counts = (~gains.isnan()).sum(1)
    known = counts >= 2
    mean = gains.nanmean(1).where(known, math.nan)
    error = torch.full_like(mean, math.nan)
    if known.sum() < 2:
        return Evidence(mean, error, math.nan, 0.0, "too few updates to tell")
    centring = (evaluated - 1) / evaluated
    within = (gains[known] - mean[known].unsqueeze(1)).square().nansum()
    free = float((counts[known] - 1).sum()) * centring
    noise = max(float(within) / free, ROUNDING**2)
    error[known] = (noise / counts[known].double()).sqrt()
    spread, expected = float(mean[known].var()), float(error[known].square().mean())
    critical = float(special.fdtri(int(known.sum()) - 1, free, CONFIDENCE))
    kept = max(0.0, 1 - critical * expected / spread) if spread > 0 else 0.0
    return Evidence(
        mean,
        error,
        math.sqrt(max(0.0, spread - expected) / noise),
        kept,
        "distinguishable from noise" if kept > 0 else "indistinguishable from noise",
    )


def _plain(values: Tensor) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
