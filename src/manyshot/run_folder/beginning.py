"""Records of what a run begins with: machine, space, images, latency; and of its seconds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from manyshot.records import Part, Record, RecordError, ScoresRecord
from manyshot.run_folder.names import SPACE
from manyshot.run_folder.parts import Count, TaskRecord
from manyshot.space import SearchSpace


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


RunPart = Literal[
    "preparation",
    "estimate",
    "formats",
    "latency",
    "training",
    "search",
    "finishing",
    "tests",
    "exports",
]
"""A part of a run whose seconds are counted. `preparation` is reading the images and making the
network, `estimate` timing steps, `formats` trying whether the network can be exported."""


class SecondsRecord(Record):
    """`seconds.json`: how long the parts of a run took, over all commands that worked on it.

    What was done again after a kill is in it, and up to half a minute before the kill is not.
    """

    seconds: dict[RunPart, Annotated[float, Field(ge=0)]]
