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
    """The options of `ShiftNAS`. What is the paper's is said; the rest is ours."""

    metric: str = "macs"
    """The cost that targets are of: `macs` (which the paper calls FLOPs), `params` or
    `latency_ms`."""

    grid: Grid | Sequence[float] | None = None
    """The targets, as (lowest, highest, step). The paper's are 0.1e9 MACs apart. Without a grid,
    `Grid.of` spreads them over the costs that uniform sampling meets."""

    bins: Positive | None = None
    """How many targets there are where no grid is given; 8 by default."""

    rule: Rule = "bounded"
    """How the distribution over targets moves. `bounded` follows gains per draw as far as they can
    be told from noise; `paper` descends equation 8 by Adam (see `ComplexityDistribution`)."""

    window: Positive | None = None
    """From how many of a target's last gains the enumerated estimator takes its gain per update; 16
    by default, and at least 2. With the paper's rule it is compared with noise, and moves
    nothing."""

    estimator: Estimator = "enumerated"
    """What the distribution moves by. `enumerated` compares the losses of all targets; `pathwise`
    takes the paper's gradient of equation 8 through draws, and needs the paper's rule."""

    signal: Signal = "signed"
    """What the enumerated estimator compares: `signed` changes of loss, or their magnitudes
    (`abs`)."""

    warmup: Share = 0.1
    """The share of the weight steps in which the distribution rests; the paper's rests for 50
    epochs. With kept answers it rests for one `period` at least."""

    period: Positive = 100
    """How many weight steps lie between two updates of the distribution, which are the paper's 100,
    and between two reports."""

    kept: Kept | None = None
    """What an update compares the losses of now with. With `answers`, the default, these are the
    losses that the same architectures had on the same images a period before: 16 that cost within
    half a step of each target, drawn once; the images are asked about in parts of 64, which are
    spread over the steps of the period. With `weights`, as in the paper, a copy of the weights is
    kept, and each update asks about the generator's likeliest architectures and other images, all
    at once. The pathwise estimator needs `weights`, and has them by default."""

    images: Positive = 1024
    """How many held-out images an update looks at, or all if there are fewer."""

    draws: Positive | None = None
    """How many architectures the pathwise estimator draws for an update, by default 8. The paper
    draws one, which is mostly noise."""

    distribution_lr: AboveZero | None = None
    """The rate at which the paper's rule moves by Adam, 1e-3 in the paper. By default it is 5 over
    the number of updates, which is about the same for 500 epochs of ImageNet, but at most 0.05."""

    ema: Share | None = None
    """With the paper's rule and the enumerated estimator, changes of loss are averaged, and this is
    the share that the average keeps at an update, by default 0.9. With 0 the last change alone
    counts."""

    floor: Probability | None = None
    """With the paper's rule, targets are drawn from a mixture with the uniform distribution, and
    this is its share, by default 0.05."""

    logit_clip: AtLeastZero | None = None
    """With the paper's rule, no logit is further than this from the mean of all, by default 3. With
    0 there is no limit."""

    resource_weight: AtLeastZero = 0.5
    """The weight λ of the resource loss, which is the squared distance of cost and target in steps
    of the grid."""

    dead_zone: AtLeastZero = 0.5
    """By how many steps of the grid a cost may miss its target without a resource loss when
    training begins; this shrinks to zero (see `anneal`). The paper has no such zone, which is 0."""

    entropy_weight: AtLeastZero = 0.1
    """The weight of a bonus for the entropy, in nats, of what the generator draws when training
    begins; it shrinks to zero (see `anneal`). The paper has no such bonus, which is 0."""

    anneal: Probability | None = None
    """The share of the weight steps over which `dead_zone` and `entropy_weight` shrink evenly to
    zero, by default 0.6. The steps that are left have the plain resource loss."""

    mix_uniform: Share = 0.1
    """The share of the steps that train, by slices, an architecture drawn uniformly from those
    whose cost is within half a step of the target; the generator rests in them. The paper has no
    such steps, which is 0."""

    all_bins: bool = True
    """Whether a step of the generator has the resource loss of all targets, or only that of the
    drawn one."""

    jitter: bool = False
    """Whether targets are drawn uniformly within half a step around those of the grid."""

    cost_form: CostForm = "exact"
    """How the resource loss counts costs: by the `exact` tables, or by the `additive` form of the
    paper's equation 10 (see `PolicyCost`)."""

    masks: MaskMode = "full"
    """How layers mask. Steps with `active` masks cost less, but by them the loss of the task can
    only make networks smaller."""

    policy_share: AboveZero = 0.25
    """The share of the batch on which the generator learns from the loss of the task, through
    masks, while the weights learn from slices on all of it. With 1, as in the paper, both learn
    from masks in one pass."""

    policy_every: Positive = 4
    """How many weight steps lie between two steps of the generator once its draws miss their
    targets by less than half a step of the grid (the root of their mean square). Until then it
    learns in every step. In the steps between, the weights train by slices on what it draws. With
    1, as in the paper, it always learns in every step."""

    tau: AboveZero = 1.0
    """The temperature of the generator's gradients when training begins."""

    tau_end: AboveZero | None = None
    """The temperature when training ends, which is reached by equal factors from `tau`; by default
    it stays as it is. Try a lower one where networks still miss their targets at the end: gradients
    are then nearer to those of the exact choices, and noisier."""

    lr: AboveZero = 1e-3
    """The constant rate of the generator's Adam."""

    hidden: Positive = 64
    """How many units the generator's LSTM has, which are as many as the paper's."""

    clip_norm: AtLeastZero = 1.0
    """The largest norm of the generator's gradient; with 0 there is no limit."""

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
