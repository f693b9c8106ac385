"""The folders that manyshot writes: every file name, the type of every record, and their readers.

What is written is made of these types, and what is read becomes them, so that a damaged or foreign
file is a `RecordError` that names the file, the line and the key. Scores are values of the metric
that the task of a run ranks by, which `TaskRecord` names with its direction; those that are shares
are in [0, 1]. Other units are in the names. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal, Self, TypeVar, final

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from manyshot import records
from manyshot.recipe import Recipe
from manyshot.records import Part, Record, RecordError, ScoresRecord
from manyshot.space import SearchSpace

# -- names of files --------------------------------------------------------------------------------

RECIPE = "recipe.toml"
SIGNATURE = "recipe.sig"
"""Says whose command wrote the recipe."""
ENVIRONMENT = "environment.json"
SPACE = "space.json"
LATENCY = "latency.json"
SECONDS = "seconds.json"
"""How long the parts of a run took."""
WEIGHTS = "supernet.safetensors"
"""The weights of the trained supernet."""
SOURCE = "source.safetensors"
"""The weights that a transfer begins with."""
ORIGINAL = "original.safetensors"
"""The weights that were given to a network, as the run began with them."""
INHERITED = "inherited.safetensors"
"""The weights of another run that slices began as."""
SHIFTED = "shifted.safetensors"
"""The supernet's weights after a search that moved them."""
SAMPLER = "sampler.pt"
"""What a learnt sampler has learnt, kept beside the supernet's weights."""
TRAINER = "trainer.pt"
"""The checkpoint of a training that is not done."""
SHIFTING_STATE = "shifting.pt"
"""All that a search which moves the weights saves after every generation."""
TRAIN_LOG = "train.jsonl"
SAMPLER_LOG = "sampler.jsonl"
CODES = "codes.jsonl"
SEARCH_LOG = "search.jsonl"
ORDER_LOG = "order.jsonl"
SHIFTING_LOG = "shifting.jsonl"
FINISH_LOG = "finish.jsonl"
"""Winners."""
CONTROLS_LOG = "controls.jsonl"
"""Networks that winners have to beat."""
EXPORTED_LOG = "exported.jsonl"
"""Other architectures that somebody asked for."""
RESULT = "result.json"
SUBNETS = "subnets"
"""The folder of finished networks."""
RANKS = "rank"
"""The folder that has a folder per truth that a run was ranked against."""
RANKING = "rank.json"
RANK_SCORES = "scores.jsonl"
ZERO_COST = "zero_cost.jsonl"
TRUTHS = "truth"
"""The folder that `manyshot truth` puts truths in, if it is not told where."""
TRUTH_LOG = "truth.jsonl"
"""A line per finished training of one architecture alone."""
LOCK = "lock"
HOLDER = "lock.json"
"""Who holds the lock; it says nothing while nobody does."""
BEFORE: Final = "before"
"""The weights before a search moved them; and the folder, in that of a ranking, of the ranking by
these weights."""
AFTER: Final = "after"
"""The weights after it."""
Moment = Literal["before", "after"]
"""Which weights of a run whose search moves them."""
MOVED = "moved.json"
"""What moving the weights did to a ranking."""
COMPARISON = "compare.json"
REPORT = "report.html"

_BEGUN = (
    *(WEIGHTS, SAMPLER, TRAINER, TRAIN_LOG, SEARCH_LOG, ORDER_LOG),
    *(SHIFTING_LOG, SHIFTING_STATE, FINISH_LOG, CONTROLS_LOG, RESULT),
)
"""Any of these holds work; without, a folder is left from checks that failed."""
_OF_A_RUN = (RESULT, SEARCH_LOG, TRAIN_LOG)
"""Any of these makes a folder one of a run, for its report."""

# -- parts of records ------------------------------------------------------------------------------

ArchText = Annotated[str, StringConstraints(pattern=r"^\d+(-\d+)*$")]
"""An architecture as text, such as `0-2-1`."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


def _stays_inside(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError("it must be a path inside the folder")
    return path


InnerPath = Annotated[str, AfterValidator(_stays_inside)]
"""A path relative to the folder, and inside it."""
PngText = Annotated[str, StringConstraints(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")]
"""A PNG file as the address of an image."""


class MetricRecord(Part):
    """The metric that scores are values of."""

    name: str
    higher_is_better: bool
    share: bool
    """Whether values are shares in [0, 1], which people read in percent."""

    def oriented(self, value: float) -> float:
        """The value, with its sign turned where lower is better: the highest is the best."""
        return value if self.higher_is_better else -value


ACCURACY = MetricRecord(name="accuracy", higher_is_better=True, share=True)
"""The metric of classification, and of every published table."""


class TaskRecord(Part):
    """What the scores of a run are, and by what networks rank."""

    name: str
    metric: MetricRecord
    fitness: Literal["metric", "loss"]
    """By what a search ranks: the metric, or the loss on the same images."""

    def fitness_of(self, score: float, loss: float) -> float:
        """By what networks rank, from a score and a loss: the highest is the best."""
        return -loss if self.fitness == "loss" else self.metric.oriented(score)


class MemoryFormat(Part):
    """The memory format that a network trains in, and why."""

    name: str
    why: str


class DecisionRecord(Part):
    """One decision of a search space."""

    name: str
    options: tuple[Any, ...]
    ranks: tuple[float, ...]


class SpaceDescription(Record):
    """What `SearchSpace.to_dict` says of a space."""

    decisions: tuple[DecisionRecord, ...]
    uses: dict[str, tuple[tuple[tuple[int, tuple[int, ...]], ...], ...]]
    commutations: tuple[tuple[tuple[int, ...], int], ...]


class Operations(Part):
    """How often each option of each decision occurs, and the entropy of each decision."""

    counts: tuple[tuple[Count, ...], ...]
    entropy_nats: tuple[float, ...]


class TestedRecord(Part):
    """A finished network within one budget."""

    budget: str
    arch: ArchText
    macs: Count
    params: Count
    latency_ms: float
    costs: dict[str, float] | None = None
    """Further ones that a budget is on: the size of weights in bytes, and the recipe's own."""
    proxy_score: float
    proxy_loss: float
    test_score: float
    test_loss: float
    test_metrics: dict[str, float]
    """The values of all metrics of the task that have one, by name, `test_score` among them."""
    test_interval: tuple[float, float] | None = None
    """The bounds of a 95 % interval of `test_score` by the test images alone."""


class WinnerRecord(TestedRecord):
    """The best network within one budget, by the supernet."""

    choices: dict[str, Any]
    files: dict[str, InnerPath]
    int8_score: float | None = None
    """As `test_score`, of the file of 8-bit integers, if there is one."""
    failed: dict[str, str] | None = None
    """The formats that could not be written, and why."""


ControlKind = Literal["largest", "random", "scaled"]
"""Which network within a budget a control is."""


class ControlRecord(TestedRecord):
    """A network within one budget that no search chose, finished and tested as its winner."""

    kind: ControlKind


class Difference(Part):
    """By how much winners are better than controls of one kind on test images, over budgets.

    In the unit of the metric, its sign turned where lower is better. The bounds are those of a 95 %
    interval by the test images alone: what another seed of the training would change is not in it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    budgets: Count


class VerdictRecord(Part):
    """What a run says of its own result, and what it says it by. None is what cannot be said."""

    worth: Literal["good", "doubtful", "nothing", "unknown"]
    """Whether winners beat all controls, do not, the ranking means nothing, or it is not known."""
    words: tuple[str, ...]
    """Sentences, the most important first."""
    chance: float | None = None
    """The score of guessing, on validation images."""
    best_proxy: float | None = None
    random_networks: Count = 0
    """How many networks were drawn at random before the search learnt from scores."""
    halves_tau: float | None = None
    """Kendall's tau between the orders of the random networks by two halves of the images."""
    spread: float | None = None
    """The standard deviation of what the random networks rank by."""
    error: float | None = None
    """The standard error of that of one network, by the two halves."""
    macs_tau: float | None = None
    """Kendall's tau of the random networks' order with that by MACs."""
    params_tau: float | None = None
    finished: Count = 0
    """How many networks have both a proxy and a test score."""
    proxy_test_tau: float | None = None
    """Kendall's tau between these."""
    macs_test_tau: float | None = None
    """Kendall's tau between their MACs and test scores."""
    improved: Count | None = None
    """In how many budgets the winner is better, by the supernet, than all random networks."""
    controls: dict[ControlKind, Difference] = Field(default_factory=dict)


class Timing(Part):
    """A direct measurement of a network's latency, with what decides its meaning."""

    median_ms: float
    iqr_ms: float
    batch_size: Count
    threads: Count
    repeats: Count
    clock: str
    device: str
    warmup: Count | None = None
    torch_version: str | None = None
    runtime: Literal["torch", "onnxruntime"] = "torch"
    runtime_version: str | None = None
    table_ms: float | None = None
    """What the latency table of the run says, if there is one."""


class WatchedSet(Part):
    """How a search that moved the weights changed the scores and order of watched networks."""

    architectures: Count
    mean_score_before: float
    mean_score_after: float
    tau_before_after: float | None
    halves_tau_before: float | None = None
    """How far two halves of the validation images agree on the order; likewise after."""
    halves_tau_after: float | None = None


class DoseRecord(Part):
    """How much a search moved the weights: sums of the rates of optimiser steps."""

    shifting: float
    training: float
    """Before the search; of a supernet that was moved to other images, of the whole body on
    these."""
    relative: float | None = None
    """The first by the second; None where the optimisers are not the same, or nothing trained."""


class GeneratedRecord(Part):
    """How a generator met one budget; `below_budget_share` is the share of it that is left."""

    decodes: Count
    drawn: bool
    below_budget_share: float | None = None


class ImagesRecord(Part):
    """The images of a run, and what is worth knowing of their files."""

    name: str
    fingerprint: str
    """Of all parts."""
    digests: dict[str, str] = Field(default_factory=dict)
    """Of each part, by its name."""
    image_shape: tuple[int, ...]
    class_counts: dict[str, tuple[Count, ...]]
    """By the name of the part, in the order of the labels."""
    class_names: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    """Per channel, of pixels divided by 255, likewise `std`; absent for data of your own."""
    std: tuple[float, ...] | None = None
    keeps_aspect: bool | None = None
    """Whether images of other proportions are cut to `image_shape`, not stretched to it."""
    notes: tuple[str, ...] = ()
    """How many files are used and left out, and what was converted."""


Trained = Literal["train", "finish.training"]
"""The sections of a recipe that may have minutes in place of epochs."""


class SpaceSize(Part):
    """How large a search space is: its encodings and its decisions."""

    size: Count
    decisions: Count


class LatencyTableRecord(Part):
    """Milliseconds as a sum: of a constant, and of a table for each set of decisions."""

    metric: str
    counts: tuple[int, ...]
    constant: float
    tables: tuple[tuple[tuple[int, ...], Any], ...]


class LatencyCheckRecord(Part):
    """A latency table beside direct measurements."""

    archs: tuple[tuple[int, ...], ...]
    measured_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]
    median_error: float | None
    kendall_tau: float | None


# -- a run -----------------------------------------------------------------------------------------


class EnvironmentRecord(Record):
    """`environment.json`: where a run or a truth was made."""

    manyshot: str
    python: str
    torch: str
    platform: str
    processor: str
    cores: int | None
    threads: Count
    argv: tuple[str, ...]
    memory_format: MemoryFormat | None = None


class SpaceRecord(ScoresRecord):
    """`space.json`: what option indices, budgets in % and scores in records mean; images."""

    space: SpaceDescription
    largest: dict[str, float]
    """Costs of the largest architecture by metric."""
    task: TaskRecord
    images: ImagesRecord | None = None
    default_budgets: tuple[str, ...] | None = None
    """The budgets, if the recipe that the run began with had none."""
    minutes: dict[Trained, float] | None = None
    """Those that epochs of the recipe took the place of, by section, if the run began with any."""

    def search_space(self) -> SearchSpace:
        """The space that is described.

        Raises:
            RecordError: if its parts contradict each other.
        """
        try:
            return SearchSpace.from_dict(self.space.plain())
        except (ValueError, LookupError) as error:
            raise RecordError(
                f"{SPACE} describes no search space ({error}): restore it from a copy, or delete "
                "it and resume: it is made again"
            ) from error


class LatencyRecord(Record):
    """`latency.json`: a latency table and how it was measured."""

    table: LatencyTableRecord
    decisions: tuple[str, ...]
    inputs: str
    """The shapes of one sample."""
    batch_size: Count
    threads: Count
    device: str
    clock: str
    torch_version: str
    dtype: str
    warmup: Count
    repeats: Count
    cells: Count
    spread: float
    runtime: Literal["torch", "onnxruntime"]
    runtime_version: str
    check: LatencyCheckRecord


RunPart = Literal["latency", "training", "search", "finishing", "tests", "exports"]
"""A part of a run whose seconds are counted."""


class SecondsRecord(Record):
    """`seconds.json`: how long the parts of a run took, over all commands that worked on it.

    What was done again after a kill is in it, and up to half a minute before the kill is not.
    """

    seconds: dict[RunPart, Annotated[float, Field(ge=0)]]


class CodeEvidence(Part):
    """Whether the codes of paths are worth anything, on images that nothing trained on.

    Losses are means over random paths, each on images of its own and by the batch statistics of
    these; errors are standard errors of paired differences over the paths.
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
    """The mean gain per draw of the last updates, less that of all; None for fewer than two."""
    standard_error: tuple[float | None, ...] | None = None
    """Of each `gain`."""
    signal_to_noise: float | None = None
    """The spread of the gains between targets over the noise of one update, as estimated."""
    verdict: (
        Literal[
            "too few updates to tell", "indistinguishable from noise", "distinguishable from noise"
        ]
        | None
    ) = None
    """Whether the gains differ by more than noise."""


class CodesLine(Record):
    """A line of `codes.jsonl`: the code of one path when training ends, or one per layer.

    Of more than 128 rows, as with a code per channel, it is the mean of them.
    """

    arch: ArchText
    macs: Count
    code: tuple[float, ...] | tuple[tuple[float, ...], ...]


class ScoreLine(ScoresRecord):
    """One score of one architecture with the supernet's weights, and what it is a function of."""

    generation: Count
    role: str
    arch: ArchText
    proxy_score: float
    proxy_loss: float
    macs: Count
    params: Count
    latency_ms: float | None = None
    costs: dict[str, float] | None = None
    """Further ones that a budget is on: the size of weights in bytes, and the recipe's own."""
    weights_version: Count
    calibration: str
    validation_images: Count
    weights: str
    """The digest of the supernet's weights."""
    images_forwarded: Count
    halves: tuple[float, float] | None = None
    """By what it ranks on two random halves of the images; absent where they cannot be parted."""


def cost_of(network: TestedRecord | ScoreLine, metric: str) -> float | None:
    """The cost of a network by a metric; None if that is not on record."""
    costs = {"macs": network.macs, "params": network.params, "latency_ms": network.latency_ms}
    return {**(network.costs or {}), **costs}.get(metric)


class SearchLine(ScoreLine):
    """A line of `search.jsonl`; `final` scores are taken after the search."""

    role: Literal["candidate", "elite", "final"]


class OrderLine(ScoreLine):
    """A line of `order.jsonl`: a watched architecture, before or after the weights moved."""

    role: Moment


class ShiftingLine(Record):
    """A line of `shifting.jsonl`: a generation that a search trained on before scoring it."""

    generation: Count
    weights_version: Count
    images: Count
    loss: float
    rates: float
    """The sum of the rates of all optimiser steps so far."""
    macs: Count | None = None
    """Multiply-adds so far of what trained in the search, a backward as two forwards; absent in
    records from before it was written. Optimiser steps so far are `weights_version`."""
    candidates: Count
    elites: Count
    top_ups: Count
    proposed: Operations
    trained: Operations


class ScriptCheck(Part):
    """How the script beside an ONNX file was compared with what scores are measured by."""

    images: Count
    agree: Count
    """For how many of them it named the same class."""
    largest_difference: float
    """Of the probabilities of the classes that it named."""
    part: Literal["test", "validation"]
    """Where the images are from: validation, of a network that is not tested."""
    files: Literal["as they are", "arrays written as PNG"]
    """What it was given: the image files of a folder, or files that were made for that."""


class Int8Record(Part):
    """The file of 8-bit integers, which is another network than what it was made of."""

    calibration_images: Count
    tested_on: str | None = None
    """The digest of the test images that the figures below are of, if there are any."""
    test_score: float | None = None
    test_loss: float | None = None
    test_metrics: dict[str, float] | None = None


class FinishLine(ScoresRecord):
    """A line of `finish.jsonl` or `exported.jsonl`: a network that is finished and exported."""

    arch: ArchText
    mode: Literal["inherit", "finetune", "scratch"]
    fingerprint: str
    """Identifies what its weights depend on, which the test images are no part of."""
    memory_format: MemoryFormat
    weights: InnerPath
    """The path of its weights."""
    proxy_score: float | None = None
    tested_on: str | None = None
    """The digest of the test images that the figures below are of."""
    test_score: float | None = None
    test_loss: float | None = None
    test_metrics: dict[str, float] | None = None
    """The values of all metrics of the task that have one, by name, `test_score` among them."""
    test_images: Count | None = None
    test_parts: tuple[float, ...] | None = None
    """The metric on random parts of the test images, the same for all networks of a run."""
    files: dict[str, InnerPath]
    sha256: dict[str, str] = Field(default_factory=dict)
    """Of each of `files`, by the same format."""
    normalised: bool | None = None
    """Whether these files normalise images themselves; absent for data of your own."""
    script: ScriptCheck | None = None
    """How the script among these files was checked; absent without one."""
    int8: Int8Record | None = None
    """How the file of 8-bit integers does; absent without one."""
    failed: dict[str, str] | None = None
    """The formats that could not be written, and why."""

    def is_written(self, folder: Path, kind: str) -> bool:
        """Whether the file of a format is there and holds what was written.

        Args:
            folder: the run's.
            kind: the format, one of `files`.
        """
        path = folder / self.files[kind]
        return path.is_file() and records.sha256_of(path) == self.sha256.get(kind)


class ExampleRecord(Part):
    """A test image, and what a network says that it is."""

    index: Count
    """Its number in the set."""
    file: str | None = None
    """Its path in the folder of images, if it is from one."""
    label: Count
    predicted: Count
    probability: Share
    """Of the class that was predicted."""
    image: PngText
    """What it looks like, made small."""


class PredictionsRecord(Record):
    """`subnets/ARCH.tested.json`: what a finished network predicts of the test images.

    Classes are in the order of their labels.
    """

    tested_on: str
    """The digest of the test images."""
    class_images: tuple[Count, ...]
    class_right: tuple[Count, ...]
    confusion: tuple[tuple[Count, ...], ...] | None = None
    """A row for each label, a column for each prediction; absent for many classes."""
    right: tuple[ExampleRecord, ...]
    """Some images that are classified right."""
    wrong: tuple[ExampleRecord, ...]
    """Those that are classified wrong with the highest probability, that one first."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        classes = len(self.class_images)
        rows = (self.class_right, *(self.confusion or ()))
        labels = [label for e in (*self.right, *self.wrong) for label in (e.label, e.predicted)]
        if (
            any(len(row) != classes for row in rows)
            or (self.confusion is not None and len(self.confusion) != classes)
            or any(label >= classes for label in labels)
        ):
            raise ValueError(f"all of its parts must be of the {classes} classes of class_images")
        return self


class Result(ScoresRecord):
    """`result.json`: the winners of a run, and what was spent."""

    name: str
    task: TaskRecord
    winners: tuple[WinnerRecord, ...]
    finish: Literal["inherit", "finetune", "scratch"]
    latency: dict[str, Timing]
    space: SpaceSize
    searched: Count
    shifting: str
    order: dict[str, WatchedSet]
    dose: DoseRecord | None = None
    images_forwarded: dict[str, Count]
    generated: dict[str, GeneratedRecord] | None = None
    controls: tuple[ControlRecord, ...] = ()
    verdict: VerdictRecord | None = None


# -- a truth ---------------------------------------------------------------------------------------


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


# -- a rank ----------------------------------------------------------------------------------------


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
IntervalMethod = Literal["BCa", "percentile", "F", "runs", "crossed"]
"""How the bounds of an interval were found: from the draws of a bootstrap over architectures
(`manyshot.rank.bootstrap`), by the F distribution (`manyshot.rank.reliability`), by resampling the
runs of the truth, or by resampling architectures and runs together."""


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

    What a kill made a command compute again is left out.
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


# -- a comparison ----------------------------------------------------------------------------------


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


# -- folders ---------------------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


def _maybe(path: Path, kind: type[R]) -> R | None:
    return records.load(path, kind) if path.exists() else None


def _has_targets(report: Mapping[str, Any]) -> bool:
    return report.get("kind") == "target costs"


def sampler_line(step: int, report: Mapping[str, Any]) -> SamplerLine:
    """A line of `sampler.jsonl` from what a sampler reports after a step.

    Raises:
        ValueError: if its `kind` is one of ours, and it is not so.
    """
    kind = TargetsLine if _has_targets(report) else SamplerLine
    return kind.of({"step": step, **report})


class Holder(Record):
    """`lock.json`: the process that holds the lock of a folder."""

    doing: str
    pid: Count
    host: str


class _Folder:
    """A folder, by its path."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def recipe_file(self) -> Path:
        """The recipe, with every default filled in."""
        return self.path / RECIPE

    @property
    def signature_file(self) -> Path:
        """Whose command wrote the recipe."""
        return self.path / SIGNATURE

    @property
    def environment_file(self) -> Path:
        """Where it was made."""
        return self.path / ENVIRONMENT

    @property
    def report(self) -> Path:
        """The page that is drawn from the records."""
        return self.path / REPORT

    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            RecordError: if there is none.
            RecipeError: if it is damaged.
        """
        if not self.recipe_file.exists():
            raise RecordError(
                f"{self.path} has no {RECIPE}: give the folder that manyshot wrote to"
            )
        recipe = Recipe.load(self.recipe_file)
        if "schema_version" not in recipe.model_fields_set:  # ours have every key
            raise RecordError(
                f"{self.recipe_file} has no schema, so it is not the recipe that a run wrote: "
                "restore it from a copy, or start the run again in another folder"
            )
        return recipe

    def environment(self) -> EnvironmentRecord | None:
        """Versions and machine; None if they are not on record."""
        return _maybe(self.environment_file, EnvironmentRecord)


@final
class RunFolder(_Folder):
    """The folder of a run: where its files are, and what they say.

    Readers of lines return an empty list, and readers of one record None, if there is no file yet.
    All of them raise `RecordError` for a damaged file.
    """

    @property
    def weights(self) -> Path:
        """The trained supernet."""
        return self.path / WEIGHTS

    @property
    def source(self) -> Path:
        """The weights that a transfer begins with."""
        return self.path / SOURCE

    @property
    def original(self) -> Path:
        """The weights that were given to the network, as the run began with them."""
        return self.path / ORIGINAL

    @property
    def inherited(self) -> Path:
        """The weights of another run that slices began as."""
        return self.path / INHERITED

    @property
    def shifted(self) -> Path:
        """The supernet after a search that moved its weights."""
        return self.path / SHIFTED

    @property
    def sampler(self) -> Path:
        """What a learnt sampler has learnt."""
        return self.path / SAMPLER

    @property
    def shifting_state(self) -> Path:
        """What a search that moves the weights saves after every generation."""
        return self.path / SHIFTING_STATE

    @property
    def space_file(self) -> Path:
        """The description of the search space."""
        return self.path / SPACE

    @property
    def latency_file(self) -> Path:
        """The latency table."""
        return self.path / LATENCY

    @property
    def seconds_file(self) -> Path:
        """How long the parts of the run took."""
        return self.path / SECONDS

    @property
    def train_log(self) -> Path:
        """A line every so many steps of the supernet's training."""
        return self.path / TRAIN_LOG

    @property
    def sampler_log(self) -> Path:
        """What a learnt sampler reported."""
        return self.path / SAMPLER_LOG

    @property
    def codes_log(self) -> Path:
        """The codes of paths when training ended."""
        return self.path / CODES

    @property
    def search_log(self) -> Path:
        """A line per score of the search."""
        return self.path / SEARCH_LOG

    @property
    def order_log(self) -> Path:
        """A line per score of a watched architecture."""
        return self.path / ORDER_LOG

    @property
    def shifting_log(self) -> Path:
        """A line per generation that was trained on."""
        return self.path / SHIFTING_LOG

    @property
    def finish_log(self) -> Path:
        """A line per finished winner."""
        return self.path / FINISH_LOG

    @property
    def controls_log(self) -> Path:
        """A line per finished control."""
        return self.path / CONTROLS_LOG

    @property
    def exported_log(self) -> Path:
        """A line per other architecture that was exported."""
        return self.path / EXPORTED_LOG

    @property
    def result_file(self) -> Path:
        """The winners, written last."""
        return self.path / RESULT

    @property
    def subnets(self) -> Path:
        """The folder of finished networks."""
        return self.path / SUBNETS

    def predictions_file(self, arch: str) -> Path:
        """What the finished network of an architecture predicts of the test images."""
        return self.subnets / f"{arch}.tested.json"

    @property
    def has_begun(self) -> bool:
        """Whether anything is there that took work."""
        return any((self.path / name).exists() for name in _BEGUN)

    @property
    def has_records(self) -> bool:
        """Whether there is anything to report."""
        return any((self.path / name).exists() for name in _OF_A_RUN)

    def final_weights(self, recipe: Recipe) -> Path:
        """The file of the supernet as the search of a recipe left it.

        Raises:
            RecordError: if the supernet is not trained, or its search moves it and is not done.
        """
        if not self.weights.exists():
            raise RecordError(
                f"{self.path} has no {WEIGHTS}: train it first with manyshot train, or manyshot "
                f"run --resume {self.path}"
            )
        if recipe.shifting.name == "none":
            return self.weights
        if not self.shifted.exists():
            raise RecordError(
                f"{self.path} has no {SHIFTED}: its search trains the supernet and is not done, "
                f"finish it with manyshot run --resume {self.path}"
            )
        return self.shifted

    def space(self) -> SpaceRecord | None:
        """The search space and the costs of its largest architecture."""
        return _maybe(self.space_file, SpaceRecord)

    def latency(self) -> LatencyRecord | None:
        """The latency table, which there is if a budget is in milliseconds."""
        return _maybe(self.latency_file, LatencyRecord)

    def seconds(self) -> SecondsRecord | None:
        """How long the parts of the run took, as far as it is; None before any ended."""
        return _maybe(self.seconds_file, SecondsRecord)

    def train_lines(self) -> list[TrainLine]:
        """What was recorded of the supernet's training."""
        return records.load_lines(self.train_log, TrainLine)

    def sampler_lines(self) -> list[SamplerLine]:
        """What a learnt sampler reported, of whoever it is."""
        return records.load_lines(self.sampler_log, SamplerLine)

    def targets_lines(self) -> list[TargetsLine]:
        """What a sampler over target costs reported; none of another sampler."""
        return records.load_lines(self.sampler_log, TargetsLine, _has_targets)

    def codes_lines(self) -> list[CodesLine]:
        """The codes of paths, which there are with K-shot sharing."""
        return records.load_lines(self.codes_log, CodesLine)

    def search_lines(self) -> list[SearchLine]:
        """All scores of the search, in the order that they were taken in."""
        return records.load_lines(self.search_log, SearchLine)

    def order_lines(self) -> list[OrderLine]:
        """The scores of watched architectures, before and after the weights moved."""
        return records.load_lines(self.order_log, OrderLine)

    def shifting_lines(self) -> list[ShiftingLine]:
        """The generations that were trained on."""
        return records.load_lines(self.shifting_log, ShiftingLine)

    def controls_lines(self) -> list[FinishLine]:
        """The finished controls that are no winners."""
        return records.load_lines(self.controls_log, FinishLine)

    def finish_lines(self) -> list[FinishLine]:
        """The finished winners."""
        return records.load_lines(self.finish_log, FinishLine)

    def exported_lines(self) -> list[FinishLine]:
        """Other architectures that were exported."""
        return records.load_lines(self.exported_log, FinishLine)

    def predictions(self, arch: str) -> PredictionsRecord | None:
        """What a finished network predicts of the test images; None if that is not on record."""
        return _maybe(self.predictions_file(arch), PredictionsRecord)

    def result(self) -> Result | None:
        """The winners and what was spent; None before the run is finished."""
        return _maybe(self.result_file, Result)

    def rank(self, truth: str) -> RankFolder:
        """The folder of the ranking against the truth of a name, which need not be there."""
        return RankFolder(self.path / RANKS / (truth.replace("/", "-").strip(".") or "truth"))

    def in_ranks(self, name: str) -> list[Path]:
        """The files of a name in the folders of all rankings, finished or not."""
        return sorted(self.path.glob(f"{RANKS}/**/{name}"))

    def ranks(self, *, before: bool = False) -> list[RankFolder]:
        """The folders of all finished rankings, by name; or where only that before is."""
        found = {path.parent for path in self.path.glob(f"{RANKS}/*/{RANKING}")}
        if before:
            inner = self.path.glob(f"{RANKS}/*/{BEFORE}/{RANKING}")
            found |= {path.parents[1] for path in inner}
        return [RankFolder(path) for path in sorted(found)]


@final
class RankFolder(_Folder):
    """The folder of a run's ranking against one truth."""

    @property
    def scores_log(self) -> Path:
        """A line per proxy score."""
        return self.path / RANK_SCORES

    @property
    def ranking_file(self) -> Path:
        """The ranking, written last."""
        return self.path / RANKING

    @property
    def zero_cost_log(self) -> Path:
        """A line per architecture that was scored without training."""
        return self.path / ZERO_COST

    @property
    def before(self) -> RankFolder:
        """The folder of the ranking by the weights before a search moved them."""
        return RankFolder(self.path / BEFORE)

    @property
    def moved_file(self) -> Path:
        """What moving the weights did."""
        return self.path / MOVED

    def moved(self) -> MovedRanking | None:
        """What moving the weights did; None if that was not asked."""
        return _maybe(self.moved_file, MovedRanking)

    def score_lines(self) -> list[RankScoreLine]:
        """All proxy scores on record."""
        return records.load_lines(self.scores_log, RankScoreLine)

    def ranking(self) -> Ranking | None:
        """The ranking; None if it is not finished."""
        return _maybe(self.ranking_file, Ranking)


@final
class TruthFolder(_Folder):
    """The folder of a truth: architectures trained alone."""

    @property
    def log(self) -> Path:
        """A line per finished training."""
        return self.path / TRUTH_LOG

    def lines(self) -> list[TruthLine]:
        """All finished trainings."""
        return truth_lines(self.log)


@final
class CompareFolder(_Folder):
    """The folder of a comparison."""

    @property
    def comparison_file(self) -> Path:
        """The comparison."""
        return self.path / COMPARISON

    def comparison(self) -> Comparison | None:
        """The comparison; None if there is none."""
        return _maybe(self.comparison_file, Comparison)


def truth_lines(log: Path) -> list[TruthLine]:
    """The finished trainings in a file like `truth.jsonl`, whatever its name.

    Lines without an `arch` say something about the trainings and are passed over.

    Raises:
        RecordError: if a line is damaged.
    """
    return records.load_lines(log, TruthLine, lambda line: "arch" in line)
