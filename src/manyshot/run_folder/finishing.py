"""Records of finished networks, and the result of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from manyshot import records
from manyshot.records import Part, Record, ScoresRecord
from manyshot.run_folder.beginning import MemoryFormat, SpaceSize
from manyshot.run_folder.parts import (
    ArchText,
    Count,
    InnerPath,
    PngText,
    Share,
    TaskRecord,
    TestedRecord,
)
from manyshot.run_folder.ranking import Statistic
from manyshot.run_folder.searching import DoseRecord, ScoreLine, WatchedSet


class WinnerRecord(TestedRecord):
    """The best network within one budget, by the supernet."""

    choices: dict[str, Any]
    files: dict[str, InnerPath]
    int8_score: float | None = None
    """As `test_score`, of the file of 8-bit integers, if there is one."""
    failed: dict[str, str] | None = None
    """The formats that could not be written, and why."""
    reward: float | None = None
    """The proxy score times a power of a cost, by which it won; absent where it won by the
    score."""

    def fitness(self, task: TaskRecord) -> float:
        """By what it won."""
        plain = task.fitness_of(self.proxy_score, self.proxy_loss)
        return plain if self.reward is None else self.reward


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
    beats_macs: Statistic | None = None
    """By how much the first is above the second, with an interval by the networks."""
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


class GeneratedRecord(Part):
    """How a generator met one budget; `below_budget_share` is the share of it that is left."""

    decodes: Count
    drawn: bool
    below_budget_share: float | None = None
    returned: tuple[str, ...] | None = None
    """Options that training left out for good and that came back, as `decision = option`."""


def cost_of(network: TestedRecord | ScoreLine, metric: str) -> float | None:
    """The cost of a network by a metric; None if that is not on record."""
    costs = {"macs": network.macs, "params": network.params, "latency_ms": network.latency_ms}
    return {**(network.costs or {}), **costs}.get(metric)


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
