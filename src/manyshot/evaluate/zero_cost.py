"""Scores of a network that is not trained: baselines that every supernet has to beat.

They cost one forward, or a forward and a backward, of one small batch per architecture. B counts
the images of the batch, U the units behind all ReLUs together. What papers and their code leave
open is ours, and said here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils._python_dispatch import TorchDispatchMode

from manyshot.nn.inputs import Inputs, as_call, batch_of
from manyshot.tasks import Task

NAMES = ("synflow", "naswot", "grad norm")
"""The scores, as they are called in records; higher is better."""
_NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_WEIGHT = 2
"""A parameter with at least so many dimensions is a weight; biases and scales have one."""


class CannotScore(ValueError):
    """A score is not defined for a network or its inputs; the message says why."""


class ZeroCost(NamedTuple):
    """The scores of one network that have a value, and why the others have none."""

    scores: dict[str, float]
    absent: dict[str, str]


def zero_cost(module: nn.Module, inputs: Inputs, targets: Any, task: Task) -> ZeroCost:
    """All scores of a network with new weights; it stays as it is.

    Args:
        module: the network.
        inputs: one batch of training images.
        targets: theirs.
        task: has the loss.
    """
    scores: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name in NAMES:
        try:
            if name == "synflow":
                scores[name] = synflow(module, inputs)
            elif name == "naswot":
                scores[name] = naswot(module, inputs)
            else:
                scores[name] = grad_norm(module, inputs, targets, task)
        except CannotScore as error:
            absent[name] = str(error)
    return ZeroCost(scores, absent)


def synflow(module: nn.Module, inputs: Inputs) -> float:
    """The sum of |weight · gradient of R|, where R is the sum of the linearised network's outputs.

    All parameters are replaced by their absolute values, normalisations are left out, the input is
    one image of ones, and all is computed in double precision. Weights are parameters with two or
    more dimensions. The paper leaves out batch norms; to leave out other normalisations too, which
    would hide the size of the weights, is ours.

    Args:
        module: the network; it stays as it is.
        inputs: images that say how large the image of ones is.

    Raises:
        CannotScore: unless the input is one tensor of floating-point numbers and the output is one,
            or if the score is no finite number.

    References: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively
        conserving synaptic flow" (arXiv:2006.05467); Abdelfattah et al. 2021, "Zero-Cost Proxies
        for Lightweight NAS" (arXiv:2101.08134), which sums it over a network.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        given_as = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise CannotScore(
            "synflow takes an image of ones, one tensor of floating-point numbers, and this "
            f"network takes {given_as}"
        )
    linear = copy.deepcopy(module).double().eval()
    for norm in linear.modules():
        if isinstance(norm, _NORMS):
            norm.forward = _unchanged  # type: ignore[method-assign, assignment]
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_().requires_grad_()
    with torch.enable_grad():
        outputs = linear(torch.ones_like(inputs[:1], dtype=torch.float64))
        if not isinstance(outputs, Tensor):
            raise CannotScore(
                "synflow sums the outputs of a network, one tensor, and these are "
                f"{type(outputs).__name__}"
            )
        torch.autograd.backward(outputs.sum())
    total = sum(
        float((weight.detach() * weight.grad).abs().sum())
        for weight in _weights(linear)
        if weight.grad is not None
    )
    if not math.isfinite(total):
        why = "the sum is too large for double precision" if total == math.inf else "not a number"
        raise CannotScore(
            f"synflow has no finite value ({why}) for an image of ones of shape "
            f"{tuple(inputs.shape[1:])}"
        )
    return float(total)


def naswot(module: nn.Module, inputs: Inputs) -> float:
    """The log of |det K|; K counts for two images how many ReLUs are on, or off, for both.

    Batch norms take the statistics of the batch, as of a network that is being trained. ReLU6
    counts as a ReLU, which is ours.

    Args:
        module: the network; it stays as it is.
        inputs: a batch of training images.

    Raises:
        CannotScore: if the network has no ReLU, or K is singular, as where the ReLUs treat two
            images alike.

    Reference: Mellor et al. 2021, "Neural Architecture Search without Training" (arXiv:2006.04647),
        section 3.
    """
    codes = _Codes()
    with torch.no_grad(), codes:
        _call(_fresh(module), inputs)
    if not codes.on:
        raise CannotScore("NASWOT counts which ReLUs are on, and this network has none")
    on_BU = torch.cat([on.flatten(1) for on in codes.on], dim=1).double()
    off_BU = 1 - on_BU
    kernel_BB = on_BU @ on_BU.T + off_BU @ off_BU.T
    images = len(kernel_BB)
    if int(torch.linalg.matrix_rank(kernel_BB)) < images:
        raise CannotScore(
            f"NASWOT has no value, as the ReLUs do not tell {images} images apart: its kernel is "
            "singular"
        )
    return float(torch.linalg.slogdet(kernel_BB).logabsdet)


def grad_norm(module: nn.Module, inputs: Inputs, targets: Any, task: Task) -> float:
    """The sum over weights of the Euclidean norm of the gradient of the loss of one batch.

    Weights are parameters with two or more dimensions. Batch norms take the statistics of the
    batch; nothing is dropped out, so that no chance is in it, which is ours.

    Args:
        module: the network; it stays as it is.
        inputs: a batch of training images.
        targets: theirs.
        task: has the loss.

    Raises:
        CannotScore: if the norm is no finite number.

    Reference: Abdelfattah et al. 2021, "Zero-Cost Proxies for Lightweight NAS" (arXiv:2101.08134).
    """
    network = _fresh(module)
    for parameter in network.parameters():
        parameter.requires_grad_()
    with torch.enable_grad():
        torch.autograd.backward(task.loss(_call(network, inputs), targets))
    total = sum(float(w.grad.norm()) for w in _weights(network) if w.grad is not None)
    if not math.isfinite(total):
        raise CannotScore(
            f"the norm of the gradients is {total} for a batch of {batch_of(inputs)} images"
        )
    return float(total)


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees for every image which inputs of ReLUs are above 0."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.on: list[Tensor] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs the operation, and keeps what it is of if it is a ReLU."""
        aten = torch.ops.aten
        is_relu = func in (aten.relu.default, aten.relu_.default)
        if func in (aten.hardtanh.default, aten.hardtanh_.default):
            is_relu = tuple(args[1:3]) == (0.0, 6.0)
        if is_relu:
            self.on.append(args[0] > 0)
        return func(*args, **(kwargs or {}))


def _fresh(module: nn.Module) -> nn.Module:
    """A copy whose batch norms take the statistics of the batch, without dropout."""
    fresh = copy.deepcopy(module).eval()
    for norm in fresh.modules():
        if isinstance(norm, _BatchNorm):
            norm.train()
    return fresh


def _call(module: nn.Module, inputs: Inputs) -> Any:
    arguments, keywords = as_call(inputs)
    return module(*arguments, **keywords)


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    return (weight for weight in module.parameters() if weight.dim() >= _WEIGHT)


def _unchanged(inputs: Tensor) -> Tensor:
    return inputs
