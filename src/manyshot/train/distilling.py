"""How a network learns from others in place of labels: from the mean of several, or by AE-KD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.nn.inputs import Inputs, as_call
from manyshot.plugins import AboveZero, AtLeastZero, Probability, build, checked
from manyshot.tasks import Softens, Task
from manyshot.tasks.task import check_votes, divergence, voted

Floats = npt.NDArray[np.float64]


class Distiller(Protocol):
    """Says what a path loses against the networks that teach it."""

    def check(self, task: Task, teachers: int) -> None:
        """Looks at what it will be given, before anything trains.

        Raises:
            ValueError: if so many networks cannot teach this task.
        """
        ...

    def loss(
        self, task: Task, outputs: Any, taught: Sequence[Any], labels: Callable[[], Tensor]
    ) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            task: what is learnt.
            outputs: of the path.
            taught: the outputs of each teacher, without gradients.
            labels: gives the loss against the labels.
        """
        ...


@final
class Several(nn.Module):
    """Networks that teach together; its output is the tuple of theirs."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        """Takes the networks, at least one."""
        super().__init__()
        self.teachers = nn.ModuleList(modules)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What each of them gives."""
        return tuple(teacher(*args, **kwargs) for teacher in self.teachers)


def number_of_teachers(teacher: nn.Module) -> int:
    """How many networks teach."""
    return len(teacher.teachers) if isinstance(teacher, Several) else 1


def answers(teacher: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    """The outputs of each network that teaches."""
    args, kwargs = as_call(inputs)
    given = teacher(*args, **kwargs)
    return given if isinstance(teacher, Several) else (given,)


@final
class MeanOfTeachers:
    """Learns the mean of what the teachers predict, softened, and perhaps a share of the labels.

    The loss is (1 - s) * T^2 * D + s * (the loss against the labels), where D is the task's
    distillation to the mean of the predictions at temperature T: of classes the cross-entropy to
    their mean probabilities.

    References: Multi-teacher distillation (You et al. 2017, doi:10.1145/3097983.3098135), of which
    this is the mean of softened outputs; the paper's triplets, which keep the order of
    dissimilarities in a middle layer, are not here. Temperature and share of the labels are those
    of Hinton et al. 2015 (arXiv:1503.02531). The defaults are ours.
    """

    @checked
    def __init__(self, *, temperature: AboveZero = 1.0, labels: Probability = 0.0) -> None:
        """Says how it learns.

        Args:
            temperature: T, of the softened predictions.
            labels: s, the share of the loss against the labels.
        """
        self.temperature, self.labels = temperature, labels

    def check(self, task: Task, teachers: int) -> None:
        """Refuses a temperature or several teachers in a task that has neither."""
        check_votes(task, teachers)
        _check_softens(task, self.temperature)

    def loss(
        self, task: Task, outputs: Any, taught: Sequence[Any], labels: Callable[[], Tensor]
    ) -> Tensor:
        """The loss against the mean of the teachers, and the labels' share."""
        soft = [_softened(task, each, self.temperature) for each in taught]
        own = _softened(task, outputs, self.temperature)
        loss = self.temperature**2 * task.distillation(own, voted(task, soft))
        return torch.lerp(loss, labels(), self.labels) if self.labels else loss


@final
class AEKD:
    """Weighs teachers in every step, so that where they disagree all lead a little.

    Of each teacher the gradient of its divergence in the outputs is averaged over the batch and
    made of length one; the shortest convex combination of these, with no factor above `bound`,
    gives the factors, which are divided by the lengths and normalised. The loss is
    `labels` * (the loss against the labels) + `weight` * T^2 * sum_m factor_m * divergence_m.

    Reference: AE-KD (Du et al. 2020, NeurIPS, https://github.com/AnTuo1998/AE-KD). Rule and
    defaults are those of the public code, which has a support vector machine solve for the factors;
    here pairs of factors are moved. That a teacher without a gradient has no part, instead of a
    division by zero, that a `bound` too low for the number of teachers is refused, which the code
    replaces, and that each process weighs by its part of the batch, are ours.
    """

    @checked
    def __init__(
        self,
        *,
        temperature: AboveZero = 4.0,
        labels: AtLeastZero = 1.0,
        weight: AboveZero = 0.9,
        bound: Probability = 0.6,
    ) -> None:
        """Says how it learns and weighs.

        Args:
            temperature: T, of the softened predictions.
            labels: the factor of the loss against the labels.
            weight: the factor of all that the teachers say.
            bound: the largest factor of one teacher, before lengths divide them.
        """
        self.temperature, self.labels = temperature, labels
        self.weight, self.bound = weight, bound

    def check(self, task: Task, teachers: int) -> None:
        """Refuses one teacher, a bound that so many cannot keep, and a task without temperature."""
        if teachers < 2:
            raise ValueError(
                "AEKD weighs several teachers, and there is one: add [[teacher.others]], or names "
                "to finish.taught_by, or take MeanOfTeachers"
            )
        if self.bound * teachers < 1:
            raise ValueError(
                f"AEKD: bound = {self.bound:g} lets the factors of {teachers} teachers sum up to "
                f"{self.bound * teachers:g}, and they are to sum up to 1: give at least "
                f"{1 / teachers:.3f}"
            )
        _check_softens(task, self.temperature)

    def loss(
        self, task: Task, outputs: Any, taught: Sequence[Any], labels: Callable[[], Tensor]
    ) -> Tensor:
        """The weighted divergences from the teachers, and the loss against the labels."""
        own = _softened(task, outputs, self.temperature)
        apart = [divergence(task, own, _softened(task, each, self.temperature)) for each in taught]
        factors = teachers_factors(_gradients(apart, outputs), self.bound)
        scale = self.weight * self.temperature**2
        loss = scale * (torch.stack(apart) * factors.to(apart[0])).sum()
        return loss + self.labels * labels() if self.labels else loss


DISTILLERS: dict[str, Callable[..., Distiller]] = {"mean": MeanOfTeachers, "ae_kd": AEKD}
"""How networks may be distilled, by name."""


def make_distiller(name: str, options: Mapping[str, Any] | None = None) -> Distiller:
    """Makes a distiller by name.

    Args:
        name: a key of `DISTILLERS`, or `package.module:attribute`.
        options: its options by name.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    return build("distiller", name, options or {}, table=DISTILLERS, contract=Distiller, context={})


def teachers_factors(gradients: Tensor, bound: float) -> Tensor:
    """The factors of AE-KD, (M,) on the CPU, which sum up to 1; the host waits for the gradients.

    Args:
        gradients: of the loss against each teacher, (M, N); one that is zero gets the factor 0, and
            if all are they get the same.
        bound: the largest factor of a gradient of length one, at least 1 / M.
    """
    lengths = gradients.norm(dim=1)
    units = gradients / lengths.clamp(min=torch.finfo(gradients.dtype).tiny)[:, None]
    told = torch.cat([units @ units.T, lengths[:, None]], 1).cpu().numpy()
    count = len(told)
    some = told[:, count] > 0
    factors = np.zeros(count)
    if not some.any():
        factors[:] = 1 / count
    else:
        gram = told[:, :count][some][:, some]
        weights = shortest(gram, max(bound, 1 / len(gram))) / told[some, count]
        factors[some] = weights / weights.sum()
    return torch.from_numpy(factors)


def shortest(gram: Floats, bound: float) -> Floats:
    """The factors of the shortest convex combination of vectors, none of which is above `bound`.

    Weight moves from the factor with the largest gradient to that with the smallest, as far as
    makes the combination shortest or the bounds allow, until these gradients are equal, which is
    what is necessary and sufficient for the minimum.

    Args:
        gram: the products of all pairs of vectors, (M, M).
        bound: at least 1 / M.
    """
    count = len(gram)
    factors = np.full(count, 1 / count)
    for _ in range(1000 * count):
        slopes = gram @ factors
        takes = np.flatnonzero(factors < bound)
        gives = np.flatnonzero(factors > 0)
        if not len(takes):
            break
        to, of = takes[slopes[takes].argmin()], gives[slopes[gives].argmax()]
        fall = slopes[of] - slopes[to]
        if fall <= 1e-10 * max(1.0, float(np.abs(gram).max())):
            break
        curve = gram[to, to] + gram[of, of] - 2 * gram[to, of]
        step = min(bound - factors[to], factors[of], fall / max(curve, 1e-300))
        whole = step == factors[of]
        factors[to], factors[of] = factors[to] + step, 0.0 if whole else factors[of] - step
    return factors


def _gradients(losses: Sequence[Tensor], outputs: Any) -> Tensor:
    """The gradient of each loss in the outputs, the mean over the batch, (M, N), exactly."""
    leaves = [
        leaf
        for leaf in pytree.tree_leaves(outputs)
        if isinstance(leaf, Tensor) and leaf.requires_grad
    ]
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([g.double().mean(0).flatten() for g in grads if g is not None]))
    return torch.stack(rows)


def _softened(task: Task, outputs: Any, temperature: float) -> Any:
    if temperature == 1:
        return outputs
    assert isinstance(task, Softens)  # `check` has looked
    return task.softened(outputs, temperature)


def _check_softens(task: Task, temperature: float) -> None:
    if temperature != 1 and not isinstance(task, Softens):
        raise ValueError(
            f"temperature = {temperature:g} softens predictions, and {type(task).__name__} has no "
            "softened(outputs, temperature): set temperature = 1, or write it"
        )
