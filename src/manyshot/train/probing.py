"""Answers probes: losses on held-out images, at the weights as they are and as they were."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from manyshot.data import Batch
from manyshot.data.own import is_finite
from manyshot.evaluate import evaluating
from manyshot.nn.inputs import Inputs, batch_of, in_parts, together
from manyshot.seeding import Stream, stream
from manyshot.space import Decision
from manyshot.tasks.task import learnt, loss_function
from manyshot.train.compute import Compute
from manyshot.train.gradients import as_leaves, backward_into
from manyshot.train.optimisation import Optimisation, as_trained
from manyshot.train.plan import PlannedPath, Probe, Probed
from manyshot.train.unrolled import unrolled_gradients

HeldOut: TypeAlias = Callable[[int, int], Iterable[Batch]]
"""`held_out(images, seed)`: batches of so many held-out images."""
PART = 64
"""Images that are shared out over several probes come in parts of at least so many, if there are as
many: each part is normalised by itself."""


@final
class Prober:
    """Answers a sampler's probes with a network that is being trained.

    Attributes:
        saved: the weights that a probe asked to keep, by name.
        images: how many images were forwarded so far.
        held_out: makes batches of held-out images.
    """

    def __init__(
        self,
        optimisation: Optimisation,
        held_out: HeldOut | None,
        seeds: Stream,
        compute: Compute | None = None,
    ) -> None:
        """Begins with no weights saved.

        Args:
            optimisation: has the network, and what moves it.
            held_out: makes batches of held-out images; None where nobody probes.
            seeds: names the random stream that says which images a step's probe sees.
            compute: counts what probes spend.
        """
        self.saved: dict[str, Tensor] = {}
        self.images = 0
        self.held_out = held_out
        self._optimisation, self._seeds, self._compute = optimisation, seeds, compute
        self._shared: dict[tuple[int, int], _Shared] = {}

    def answer(self, probe: Probe, step: int, trained: Batch | None = None) -> Probed:
        """The answer to a probe, the same in all processes, which share its paths.

        No weight, buffer, mode or random stream is changed. Afterwards the weights are saved, if
        the probe asks for it.

        Args:
            probe: what a sampler asks.
            step: the number of the step that moved the weights last.
            trained: the images of that step, and their targets, both mixed if they were, for a
                probe that is unrolled.

        Raises:
            ValueError: if there are paths and the held-out images are none, or for an unrolled
                probe with several processes.
            NonFiniteLoss: if a loss at the weights as they are is not finite.
        """
        net = self._optimisation.net
        device = self._optimisation.accelerator.device
        losses = torch.zeros(len(probe.paths), dtype=torch.float64, device=device)
        before = losses.clone() if probe.since and self.saved else None
        widths = [len(policy) for path in probe.paths for policy in (path.policy or {}).values()]
        grads = losses.new_zeros(sum(widths)) if probe.gradients else None
        batches: list[Batch] = []
        if probe.paths:
            batches = self._batches(probe, step)
        if probe.unrolled and self._optimisation.accelerator.num_processes > 1:
            raise ValueError(
                "an unrolled probe takes a step on the images of one process, and there are "
                f"{self._optimisation.accelerator.num_processes}: take one process, or a schedule "
                "of first order (sampler.options.schedule = 'bilevel')"
            )
        if batches:
            with evaluating(net), torch.random.fork_rng():
                self._evaluate(probe, batches, losses, grads, 1.0, trained)
                if before is not None:
                    with at_weights(net, self.saved):
                        self._evaluate(probe, batches, before, grads, -1.0)
            each = (1 if before is None else 2) * sum(batch_of(targets) for _, targets in batches)
            self.images += len(probe.paths) * each
            if probe.unrolled and trained is not None:
                each += 3 * batch_of(trained[0])
            if self._compute is not None:
                self._compute.probe(probe.paths, each, backward=probe.gradients)
        task = self._optimisation.task
        if probe.save:
            self.saved = {name: p.detach().clone() for name, p in net.named_parameters()}
        asked = [values for values in (losses, before, grads) if values is not None]
        read, weight = self._read(asked, sum(task.weight(targets) for _, targets in batches))
        losses, *rest = read
        before = None if before is None else rest.pop(0)
        grads = None if grads is None else rest.pop(0)
        for path, loss in zip(probe.paths, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                what = f"the held-out loss of architecture {path.arch} is {loss}"
                raise self._optimisation.diverged(step, what, _not_finite(batches))
        gradients = () if grads is None else tuple(_by_path(probe, grads))
        return Probed(losses, before, gradients, weight)

    def image_seed(self, step: int) -> int:
        """Decides which held-out images the probe of a step sees, or those of a number."""
        return stream(*self._seeds, step)

    def state_dict(self) -> dict[str, Any]:
        """The weights that were saved, and the images counted."""
        return {"saved": self.saved, "probed_images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores `state_dict`; the weights that were saved go where the network's are."""
        weights = dict(self._optimisation.net.state_dict())
        self.saved = {name: tensor.to(weights[name]) for name, tensor in state["saved"].items()}
        self.images = state["probed_images"]

    def _batches(self, probe: Probe, step: int) -> list[Batch]:
        """The batches of a probe, or of its turn, of which some have none."""
        seed = self.image_seed(step if probe.which is None else probe.which)
        if self.held_out is not None and probe.turns > 1:
            key = (probe.images, seed)
            if key not in self._shared:  # the last alone: a set may be large
                self._shared = {key: _Shared(self.held_out(*key))}
            if self._shared[key].count:
                return self._shared[key].of(probe.turn, probe.turns)
        batches = [] if self.held_out is None else list(self.held_out(probe.images, seed))
        if not sum(batch_of(targets) for _, targets in batches):
            raise ValueError(
                "held_out gave no images for a probe: a sampler that probes needs some"
            )
        return batches

    def _evaluate(
        self,
        probe: Probe,
        batches: Iterable[Batch],
        losses: Tensor,
        grads: Tensor | None,
        sign: float,
        trained: Batch | None = None,
    ) -> None:
        """Fills this process's share of `losses`, and adds `sign` times gradients to `grads`."""
        accelerator, at = self._optimisation.accelerator, 0
        for i, path in enumerate(probe.paths):
            leaves = as_leaves(path.policy or {}, accelerator.device)
            length = sum(map(len, leaves.values()))
            if i % accelerator.num_processes == accelerator.process_index:
                if probe.unrolled:
                    losses[i] = self._unrolled(path, batches, leaves, trained)
                else:
                    losses[i] = self._loss(path, batches, leaves if grads is not None else {})
                if grads is not None and length:
                    parts = [
                        torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
                        for leaf in leaves.values()
                    ]
                    grads[at : at + length] += sign * torch.cat(parts).to(grads)
            at += length

    def _loss(
        self, path: PlannedPath, batches: Iterable[Batch], leaves: Mapping[Decision, Tensor]
    ) -> Tensor:
        """The mean loss of a path, where the network is; the leaves get its gradient."""
        net, contiguous = self._optimisation.net, self._optimisation.contiguous
        task = self._optimisation.task
        total = torch.zeros((), dtype=torch.float64, device=self._optimisation.accelerator.device)
        whole = sum(task.weight(targets) for _, targets in batches)
        options: dict[str, Any] = {"policy": leaves, **path.masking} if leaves else {}
        with torch.set_grad_enabled(bool(leaves)):
            for x, targets in batches:
                outputs = net(as_trained(x, contiguous), path.arch, stats="batch", **options)
                task.check(outputs, targets)
                loss = task.loss(outputs, targets) * (task.weight(targets) / whole)
                if leaves:
                    backward_into(list(leaves.values()))(loss)
                total += loss.detach()
        return total

    def _unrolled(
        self,
        path: PlannedPath,
        batches: Iterable[Batch],
        leaves: Mapping[Decision, Tensor],
        trained: Batch | None,
    ) -> Tensor:
        """The mean loss of a path after a step; the leaves get its gradient through that."""
        if trained is None:
            raise ValueError("an unrolled probe needs the images of the step: answer(trained=)")
        net, contiguous = self._optimisation.net, self._optimisation.contiguous
        task, batches = self._optimisation.task, list(batches)
        smoothed = loss_function(task, self._optimisation.settings.label_smoothing)
        options: dict[str, Any] = {"policy": leaves, **path.masking, "stats": "batch"}
        step_images, step_targets = trained

        def outputs(images: Inputs) -> Any:
            return net(as_trained(images, contiguous), path.arch, **options)

        def of_step() -> Tensor:
            predicted = outputs(step_images)
            return smoothed(predicted, learnt(task, predicted, step_targets))

        def of_held_out() -> Tensor:
            parts = [task.loss(outputs(x), y) * task.weight(y) for x, y in batches]
            return torch.stack(parts).sum() / sum(task.weight(y) for _, y in batches)

        with torch.enable_grad():
            value, gradients = unrolled_gradients(
                of_step,
                of_held_out,
                [weight for weight in net.parameters() if weight.requires_grad],
                list(leaves.values()),
                float(self._optimisation.weights.param_groups[0]["lr"]),
            )
        for leaf, gradient in zip(leaves.values(), gradients, strict=True):
            leaf.grad = gradient
        return value

    def _read(self, values: list[Tensor], weight: Tensor | int) -> tuple[list[Tensor], float]:
        """The sums over processes, each of which filled in a share, and a weight, on the host.

        All of them come from the device in one transfer, for which the host waits.

        Args:
            values: what is to be summed, in double precision.
            weight: of the images, the same in all processes.
        """
        accelerator = self._optimisation.accelerator
        if accelerator.num_processes > 1:
            values = [accelerator.reduce(value, "sum") for value in values]
        last = torch.as_tensor(weight, dtype=torch.float64).view(1)
        *read, last = together([*values, last], torch.device("cpu"))
        return read, float(last)


@final
class _Shared:
    """Images in parts that are shared out over turns, and read in their order once a round.

    Attributes:
        count: how many parts there are.
    """

    def __init__(self, batches: Iterable[Batch]) -> None:
        self._batches, self._at = batches, 0
        self.count = sum(1 for _ in self._parts())
        self._left = self._parts()

    def of(self, turn: int, turns: int) -> list[Batch]:
        """The parts of a turn, of `turns` from 1; the last one is due in the last."""
        first, last = (done * self.count // turns for done in (turn - 1, turn))
        if first == last:
            return []
        if self._at != first:
            self._left = itertools.islice(self._parts(), first, None)
        self._at = last
        return list(itertools.islice(self._left, last - first))

    def _parts(self) -> Iterator[Batch]:
        for images, targets in self._batches:
            count = batch_of(targets)
            if count:
                size = -(-count // max(1, count // PART))
                yield from zip(in_parts(images, size), in_parts(targets, size), strict=True)


def _not_finite(batches: Iterable[Batch]) -> list[str]:
    """What of held-out batches is not finite."""
    names = ("inputs of held-out samples", "targets of held-out samples")
    return [
        name
        for name, values in zip(names, zip(*batches, strict=True), strict=True)
        if not is_finite(values)
    ]


def _by_path(probe: Probe, grads: Tensor) -> Iterator[dict[Decision, Tensor]]:
    """The gradients of all policies, one after the other, by path and decision."""
    at = 0
    for path in probe.paths:
        parts = {}
        for decision, policy in (path.policy or {}).items():
            parts[decision], at = grads[at : at + len(policy)], at + len(policy)
        yield parts


@contextlib.contextmanager
def at_weights(net: torch.nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The network with other weights inside; afterwards it has the same tensors as before."""
    parameters = dict(net.named_parameters())
    kept = {name: parameters[name].data for name in weights}
    try:
        for name, tensor in weights.items():
            parameters[name].data = tensor
        yield
    finally:
        for name, tensor in kept.items():
            parameters[name].data = tensor
