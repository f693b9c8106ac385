"""`[finish]`, `[controls]`, `[export]` and `[truth]`: what becomes of architectures."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from manyshot.recipe.section import NotNegative, Positive, Section
from manyshot.recipe.teacher import DistillationSettings
from manyshot.recipe.training import TrainingSettings


class FinishSettings(Section):
    """What becomes of a winner."""

    mode: Literal["inherit", "finetune", "scratch"] = "finetune"
    """Keep the supernet's weights, train them further, or train from new ones."""
    data: Literal["train", "train+validation"] = "train"
    """What winners and controls learn from then: the training part alone, or the validation part
    too, by which nothing is chosen any more."""
    training: TrainingSettings = TrainingSettings(epochs=10, lr=0.01)
    """Of `finetune` and `scratch`. Its `minutes` are for each winner, timed by the largest network
    of some hundred that are within a budget."""
    teacher: Literal["original", "network", "supernet", "none"] = "none"
    """Learn from labels alone, so that winners of all methods are finished alike; or from the
    network as it was before its conversion, those of `[teacher]`, or architectures of this run's
    own supernet, which are run for every batch."""
    taught_by: list[str] = ["largest"]
    """With `teacher = "supernet"`: its architectures that teach, such as `"0-2-1"` or `"largest"`,
    with the weights that the search ended with."""
    distillation: DistillationSettings = DistillationSettings()

    @model_validator(mode="after")
    def _learns_from_them(self) -> Self:
        if self.teacher != "supernet" and self.taught_by != ["largest"]:
            raise ValueError(
                f"taught_by = {self.taught_by} are architectures of the supernet, and teacher = "
                f"{self.teacher!r}: set teacher = 'supernet', or leave taught_by out"
            )
        if not self.taught_by or len({*self.taught_by}) < len(self.taught_by):
            raise ValueError("taught_by: give at least one architecture, and none twice")
        if self.teacher == "none" and self.distillation != DistillationSettings():
            raise ValueError(
                f"distillation.name = {self.distillation.name!r} says how to learn from a teacher, "
                "and teacher = 'none': name one, or leave distillation out"
            )
        return self


class ControlsSettings(Section):
    """Networks beside each winner, finished and tested as it is: what it has to beat."""

    largest: bool = True
    """The largest network within the budget."""
    random: NotNegative = 1
    """So many random networks within it."""
    scaled: bool = True
    """Of a converted network, the largest with all widths scaled alike."""

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return self.largest or self.scaled or self.random > 0


class TruthSettings(Section):
    """Which architectures `manyshot truth` trains alone, and how."""

    plan: Literal["all", "uniform", "stratified", "top", "winners", "best"] = "all"
    """all networks; `count` drawn uniformly; `count` drawn from equal ranges of MACs; the `count`
    best of each run given by --of, by proxy; the winners of these runs; or, for more seeds, the
    `count` best of the truth so far, by the first of its seeds."""
    count: Positive = 100
    """Of the plans that say so, how many architectures."""
    strata: Positive = 10
    """Ranges of MACs of the stratified plan, of equal width."""
    seeds: list[NotNegative] = [0, 1, 2]
    """Each trains every architecture once: it decides the new weights, which images are held out
    and kept, and their order. The test images are always the same."""
    training: TrainingSettings = TrainingSettings(epochs=30)
    """How each of them is trained."""

    @field_validator("training")
    @classmethod
    def _same_everywhere(cls, training: TrainingSettings) -> TrainingSettings:
        for key in ("minutes", "least_images"):
            if value := getattr(training, key):
                raise ValueError(
                    f"{key} = {value} is for runs, which find out how many epochs that is, and a "
                    f"truth is to be the same on all machines: give epochs, and leave {key} out"
                )
        if training.precision in ("auto", "tf32"):
            raise ValueError(
                f"precision = {training.precision!r} depends on the machine, and a truth is to be "
                "the same on all: say 'fp32' or 'bf16'"
            )
        return training

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError("give at least one seed, and none twice")
        return seeds


class ExportSettings(Section):
    """Which files a winner is written to."""

    formats: list[Literal["pt2", "onnx", "int8", "json"]] = ["pt2", "json"]
    """`pt2` needs torch alone to be used, `onnx` the extra of this name to be written; `json` is a
    card that says what the network is; `int8` is an ONNX file of 8-bit integers, calibrated on
    `evaluate.calibration_images`."""
    normalise: bool = True
    """Of images: whether programs take pixels in [0, 1] and normalise them themselves, or take
    images that their user has normalised. Data of your own are taken as they are."""
