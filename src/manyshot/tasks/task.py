"""What a task is: the loss, the metrics and the check of what a network gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manyshot.nn.inputs import batch_of, device_of, together

Output = str | int | None
"""Which part of a network's outputs a task is about: a key, an index, or all of it."""


class Metric(Protocol):
    """A number over any number of batches, which it counts up: what torchmetrics' metrics are."""

    @property
    def higher_is_better(self) -> bool | None:
        """Its direction."""
        ...

    def to(self, device: torch.device) -> Any:
        """Moves what it counts."""
        ...

    def update(self, *compared: Any) -> None:
        """Takes in a batch: what `Task.compared` gives of it."""
        ...

    def compute(self) -> Any:
        """The number over all batches so far, a tensor without dimensions."""
        ...


@runtime_checkable
class Task(Protocol):
    """What networks are to learn from images and targets, and how well they do.

    Outputs are whatever a network gives, and targets whatever the data set has beside the images.
    `OneLoss` is a base with all but `check`, `loss` and `metrics`.

    Attributes:
        shares: the names of the metrics that are shares in [0, 1], which pages show in percent.
    """

    shares: Collection[str]

    def check(self, outputs: Any, targets: Any) -> None:
        """Checks shapes and types of a batch.

        Raises:
            ValueError: that names what outputs and targets are, and what is allowed.
        """
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a batch, a scalar."""
        ...

    def weight(self, targets: Any) -> Tensor | int:
        """How many times the mean loss of a batch counts in a mean over batches."""
        ...

    def metrics(self, outputs: Any) -> Mapping[str, Metric]:
        """New metrics by name, for outputs such as these: the first is what networks rank by."""
        ...

    def compared(self, outputs: Any, targets: Any) -> Sequence[Any]:
        """What each metric's `update` is given of a batch."""
        ...

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """The mean loss of outputs against another network's, which have no gradient."""
        ...


@runtime_checkable
class Smooths(Protocol):
    """A task that can smooth its targets."""

    def smoothed_loss(self, outputs: Any, targets: Any, smoothing: float) -> Tensor:
        """The loss against targets of which a share is that of all classes alike."""
        ...


@runtime_checkable
class MixesTargets(Protocol):
    """A task whose targets can be mixed, as are the images that they are of."""

    def mixed_targets(self, outputs: Any, targets: Any, others: Any, share_B: Tensor) -> Any:
        """What the loss takes for images of which each is partly another.

        Args:
            outputs: of the network.
            targets: of the images.
            others: of those that are in them.
            share_B: how much of each image is its own.
        """
        ...


@runtime_checkable
class Votes(Protocol):
    """A task in which several networks can teach one."""

    def vote(self, outputs: Sequence[Any]) -> Any:
        """Outputs, for `distillation`, that predict the mean of what these predict."""
        ...


@runtime_checkable
class Softens(Protocol):
    """A task whose predictions have a temperature."""

    def softened(self, outputs: Any, temperature: float) -> Any:
        """Outputs, for `distillation`, that predict what these do at a temperature."""
        ...


class Mixed(NamedTuple):
    """The targets of mixed images, in place of plain ones.

    Attributes:
        targets: of the images.
        others: of those that are in them.
        share_B: how much of each image is its own.
    """

    targets: Any
    others: Any
    share_B: Tensor


@runtime_checkable
class Guesses(Protocol):
    """A task that knows what guessing would score."""

    def chance(self, counts: Sequence[int]) -> float:
        """The score of the same guess for all images, by how many there are of each class."""
        ...


class OneLoss:
    """A base: every image counts the same, metrics get what the network gave, and the loss distils.

    What is to be written besides are `check`, `loss` and `metrics`.
    """

    shares: Collection[str] = ()

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a batch."""
        raise NotImplementedError(
            f"{type(self).__name__} has no loss: write loss(outputs, targets)"
        )

    def weight(self, targets: Any) -> Tensor | int:
        """The number of images."""
        return batch_of(targets)

    def compared(self, outputs: Any, targets: Any) -> Sequence[Any]:
        """Outputs and targets as they are."""
        return outputs, targets

    def distillation(self, outputs: Any, teacher: Any) -> Tensor:
        """The loss, with what the teacher gave as targets."""
        return self.loss(outputs, teacher)


Loss: TypeAlias = Callable[[Any, Any], Tensor]
"""The mean loss of a batch, a scalar, from outputs and targets."""


class WithLoss:
    """A task with another loss; it checks, scores and distils as before, and smooths no targets."""

    def __init__(self, task: Task, loss: Loss) -> None:
        """Takes the rest from `task`."""
        self.loss, self.shares = loss, task.shares
        self.check, self.weight, self.metrics = task.check, task.weight, task.metrics
        self.compared, self.distillation = task.compared, task.distillation
        if isinstance(task, Votes):
            self.vote = task.vote
        if isinstance(task, Softens):
            self.softened = task.softened


def loss_function(task: Task, smoothing: float) -> Callable[[Any, Any], Tensor]:
    """The loss that a network is trained by: the task's, with smoothed targets if asked for.

    Raises:
        ValueError: if targets are to be smoothed, and the task does not say how.
    """
    if not smoothing:
        return task.loss
    if not isinstance(task, Smooths):
        raise ValueError(
            f"label_smoothing = {smoothing}: {type(task).__name__} has no smoothed_loss, which "
            "tasks of classes have; set label_smoothing = 0"
        )
    smooths = task

    def loss(outputs: Any, targets: Any) -> Tensor:
        return smooths.smoothed_loss(outputs, targets, smoothing)

    return loss


def check_votes(task: Task, teachers: int) -> None:
    """Refuses several teachers in a task that does not say what they teach together.

    Raises:
        ValueError: then.
    """
    if teachers > 1 and not isinstance(task, Votes):
        raise ValueError(
            f"{teachers} networks are to teach together, and {type(task).__name__} has no vote: "
            "write vote(outputs), which gives outputs that predict the mean of some, or have one "
            "network teach"
        )


def voted(task: Task, outputs: Sequence[Any]) -> Any:
    """What several networks teach together: outputs that predict the mean of theirs; of one, its.

    Raises:
        ValueError: if the task does not say that.
    """
    check_votes(task, len(outputs))
    return task.vote(outputs) if isinstance(task, Votes) and len(outputs) > 1 else outputs[0]


def divergence(task: Task, outputs: Any, teacher: Any) -> Tensor:
    """How far outputs are from what they are distilled from, 0 where they are equal.

    It is `distillation` less its least value, that of the teacher's outputs themselves: for classes
    and labels the KL divergence, whose gradient is that of `distillation`.
    """
    with torch.no_grad():
        least = task.distillation(teacher, teacher)
    return task.distillation(outputs, teacher) - least


def learnt(task: Task, outputs: Any, targets: Any) -> Any:
    """What the loss takes as targets: these once they are checked, or mixed ones as one.

    Raises:
        ValueError: if outputs and targets are none of the task.
    """
    if not isinstance(targets, Mixed):
        task.check(outputs, targets)
        return targets
    task.check(outputs, targets.targets)
    assert isinstance(task, MixesTargets)  # else nothing is mixed
    return task.mixed_targets(outputs, *targets)


def metrics_of(task: Task, outputs: Any) -> dict[str, Metric]:
    """New metrics of a task, where its outputs are; the first is what networks rank by.

    They are copies, so that a task which keeps a metric does not count one network into the next.
    Processes of one run score different networks, so that metrics of torchmetrics gather nothing.

    Raises:
        ValueError: if there is none, one is no metric, or the first does not say whether higher is
            better.
    """
    metrics: Any = task.metrics(outputs)
    if not hasattr(metrics, "items") or not len(metrics):
        raise ValueError(
            f"{type(task).__name__}.metrics gives {described(metrics)}: give a dictionary of at "
            "least one metric by its name"
        )
    for name, metric in metrics.items():
        lacks = [m for m in ("update", "compute", "to") if not hasattr(metric, m)]
        if lacks:
            raise ValueError(
                f"{type(task).__name__}.metrics: {name!r} is {described(metric)}, which has no "
                f"{', '.join(lacks)}: a metric of torchmetrics has what it needs"
            )
    name, first = next(iter(metrics.items()))
    direction = getattr(first, "higher_is_better", None)
    if not isinstance(direction, bool):
        raise ValueError(
            f"{type(task).__name__} ranks by {name!r}, whose higher_is_better is {direction!r}: "
            "set it to True or False on the metric"
        )
    device = device_of(outputs)
    new: dict[str, Metric] = {name: copy.deepcopy(metric) for name, metric in metrics.items()}
    for metric in new.values():
        metric.to(device)
        if hasattr(metric, "distributed_available_fn"):
            vars(metric)["distributed_available_fn"] = _alone
    return new


def mean_loss(task: Task, outputs: Any, targets: Any) -> Tensor:
    """The task's loss of a batch, seen to be one number.

    Raises:
        ValueError: if it is something else.
    """
    loss: Any = task.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
        raise ValueError(
            f"{type(task).__name__}.loss gives {described(loss)}: give the mean over the batch, a "
            "floating-point tensor without dimensions, such as loss.mean()"
        )
    return loss


def number_of(task: Task, name: str, metric: Metric) -> float | Tensor:
    """What a metric of a task computes, seen to be one number; one on a device is left there.

    Raises:
        ValueError: if it is something else.
    """
    value = metric.compute()
    if isinstance(value, Tensor) and value.device.type != "cpu" and value.numel() == 1:
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{type(task).__name__}.metrics: {name!r} computes {described(value)}: give a metric "
            "of one number, such as a mean over the classes (average='macro' in torchmetrics)"
        ) from error


def read(numbers: Sequence[float | Tensor]) -> list[float]:
    """Numbers on the host, those on a device in one transfer."""
    tensors = [number.detach().double() for number in numbers if isinstance(number, Tensor)]
    on_host = iter(together(tensors, torch.device("cpu")))
    return [float(next(on_host)) if isinstance(n, Tensor) else float(n) for n in numbers]


def _alone() -> bool:
    """No other process counts the same."""
    return False


def picked(outputs: Any, output: Output) -> Any:
    """The part of outputs that a task is about.

    Raises:
        ValueError: if there is no such part; it names those that there are.
    """
    if output is None:
        return outputs
    try:
        return outputs[output]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"the network's outputs are {described(outputs)}, which have no {output!r}: set "
            "task.options.output to a key or an index that there is, or leave it out"
        ) from error


def placed(part: Tensor, output: Output) -> Any:
    """Outputs of which `picked` picks this part."""
    return part if output is None else {output: part}


def detached(outputs: Any) -> Any:
    """The same without gradients."""
    return pytree.tree_map(
        lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs
    )


def exact(outputs: Tensor) -> Tensor:
    """Outputs in at least single precision."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


def described(value: Any) -> str:
    """What outputs or targets are, for messages."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        parts = ", ".join(map(described, value[:3])) + (", ..." if len(value) > 3 else "")
        return f"a {type(value).__name__} of {len(value)} ({parts})"
    return f"a {type(value).__name__}"


def fitting(
    outputs: Any,
    targets: Any,
    output: Output,
    fits: Callable[[Tensor, Tensor], bool],
    allowed: str,
) -> Tensor:
    """The part of outputs that a task is about: a floating-point tensor that fits the targets.

    Args:
        outputs: of a network.
        targets: of the same batch.
        output: which part.
        fits: whether that part and the targets, which are tensors, fit each other.
        allowed: what does, for the message.

    Raises:
        ValueError: if they do not.
    """
    part = picked(outputs, output)
    if (
        isinstance(part, Tensor)
        and isinstance(targets, Tensor)
        and part.is_floating_point()
        and fits(part, targets)
    ):
        return part
    raise ValueError(
        f"the network's outputs are {described(outputs)}, the targets {described(targets)}. "
        f"{allowed}"
    )
