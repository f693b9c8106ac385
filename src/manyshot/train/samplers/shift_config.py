"""The options of the sampler `shiftnas`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

from manyshot.cost.policy import CostForm
from manyshot.nn.policy import MaskMode
from manyshot.train.samplers.complexity import Grid, Signal

Estimator = Literal["enumerated", "pathwise"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftNASOptions:
    """Options of `Shift`; what the paper says is named, the rest is ours."""

    metric: str = "macs"
    """The cost that targets are of: macs (the paper's FLOPs), params, or latency_ms."""

    grid: Grid | Sequence[float] | None = None
    """The targets, (lo, hi, step); 0.1e9 MACs apart in the paper; by default `Grid.of` the cost."""

    bins: int | None = None
    """Number of targets, 8 by default, where no grid is given."""

    estimator: Estimator = "enumerated"
    """Of the distribution's gradient: `enumerated` compares the losses of all targets; `pathwise`
    is the paper's equation 8, a gradient through draws."""

    signal: Signal = "signed"
    """Of the enumerated estimator: changes of loss, or their magnitudes (`abs`)."""

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
    """Of the enumerated estimator: share of the old in the average of changes of loss; 0 for the
    last alone."""

    floor: float = 0.05
    """Share of the uniform distribution in what targets are drawn from."""

    logit_clip: float = 3.0
    """Largest distance of a logit from the mean of all; 0 for no limit."""

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

    lr: float = 1e-3
    """Of the generator's Adam, constant."""

    hidden: int = 64
    """Units of the generator's LSTM, the paper's."""

    clip_norm: float = 1.0
    """Largest norm of the generator's gradient; 0 for no limit."""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            if getattr(self, name) not in kinds:
                raise ValueError(
                    f"{name} must be one of {', '.join(kinds)}, got {getattr(self, name)!r}"
                )
        for name in ("all_bins", "jitter"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.metric, str):
            raise ValueError(f"metric must be the name of a cost, got {self.metric!r}")
        for name in ("period", "images", "draws", "hidden", "bins"):
            count = getattr(self, name)
            whole = isinstance(count, int) and not isinstance(count, bool)
            if count is not None and (not whole or count < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        for name, (allowed, fits) in _RANGES.items():
            number = getattr(self, name)
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if number is not None and not (is_number and fits(number)):
                raise ValueError(f"{name} must be {allowed}, got {number!r}")
        if self.grid is not None and self.bins is not None:
            raise ValueError(f"bins = {self.bins} are of an automatic grid; leave them or grid out")
        if self.estimator == "pathwise" and self.signal != "signed":
            raise ValueError(
                f"signal = {self.signal!r} is of the enumerated estimator, not of the pathwise one"
            )


_KINDS = {
    "estimator": get_args(Estimator),
    "masks": get_args(MaskMode),
    "signal": get_args(Signal),
    "cost_form": get_args(CostForm),
}
_SHARE = ("a share in [0, 1)", lambda x: 0 <= x < 1)
_ABOVE = ("above zero and finite", lambda x: 0 < x < math.inf)
_LEAST = ("at least zero and finite", lambda x: 0 <= x < math.inf)
_RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("warmup", "ema"), _SHARE),
    **dict.fromkeys(("lr", "distribution_lr", "tau"), _ABOVE),
    **dict.fromkeys(("resource_weight", "logit_clip", "clip_norm"), _LEAST),
    "floor": ("a share in [0, 1]", lambda x: 0 <= x <= 1),
}
