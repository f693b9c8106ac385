"""How weights are trained, of a supernet or of a finished network."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from manyshot.recipe.section import Fraction, NotNegative, Positive, Section

MOST_EPOCHS = 200
"""A least number of images is no reason for more."""


def epochs_to_see(least_images: int, images: int) -> int:
    """How many epochs of so many images show at least so many, as far as is allowed."""
    return min(MOST_EPOCHS, math.ceil(least_images / images))


class OptimiserSettings(Section):
    """How an optimiser moves weights."""

    batch_size: Positive = 64
    """Images per optimiser step, over all processes."""
    optimizer: Literal["sgd", "adamw", "lamb"] = "sgd"
    """SGD with Nesterov's momentum, AdamW, or timm's LAMB, which needs the extra `timm`; what LAMB
    clips by itself is left to `clip_norm`."""
    lr: float = Field(default=0.1, gt=0)
    """The highest learning rate, which `schedule` lowers."""
    momentum: Fraction = 0.9
    """Of SGD (Nesterov); AdamW and LAMB have their own."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of weights, not of biases, norms, class tokens and positional embeddings, nor of what a
    module names by `no_weight_decay()`, as timm's do."""
    label_smoothing: Fraction = 0.0
    """So much of every target is shared out over all classes."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient."""
    sgld: float = Field(default=0.0, ge=0)
    """Temperature of the noise of Langevin dynamics (SGLD) in steps of SGD: every weight that has a
    gradient moves besides by a normal number of variance 2 * sgld * rate. 1 samples from
    exp(-mean loss), 1 / images from exp(-sum of losses), and 0 is no noise."""
    precision: Literal["fp32", "tf32", "bf16", "auto"] = "fp32"
    """Of what is computed in training; weights are always of 32 bits. `tf32` lets a GPU multiply
    numbers of 32 bits by 10 of the 23 bits of their fractions, which is faster, and fp32 by all;
    elsewhere they are the same. `auto` is bf16 where the processor (AMX) or the GPU has units for
    it, and else fp32; the recipe in a run's folder says which it was. Scores are fp32 always."""

    @model_validator(mode="after")
    def _noise_fits(self) -> Self:
        if self.sgld and self.optimizer != "sgd":
            raise ValueError(
                f"sgld = {self.sgld:g} is noise in steps of SGD, whose variance follows from the "
                f"rate, and optimizer = {self.optimizer!r} scales each step by itself: take "
                "optimizer = 'sgd', or leave sgld out"
            )
        return self


class TrainingSettings(OptimiserSettings):
    """How weights are trained: supernet, or a finished subnet."""

    epochs: Positive = 100
    """How often all training images are seen."""
    minutes: float | None = Field(default=None, gt=0)
    """Takes the place of `epochs` for a run: how many fit into so many minutes on this machine, at
    least one, is measured by a few real steps before the run begins. Its own recipe has the epochs,
    so that it goes on, and is repeated, with these; other minutes come too late then, which a
    warning says."""
    least_images: NotNegative | None = None
    """Of a run: if `epochs` show fewer images than that, there are as many epochs as it takes, but
    200 at most; 0 leaves them as they are. Its own recipe has the epochs."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes down: to `min_lr` at the end along a cosine or a line, or not at
    all."""
    min_lr: float = Field(default=0.0, ge=0)
    """The rate at the end of `schedule`; like `lr` it is a rate, not a share of one."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """The rate rises linearly from 0 over so many epochs."""
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Factors of the rate, by patterns of names of parameters or of modules that hold them, such as
    `{ "chain.0" = 0.1 }`; the first pattern that fits a parameter counts. One that fits none is an
    error, but in a winner that does not have all of the largest network's layers. `manyshot space
    RECIPE --parameters` lists the names."""
    drop_path: float | None = Field(default=None, ge=0, lt=1)
    """Stochastic depth, for networks whose residual branches hold a `ms.nn.DropPath`, as those of
    the zoo do: in training the deepest is left out for a sample with this probability, those before
    it with less, linearly in depth."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """The images of a step run in so many parts, one after the other, whose gradients add up:
    memory is that of a part. `batch_size` is still that of a step; batch norms normalise each part
    by itself. Steps of codes have parts of their own; shiftnas, which learns by gradients, needs
    whole batches."""
    mixup: float = Field(default=0.0, ge=0, le=10)
    """Mixup: images of a batch are mixed in pairs, and their targets with them, by a share that is
    drawn for each batch from Beta(mixup, mixup); 0.2 is usual for ImageNet, 0 is none."""
    cutmix: float = Field(default=0.0, ge=0, le=10)
    """CutMix: a rectangle of each image becomes that of another, whose share of the area is drawn
    from Beta(cutmix, cutmix), and targets are mixed by it; 1 is usual, 0 is none. With `mixup` too,
    each is done to half of the batches."""
    image_sizes: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Progressive resolution, as `[128, 160, 192, 224]`: the epochs are shared out equally over
    images of these sides in pixels, in this order, the last of which must be `image_size`. Scores
    and tests are on images of that size. It is refused for a network that cannot take another. One
    that resizes its images itself (`ms.nn.Resize`, as that of BigNAS) goes on to choose its own
    resolution, to which smaller images are enlarged: that saves reading, and no computing."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of the weights over steps, such as 0.999, which takes their place
    when training ends."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Time between checkpoints, from which a killed run resumes."""
    checkpoint_steps: Positive | None = None
    """Steps after which there is a checkpoint too."""
    log_steps: Positive = 50
    """Steps between two lines of the training's record."""
    tracker: Literal["tensorboard"] | None = None
    """Follow the training in TensorBoard too, which the extra `tensorboard` installs."""

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        check_parts(self.accumulate, self.batch_size)
        return self

    @model_validator(mode="after")
    def _sizes_have_epochs(self) -> Self:
        if self.image_sizes and self.minutes is not None:
            raise ValueError(
                f"minutes = {self.minutes:g}: how many epochs fit is measured at one size of "
                f"images, and image_sizes = {self.image_sizes} are several: give epochs, or leave "
                "image_sizes out"
            )
        return self

    @model_validator(mode="after")
    def _goes_down(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr = {self.min_lr:g} is above lr = {self.lr:g}, from which the rate goes "
                "down: lower min_lr, or raise lr"
            )
        if self.min_lr and self.schedule == "constant":
            raise ValueError(
                f"min_lr = {self.min_lr:g} is where a rate goes down to, and schedule = "
                "'constant' keeps it: leave min_lr out, or take schedule = 'cosine' or 'linear'"
            )
        return self


def check_parts(accumulate: int, batch_size: int, world: int = 1) -> None:
    """Checks that the parts of a batch, in each of some processes, are equal and of two images.

    Args:
        accumulate: the parts that a process makes of its share.
        batch_size: images over all processes.
        world: the number of processes.

    Raises:
        ValueError: if they are not.
    """
    parts = accumulate * world
    if accumulate > 1 and (batch_size % parts or batch_size < 2 * parts):
        raise ValueError(
            f"accumulate = {accumulate} cuts batch_size = {batch_size} over {world} "
            f"process{'es' * (world > 1)} into {parts} parts, which must be equal and of two "
            f"images or more: give a batch_size that is a multiple of {parts}, and at least "
            f"{2 * parts}"
        )


BESIDE_RESULTS = frozenset(
    {"minutes", "least_images", "checkpoint_seconds", "checkpoint_steps", "log_steps", "tracker"}
)
"""Settings of training that its result does not depend on; of minutes, the epochs that they become
count."""
