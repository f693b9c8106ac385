"""Records of a truth and of rankings against it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from manyshot.records import Part, Record, ScoresRecord
from manyshot.run_folder.parts import ArchText, Count, MetricRecord, Moment, Share, TaskRecord


class TruthLine(ScoresRecord):
    """A line of `truth.jsonl`: one architecture trained alone with one seed."""

    arch: ArchText
    seed: int
    metric: MetricRecord
    test_score: float
    test_loss: float | None = None
    macs: Count | None = None
    params: Count | None = None
    latency_ms: float | None = None
    images_forwarded: Count | None = None
    seconds: float | None = None
    settings: str | None = None
    """Identifies the network, the images of all parts and how it was trained."""
    trained_on: str | None = None
    """The digest of the training images."""
    tested_on: str | None = None
    """The digest of the test images."""


class RankScoreLine(ScoresRecord):
    """A line of `scores.jsonl`: a proxy score of an architecture of the truth."""

    arch: ArchText
    calibrated: bool
    proxy_score: float
    proxy_loss: float
    weights: str
    calibration: str
    validation_images: Count
    batch_size: Count
    seconds: float
    """From the score before it, or the beginning of its command, to this one."""


class ZeroCostLine(Record):
    """A line of `zero_cost.jsonl`: scores of an architecture of the truth without training."""

    arch: ArchText
    seed: int
    """Of the new weights."""
    images: str
    """Identifies the batch that it was scored on."""
    network: str = ""
    """The digest of the recipe's network and task; absent in records from before it was written."""
    scores: dict[str, float]
    absent: dict[str, str]
    """Scores that are not defined, and why."""
    seconds: float


FreeBaseline = Literal["macs", "params", "synflow", "naswot", "grad norm"]
"""What orders networks without a supernet: costs, then scores of networks that are not trained."""
IntervalMethod = Literal["BCa", "percentile", "F", "runs", "crossed", "jackknife"]
"""How the bounds of an interval were found: from the draws of a bootstrap over architectures
(`manyshot.rank.bootstrap`), by the F distribution (`manyshot.rank.reliability`), by resampling the
runs of the truth, by resampling architectures and runs together, or from the values without each
architecture in turn (`manyshot.rank.jackknife`)."""


class Statistic(Part):
    """A value with the bounds of a 95 % interval; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None
    interval: IntervalMethod | None = None
    """How the bounds were found; absent without them, and in records from before it was written."""
    cut: bool | None = None
    """Whether the interval reached beyond what the value can be, and is cut there."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two bounds, low and high, or none")
        if self.value is None and self.low is not None:
            raise ValueError("an interval needs a value")
        return self


class PredictorStatistics(Part):
    """How well one predictor orders a set; keys of dictionaries are sizes of tops."""

    kendall: Statistic
    spearman: Statistic
    pearson: Statistic
    clear_pairs: Statistic
    overlap: dict[str, Statistic]
    best_rank: dict[str, Count | float]
    """A mean of ranks on a set of which several chose in turn."""
    regret: Statistic
    beats: Statistic | None = None
    """The difference of Kendall's tau to that of `macs`."""
    weighted: Statistic | None = None
    """Tau in which the best weigh most; absent in records from before it was written."""
    sparse: Statistic | None = None
    """Tau of the truth rounded to 0.001; absent likewise, and where the truth is no share."""
    like_cost: Statistic | None = None
    """Tau over pairs of architectures of like multiply-adds; absent likewise, and where a set was
    chosen in turn."""
    beats_free: Statistic | None = None
    """The difference of tau to that of the best free baseline; absent for baselines."""


class Reliability(Part):
    """How far the mean of the runs that judge a set tells its architectures apart.

    What is None is not known, as with one run.
    """

    mean: Statistic
    """The reliability of the mean of the runs: the share of its variance that is no noise."""
    runs: float
    """How many runs an architecture has: the harmonic mean."""
    one_run: float | None
    """The reliability of one run."""
    between: float | None
    """The variance between architectures, as it is estimated: it may be negative."""
    within: float | None
    """The variance of a run about what its architecture is worth."""
    needed: Count | None
    """The runs that would be enough to judge; None also where no number is known to be enough."""
    ceiling: float | None
    """Kendall's tau with the mean of the runs, of who knows what every architecture is worth."""
    ceiling_bounds: tuple[float, float] | None = None
    """Its 95 % interval, by a bootstrap over architectures; of a whole space by that of `mean`."""


class RankedTurn(Part):
    """What one of several choosers chose of a set, and who judges it."""

    by: str
    archs: tuple[ArchText, ...]
    judged_by: tuple[str, ...]


class RankedSet(Part):
    """A set of architectures: who judges it, and how well each predictor orders it.

    Of a set of which several chose in turn all statistics are means over turns, and `architectures`
    is how many each chose.
    """

    name: str
    why: str
    architectures: Count
    judged_by: tuple[str, ...]
    archs: tuple[ArchText, ...]
    run_to_run: float | None
    null_sd: float | None
    predictors: dict[str, PredictorStatistics]
    reliability: Reliability | None = None
    """Absent in records from before it was written."""
    whole: bool | None = None
    """Whether these are all architectures of the space, or the best of all; absent likewise."""
    turns: tuple[RankedTurn, ...] | None = None
    """What each chose, where several chose in turn."""
    like_cost_pairs: Count | None = None
    """How many pairs of architectures `like_cost` is over."""
    like_cost_reliability: Reliability | None = None
    """Of the truth on these pairs; absent in records from before it was written."""
    best_free: FreeBaseline | None = None
    """The baseline without a supernet that orders best: the supernet has to beat it."""

    @model_validator(mode="after")
    def _can_be_compared(self) -> Self:
        """What beats MACs is compared with the tau of MACs."""
        macs = self.predictors.get("macs")
        for name, statistics in self.predictors.items():
            beats = statistics.beats
            if beats is None or beats.value is None:
                continue
            if macs is None or macs.kendall.value is None or statistics.kendall.value is None:
                raise ValueError(
                    f"predictors.{name}.beats is a difference of two taus: predictors.{name} and "
                    "predictors.macs need kendall.value"
                )
        return self


class RankedTruth(Part):
    """The truth that a run is ranked against; `share` of its networks is in a local set."""

    name: str
    source: str
    metric: MetricRecord
    runs: tuple[str, ...]
    architectures: Count
    run_sd: float | None
    digest: str
    share: Share


class Evaluation(Part):
    """How the architectures of a truth were scored, and what that took, over all commands.

    What a kill made a command compute again is left out. Multiply-adds are those of one process:
    several compute the common beginnings of their parts each for itself. Seconds are the sum over
    all processes.
    """

    method: str
    architectures: Count
    images_forwarded: Count
    macs_executed: Count | None
    macs_plain: Count | None
    seconds: float


class RankPoint(Part):
    """An architecture of the truth with its proxy scores."""

    arch: ArchText
    truth: float
    runs: Count
    error: float | None
    """The standard error of `truth` by the seed."""
    macs: Count
    params: Count
    proxy_score: float
    proxy_loss: float
    shared_statistics_score: float | None
    scores: tuple[float | None, ...] | None = None
    """Of every run of the truth; absent in records from before it was written."""
    zero_cost: dict[str, float] | None = None
    """Scores of the network without training, by name, if they were asked for."""


class Ranking(ScoresRecord):
    """`rank.json`: how far the ranking of a run can be trusted, against one truth."""

    run: str
    seed: int
    task: TaskRecord
    weights: str
    moment: Moment | None = None
    """Whether they are those before or after a search that moved them; None if none did."""
    truth: RankedTruth
    evaluation: Evaluation
    points: tuple[RankPoint, ...]
    sets: tuple[RankedSet, ...]
    absent: dict[str, str]
    """Sets that could not be made, and what each needs."""
    left_out: dict[str, str] = Field(default_factory=dict)
    """Baselines that were asked for and have no value, and why."""

    @model_validator(mode="after")
    def _has_a_proxy(self) -> Self:
        for ranked in self.sets:
            if "proxy" not in ranked.predictors:
                raise ValueError(f"set {ranked.name!r} has no predictors.proxy")
        return self


class MovedSet(Part):
    """What moving the weights did to the order of one set, which neither weights chose."""

    name: str
    why: str
    architectures: Count
    before: float | None
    """Kendall's tau of the proxy with the truth; likewise after."""
    after: float | None
    gain: Statistic
    """The second less the first; the interval is by architectures and runs of the truth."""
    reliability: Reliability | None = None
    """Of the truth on the set: whether it can judge; absent in records from before."""


class MovedRanking(ScoresRecord):
    """`moved.json`: what moving the weights did to the ranking of a run, against one truth."""

    run: str
    seed: int
    task: TaskRecord
    truth: RankedTruth
    before: str
    """The digest of the weights; likewise after."""
    after: str
    sets: tuple[MovedSet, ...]
    absent: dict[str, str]
    """Sets that could not be made, and what each needs."""
