"""The options of the sampler `relaxed`, of which a differentiable method is a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal, final

from pydantic import Field
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, AboveZero, AtLeastZero, Positive, Share
from manyshot.train.relaxation import Estimator

Schedule = Literal["bilevel", "unrolled", "one_level"]


@final
@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class RelaxedOptions:
    """The options of `Relaxed`; the defaults are those of DARTS of first order."""

    estimator: Estimator = "softmax"
    """How the weights of options come from their logits (see `Estimator`)."""

    others: bool = False
    """Whether, with `hard`, options that are not drawn run too, forward only, so that the logit of
    each learns from what its option would have given (the straight-through estimator over all
    options). GDAS runs the drawn option alone, whose logit learns from the scale of its output;
    where a batch norm follows that output, and nothing is added to it, the scale does not matter,
    and logits learn nothing. It takes the forwards of all options in each step in which logits
    learn."""

    widths: Literal["masked", "interpolated"] = "masked"
    """How elastic widths are mixed: by the weighted sum of their masks (FBNetV2), or with the
    channels of each interpolated to the number of the largest that has a weight (TAS)."""

    schedule: Schedule = "bilevel"
    """What logits learn from. `bilevel`: the loss on held-out images at the weights as they are
    (DARTS of first order). `unrolled`: that after one more step of the weights on the images of the
    step, by finite differences (of second order). `one_level`: the training loss, together with the
    weights, so that no images are held out."""

    lr: AboveZero = 3e-4
    """The rate of Adam for logits."""

    betas: Annotated[Sequence[Share], Field(min_length=2, max_length=2)] = (0.5, 0.999)
    """Of that Adam."""

    weight_decay: AtLeastZero = 1e-3
    """Likewise, added to the gradient."""

    spread: AtLeastZero = 1e-3
    """The standard deviation of the first logits, which are otherwise zero."""

    warmup: Share = 0.0
    """The share of the weight steps in which logits rest, and all options weigh as at first."""

    every: Positive = 1
    """Logits learn after every so many weight steps."""

    images: Positive = 64
    """On so many held-out images, others each time."""

    tau: AboveZero = 1.0
    """The temperature of weights and draws at first."""

    tau_end: AboveZero | None = None
    """And at the end, to which it falls along a line; by default it stays."""

    skip: str | None = None
    """The name of the option that does nothing, to whose weight `skip_weight` is added wherever it
    is among the options: the auxiliary connection of DARTS-."""

    skip_weight: AboveZero = 1.0
    """What is added at first; it falls to 0 along a line."""

    edges: Sequence[Sequence[str]] = ()
    """Groups of names of decisions whose outputs are summed: their weights are multiplied by a
    softmax over the group, times its size, that learns besides (the edge normalisation of
    PC-DARTS)."""

    partial: Mapping[str, Positive] = field(default_factory=dict)
    """By names of decisions, or patterns such as `edge*`, in how many equal parts channels are cut
    of which the first alone is mixed, while the others pass by (PC-DARTS: 4). Weights beyond learn
    nothing, so that architectures are to be trained anew (`finish.mode = "scratch"`)."""

    summed: Sequence[str] = ()
    """Names of decisions between sets of parts, or patterns such as `*.inputs*`: which of its edges
    a node sums. All parts have weight one in the mixture, these decisions learn nothing, and the
    final architecture has the set whose parts are strongest, each by its largest weight of an
    option that is not excluded (DARTS). Without, sets learn as other options do, and a part has the
    sum of the weights of the sets that hold it."""

    entropy_weight: float = 0.0
    """This much of the mean entropy of decisions, in nats, is added to the loss; negative spreads
    weights, positive gathers them."""

    metric: str = "macs"
    """The cost that budgets and `cost_weight` are of."""

    cost_weight: AtLeastZero = 0.0
    """This much of the expected cost, as a share of the largest architecture's, is added to the
    loss of logits."""

    cost_target: Annotated[float, Field(gt=0, le=1)] | None = None
    """With it the loss has the logarithm of that share where it is above the target, its negative
    where it is below 95 % of it, and nothing in between (TAS)."""

    prune: Share = 0.0
    """Options whose weight falls below are left out for good (GOLD-NAS: 0.01); 0 leaves none
    out."""

    prune_every: Positive = 100
    """After every so many weight steps."""

    exclude: Sequence[str] = ()
    """Names of options that no final architecture has, such as `none`."""

    period: Positive = 100
    """How many weight steps lie between two reports."""

    def __post_init__(self) -> None:
        if self.cost_target is not None and not self.cost_weight:
            raise ValueError("cost_target has no effect without cost_weight: set it, such as to 2")
        if self.prune and self.estimator != "sigmoid":
            raise ValueError(
                f"prune compares weights of single options, and those of estimator = "
                f"{self.estimator!r} sum to one over all: take estimator = 'sigmoid'"
            )
        if self.others and self.estimator != "hard":
            raise ValueError(
                f"others runs options beside the one that is drawn, and with estimator = "
                f"{self.estimator!r} all that have a weight run anyway: leave it out"
            )
        if self.widths == "interpolated" and self.estimator == "hard":
            raise ValueError(
                "widths = 'interpolated' mixes several, and estimator = 'hard' draws one: take "
                "'two', as TAS does, or another"
            )
        if self.schedule == "one_level" and self.every != 1:
            raise ValueError(
                f"every = {self.every} is of logits that learn apart, and with schedule = "
                "'one_level' they learn in every step: leave every out"
            )
        if self.edges and self.estimator == "hard":
            raise ValueError(
                "edges multiply weights, and those of estimator = 'hard' are one-hot: take another"
            )
        if self.summed and self.estimator == "hard":
            raise ValueError(
                "summed lets all parts run, and those of estimator = 'hard' are one architecture: "
                "take another, or leave it out"
            )
        if self.partial and self.estimator == "hard":
            raise ValueError(
                "partial is of options that are mixed, and estimator = 'hard' runs one of them: "
                "take another, or leave it out"
            )
        if self.skip is not None and self.estimator == "hard":
            raise ValueError(
                "skip adds to weights, and those of estimator = 'hard' are one-hot: take another"
            )
