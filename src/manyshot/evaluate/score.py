"""Calibrating one architecture's batch norms, and scoring it on fixed batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from manyshot.data import Batch
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.inputs import Inputs, as_call, batch_of
from manyshot.nn.mixing import Kept
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import Task, as_task
from manyshot.tasks.task import Metric, metrics_of


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
    """

    value: float
    loss: float
    images: int
    metric: str = "accuracy"
    higher_is_better: bool = True
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def fitness(self) -> float:
        """The value, with its sign turned where lower is better: the highest is the best."""
        return self.value if self.higher_is_better else -self.value


def calibrate(
    net: Supernet,
    arch: Arch,
    batches: Iterable[Any],
    mixture: Kept | None = None,
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

    Returns:
        Statistics for `net(images, arch, stats=stats)` and `net.extract(arch, stats=stats)`.

    Raises:
        ValueError: if there is no batch, or `arch` is not in the space.
    """
    arch, collector, seen = tuple(arch), Collector(), 0
    mixture = mixture or net.mixture(arch)
    with evaluating(net):
        for images in images_of(batches):
            net(images, arch, stats=collector, mixture=mixture)
            seen += 1
    if not seen:
        raise ValueError("calibrate got no batches; give at least one batch of training images")
    return collector.stats(arch)


def images_of(batches: Iterable[Any]) -> Iterator[Inputs]:
    """The inputs of batches, which are pairs of inputs and targets, or a tensor or dict alone."""
    for batch in batches:
        yield batch if isinstance(batch, Tensor | Mapping) else batch[0]


def total(task: Task, batches: Iterable[tuple[Any, Any]]) -> Score:
    """The score of the outputs and the targets of every batch.

    Metrics and the mean loss are those of all batches together, whatever their sizes.

    Raises:
        ValueError: if outputs and targets are none of the task, or there are no images.
    """
    metrics: dict[str, Metric] = {}
    loss: Tensor | float = 0.0
    weight: Tensor | float = 0.0
    images = 0
    for outputs, targets in batches:
        task.check(outputs, targets)
        metrics = metrics or metrics_of(task, outputs)
        compared = task.compared(outputs, targets)
        for metric in metrics.values():
            metric.update(*compared)
        counts = task.weight(targets)
        loss = loss + task.loss(outputs, targets).double() * counts
        weight = weight + counts
        images += batch_of(targets)
    if not images:
        raise ValueError("there are no images to score on")
    values = {name: float(metric.compute()) for name, metric in metrics.items()}
    name, first = next(iter(metrics.items()))
    mean = float(loss) / float(weight) if weight else float("nan")
    return Score(values[name], mean, images, name, bool(first.higher_is_better), values)


def score(
    net: Supernet,
    arch: Arch,
    *,
    calibration: Iterable[Any] | BatchNormStats,
    validation: Iterable[Batch],
    task: Task | str = "classification",
) -> Score:
    """The proxy score of `arch`: calibrated, then scored with the supernet's weights.

    It depends on neither earlier calls nor their order, and leaves the supernet bit-identical.

    Args:
        net: the supernet.
        arch: an architecture of its space.
        calibration: batches, as `calibrate` takes them, or statistics of `arch` that are there
            already.
        validation: batches of images and targets.
        task: what is scored, or its name.

    Raises:
        ValueError: for the reasons that `calibrate` has, if there is no validation batch, or if
            outputs and targets are not what the task allows.
    """
    task, mixture, stats = as_task(task), net.mixture(arch), calibration
    if not isinstance(stats, BatchNormStats):
        stats = calibrate(net, arch, stats, mixture)
    with evaluating(net):
        return total(
            task,
            (
                (net(images, tuple(arch), stats=stats, mixture=mixture), targets)
                for images, targets in validation
            ),
        )


def score_module(
    module: nn.Module, batches: Iterable[Batch], *, task: Task | str = "classification"
) -> Score:
    """The score of a plain module, such as an extracted subnet, in eval mode.

    Args:
        module: the module.
        batches: of images and targets.
        task: what is scored, or its name.

    Raises:
        ValueError: if there is no batch, or if outputs and targets are not what the task allows.
    """
    with evaluating(module):
        return total(
            as_task(task), ((_called(module, inputs), targets) for inputs, targets in batches)
        )


def _called(module: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = as_call(inputs)
    return module(*args, **kwargs)
