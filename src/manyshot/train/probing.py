"""Answers probes: losses on held-out images, at the weights as they are and as they were."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manyshot.evaluate import evaluating
from manyshot.space import Decision
from manyshot.train.plan import PlannedPath, Probe, Probed
from manyshot.train.step import as_leaf, backward_into
from manyshot.train.trainer import Trainer
from manyshot.train.update import as_trained

Batch = tuple[Tensor, Tensor]


def answer(run: Trainer, probe: Probe) -> Probed:
    """The answer to a probe, the same in all processes, which share its paths.

    No weight, buffer, mode or random stream is changed. Afterwards the weights are saved, if the
    probe asks for it.

    Raises:
        ValueError: if there are paths and the run's held-out images are none.
        NonFiniteLoss: if a loss at the weights as they are is not finite.
    """
    net = run.net
    losses = torch.zeros(len(probe.paths), dtype=torch.float64)
    before = losses.clone() if probe.since and run.saved else None
    widths = [len(policy) for path in probe.paths for policy in (path.policy or {}).values()]
    grads = torch.zeros(sum(widths), dtype=torch.float64) if probe.gradients else None
    if probe.paths:
        batches = _batches(run, probe)
        with evaluating(net), torch.random.fork_rng():
            _evaluate(run, probe, batches, losses, grads, 1.0)
            if before is not None:
                with at_weights(net, run.saved):
                    _evaluate(run, probe, batches, before, grads, -1.0)
        forwards = len(probe.paths) * (1 if before is None else 2)
        run.probed_images += forwards * sum(len(labels) for _, labels in batches)
    if probe.save:
        run.saved = {name: p.detach().clone() for name, p in net.named_parameters()}
    losses = _summed(run, losses)
    for path, loss in zip(probe.paths, losses.tolist(), strict=True):
        if not math.isfinite(loss):
            what = f"the held-out loss of architecture {path.arch} is {loss}"
            raise run.diverged(run.step, what)
    gradients = () if grads is None else tuple(_by_path(probe, _summed(run, grads)))
    earlier = None if before is None else _summed(run, before)
    return Probed(losses, earlier, gradients)


def _batches(run: Trainer, probe: Probe) -> list[Batch]:
    assert run.held_out is not None  # see `Trainer`
    batches = list(run.held_out(probe.images, run.probe_seed()))
    if not sum(len(labels) for _, labels in batches):
        raise ValueError(f"held_out gave no images for a probe of {type(run.sampler).__name__}")
    return batches


def _evaluate(
    run: Trainer,
    probe: Probe,
    batches: Iterable[Batch],
    losses: Tensor,
    grads: Tensor | None,
    sign: float,
) -> None:
    """Fills this process's share of `losses`, and adds `sign` times gradients to `grads`."""
    world, rank = run.accelerator.num_processes, run.accelerator.process_index
    at = 0
    for i, path in enumerate(probe.paths):
        leaves = {d: as_leaf(p, run.accelerator.device) for d, p in (path.policy or {}).items()}
        length = sum(map(len, leaves.values()))
        if i % world == rank:
            losses[i] = _loss(run, path, batches, leaves if grads is not None else {})
            if grads is not None and length:
                own = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves.values()]
                grads[at : at + length] += sign * torch.cat(own).to(grads)
        at += length


def _loss(
    run: Trainer, path: PlannedPath, batches: Iterable[Batch], leaves: Mapping[Decision, Tensor]
) -> float:
    """The mean loss of a path; the leaves get its gradient."""
    total, images = 0.0, sum(len(labels) for _, labels in batches)
    options: dict[str, Any] = {"policy": leaves, "masks": path.masks} if leaves else {}
    with torch.set_grad_enabled(bool(leaves)):
        for x, labels in batches:
            logits = run.net(as_trained(x, run.contiguous), path.arch, stats="batch", **options)
            loss = F.cross_entropy(logits.float(), labels, reduction="sum") / images
            if leaves:
                backward_into(list(leaves.values()))(loss)
            total += float(loss.detach())
    return total


def _by_path(probe: Probe, grads: Tensor) -> Iterator[dict[Decision, Tensor]]:
    at = 0
    for path in probe.paths:
        own = {}
        for decision, policy in (path.policy or {}).items():
            own[decision], at = grads[at : at + len(policy)], at + len(policy)
        yield own


def _summed(run: Trainer, values: Tensor) -> Tensor:
    """The sum over processes, each of which filled in its own share."""
    if run.accelerator.num_processes == 1:
        return values
    device = run.accelerator.device
    total: Any = run.accelerator.reduce(values.to(device), "sum")
    return total.to("cpu", torch.float64)  # type: ignore[no-any-return]


@contextlib.contextmanager
def at_weights(net: torch.nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The network with other weights inside; afterwards it has its own tensors again."""
    own = dict(net.named_parameters())
    kept = {name: own[name].data for name in weights}
    try:
        for name, tensor in weights.items():
            own[name].data = tensor
        yield
    finally:
        for name, tensor in kept.items():
            own[name].data = tensor
