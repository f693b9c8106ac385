"""Which decisions to split one copy by: those between whose options gradients disagree most.

Few-shot NAS by gradient matching (Hu et al. 2022, "Generalizing Few-Shot NAS with Gradient
Matching", arXiv:2203.15207).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.data import Batch
from manyshot.evaluate import evaluating
from manyshot.nn.adapted import Adapted
from manyshot.nn.inputs import batch_of
from manyshot.nn.layer import Layer, Shape, elastic, take
from manyshot.nn.mixing import Combination, Kept
from manyshot.sharing.dictionary import rows
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.compute import Compute
from manyshot.train.optimisation import Optimisation, as_trained


def gradient_distances(
    optimisation: Optimisation,
    batches: Iterable[Batch],
    decisions: Sequence[Decision],
    rng: np.random.Generator,
    compute: Compute | None = None,
    space: SearchSpace | None = None,
) -> dict[Decision, Tensor]:
    """How far apart the gradients of shared weights are between the options of each decision.

    For each batch and decision a path is drawn, and run with every option in turn; the gradient is
    that of the weights that all of these paths use, as one copy: of an elastic tensor the entries
    that all of them cut out of it. No weight, buffer, mode or random stream is changed.

    Args:
        optimisation: has the network, whose slices are equal, the task and the processes.
        batches: of training images.
        decisions: those to look at.
        rng: draws the paths, the same in all processes.
        compute: counts what is spent.
        space: the view that paths are drawn from; by default the whole space.

    Returns:
        By decision 1 - cosine of the gradients, (options, options), the mean over the batches.
    """
    net: Any = optimisation.net
    space, count = space or net.space, 0
    sums = {d: torch.zeros((len(d.options),) * 2, dtype=torch.float64) for d in decisions}
    with evaluating(net), torch.random.fork_rng(), torch.enable_grad():
        for count, batch in enumerate(batches, 1):  # noqa: B007 - used after the loop
            for decision in decisions:
                path, at = list(space.sample(rng)), space.index[decision]
                found, used = [], []
                for option in range(len(decision.options)):
                    path[at] = option
                    arch = tuple(path)
                    found.append(_gradients(optimisation, batch, arch))
                    used.append(_used(net, arch))
                    if compute is not None:
                        compute.split(arch, batch_of(batch[0]))
                sums[decision] += _distances(found, used)
    apart = {decision: total / max(1, count) for decision, total in sums.items()}
    accelerator = optimisation.accelerator
    if accelerator.num_processes > 1:
        return {
            d: accelerator.reduce(t.float().to(accelerator.device), "mean").cpu().double()
            for d, t in apart.items()
        }
    return apart


def _gradients(optimisation: Optimisation, batch: Batch, arch: Arch) -> dict[str, Tensor]:
    """The gradient of the loss of a path in its weights, as if there were one copy."""
    net, (images, targets) = optimisation.net, batch
    stacks: Mapping[nn.Parameter, int] = rows(net)
    like = next(net.parameters())
    uniform = like.new_full((net.sharing.copies,), 1 / net.sharing.copies)
    shown, kept = as_trained(images, optimisation.contiguous), Kept(arch, Combination(uniform))
    outputs = net(shown, arch, stats="batch", mixture=kept)
    loss = optimisation.task.loss(outputs, targets)
    named = {n: p for n, p in net.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: grad.sum(0) if parameter in stacks else grad
        for (name, parameter), grad in zip(named.items(), grads, strict=True)
        if grad is not None
    }


def _used(net: Any, arch: Arch) -> dict[str, Tensor]:
    """Which entries of elastic tensors a path cuts out of them, by the names of parameters."""
    named = dict(net.named_parameters(remove_duplicate=False))
    stacks: Mapping[nn.Parameter, int] = rows(net)
    used: dict[nn.Parameter, Tensor] = {}
    with net.selecting(arch, "batch") as selection:
        for path, module in net.named_modules():
            for name, shape in _shapes(module):
                parameter = named.get(f"{path}.{name}")
                if parameter is None or not elastic(*shape):
                    continue
                whole = parameter[0] if parameter in stacks else parameter
                numbers = torch.arange(whole.numel(), device=whole.device).view(whole.shape)
                mask = used.setdefault(parameter, torch.zeros_like(numbers, dtype=torch.bool))
                mask.view(-1)[take(numbers, module.part(name, selection)).flatten()] = True
    return {name: used[p] for name, p in net.named_parameters() if p in used}


def _shapes(module: Any) -> Iterable[tuple[str, Shape]]:
    """The active shapes of a module's parameters that may be elastic."""
    if isinstance(module, Adapted):
        return module._shapes.items()
    return module.shapes() if isinstance(module, Layer) else ()


def _distances(
    found: Sequence[Mapping[str, Tensor]], used: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """1 - cosine between gradients, over the entries of tensors that all of them have.

    Args:
        found: the gradients by name, of each option.
        used: of tensors that are cut, which entries.
    """
    apart = torch.zeros((len(found), len(found)), dtype=torch.float64)
    shared = [name for name in found[0] if all(name in other for other in found)]
    if not shared:
        return apart
    parts = []
    for name in shared:
        masks = [own[name] for own in used if name in own]
        every = torch.stack(masks).all(0) if masks else torch.ones_like(found[0][name]).bool()
        parts.append([own[name][every] for own in found])
    flat = [torch.cat(own) for own in zip(*parts, strict=True)]
    for i, j in itertools.combinations(range(len(flat)), 2):
        cosine = torch.nn.functional.cosine_similarity(flat[i], flat[j], dim=0)
        apart[i, j] = apart[j, i] = 1 - float(cosine)
    return apart
