"""`[shifting]` and `[transfer]`: a trained supernet that trains on, in a search or elsewhere."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from manyshot.recipe.section import NotNegative, Positive, Section
from manyshot.recipe.training import OptimiserSettings


class ShiftingSettings(OptimiserSettings):
    """Whether, and how, the supernet is trained between the proposals of a search."""

    name: Literal[
        "none", "population", "uniform_finetune", "random_population", "topk_finetune"
    ] = "none"
    """Which paths train: none (frozen weights), the population that the search proposes; or as
    controls uniform paths, random networks within the budgets, the best of the frozen supernet."""
    update: Literal["per_step", "per_candidate", "per_generation"] = "per_step"
    """An optimiser step on every mini-batch, on the mean gradient of a candidate's mini-batches, or
    on the mean gradient of one mini-batch of every candidate."""
    steps: Positive = 4
    """Mini-batches per candidate and generation, whatever `update` is."""
    batch_size: Positive = 64
    """Images per mini-batch, over all processes."""
    lr: float = Field(default=0.005, gt=0)
    """The highest rate, a few percent of the peak of training; `schedule` lowers it."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate goes down over the candidates of the search: to 0 at the last along a cosine or
    a line, or not at all (the public code)."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights over steps, such as 0.99, which takes their place
    when the search ends: winners are chosen and finished with it."""
    head_lr: float | None = Field(default=None, gt=0)
    """Of the classifier; by default as all else."""
    freeze_body: bool = False
    """Whether only the classifier moves."""
    codes: bool = True
    """Whether codes that a sharing scheme learns move too."""
    elites: Literal["score", "train", "keep"] = "train"
    """What becomes of what the search builds on: scored again at the new weights, trained with the
    population and scored again, or neither."""
    timing: Literal["after_generation", "after_candidate"] = "after_generation"
    """When candidates are scored: all at the weights after a generation, or each as soon as it has
    trained."""
    statistics: Literal["calibrated", "running"] = "calibrated"
    """Of batch norms in scores during the search: calibrated, or running averages of the training
    batches, which needs timing = 'after_candidate'."""
    rescored: Positive = 50
    """The best so many within each budget are scored again at the final weights, on all validation
    images; winners are the best of those."""
    watched: NotNegative = 0
    """So many random networks within the budgets (all, if there are no more) are scored before and
    after, to see how their order changes."""
    watched_best: NotNegative = 0
    """The best so many of them before shifting are watched as a set of their own."""

    @property
    def needs_classifier(self) -> bool:
        """Whether the classifier moves alone, or at its own rate."""
        return self.freeze_body or self.head_lr is not None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.watched_best > self.watched:
            raise ValueError(
                f"watched_best = {self.watched_best} are chosen among watched = {self.watched}: "
                "raise watched, or lower watched_best"
            )
        if self.name == "topk_finetune" and not self.watched_best:
            raise ValueError(
                "name = 'topk_finetune' trains the best of the frozen supernet: give "
                "watched_best, and watched, the number they are chosen among"
            )
        if self.timing == "after_candidate" and self.update == "per_generation":
            raise ValueError(
                "timing = 'after_candidate' scores between the updates of a generation, and "
                "update = 'per_generation' has none: take timing = 'after_generation'"
            )
        if self.statistics == "running" and self.timing != "after_candidate":
            raise ValueError(
                "statistics = 'running' are those of the candidate that trained last: take "
                "timing = 'after_candidate'"
            )
        if self.statistics == "running" and self.name not in ("none", "population"):
            raise ValueError(
                f"statistics = 'running' are of candidates that train, and name = {self.name!r} "
                "trains others: take statistics = 'calibrated', or name = 'population'"
            )
        if self.statistics == "running" and self.elites == "score":
            raise ValueError(
                "statistics = 'running' are of candidates that train: take elites = 'train', or "
                "'keep', or statistics = 'calibrated'"
            )
        return self


class TransferSettings(Section):
    """How a supernet that was trained on other images gets its new classifier.

    For `manyshot transfer`; a run that trains its own supernet has no use for it.
    """

    source: str | None = None
    """The digest of the weights taken; set by `manyshot transfer`."""
    head_epochs: NotNegative = 5
    """Epochs of uniform paths in which only the new classifier learns, before the search."""
    head_lr: float = Field(default=0.1, gt=0)
    """Its constant rate then; all else is as in `train`."""
    body_epochs: NotNegative = 20
    """Epochs of uniform paths after these in which all weights learn before the search, at the
    rate, the warm-up and the schedule of `train`. They end with its average of the weights, if
    there is one (`train.ema`); `train.mixup`, `train.cutmix` and `train.accumulate` have no
    part in them, nor have `train.rates`, `train.drop_path`, `train.image_sizes`, `train.shard`,
    `train.compile` and `train.snapshots`."""
    classifier: str | None = None
    """The module that makes the logits, as in `head.2`; by default it is found."""
