"""Records of how a supernet was trained, and what its sampler and codes learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from manyshot.records import Part, Record
from manyshot.run_folder.parts import ArchText, Count, Share
from manyshot.space import SearchSpace


class CodeEvidence(Part):
    """Whether the codes of paths are worth anything, on images that nothing trained on.

    Losses are means over random paths, each on images drawn for it alone and by the batch
    statistics of these; errors are standard errors of paired differences over the paths. They are
    for this validation part: draws of different paths may share images, and all do where the part
    has no more than `images`, so that what other images would change is not in the errors.
    """

    paths: Count
    images: Count
    """For each path."""
    own_loss: float
    """With the code of the path."""
    mean_minus_own: float
    """The loss with the mean code of all paths, less that with the own."""
    mean_minus_own_error: Annotated[float, Field(ge=0)]
    other_minus_own: float
    """The loss with the code of another path, less that with the own."""
    other_minus_own_error: Annotated[float, Field(ge=0)]
    reachable_share: Share
    """Of the squared norm of the gradient of a path's weights, what codes can move along."""

    @property
    def is_better(self) -> bool:
        """Whether the own code is better than the mean code by more than two standard errors."""
        return self.mean_minus_own > 2 * self.mean_minus_own_error


class SplitRecord(Part):
    """A decision that one copy was split by, and the group of each of its options."""

    decision: str
    groups: tuple[Literal[0, 1], ...]


class TrainLine(Record):
    """A line of `train.jsonl`: the steps since the last one.

    Other keys are what a sharing scheme watches, each a number.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float] = Field(init=False)

    step: Count
    epoch: float
    images: Count
    lr: float
    loss: float | None = None
    code_loss: float | None = None
    code_entropy_share: float | None = None
    """The entropy of codes as a share of log K: 1 is uniform, 0 is one copy alone."""
    code_spread: float | None = None
    effective_sharing: float | None = None
    """How far a step on one path moves another, in units of how far it moves the one."""
    slice_distance: float | None = None
    codes: CodeEvidence | None = None
    """Whether codes matter; measured at a few records of a run."""
    splits: tuple[SplitRecord, ...] | None = None
    """What gradients split one copy by, since the last line."""
    images_per_second: float | None = None
    probed_images: Count | None = None
    """Images forwarded so far for the probes of a sampler."""
    weight_steps: Count | None = None
    """Steps so far that moved weights; absent in records from before it was written."""
    macs: Count | None = None
    """Multiply-adds so far of training paths, a backward as two forwards; absent likewise."""
    probe_macs: Count | None = None
    """Multiply-adds so far of forwards for probes."""
    split_macs: Count | None = None
    """Multiply-adds so far of the gradients that say how one copy splits, likewise."""
    evidence_macs: Count | None = None
    """Multiply-adds so far of measuring whether codes matter, which no method needs."""


class OptionChange(Part):
    """What became of an option of a decision when the search space changed."""

    decision: str
    option: str
    index: Count
    change: Literal["kept", "dropped", "opened"]
    score: float | None = None
    """By what it was judged; None if it was not."""


class ShrinkLine(Record):
    """A line of `shrink.jsonl`: from a step on, training goes on in another view of the space."""

    stage: Count
    """Which time it is; 0 is the view that training began with."""
    step: Count
    """How many steps were done."""
    shrinker: str
    measure: str
    """What `score` is of every option."""
    options: tuple[OptionChange, ...]
    """All that were allowed before, or are now."""
    size: Count
    """Encodings of the view."""
    judged: Count
    """Architectures that were scored for it."""

    @property
    def changes(self) -> list[OptionChange]:
        """The options that were dropped or opened."""
        return [option for option in self.options if option.change != "kept"]

    def view_of(self, space: SearchSpace) -> SearchSpace:
        """The view of the supernet's space that trained from then on."""
        allowed: dict[str, list[int]] = {str(d.name): [] for d in space.decisions}
        for option in self.options:
            if option.change != "dropped":
                allowed[option.decision].append(option.index)
        return space.whole.restricted({d: allowed[str(d.name)] for d in space.decisions})


class SamplerLine(Record):
    """A line of `sampler.jsonl`: what a learnt sampler reports after a step.

    Other keys are the sampler's, and may be anything.
    """

    model_config = ConfigDict(extra="allow")

    step: Count


class TargetsLine(SamplerLine):
    """What ShiftNAS reports, and its baseline of uniform costs; lists are in order of `targets`."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["target costs"]
    metric: str
    targets: tuple[float, ...]
    probabilities: tuple[Share, ...]
    counts: tuple[Count, ...]
    error_grid_steps: tuple[float, ...]
    """By how much the generator's likeliest architecture misses its target."""
    entropy_nats: tuple[float, ...]
    """Of what the generator draws for each target, the mean over 200 draws; in records without
    `distinct`, along its likeliest choices."""
    distinct: tuple[Count, ...] | None = None
    """How many of those draws are distinct architectures."""
    bin_entropy_nats: tuple[float | None, ...] | None = None
    """The logarithm of how many encodings cost within half a step of each target: the entropy of
    drawing them uniformly; None where none of the drawn ones does."""
    update: bool = False
    """Whether the probabilities were updated."""
    held_out_loss: tuple[float, ...] | None = None
    change: tuple[float, ...] | None = None
    """Of the losses, since the last update."""
    bins: tuple[int, ...] | None = None
    """The targets that `held_out_loss` and `change` are of, by their number."""
    gain: tuple[float | None, ...] | None = None
    """The gain per draw and update, of the last updates, less that of all; None for fewer than
    two."""
    standard_error: tuple[float | None, ...] | None = None
    """Of each `gain`."""
    signal_to_noise: float | None = None
    """The spread of the gains between targets over the noise of one update, as estimated."""
    level_noise: Share | None = None
    """The share of that noise which losses themselves have, and which does not add up; not in
    earlier records."""
    verdict: (
        Literal[
            "too few updates to tell", "indistinguishable from noise", "distinguishable from noise"
        ]
        | None
    ) = None
    """Whether the gains differ by more than noise."""


class OptionsLine(SamplerLine):
    """What a sampler reports that mixes options; lists are in the order of `decisions`."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["options"]
    decisions: tuple[str, ...]
    weights: tuple[tuple[Share, ...], ...]
    """Of each decision's options, without what is drawn or added."""
    tau: float
    skip_weight: float
    """What is added to the weight of the option that does nothing."""
    cost_weight: float
    edge_weights: tuple[tuple[Share, ...], ...]
    """Of the decisions of each group of edges."""
    options_left: Count
    """Of all decisions together; the others are left out for good."""


class MixedRecord(Record):
    """`mixed.json`: the network whose options are mixed, on validation images.

    It is normalised by the batch, since no statistics are of a mixture. What architectures with one
    option of each decision score less is the discretisation gap.
    """

    proxy_score: float
    proxy_loss: float
    images: Count


class CodesLine(Record):
    """A line of `codes.jsonl`: the code of one path when training ends, or one per layer.

    Of more than 128 rows, as with a code per channel, it is the mean of them.
    """

    arch: ArchText
    macs: Count
    code: tuple[float, ...] | tuple[tuple[float, ...], ...]


def _has_targets(report: Mapping[str, Any]) -> bool:
    return report.get("kind") == "target costs"


def _has_options(report: Mapping[str, Any]) -> bool:
    return report.get("kind") == "options"


def sampler_line(step: int, report: Mapping[str, Any]) -> SamplerLine:
    """A line of `sampler.jsonl` from what a sampler reports after a step.

    Raises:
        ValueError: if its `kind` is one of ours, and it is not so.
    """
    kind: type[SamplerLine] = SamplerLine
    if _has_targets(report):
        kind = TargetsLine
    elif _has_options(report):
        kind = OptionsLine
    return kind.of({"step": step, **report})
