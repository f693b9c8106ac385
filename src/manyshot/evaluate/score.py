"""Calibrating one architecture's batch norms, and scoring it on fixed batches."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.data import Batch
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.inputs import Inputs, all_batched, as_call, batch_of, chosen, device_of
from manyshot.nn.mixing import Kept
from manyshot.nn.modes import evaluating
from manyshot.nn.placement import Placement
from manyshot.seeding import numpy_rng
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import Task, as_task
from manyshot.tasks.task import Metric, described, mean_loss, metrics_of, number_of, read


@dataclass(frozen=True, slots=True)
class Score:
    """How well one architecture does on a set of images.

    Attributes:
        value: that of the metric that the task ranks by.
        loss: the mean loss of the task, without label smoothing.
        images: how many images there were.
        metric: the name of the metric.
        higher_is_better: its direction.
        metrics: the values of all metrics of the task by name, this one first.
        parts: scores of random parts of the images, if asked for, without `metrics`.
    """

    value: float
    loss: float
    images: int
    metric: str = "accuracy"
    higher_is_better: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)
    parts: tuple[Score, ...] = field(default=(), compare=False)

    @property
    def fitness(self) -> float:
        """The value, with its sign turned where lower is better: the highest is the best."""
        return self.value if self.higher_is_better else -self.value

    @property
    def finite_metrics(self) -> dict[str, float]:
        """The metrics that have a value on these images, as R2 has none on one image."""
        return {name: value for name, value in self.metrics.items() if math.isfinite(value)}

    def checked(self, of: str) -> Score:
        """The same score, whose loss and value are finite numbers.

        Args:
            of: what was scored on which images, for the message.

        Raises:
            ValueError: if one of them is not finite.
        """
        for what, number in (("loss", self.loss), (self.metric, self.value)):
            if not math.isfinite(number):
                raise ValueError(
                    f"the {what} of {of} is {number}: look for inputs or targets there that are "
                    "not finite, for too few or too equal targets for this metric, or for a "
                    "network whose training diverged"
                )
        return self


def calibrate(
    net: Supernet,
    arch: Arch,
    batches: Iterable[Any],
    mixture: Kept | None = None,
    placement: Placement | None = None,
) -> BatchNormStats:
    """The batch-norm statistics of `arch`: reset, then averages over `batches` by their images.

    SPOS recalibrates so too (arXiv:1904.00420, section 3.4), but here every image weighs the same
    (`manyshot.nn.batch_norm.Collector` has the formula) instead of later ones more, and the fixed
    batches are the same for every architecture. Dropout is off. The supernet is left bit-identical.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        batches: pairs of inputs and targets, or inputs alone that are a tensor or a dict; at least
            one. Inputs are what `net(inputs, arch)` takes, usually images (B, C, H, W).
        mixture: what `net.mixture(arch)` gave, if that is at hand.
        placement: which channels widths use; by default `net.placement(arch)`.

    Returns:
        Statistics for `net(images, arch, stats=stats)` and `net.extract(arch, stats=stats)`.

    Raises:
        ValueError: if there is no batch, or `arch` is not in the space.
    """
    arch, collector, seen = tuple(arch), Collector(), 0
    mixture = mixture or net.mixture(arch)
    placement = net.placement(arch) if placement is None else placement
    with evaluating(net):
        for images in images_of(batches):
            net(images, arch, stats=collector, mixture=mixture, placement=placement)
            seen += 1
    if not seen:
        raise ValueError("calibrate got no batches; give at least one batch of training images")
    return collector.stats(arch, placement)


def images_of(batches: Iterable[Any]) -> Iterator[Inputs]:
    """The inputs of batches, which are pairs of inputs and targets, or a tensor or dict alone."""
    for batch in batches:
        yield batch if isinstance(batch, Tensor | Mapping) else batch[0]


class _Sum:
    """A score in the making: of all batches together, whatever their sizes."""

    def __init__(self, task: Task, only_first: bool = False) -> None:
        """Begins with no images; `only_first` leaves out all metrics but the one to rank by."""
        self.task, self.only_first, self.images = task, only_first, 0
        self._metrics: dict[str, Metric] = {}
        self._loss: Tensor | float = 0.0
        self._weight: Tensor | float = 0.0

    def take(self, outputs: Any, targets: Any) -> None:
        """Takes in a batch."""
        if not self._metrics:
            metrics = metrics_of(self.task, outputs)
            self._metrics = dict(list(metrics.items())[:1]) if self.only_first else metrics
        compared = self.task.compared(outputs, targets)
        if not isinstance(compared, tuple | list):
            raise ValueError(
                f"{type(self.task).__name__}.compared gives {described(compared)}: give a tuple of "
                "what the metrics' update takes"
            )
        for metric in self._metrics.values():
            metric.update(*compared)
        counts = self.task.weight(targets)
        self._loss = self._loss + mean_loss(self.task, outputs, targets).double() * counts
        self._weight = self._weight + counts
        self.images += batch_of(targets)

    def numbers(self) -> list[float | Tensor]:
        """What a score is made of, where it was counted: loss, weight and the metrics."""
        values = (number_of(self.task, name, metric) for name, metric in self._metrics.items())
        return [self._loss, self._weight, *values]

    def score(self, numbers: Sequence[float]) -> Score:
        """The score of what was taken in, at least one image, from `numbers` on the host."""
        loss, weight, *values = numbers
        named = dict(zip(self._metrics, values, strict=True))
        name, first = next(iter(self._metrics.items()))
        mean = loss / weight if weight else float("nan")
        return Score(named[name], mean, self.images, name, bool(first.higher_is_better), named)


def total(task: Task, batches: Iterable[tuple[Any, Any]], parts: int = 0) -> Score:
    """The score of the outputs and the targets of every batch.

    Metrics and the mean loss are those of all batches together, whatever their sizes.

    Args:
        task: what is scored.
        batches: pairs of outputs and targets.
        parts: into how many parts the images are shared out, of equal size and each scored too.
            Which image is in which part is random, and the same for all networks that are scored
            on the same batches. There are no parts where outputs or targets hold tensors without a
            row per image.

    Raises:
        ValueError: if outputs and targets are none of the task, or there are no images.
    """
    whole, apart = _Sum(task), [_Sum(task, only_first=True) for _ in range(parts)]
    rng = numpy_rng("scores", "parts")
    for outputs, targets in batches:
        task.check(outputs, targets)
        seen = whole.images
        whole.take(outputs, targets)
        batch = whole.images - seen
        part_B = (rng.permutation(batch) + seen) % max(parts, 1)
        if apart and not all_batched((outputs, targets), batch):
            apart = []
        for number, part in enumerate(apart):
            rows = torch.from_numpy(np.flatnonzero(part_B == number))
            if len(rows):
                rows = rows.to(device_of(outputs), non_blocking=True)
                part.take(chosen(outputs, rows), chosen(targets, rows))
    if not whole.images:
        raise ValueError("there are no images to score on")
    sums = [whole, *(part for part in apart if part.images)]
    counted = [each.numbers() for each in sums]
    numbers = iter(read([number for each in counted for number in each]))  # of all sums at once
    scores = [
        each.score(list(itertools.islice(numbers, len(own))))
        for each, own in zip(sums, counted, strict=True)
    ]
    return dataclasses.replace(scores[0], parts=tuple(scores[1:]))


def score(
    net: Supernet,
    arch: Arch,
    *,
    calibration: Iterable[Any] | BatchNormStats,
    validation: Iterable[Batch],
    task: Task | str = "classification",
    parts: int = 0,
) -> Score:
    """The proxy score of `arch`: calibrated, then scored with the supernet's weights.

    It depends on neither earlier calls nor their order, and leaves the supernet bit-identical.
    Where the sharing scheme scores several placements of the channels (`net.scored`), each is
    calibrated and scored, and the score is the mean of theirs.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        calibration: batches, as `calibrate` takes them, or statistics of `arch` that are there
            already, with whose placement alone it is scored then.
        validation: batches of images and targets.
        task: what is scored, or its name.
        parts: into how many random parts the images are shared out, each scored too.

    Raises:
        ValueError: for the reasons that `calibrate` has, if there is no validation batch, or if
            outputs and targets are not what the task allows.
    """
    task, arch, mixture = as_task(task), tuple(arch), net.mixture(arch)
    given = calibration if isinstance(calibration, BatchNormStats) else None
    placements = net.scored(arch)
    if given is not None:
        placements = tuple(p for p in placements if p == given.placement) or (given.placement,)
    if len(placements) > 1:  # several passes
        calibration = list(calibration) if isinstance(calibration, Iterator) else calibration
        validation = list(validation) if isinstance(validation, Iterator) else validation
    scores = []
    with evaluating(net):
        for placement in placements:
            stats = calibration
            if not isinstance(stats, BatchNormStats):
                stats = calibrate(net, arch, stats, mixture, placement)
            forward = functools.partial(
                net, arch=arch, stats=stats, mixture=mixture, placement=placement
            )
            outputs = ((forward(images), targets) for images, targets in validation)
            scores.append(total(task, outputs, parts))
    return mean_score(scores)


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of scores of one architecture on the same images."""
    first, *others = scores
    if not others:
        return first

    def mean(numbers: Iterable[float]) -> float:
        return sum(numbers) / len(scores)

    return dataclasses.replace(
        first,
        value=mean(score.value for score in scores),
        loss=mean(score.loss for score in scores),
        metrics={name: mean(score.metrics[name] for score in scores) for name in first.metrics},
        parts=tuple(map(mean_score, zip(*(score.parts for score in scores), strict=True))),
    )


def score_module(
    module: nn.Module,
    batches: Iterable[Batch],
    *,
    task: Task | str = "classification",
    parts: int = 0,
) -> Score:
    """The score of a plain module, such as an extracted subnet, in eval mode.

    Args:
        module: the module.
        batches: of images and targets.
        task: what is scored, or its name.
        parts: into how many random parts the images are shared out, each scored too.

    Raises:
        ValueError: if there is no batch, or if outputs and targets are not what the task allows.
    """
    with evaluating(module):
        return total(
            as_task(task),
            ((_called(module, inputs), targets) for inputs, targets in batches),
            parts,
        )


def _called(module: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = as_call(inputs)
    return module(*args, **kwargs)
