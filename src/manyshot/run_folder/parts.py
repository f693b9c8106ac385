"""What records of several stages have in common."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, StringConstraints

from manyshot.records import Part

AFTER: Final = "after"
"""The weights after a search moved them; `BEFORE` are those before it."""
Moment = Literal["before", "after"]
"""Which weights of a run whose search moves them."""
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
