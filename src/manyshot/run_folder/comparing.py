"""Records of a comparison of runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from manyshot.records import Part, ScoresRecord
from manyshot.run_folder.beginning import RunPart
from manyshot.run_folder.parts import ArchText, Count, MetricRecord
from manyshot.run_folder.ranking import FreeBaseline, RankedTruth, Reliability


class ComparedWinner(Part):
    """A winner of a compared run, with its score trained alone if the truth has it."""

    budget: str
    arch: ArchText
    test_score: float
    truth: float | None


SpentPart = Literal["training", "probes", "search", "shifting", "finishing"]
"""What multiply-adds are spent on."""


class Spent(Part):
    """What a run spent; None is not known, and `missing` says why."""

    weight_steps: Count | None
    """Steps that moved the supernet's weights, in training and while a search shifted them."""
    macs: dict[SpentPart, Count | None]
    """Multiply-adds, a backward as two forwards."""
    seconds: dict[RunPart, float]
    missing: dict[SpentPart, str] = Field(default_factory=dict)


class AnytimePoint(Part):
    """How good the best of a run was when so much had been spent on training and search."""

    macs: Count | None
    seconds: float | None
    score: float


class ComparedRun(Part):
    """What a comparison takes of one run."""

    folder: str
    method: str
    seed: int
    images: dict[str, Count]
    """Forwarded, by what for; with `trained` and `total`."""
    metrics: dict[str, float | None]
    winners: tuple[ComparedWinner, ...] = ()
    spent: Spent | None = None
    """Absent in records from before it was written."""
    anytime: tuple[AnytimePoint, ...] = ()
    """Of the first budget, by truth where there is one, else by proxy score."""


class Mean(Part):
    """A mean over `n` seeds with a 95 % interval; None where it is undefined."""

    mean: float | None
    low: float | None
    high: float | None
    n: Count
    cut: bool | None = None
    """Whether the interval reached beyond what a value can be, and was cut there."""


class ComparedMethod(Part):
    """A method over its seeds."""

    method: str
    seeds: tuple[int, ...]
    images: float
    metrics: dict[str, Mean]


Verdict = Literal[
    "better", "worse", "not distinguishable", "undefined", "too few seeds", "cannot judge"
]
Factor = Literal["seeds", "architectures", "runs of the truth"]
"""What would have given another difference, and is resampled."""


class ComparedPair(Part):
    """Two methods by one metric: the first minus the second.

    What may be None is absent in records from before it was written.
    """

    first: str
    second: str
    metric: str
    n: Count
    difference: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    equal_images: bool
    sentence: str
    paired: bool | None = None
    """Whether seeds are those that both have; else they are the smaller number of two."""
    primary: bool | None = None
    """Whether the metric is the one that was chosen before."""
    p: float | None = None
    """Of no difference, two-sided, for this pair alone."""
    corrected: float | None = None
    """After Holm's correction; None where nothing may be said."""
    family: Count | None = None
    """How many comparisons were corrected for."""
    family_name: str | None = None
    """What these comparisons are of."""
    resampled: tuple[Factor, ...] | None = None
    """What the interval is by."""
    cut: bool | None = None
    """Whether the interval reached beyond what a difference can be, and was cut there."""


class Baseline(Part):
    """What orders without a supernet, or who knows what every architecture is worth."""

    name: FreeBaseline | Literal["run to run", "ceiling"]
    """Older records have `run to run`, how well one training of the truth orders another."""
    metrics: dict[str, float | None]


class Comparison(ScoresRecord):
    """`compare.json`: methods over seeds."""

    metric: MetricRecord
    """Of the scores on test images."""
    truth: RankedTruth | None
    runs: tuple[ComparedRun, ...]
    baselines: tuple[Baseline, ...]
    methods: tuple[ComparedMethod, ...]
    pairs: tuple[ComparedPair, ...]
    primary: str | None = None
    """The metric that the verdict is by."""
    reference: str | None = None
    """The method that the others are compared with by it."""
    reliability: dict[str, Reliability] | None = None
    """Of the truth, by set; absent in records from before it was written."""
    families: dict[str, Count] | None = None
    """Of Holm's correction, how many comparisons each has; absent likewise."""
    notes: tuple[str, ...] = ()
    """What the comparison lacks, and how to get it."""
