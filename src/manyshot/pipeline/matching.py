"""Whether network, data and task fit one another, seen by a few samples before anything trains."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manyshot.data import Batch, LabelledImages, OwnSet
from manyshot.data.own import is_finite
from manyshot.evaluate.score import total
from manyshot.nn.inputs import (
    batch_of,
    described,
    device_of,
    model_dtype,
    to_device,
    with_samples,
)
from manyshot.nn.modes import modes_kept
from manyshot.seeding import torch_generator
from manyshot.supernet import Supernet
from manyshot.tasks import Task
from manyshot.tasks.task import Metric, detached, mean_loss, metrics_of, number_of

Samples = LabelledImages | OwnSet
LOOKED_AT = 2
"""So many samples go through the network; of one alone batch norms have no variance."""
AT_ONCE = 64
"""So many targets are looked at together."""


@final
@dataclass(frozen=True)
class Matching:
    """Looks at the parts of the data with the smallest network.

    Attributes:
        net: the supernet.
        task: what it learns.
        read: makes a batch of all samples of a set.
    """

    net: Supernet
    task: Task
    read: Callable[[Samples], Batch]

    def look(self, part: str, samples: Samples) -> dict[str, Metric]:
        """Looks at the first samples of a part, and at what of it is in memory.

        Of that all targets are seen, beside outputs of the first samples, and a sample whose inputs
        are not finite goes through the network too.

        Args:
            part: the name of the part.
            samples: its samples, of which there are some.

        Returns:
            The metrics of the task, for such outputs.

        Raises:
            ValueError: if the network does not run, if outputs and targets are none of the task, or
                if loss or metrics are no numbers; the message names the part and the samples.
        """
        first = list(range(min(LOOKED_AT, len(samples))))
        learns = part == "train" and any(p.requires_grad for p in self.net.parameters())
        outputs, targets = self._checked(part, samples, first, learns)
        for index in samples.odd() if isinstance(samples, OwnSet) else ():
            self._checked(part, samples, [index])
        with _naming(f"data.{part}"):
            metrics = metrics_of(self.task, outputs)
            total(self.task, [(outputs, targets)])
        self._check_targets(part, samples, outputs)
        return metrics

    def _checked(
        self, part: str, samples: Samples, indices: list[int], learns: bool = False
    ) -> tuple[Any, Any]:
        """Outputs and targets of some samples, which fit the task, whose loss is a number.

        Args:
            part: the name of the part.
            samples: all of it.
            indices: which.
            learns: whether the loss must have a gradient.
        """
        which = " and ".join(_numbers(samples, indices))
        where = f"data.{part}, sample{'s' * (len(indices) > 1)} {which}"
        # Of a last sample that is alone, batch norms see two.
        inputs, targets = with_samples(self.read(samples.subset(indices)), LOOKED_AT)
        with modes_kept(self.net), torch.set_grad_enabled(learns):
            self.net.eval()
            with _naming(
                f"{where}: the network does not run on inputs {described(inputs)}",
                f": give what its forward takes, and of the type of its weights, which is "
                f"{model_dtype(self.net)}",
            ):
                outputs = self.net(inputs, self.net.space.smallest, stats="batch")
            with _naming(where):
                self.task.check(outputs, targets)
                loss = mean_loss(self.task, outputs, targets)
                if learns and not loss.requires_grad:
                    raise ValueError(
                        f"{type(self.task).__name__}.loss gives a loss without a gradient: compute "
                        "it from the outputs by operations of torch, without detach() or item()"
                    )
                loss = loss.detach()
                if not math.isfinite(loss) and self.task.weight(targets):
                    raise ValueError(_why_not_finite(float(loss), inputs, targets, outputs))
        return detached(outputs), targets

    def _check_targets(self, part: str, samples: Samples, outputs: Any) -> None:
        """Looks at all targets that are in memory, beside the same few outputs again and again.

        Outputs that have no row per sample cannot be repeated, and are left alone.
        """
        leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
        if any(not leaf.dim() or len(leaf) != LOOKED_AT for leaf in leaves):
            return
        count, weight = 0, 0.0
        for repeated, targets in _beside(outputs, samples):
            size = batch_of(targets)
            first, last = _numbers(samples, [count, count + size - 1])
            with _naming(f"data.{part}, samples {first} to {last}"):
                self.task.check(repeated, targets)
                loss, counts = mean_loss(self.task, repeated, targets), self.task.weight(targets)
                if counts and not math.isfinite(loss):
                    raise ValueError(_why_not_finite(float(loss), (), targets, outputs))
            count, weight = count + size, weight + float(counts)
        if not count:
            return
        if not weight:
            raise ValueError(f"data.{part}: no target of the {count} samples counts in the loss")
        if part != "train" and not self._has_value(samples, outputs):
            name = next(iter(metrics_of(self.task, outputs)))
            raise ValueError(
                f"data.{part}: the {name} of these {count} samples is no number, whatever a "
                "network predicts (as R2 is of targets that are all the same, and precision where "
                "no sample has a label): give other samples, or let another metric come first"
            )

    def _has_value(self, samples: Samples, outputs: Any) -> bool:
        """Whether the metric to rank by has a value for the targets in memory.

        That of the network may be none by chance, as where it predicts no positive: then random
        outputs are tried.
        """
        if math.isfinite(self._first_metric(samples, outputs)):
            return True
        try:
            return math.isfinite(self._first_metric(samples, pytree.tree_map(_noise, outputs)))
        except Exception:  # anybody's metric may not take noise, which says nothing of its value
            return True

    def _first_metric(self, samples: Samples, outputs: Any) -> float:
        name, metric = next(iter(metrics_of(self.task, outputs).items()))
        for repeated, targets in _beside(outputs, samples):
            metric.update(*self.task.compared(repeated, targets))
        return float(number_of(self.task, name, metric))


def _beside(outputs: Any, samples: Samples) -> Iterator[tuple[Any, Any]]:
    """Outputs, as many as there are targets, and targets of a set that are in memory."""
    known: Iterable[Any]
    if isinstance(samples, OwnSet):
        known = samples.known_targets(AT_ONCE)
    else:
        known = torch.split(samples.labels, AT_ONCE)
    for targets in known:
        yield (
            with_samples(outputs, batch_of(targets)),
            to_device(targets, device_of(outputs)),
        )


def _numbers(samples: Samples, indices: list[int]) -> list[str]:
    """The numbers of samples, of data of one's own those in the data set that they are from."""
    known = samples.indices[indices].tolist() if isinstance(samples, OwnSet) else indices
    return [str(number) for number in known]


def _noise(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    drawn = torch.randn(value.shape, generator=torch_generator("any", "checks"))
    return drawn.to(value)


def _why_not_finite(loss: float, inputs: Any, targets: Any, outputs: Any) -> str:
    """Where a loss that is not finite comes from, and what to do."""
    clean = "mend them (torch.nan_to_num), or leave such samples out by torch.utils.data.Subset"
    if not is_finite(inputs):
        return f"the loss is {loss}, as inputs are not all finite: {clean}"
    if not is_finite(targets):
        return f"the loss is {loss}, as targets are not all finite: {clean}"
    if not is_finite(outputs):
        return (
            f"the loss is {loss}, as the network's outputs are not all finite, though its inputs "
            "are: look for weights that are not, or for inputs that are too large"
        )
    return (
        f"the loss is {loss} of outputs and targets that are finite: mend the task's loss, or "
        "scale the targets"
    )


@contextlib.contextmanager
def _naming(where: str, way_out: str = "") -> Iterator[None]:
    """Says where anybody's code fails, and perhaps what to do.

    Raises:
        ValueError: in place of whatever that raises.
    """
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: {words}{way_out}") from error
