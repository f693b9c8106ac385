"""The options of the sampler `shiftnas`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from pydantic.dataclasses import dataclass

from manyshot.cost.policy import CostForm
from manyshot.nn.policy import MaskMode
from manyshot.plugins import STRICT, AboveZero, AtLeastZero, Positive, Probability, Share
from manyshot.train.samplers.complexity import Grid, Rule, Signal

Estimator = Literal["enumerated", "pathwise"]
Kept = Literal["answers", "weights"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class ShiftNASOptions:
    """Options of `ShiftNAS`; what the paper says is named, the rest is ours."""

    metric: str = "macs"
    """The cost that targets are of: macs (the paper's FLOPs), params, or latency_ms."""

    grid: Grid | Sequence[float] | None = None
    """The targets, (lo, hi, step); 0.1e9 MACs apart in the paper; by default `Grid.of` the cost."""

    bins: Positive | None = None
    """Number of targets, 8 by default, where no grid is given."""

    rule: Rule = "bounded"
    """By which the distribution moves: `bounded` by gains per draw that can be told from noise;
    `paper` descends equation 8 by Adam (see `ComplexityDistribution`)."""

    window: Positive | None = None
    """Of the enumerated estimator: updates of a target whose gains are averaged, 16 by default and
    at least 2. By the paper's rule they are only compared with noise."""

    estimator: Estimator = "enumerated"
    """Of what moves the distribution: `enumerated` compares the losses of all targets; `pathwise`
    is the paper's equation 8, a gradient through draws, and needs the paper's rule."""

    signal: Signal = "signed"
    """Of the enumerated estimator: changes of loss, or their magnitudes (`abs`)."""

    warmup: Share = 0.1
    """Share of the weight steps in which the distribution rests (the paper: 50 epochs); with kept
    answers at least one `period`."""

    period: Positive = 100
    """Weight steps between two of its updates, the paper's, and between two reports."""

    kept: Kept | None = None
    """What an update compares with: `answers`, by default, the losses of the same architectures on
    the same images a period before, asked in parts of 128 images, spread over the steps of the
    period; `weights` a copy of the weights, on other images in each update and all at once. The
    pathwise estimator needs `weights`, and has them by default."""

    images: Positive = 1024
    """Held-out images of an update, or all if there are fewer."""

    draws: Positive | None = None
    """How many architectures the pathwise estimator draws for an update, by default 8. The paper
    draws one, which is mostly noise."""

    distribution_lr: AboveZero | None = None
    """Of the paper's rule: the rate of its Adam (the paper: 1e-3); by default 5 over the number of
    updates, which is about the same for 500 epochs of ImageNet, but at most 0.05."""

    ema: Share | None = None
    """Of the paper's rule with the enumerated estimator: share of the old in the average of changes
    of loss, 0.9 by default; 0 for the last alone."""

    floor: Probability | None = None
    """Of the paper's rule: share of the uniform distribution in what targets are drawn from, 0.05
    by default."""

    logit_clip: AtLeastZero | None = None
    """Of the paper's rule: largest distance of a logit from the mean of all, 3 by default; 0 for no
    limit."""

    resource_weight: AtLeastZero = 0.5
    """Lambda: of the squared distance of cost and target, in steps of the grid."""

    dead_zone: AtLeastZero = 0.5
    """Steps of the grid by which a cost may miss its target without a resource loss, when training
    begins; they shrink to zero (see `anneal`). The paper has none: 0."""

    entropy_weight: AtLeastZero = 0.1
    """Of a bonus for the entropy of what the generator draws, in nats, when training begins; it
    shrinks to zero (see `anneal`). The paper has none: 0."""

    anneal: Probability | None = None
    """Share of the weight steps over which `dead_zone` and `entropy_weight` shrink evenly to zero,
    by default 0.6; the steps that are left have the plain resource loss."""

    mix_uniform: Share = 0.1
    """Share of the steps that train, by slices, an architecture drawn uniformly from those whose
    cost is within half a step of the target's; the generator rests. The paper has none: 0."""

    all_bins: bool = True
    """Whether a step of the generator has the resource loss of all targets, or of the drawn one
    alone."""

    jitter: bool = False
    """Whether targets are drawn around those of the grid, uniform within half a step."""

    cost_form: CostForm = "exact"
    """Of the resource loss: `additive` is the paper's equation 10 (see `PolicyCost`)."""

    masks: MaskMode = "full"
    """How layers mask: with `active` steps cost less, but the loss of the task can only shrink."""

    policy_share: AboveZero = 0.25
    """Share of the batch on which the generator learns from the loss of the task, through masks;
    the weights learn from slices on all of it. At 1, the paper's, all learn from masks in one pass.
    """

    policy_every: Positive = 4
    """Weight steps from one step of the generator to the next, once its draws miss their targets
    by less than half a step of the grid (the root of their mean square); until then it learns in
    every step. In between, the weights train on what it draws, by slices. The paper's is 1."""

    tau: AboveZero = 1.0
    """Temperature of the generator's gradients, when training begins."""

    tau_end: AboveZero | None = None
    """The temperature when training ends, by equal factors from `tau`; by default as it begins."""

    lr: AboveZero = 1e-3
    """Of the generator's Adam, constant."""

    hidden: Positive = 64
    """Units of the generator's LSTM, the paper's."""

    clip_norm: AtLeastZero = 1.0
    """Largest norm of the generator's gradient; 0 for no limit."""

    def __post_init__(self) -> None:
        if self.grid is not None and self.bins is not None:
            raise ValueError(f"bins = {self.bins} are of an automatic grid; leave them or grid out")
        if self.policy_share > 1:
            raise ValueError(f"policy_share = {self.policy_share} is a share: at most 1")
        if self.rule != "paper":
            for name in ("distribution_lr", "ema", "floor", "logit_clip"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} = {getattr(self, name)} is of the paper's rule, and rule = "
                        f"{self.rule!r}: leave it out, or take rule = 'paper'"
                    )
        if self.draws is not None and self.estimator != "pathwise":
            raise ValueError(
                f"draws = {self.draws} is of the pathwise estimator, and estimator = "
                f"{self.estimator!r}: leave it out, or take estimator = 'pathwise'"
            )
        if self.anneal is not None and not (self.dead_zone or self.entropy_weight):
            raise ValueError(
                f"anneal = {self.anneal} is of dead_zone and entropy_weight, which are both 0: "
                "leave it out, or give one of them"
            )
        if self.estimator == "pathwise":
            self._check_pathwise()

    def _check_pathwise(self) -> None:
        if self.rule != "paper":
            raise ValueError(
                f"estimator = 'pathwise' makes a gradient for rule = 'paper', and rule = "
                f"{self.rule!r}, which compares the losses of all targets: take rule = 'paper', or "
                "estimator = 'enumerated'"
            )
        if self.kept == "answers":
            raise ValueError(
                "kept = 'answers' is of the enumerated estimator: the pathwise one follows the "
                "gradient at both weights, of the same draws; leave it out, or say 'weights'"
            )
        if self.signal != "signed":
            raise ValueError(
                f"signal = {self.signal!r} is of the enumerated estimator, not of the pathwise one"
            )
        for name in ("ema", "window"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} = {getattr(self, name)} is of the enumerated estimator, not of the "
                    "pathwise one: leave it out"
                )
