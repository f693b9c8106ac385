"""The options of the `shift` sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

from manyshot.cost.policy import CostForm
from manyshot.nn.policy import MaskMode
from manyshot.train.gumbel import check_temperature
from manyshot.train.samplers.complexity import Grid, Signal

Estimator = Literal["enumerated", "pathwise"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftConfig:
    """Options of `Shift`; what the paper says is named, the rest is ours."""

    metric: str = "macs"
    """The cost that targets are of: macs (the paper's FLOPs), params, or latency_ms."""

    grid: Grid | Sequence[float] | None = None
    """The targets, (lo, hi, step); 0.1e9 MACs apart in the paper; by default `Grid.of` the cost."""

    bins: int = 8
    """Number of targets, where no grid is given."""

    learn: bool = True
    """Whether the distribution moves; without, targets stay uniform (the paper's baseline)."""

    estimator: Estimator = "enumerated"
    """Of the distribution's gradient: `enumerated` compares the losses of all targets; `pathwise`
    is the paper's equation 8, a gradient through draws."""

    signal: Signal = "signed"
    """Changes of loss, or their magnitudes (`abs`)."""

    warmup: float = 0.1
    """Share of the weight steps in which the distribution rests (the paper: 50 epochs)."""

    period: int = 100
    """Weight steps between two of its updates, the paper's, and between two reports."""

    images: int = 2048
    """Held-out images of an update, or all if there are fewer."""

    draws: int = 8
    """Of the pathwise estimator; the paper's one is mostly noise."""

    distribution_lr: float | None = None
    """Of its Adam (the paper: 1e-3); by default 5 over the number of updates, which is about the
    same for 500 epochs of ImageNet, but at most 0.05."""

    ema: float = 0.9
    """Share of the old in the average of changes of loss; 0 for the last alone."""

    floor: float = 0.05
    """Share of the uniform distribution in what targets are drawn from."""

    logit_clip: float = 3.0
    """Largest distance of a logit from the mean of all."""

    resource_weight: float = 0.5
    """Lambda: of the squared distance of cost and target, in steps of the grid."""

    all_bins: bool = True
    """Whether every step has the resource loss of all targets, or of the drawn one alone."""

    jitter: bool = False
    """Whether targets are drawn around those of the grid, uniform within half a step."""

    cost_form: CostForm = "exact"
    """Of the resource loss: `additive` is the paper's equation 10 (see `PolicyCost`)."""

    masks: MaskMode = "full"
    """How layers mask: with `active` steps cost less, but the loss of the task can only shrink."""

    tau: float = 1.0
    """Temperature of the generator's gradients."""

    tau_end: float | None = None
    """If given, the temperature goes there geometrically."""

    entropy_weight: float = 0.0
    """Of the generator's entropy (per decision, in nats), which counters collapse."""

    lr: float = 1e-3
    """Of the generator's Adam, constant."""

    hidden: int = 64
    """Units of the generator's LSTM, the paper's."""

    clip_norm: float | None = 1.0
    """Largest norm of the generator's gradient."""

    def __post_init__(self) -> None:
        for name, kinds in (("estimator", get_args(Estimator)), ("masks", get_args(MaskMode))):
            if getattr(self, name) not in kinds:
                raise ValueError(
                    f"{name} must be one of {', '.join(kinds)}, got {getattr(self, name)!r}"
                )
        for name in ("learn", "all_bins", "jitter"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be a share in [0, 1), got {self.warmup}")
        for name in ("period", "images", "draws"):
            count = getattr(self, name)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        for name in ("lr", "distribution_lr", "clip_norm"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"{name} must be above zero and finite, got {rate}")
        for name in ("resource_weight", "entropy_weight"):
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be at least zero and finite, got {weight}")
        for temperature in (self.tau, self.tau_end):
            check_temperature(self.tau if temperature is None else temperature)
