"""`[sharing]`, `[sampler]`, `[train]` and `[shrink]`: how a supernet is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from manyshot.recipe.section import AnyPath, NotNegative, Options, Positive, Section
from manyshot.recipe.training import TrainingSettings


class SharingSettings(Section):
    """Which weights a path gets."""

    name: str = "one_shot"
    """one_shot, k_shot, bilateral, locally_free, or `package.module:attribute`."""
    options: Options = {}
    """Arguments of its scheme; `seed` is the recipe's."""
    inherit: AnyPath = None
    """k_shot: let the slices begin as the trained weights of the run in this folder, which trained
    one copy of the same network with the same images held out. With `start = "equal"` in the
    options they are equal, else they lie around them."""


class SnapshotsSettings(Section):
    """Earlier weights of the same supernet that vote on every path (SD-DARTS).

    How far a path's predictions are from their vote is added to its loss.
    """

    number: int = Field(default=0, ge=0, le=100)
    """How many vote; 0 is none. Each takes the memory of all weights, on the device and in
    checkpoints, and a forward more for every path of a step."""
    epochs: float = Field(default=1.0, gt=0)
    """Between two snapshots."""
    weight: float = Field(default=1.0, gt=0)
    """The factor of the divergence from the vote."""

    @model_validator(mode="after")
    def _some_vote(self) -> Self:
        if not self.number and (self.epochs, self.weight) != (1.0, 1.0):
            raise ValueError(
                f"epochs = {self.epochs:g} and weight = {self.weight:g} are of snapshots, and "
                "number = 0 keeps none: give number, such as 3, or leave both out"
            )
        return self


class SupernetSettings(TrainingSettings):
    """How the supernet is trained."""

    epochs: NotNegative = 100
    """0 trains nothing: a converted network with weights is searched by its ordered slices, as
    pruning does."""
    teacher: Literal["original", "largest", "network", "none"] | None = None
    """What paths learn from: the network as it was before its conversion, in place of labels; the
    largest architecture where the sampler says so (sandwich does); the network of `[teacher]`, in
    place of labels; labels alone. By default the original where the sampler would take the largest,
    if it has weights and classifier for these classes."""
    drop_path_for: Literal["all", "largest"] = "all"
    """Whether `drop_path` is for every path, or for the largest architecture alone, as BigNAS and
    AttentiveNAS have it; it has to be in every step then, as it is by the sandwich rule."""
    snapshots: SnapshotsSettings = SnapshotsSettings()
    shard: bool = False
    """Where several processes train, each keeps a part of every weight, of its gradient and of what
    the optimiser keeps (PyTorch's FSDP2), and the whole of them for the block that runs: for
    supernets that do not fit into a GPU. Search and scores need the whole weights on each."""
    compile: bool = False
    """Options of fixed size are compiled by `torch.compile`, each when it first trains, which takes
    a while for every option of another shape. Scores, shifting and finishing run uncompiled, and so
    do the steps by which an estimate is made. For one process and sharing of one copy; it needs
    torch 2.14 and a C++ compiler, on a GPU Triton, which the start of a run tries."""

    @model_validator(mode="after")
    def _snapshots_come(self) -> Self:
        told = self.snapshots
        timed = self.minutes is not None or bool(self.least_images)
        if told.number and told.epochs >= self.epochs and not timed:
            raise ValueError(
                f"snapshots.epochs = {told.epochs:g}: the first snapshot would come when the "
                f"training of {self.epochs} epochs ends: lower it"
            )
        return self

    @model_validator(mode="after")
    def _compiles_what_it_may(self) -> Self:
        if self.compile and self.shard:
            raise ValueError(
                "compile = true and shard = true were not tried together: set one of them to false"
            )
        if self.compile and self.minutes is not None:
            raise ValueError(
                f"minutes = {self.minutes:g}: how many epochs fit is measured by steps that are "
                "not compiled: give epochs, or set compile = false"
            )
        return self

    @model_validator(mode="after")
    def _drops_something(self) -> Self:
        if self.drop_path_for != "all" and not self.drop_path:
            raise ValueError(
                f"drop_path_for = {self.drop_path_for!r} says which paths drop_path is for, and "
                "there is none: give drop_path, such as 0.2, or leave drop_path_for out"
            )
        return self


class SamplerSettings(Section):
    """Which paths train next."""

    name: str = "uniform"
    """uniform, fair, sandwich, complement, balanced, table, greedy, mct, pada, shiftnas,
    uniform_cost, relaxed, sparse, or `package.module:attribute`; by default sandwich for a
    converted network."""
    options: Options = {}
    """Arguments of the sampler."""
    held_out: int | float = Field(default=0, ge=0)
    """Share (below 1) or number of training images, class-balanced, that weights do not learn from:
    for samplers that look at losses on them, such as shiftnas and greedy."""


class ShrinkSettings(Section):
    """Whether the search space shrinks, or grows, while the supernet trains.

    Training goes on with the same weights in another view of the space: the same decisions, of
    which fewer or more options are allowed. The search looks for networks of the last view.
    """

    name: str = "none"
    """none, angle, balanced, elite, progressive, slimming, or `package.module:attribute`. The
    sampler has to be able to draw from a view, as uniform, fair, sandwich and balanced are."""
    options: Options = {}
    """Arguments of the shrinker."""
    at: list[Annotated[float, Field(gt=0, le=1)]] = []
    """When: after these shares of training, in ascending order, as `[0.5, 0.75]`; 1 is its end."""
    budgets: list[str] | None = None
    """Within each of these a network is left in every view; by default those of the search."""
    images: Positive | None = None
    """Validation images on which shrinkers score architectures; by default as `evaluate`."""

    @model_validator(mode="after")
    def _shrinks(self) -> Self:
        if self.name == "none":
            asked = [key for key in type(self).model_fields if key in self.model_fields_set
                     and getattr(self, key) != type(self).model_fields[key].default]  # fmt: skip
            if asked:
                raise ValueError(
                    f"{', '.join(asked)} say how a space shrinks, and name = 'none' shrinks none: "
                    "give a name, such as 'angle', or leave them out"
                )
        elif not self.at or sorted(set(self.at)) != self.at:
            raise ValueError(
                f"at = {self.at}: give the shares of training after which the space shrinks, in "
                "ascending order, such as [0.5, 0.75]"
            )
        return self
