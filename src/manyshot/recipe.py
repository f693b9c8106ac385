"""Recipes: TOML read into validated settings. An unknown key is an error with the nearest name.

The defaults of every section are the settings of `manyshot run` without a recipe.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manyshot.plugins import nearest, shown
from manyshot.shipped import located
from manyshot.shown import Shown
from manyshot.space import METRICS, Budget
from manyshot.toml import RecipeError as RecipeError
from manyshot.toml import dumps, override, read

Positive = Annotated[int, Field(ge=1, le=10**9)]
NotNegative = Annotated[int, Field(ge=0, le=10**18)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Plain = (
    str
    | bool
    | int
    | float
    | list[int]
    | list[float]
    | list[str]
    | list[list[str]]
    | dict[str, int]
)
Options = dict[str, Plain]


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", re.IGNORECASE)


def bytes_of(text: str) -> int:
    """How many bytes a text such as `"2GB"` or `"512MiB"` says.

    Raises:
        ValueError: for a text of another form.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None or (match[3] and not match[2]):
        raise ValueError("give a number of bytes such as '2GB', '512MiB' or '0B'")
    power = " KMGT".index(match[2].upper() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


class Section(BaseModel):
    """A part of a recipe: strict, frozen, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


GIVEN = "given"
"""The name of a network, or of data, that was given in Python and is in no file."""


class ConvertSettings(Section):
    """How a network without decisions becomes a supernet (see `ms.convert`)."""

    ratios: list[Annotated[float, Field(gt=0, le=1)]] = [0.25, 0.5, 0.75, 1.0]
    """Widths, as parts of the original's channels; 1 is always among them."""
    divisor: Positive | None = None
    """Channels are multiples of it; by default of 8, and of narrow widths of 4, 2 or 1."""
    depth: bool = True
    """Whether residual blocks can be left out."""
    kernel: bool = False
    """Whether kernels of 5 and more can be smaller."""
    heads: bool = True
    """Whether attention can have fewer heads."""
    importance: Literal["l1", "l2", "scale", "none"] = "l1"
    """By what channels are ordered, so that narrow slices keep the best."""
    keep: list[str] = []
    """Patterns of paths of modules whose channels stay, such as `layer1.*`."""

    @field_validator("ratios")
    @classmethod
    def _some(cls, ratios: list[float]) -> list[float]:
        if not ratios:
            raise ValueError("give at least one, such as 0.5")
        return ratios


LIBRARIES = ("torchvision", "timm")
"""Where `network.name` may take a network from, as in `torchvision:resnet18`."""


class NetworkSettings(Section):
    """Which network."""

    name: str = "tiny"
    """A network of the zoo, `torchvision:NAME`, `timm:NAME`, or `package.module:attribute` of your
    own; `given` in Python."""
    options: Options = {}
    """Arguments of its function; how many `channels` and `classes` (or `in_chans`, `in_channels`,
    `num_classes`) comes from the data unless given."""
    pretrained: bool = False
    """Begin with the weights that torchvision or timm publishes, which are downloaded."""
    weights: str | None = None
    """Begin with the weights in this file: safetensors, or a state dict saved by torch."""
    convert: ConvertSettings | None = None
    """Make decisions in a network that has none. Networks of torchvision and timm always are
    converted; one of your own where this section is there, if empty."""

    @field_validator("weights")
    @classmethod
    def _from_anywhere(cls, weights: str | None) -> str | None:
        """Later commands on the run find the file from any working folder."""
        return None if weights is None else os.path.abspath(os.path.expanduser(weights))

    @property
    def library(self) -> str | None:
        """The library that the network is taken from; None if it is of the zoo or your own."""
        library, colon, _ = self.name.partition(":")
        return library if colon and library in LIBRARIES else None

    @property
    def has_weights(self) -> bool:
        """Whether it begins with weights that are given, and not with new ones."""
        return self.pretrained or self.weights is not None

    @model_validator(mode="before")
    @classmethod
    def _converted(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "convert" in values:
            return values
        is_plain = str(values.get("name")).startswith(tuple(f"{name}:" for name in LIBRARIES))
        return {**values, "convert": {}} if is_plain else values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.pretrained and self.library is None:
            raise ValueError(
                f"pretrained = true is for networks of {' and '.join(LIBRARIES)}, and name = "
                f"{self.name!r} is none: give weights = FILE"
            )
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained = true and weights = FILE contradict each other: give one")
        return self


class SharingSettings(Section):
    """Which weights a path gets."""

    name: str = "one_shot"
    """one_shot, k_shot, bilateral, locally_free, or `package.module:attribute`."""
    options: Options = {}
    """Arguments of its scheme; `seed` is the recipe's."""
    inherit: str | None = None
    """k_shot: let the slices begin as the trained weights of the run in this folder, which trained
    one copy of the same network with the same images held out. With `start = "equal"` in the
    options they are equal, else they lie around them."""

    @field_validator("inherit")
    @classmethod
    def _from_anywhere(cls, inherit: str | None) -> str | None:
        """Later commands on the run find the folder from any working folder."""
        return None if inherit is None else os.path.abspath(os.path.expanduser(inherit))


class TaskSettings(Section):
    """What networks learn, and how well they do."""

    name: str = "classification"
    """classification, dense (a class per pixel), multi_label, regression, or
    `package.module:attribute`; `task = "dense"` is short for a section with the name alone."""
    options: Options = {}
    """Of the task: for example `output`, the key or index of its part of a network's outputs, or
    `ignore_index` of dense."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, values: Any) -> Any:
        return {"name": values} if isinstance(values, str) else values


_AS_THEY_ARE: dict[str, Any] = {
    "root": None,
    "download": False,
    "image_size": None,
    "bad": "refuse",
    "pad": 0,
    "padding_mode": "constant",
    "flip": False,
    "crop_scale": None,
    "jitter": 0.0,
    "rand_augment": None,
    "random_erasing": 0.0,
    "repeats": 1,
    "memory": "2GB",
}
"""What says nothing to be done to data, of all settings that are of images alone."""


def _is_own(name: object) -> bool:
    """Whether data are of your own: a function's, or given in Python."""
    return isinstance(name, str) and (":" in name or name == GIVEN)


FILES = ("folder", "shards")
"""The data sets that are a user's own image files."""


class DataSettings(Section):
    """Which images, or which data of your own."""

    name: str = "digits"
    """digits, fashion_mnist, mnist, cifar10, cifar100; of image files folder
    (`train/CLASS/*`) or shards (`train/*.tar` in the layout of WebDataset); or of your own
    `package.module:function`, which gives `(train, test)` or `(train, validation, test)`."""
    options: Options = {}
    """Arguments of your own function."""
    root: str | None = None
    """Where the files are; by default the places that the error for missing data lists."""
    download: bool = False
    """Whether torchvision may download missing files."""
    validation: int | float = Field(default=0.2, gt=0)
    """Share (below 1) or number of training images held out to score on: class-balanced, but of
    every class the same share if the images are in files. Not used if your own data have a
    validation part."""
    train_size: Positive | None = None
    """Use so many class-balanced training images; by default all."""
    image_size: int | list[int] | None = None
    """Resize to so many pixels, or to [height, width]; by default images keep their size, and those
    in files become squares of the median shorter side, of 224 pixels at most."""
    bad: Literal["refuse", "skip"] = "refuse"
    """Image files: those that cannot be used are an error that lists them, or are left out."""
    pad: NotNegative = 1
    """Random shifts of up to so many pixels."""
    padding_mode: Literal["constant", "edge"] = "constant"
    """What comes in there: black, or more of the pixels at the edge."""
    flip: bool = False
    """Random horizontal flips."""
    crop_scale: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Random crops keep between these shares of the area, and are resized."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Strength of random changes of brightness, contrast and saturation."""
    rand_augment: list[int] | None = Field(default=None, min_length=2, max_length=2)
    """RandAugment, as `[operations, strength]`: so many random operations per image, 1 to 14, each
    of the same strength, 0 to 30. `[2, 9]` is usual for ImageNet. It is done after all of the
    above, image by image, which takes some milliseconds for one of 224 pixels."""
    random_erasing: float = Field(default=0.0, ge=0, le=1)
    """Probability that a random rectangle, of 2 to 33 % of an image, becomes the mean colour."""
    repeats: int = Field(default=1, ge=1, le=64)
    """Repeated augmentation: an image comes so many times in a batch, each time changed otherwise.
    Batches and epochs are as long as without, so that an epoch shows only that part of the images.
    Every `batch_size` must be a multiple of it."""
    memory: str = "2GB"
    """Image files whose pixels, three bytes each or one if they are grey, take so much at most at
    `image_size` are decoded once, kept in memory, and on disk for the next start. It is a fixed
    size, not a share of this machine's, since random crops differ: they are of the pixels in
    memory, which are fewer than those in files. Others are decoded in every epoch, with `"0B"`
    all."""
    workers: NotNegative = 0
    """Threads that decode image files which are kept in memory (0: one per core, and 8 at most),
    or processes that read others, from the first epoch to the last."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_done_to_own(cls, values: Any) -> Any:
        """Data of your own are not shifted by default, as images are."""
        own = isinstance(values, Mapping) and _is_own(values.get("name"))
        return {"pad": 0, **values} if own else values

    @model_validator(mode="after")
    def _is_for_its_kind(self) -> Self:
        if not self.is_own:
            if self.options:
                raise ValueError(
                    f"options are arguments of a function of your own, and name = {self.name!r} is "
                    "none: leave them out"
                )
            return self
        for key, nothing in _AS_THEY_ARE.items():
            if getattr(self, key) != nothing:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r} is for images; data of your own "
                    f"({self.name!r}) come as they are to be: leave {key} out"
                )
        return self

    @property
    def is_own(self) -> bool:
        """Whether these are data of your own."""
        return _is_own(self.name)

    @field_validator("root")
    @classmethod
    def _from_anywhere(cls, root: str | None) -> str | None:
        """Later commands on the run find the images from any working folder."""
        return None if root is None else os.path.abspath(os.path.expanduser(root))

    @field_validator("memory")
    @classmethod
    def _is_a_number_of_bytes(cls, memory: str) -> str:
        bytes_of(memory)
        return memory

    @property
    def described(self) -> str:
        """The data set, and where its files are if that is given."""
        return self.name if self.root is None else f"{self.name} in {self.root}"

    @field_validator("rand_augment")
    @classmethod
    def _is_possible(cls, numbers: list[int] | None) -> list[int] | None:
        if numbers is not None and not (1 <= numbers[0] <= 14 and 0 <= numbers[1] <= 30):
            raise ValueError(
                "give [operations, strength] with 1 to 14 operations and a strength of 0 to 30, "
                "such as [2, 9]"
            )
        return numbers

    @field_validator("image_size")
    @classmethod
    def _is_a_size(cls, size: int | list[int] | None) -> int | list[int] | None:
        sides = [1, 1] if size is None else [size, size] if isinstance(size, int) else size
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError("give at least 1 pixel, or [height, width]")
        return size


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
    error, but in a winner that does not have all of the largest network's layers."""
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

    @model_validator(mode="after")
    def _snapshots_come(self) -> Self:
        told = self.snapshots
        timed = self.minutes is not None or self.least_images is not None
        if told.number and told.epochs >= self.epochs and not timed:
            raise ValueError(
                f"snapshots.epochs = {told.epochs:g}: the first snapshot would come when the "
                f"training of {self.epochs} epochs ends: lower it"
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


class TeacherSettings(Section):
    """A trained network that the supernet, winners or both learn from in place of labels.

    `train.teacher = "network"` and `finish.teacher = "network"` say which. It is a finished winner
    or the supernet of another run, or a network of a library or your own with weights; it has to be
    of the same classes and image size. Images that it was trained on with another normalisation are
    normalised for it as those were.
    """

    run: str | None = None
    """The folder of a run that has the same task and classes."""
    budget: str | None = None
    """Of the run: its finished winner for this budget, such as `"macs<=25%"`."""
    arch: str | None = None
    """Of the run: this architecture of its supernet, such as `"0-2-1"` or `"largest"`, with the
    weights that its search ended with, and batch norms calibrated on these images."""
    name: str | None = None
    """In place of a run `torchvision:NAME`, `timm:NAME`, or `package.module:attribute` of your
    own."""
    options: Options = {}
    """Arguments of its function."""
    pretrained: bool = False
    """With the weights that torchvision or timm publishes, which are downloaded."""
    weights: str | None = None
    """With the weights in this file: safetensors, or a state dict saved by torch."""
    mean: list[float] | None = None
    """Of weights in a file: by what its images were normalised, per channel, of pixels in [0, 1];
    likewise `std`. Of a run, and of published weights, this is known."""
    std: list[Annotated[float, Field(gt=0)]] | None = None
    """See `mean`."""
    digest: str | None = None
    """Of its weights; a run says it, so that it never goes on with another teacher."""
    others: list[Options] = []
    """Further teachers, as tables `[[teacher.others]]` of the keys above; all teach together, as
    `finish.distillation` says, and to a supernet the mean of what they predict."""

    @property
    def every(self) -> list[TeacherSettings]:
        """This one and the others."""
        return [self, *(TeacherSettings.model_validate(each) for each in self.others)]

    @field_validator("others")
    @classmethod
    def _are_teachers(cls, others: list[Options]) -> list[Options]:
        """Each by itself is one, whose paths later commands find from any working folder."""
        read = []
        for each in others:
            if "digest" in each or "others" in each:
                raise ValueError("digest and others are of [teacher] itself: leave them out")
            try:
                one = cls.model_validate(each)
            except ValidationError as error:
                raise ValueError(_explain(cls, error)) from error
            if not one.is_there:
                raise ValueError("each names a teacher: give run or name")
            read.append(one.model_dump(exclude_unset=True))
        return read

    @field_validator("run", "weights")
    @classmethod
    def _from_anywhere(cls, path: str | None) -> str | None:
        """Later commands on the run find it from any working folder."""
        return None if path is None else os.path.abspath(os.path.expanduser(path))

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self.run is not None or self.name is not None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.run is not None and self.name is not None:
            raise ValueError("run and name are two teachers: give one")
        fields = {k: f for k, f in type(self).model_fields.items() if k not in ("digest", "others")}
        asked = [key for key, field in fields.items() if getattr(self, key) != field.default]
        of_run, of_name = {"run", "budget", "arch"}, {"name", "options", "pretrained", "weights",
                                                      "mean", "std"}  # fmt: skip
        if not self.is_there and self.others:
            raise ValueError("others without run or name: give the first teacher in [teacher]")
        if not self.is_there and asked:
            raise ValueError(f"{', '.join(asked)} without run or name says nothing: give one")
        wrong = [key for key in asked if key not in (of_name if self.run is None else of_run)]
        if wrong:
            beside = "name" if self.run is None else "run"
            raise ValueError(f"{', '.join(wrong)} has no effect beside {beside}: leave it out")
        if self.run is not None and (self.budget is None) == (self.arch is None):
            raise ValueError(
                f"run = {self.run!r}: say which of its networks: budget = 'macs<=25%' is its "
                "finished winner for that, arch = 'largest' an architecture of its supernet"
            )
        if self.name is not None:
            self._check_weights()
        return self

    def _check_weights(self) -> None:
        assert self.name is not None
        if ":" not in self.name:
            raise ValueError(
                f"name = {self.name!r}: a teacher is one network: torchvision:NAME, timm:NAME, or "
                "package.module:attribute; of a space of the zoo give run, and arch or budget"
            )
        of_library = self.name.partition(":")[0] in LIBRARIES
        if self.pretrained == (self.weights is not None):
            raise ValueError(
                f"name = {self.name!r} teaches with weights: give weights = FILE, or (of "
                f"{' and '.join(LIBRARIES)}) pretrained = true, and not both"
            )
        if self.pretrained and not of_library:
            raise ValueError(
                f"pretrained = true is for networks of {' and '.join(LIBRARIES)}, and name = "
                f"{self.name!r} is none: give weights = FILE"
            )
        if self.weights is None and (self.mean or self.std):
            raise ValueError("mean and std are known of published weights: leave them out")
        if self.weights is not None and (self.mean is None or self.std is None):
            raise ValueError(
                f"weights = {self.weights!r} does not say how images were normalised that it "
                "learnt from, and at another normalisation it predicts otherwise: give mean and "
                "std, such as mean = [0.485, 0.456, 0.406] and std = [0.229, 0.224, 0.225]"
            )


class SamplerSettings(Section):
    """Which paths train next."""

    name: str = "uniform"
    """uniform, fair, sandwich, complement, balanced, table, greedy, mct, shiftnas, uniform_cost,
    relaxed, sparse, or `package.module:attribute`; by default sandwich for a converted network."""
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


class EvaluationSettings(Section):
    """How a candidate is scored with the supernet's weights."""

    calibration_images: Positive = 512
    """Training images that batch-norm statistics are averaged over, or all if there are fewer."""
    images: Positive | None = None
    """Validation images; by default, or if there are fewer, all."""
    batch_size: Positive = 256
    """Images scored, or calibrated on, at once."""
    fitness: Literal["metric", "loss"] = "metric"
    """By what networks rank: the metric of the task, or its loss, which few images tell better."""


ALPHA = BETA = -0.07
"""MnasNet's exponents of a cost, below its target and above."""


class RewardSettings(Section):
    """What a search goes by in place of the score: that times a power of a cost (MnasNet's)."""

    target: str | None = None
    """The cost, and the value at which the score is left as it is, such as `"macs<=25%"`; what is
    above is not refused for that. Without it, the search goes by the score."""
    below: float = Field(default=ALPHA, le=0)
    """Of (cost / target), the exponent where the cost is the target's at most."""
    above: float = Field(default=BETA, le=0)
    """The exponent where it is more."""

    @field_validator("target")
    @classmethod
    def _readable(cls, target: str | None) -> str | None:
        return None if target is None else Budget.parse(target).text

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if self.target is None and (self.below, self.above) != (ALPHA, BETA):
            raise ValueError("below and above are exponents of a cost: give its target too")
        return self


class SearchSettings(Section):
    """Which architectures are best."""

    name: str = "evolution"
    """random, evolution, regularised_evolution, nsga2, predictor, bananas, local, mct, nevonas,
    dc_nas, perturbation, reinforce, optuna, `package.module:attribute`, or generator: no search,
    the sampler's generator says which."""
    budgets: list[str] = ["macs<=15%", "macs<=25%", "macs<=60%"]
    """Limits on macs, params, size (of weights, as in `"size<=5MB"`), latency_ms or one of [costs],
    absolute or in % of the largest, or several at once (`"macs<=30M and params<=1M"`); one winner
    each. If none are set and the network cannot meet
    these, quantiles of its MACs take their place."""
    candidates: Positive = 120
    """Architectures scored in all."""
    generation: Positive = 30
    """Architectures scored between two proposals."""
    reward: RewardSettings = RewardSettings()
    options: Options = {"population": 30, "parents": 10, "mutants": 15, "crossovers": 15}
    """Those here are for the default searcher, and stay if only some are set; with a `name`, a
    searcher has its own. Where the supernet shifts, evolution has `dedupe = "per_generation"` by
    default, so that what is good is proposed, and trained, again."""

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, values: Any) -> Any:
        """Options of a searcher that is named are its own; else those asked for join ours."""
        if not isinstance(values, Mapping):
            return values
        if "name" in values:
            return {"options": {}, **values}
        asked = values.get("options", {})
        if not isinstance(asked, Mapping):
            return values
        return {**values, "options": {**cls.model_fields["options"].default, **asked}}

    @field_validator("budgets")
    @classmethod
    def _readable(cls, budgets: list[str]) -> list[str]:
        if not budgets:
            raise ValueError("give at least one budget, such as 'macs<=50%'")
        plain = [Budget.spelt(text) for text in budgets]
        if len(set(plain)) != len(plain):
            raise ValueError(f"budgets {', '.join(plain)} repeat one")
        return plain


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
    part in them, nor have `train.rates`, `train.drop_path`, `train.image_sizes`, `train.shard` and
    `train.snapshots`."""
    classifier: str | None = None
    """The module that makes the logits, as in `head.2`; by default it is found."""


class LatencySettings(Section):
    """How latency is measured."""

    batch_size: Positive = 1
    """Images at once; a latency is that of the batch."""
    threads: Positive = 1
    """Of the runtime, on the CPU."""
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """What runs the networks: torch, where `device` says, or ONNX Runtime on the CPU, to which each
    part that is timed is exported; that needs the extra `onnx`."""
    warmup: NotNegative = 5
    """Runs that are not timed, before those that are."""
    repeats: Positive = 30
    """Runs that are timed; their median counts."""


class DistillationSettings(Section):
    """How is learnt from a teacher, or from several, in place of labels."""

    name: str = "mean"
    """mean (of what the teachers predict), ae_kd (teachers are weighed in every step), or
    `package.module:attribute`."""
    options: Options = {}
    """Its arguments, such as `temperature`."""


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
        if training.minutes is not None or training.least_images is not None:
            raise ValueError(
                "minutes and least_images are for runs, and a truth is to be the same on all "
                "machines: give epochs"
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


_RATES = {"optimizer", "lr"}
_OPTIMISED = {
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.1,
    "precision": "auto",
}
OF_FOLDERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "data": ({"pad": 3, "padding_mode": "edge", "jitter": 0.2}, set()),
    "train": ({"epochs": 16, "least_images": 70_000, **_OPTIMISED}, _RATES),
    "finish": ({"data": "train+validation"}, set()),
    "training": ({"epochs": 40, "least_images": 100_000, **_OPTIMISED}, _RATES),
}
"""What sections are by default for images in folders where no network is named, and the keys with
which a section settles all of that itself; `training` is that of `finish`. Measured by
`benchmarks/studies/emoji`."""


class Recipe(Section, Shown):
    """Everything a run depends on, but for the machine."""

    schema_version: int = Field(default=1, ge=1, le=1, alias="schema")
    """Of which form the recipe is; there is one so far."""
    name: str = Field(default="digits", pattern=r"^\w[\w.-]*$")
    """Names the run's folder; by default the data, or the folder that they are in."""
    seed: NotNegative = 0
    """Decides all that is random: new weights, paths, images, proposals."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda; which GPU is for CUDA_VISIBLE_DEVICES to say."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["default"] = 1
    """Of torch on the CPU; `default` is torch's own choice. Small networks are fastest on one,
    on a busy machine many times so."""
    network: NetworkSettings = NetworkSettings()
    sharing: SharingSettings = SharingSettings()
    task: TaskSettings = TaskSettings()
    data: DataSettings = DataSettings()
    sampler: SamplerSettings = SamplerSettings()
    train: SupernetSettings = SupernetSettings()
    shrink: ShrinkSettings = ShrinkSettings()
    teacher: TeacherSettings = TeacherSettings()
    evaluate: EvaluationSettings = EvaluationSettings()
    search: SearchSettings = SearchSettings()
    shifting: ShiftingSettings = ShiftingSettings()
    transfer: TransferSettings = TransferSettings()
    latency: LatencySettings = LatencySettings()
    finish: FinishSettings = FinishSettings()
    controls: ControlsSettings = ControlsSettings()
    export: ExportSettings = ExportSettings()
    truth: TruthSettings = TruthSettings()
    costs: dict[str, str] = {}
    """Further costs for budgets: by name `package.module:function`, which gives a number for the
    extracted `module` or for its `choices`, as its parameter is called (`ms.cost.FunctionCost`)."""

    @field_validator("costs")
    @classmethod
    def _named(cls, costs: dict[str, str]) -> dict[str, str]:
        for name, function in costs.items():
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in METRICS:
                raise ValueError(
                    f"{name!r} cannot name a cost: take a word of letters, digits and _, other "
                    f"than {', '.join(METRICS)}"
                )
            if ":" not in function:
                raise ValueError(f"{name} = {function!r}: give package.module:function")
        return costs

    @model_validator(mode="after")
    def _known_costs(self) -> Self:
        have, reward = (*METRICS, *self.costs), self.search.reward
        texts = [("budgets", text) for text in self.search.budgets]
        texts += [] if reward.target is None else [("reward.target", reward.target)]
        for key, text in texts:
            for part in Budget.parse_all(text):
                if part.metric not in have:
                    raise ValueError(
                        f"search.{key}: budget {part.text!r} is on {part.metric!r}, which is no "
                        f"cost; {nearest(part.metric, have)}have {', '.join(have)}, and [costs] "
                        "adds others"
                    )
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_after_data(cls, values: Any) -> Any:
        data = values.get("data") if isinstance(values, Mapping) else None
        if not isinstance(data, Mapping) or "name" in values:
            return values
        name, root = str(data.get("name", "digits")), str(data.get("root", ""))
        if ":" in name:
            name = name.rpartition(":")[2]
        if name in FILES and root:
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(root).absolute().name)
            name = plain.strip("-.")[:60] or name
        return {**values, "name": name}

    @field_validator("train", mode="before")
    @classmethod
    def _of_a_supernet(cls, train: Any) -> Any:
        """Plain settings of training are those of a supernet's too."""
        if isinstance(train, TrainingSettings) and not isinstance(train, SupernetSettings):
            return train.model_dump(exclude_unset=True)
        return train

    @model_validator(mode="before")
    @classmethod
    def _sampled(cls, values: Any) -> Any:
        """A converted network trains by the sandwich rule unless a sampler is named."""
        network, sampler = (_section(values, name) for name in ("network", "sampler"))
        if network is None or sampler is None or "name" in sampler:
            return values
        try:
            is_converted = NetworkSettings.model_validate(network).convert is not None
        except ValidationError:
            return values  # which is said of the network itself
        return {**values, "sampler": {"name": "sandwich", **sampler}} if is_converted else values

    @model_validator(mode="before")
    @classmethod
    def _proposed_again(cls, values: Any) -> Any:
        """A search that shifts the supernet may propose, and so train, the same network again."""
        search, shifting = (_section(values, name) for name in ("search", "shifting"))
        if search is None or shifting is None or shifting.get("name", "none") == "none":
            return values
        options = search.get("options", {})
        evolves = search.get("name", "evolution") == "evolution"
        if not evolves or not isinstance(options, Mapping) or "dedupe" in options:
            return values
        return {
            **values,
            "search": {**search, "options": {**options, "dedupe": "per_generation"}},
        }

    @model_validator(mode="before")
    @classmethod
    def _of_folders(cls, values: Any) -> Any:
        """Images in folders have a network for their size, and settings that fit it, by default."""
        data, network, finish = (_section(values, name) for name in ("data", "network", "finish"))
        if data is None or data.get("name") not in FILES or network is None or "name" in network:
            return values
        filled = {"network": {**network, "name": "convnet"}}
        smooth = _classifies(values.get("task"))  # other tasks may not say how to
        for name in ("data", "train", "finish"):
            filled[name] = _filled(name, _section(values, name), smooth=smooth)
        training = _filled("training", _section(finish, "training"), smooth=smooth)
        if filled["finish"] and training:
            filled["finish"]["training"] = training
        return {**values, **{name: section for name, section in filled.items() if section}}

    @model_validator(mode="after")
    def _begins_once(self) -> Self:
        if self.moves and self.sharing.inherit is not None:
            raise ValueError(
                f"sharing.inherit = {self.sharing.inherit!r} lets slices begin as the weights of a "
                "run, and in a transfer they begin as those of the run that is moved: leave "
                "sharing.inherit out"
            )
        return self

    @model_validator(mode="after")
    def _is_taught(self) -> Self:
        users = {"train": self.train.teacher, "finish": self.finish.teacher}
        taught = [key for key, teacher in users.items() if teacher == "network"]
        if taught and not self.teacher.is_there:
            raise ValueError(
                f"{taught[0]}.teacher = 'network' is that of [teacher], which names none: give "
                "teacher.run or teacher.name"
            )
        if self.teacher.is_there and not taught:
            raise ValueError(
                "[teacher] names a network that nothing learns from: set train.teacher = 'network' "
                "or finish.teacher = 'network', or leave it out"
            )
        if self.finish.teacher == "supernet" and self.finish.mode == "inherit":
            raise ValueError(
                "finish.teacher = 'supernet' has no effect: finish.mode = 'inherit' trains nothing"
            )
        idle = {
            "train": self.moves or not self.train.epochs,
            "finish": self.finish.mode == "inherit",
        }
        why = {
            "train": "the supernet is not trained on labels here (a transfer, or train.epochs = 0)",
            "finish": "finish.mode = 'inherit' trains nothing",
        }
        for key in taught:
            if idle[key]:
                raise ValueError(f"{key}.teacher = 'network' has no effect: {why[key]}")
        training = {"train": self.train, "finish": self.finish.training}
        for key in taught:
            if sizes := training[key].image_sizes:
                raise ValueError(
                    f"image_sizes = {sizes}: the network of [teacher], from which {key} learns, "
                    "sees images of the size that it was trained on alone: leave image_sizes out, "
                    "or the teacher"
                )
        return self

    @model_validator(mode="after")
    def _shrinks_what_trains(self) -> Self:
        if self.shrinks and (self.moves or not self.train.epochs):
            why = "a transfer takes a trained supernet" if self.moves else "train.epochs = 0"
            raise ValueError(
                f"shrink.name = {self.shrink.name!r} changes the space between stages of training, "
                f"and there is none ({why}): leave [shrink] out"
            )
        return self

    @model_validator(mode="after")
    def _shards_what_trains(self) -> Self:
        if self.train.shard and self.shifting.name != "none" and not self.moves:
            raise ValueError(
                f"train.shard = true, and shifting.name = {self.shifting.name!r} trains the whole "
                "supernet in every process: leave one of them out"
            )
        return self

    @property
    def shrinks(self) -> bool:
        """Whether the search space changes while the supernet trains."""
        return self.shrink.name != "none"

    @property
    def moves(self) -> bool:
        """Whether the supernet is that of another run, moved to these images."""
        return self.transfer.source is not None

    @property
    def trained_epochs(self) -> int:
        """Epochs that the supernet trains before the search, if it is moved its classifier."""
        transfer = self.transfer
        return transfer.head_epochs + transfer.body_epochs if self.moves else self.train.epochs

    @property
    def named_code(self) -> dict[str, str]:
        """The keys whose value names code outside manyshot, `package.module:attribute`."""
        sections = ("network", "sharing", "task", "data", "sampler", "shrink", "search")
        names = {f"{section}.name": getattr(self, section).name for section in sections}
        names["finish.distillation.name"] = self.finish.distillation.name
        if self.network.library is not None:
            del names["network.name"]
        names |= {f"costs.{name}": function for name, function in self.costs.items()}
        for i, teacher in enumerate(self.teacher.every):
            name = teacher.name or ""
            if not name.startswith(tuple(f"{library}:" for library in LIBRARIES)):
                names[f"teacher.others[{i - 1}].name" if i else "teacher.name"] = name
        return {key: name for key, name in names.items() if ":" in name}

    @classmethod
    def load(cls, path: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Reads a recipe and applies overrides such as `"train.epochs=5"` (TOML values).

        Without a path, the default recipe. Where there is no file of the path, it may name one of
        those that come with manyshot, such as `fair`.

        Raises:
            RecipeError: for unreadable TOML, an unknown key (with the nearest), or a bad value.
        """
        path = path and located(path)
        return cls.build(read(path), overrides, "the default recipe" if path is None else str(path))

    @classmethod
    def build(cls, values: dict[str, Any], overrides: Sequence[str], source: str) -> Self:
        """A recipe of TOML values and overrides; errors say that they come from `source`.

        Raises:
            RecipeError: for an unknown key (with the nearest), or a bad value.
        """
        for text in overrides:
            override(values, text)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(f"{source}: {_explain(cls, error)}") from error

    def to_toml(self) -> str:
        """The recipe with every default filled in; `load` reads an equal one."""
        return dumps(self.model_dump(by_alias=True))


def _section(values: Any, name: str) -> Mapping[str, Any] | None:
    """The values of a section, empty if it is not there; None if it is no table."""
    if not isinstance(values, Mapping):
        return None
    section = values.get(name, {})
    section = section.model_dump(exclude_unset=True) if isinstance(section, Section) else section
    return section if isinstance(section, Mapping) else None


def _classifies(task: Any) -> bool:
    """Whether the section of the task, of any form, names classification or nothing."""
    if isinstance(task, Section):
        task = task.model_dump()
    name = task.get("name") if isinstance(task, Mapping) else task
    return name in (None, "classification")


def _filled(name: str, section: Mapping[str, Any] | None, *, smooth: bool) -> dict[str, Any]:
    """A section with what it is by default for images in folders; empty if it is no table."""
    defaults, settles = OF_FOLDERS[name]
    if section is None:
        return {}
    if settles & section.keys():
        return {**section}
    left_out = {"label_smoothing"} if not smooth else set()
    if "epochs" in section:
        left_out.add("least_images")
    return {**{key: defaults[key] for key in defaults.keys() - left_out}, **section}


def _explain(recipe: type[BaseModel], error: ValidationError) -> str:
    parts = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _keys(recipe, problem["loc"][:-1])
            hint = nearest(str(problem["loc"][-1]), known).strip() or f"have {', '.join(known)}"
            parts.append(f"unknown key {where!r}; {hint}")
        elif where:
            words = problem["msg"].removeprefix("Value error, ")
            parts.append(f"{where} = {shown(problem['input'])}: {words}")
        else:
            parts.append(problem["msg"].removeprefix("Value error, "))
    return "; ".join(parts)


def _keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        kinds = (annotation, *get_args(annotation))  # a section that may be left out is a union
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
