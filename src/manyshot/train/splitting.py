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
from manyshot.nn.mixing import Combination, Kept
from manyshot.sharing.dictionary import rows
from manyshot.space import Arch, Decision
from manyshot.train.optimisation import Optimisation, as_trained


def gradient_distances(
    optimisation: Optimisation,
    batches: Iterable[Batch],
    decisions: Sequence[Decision],
    rng: np.random.Generator,
) -> dict[Decision, Tensor]:
    """How far apart the gradients of shared weights are between the options of each decision.

    For each batch and decision a path is drawn, and run with every option in turn; the gradient is
    that of the weights that all of these paths use, as one copy. No weight, buffer, mode or random
    stream is changed.

    Args:
        optimisation: has the network, whose slices are equal, the task and the processes.
        batches: of training images.
        decisions: those to look at.
        rng: draws the paths, the same in all processes.

    Returns:
        By decision 1 - cosine of the gradients, (options, options), the mean over the batches.
    """
    net: Any = optimisation.net
    space, count = net.space, 0
    sums = {d: torch.zeros((len(d.options),) * 2, dtype=torch.float64) for d in decisions}
    with evaluating(net), torch.random.fork_rng(), torch.enable_grad():
        for count, batch in enumerate(batches, 1):  # noqa: B007 - used after the loop
            for decision in decisions:
                path, at = list(space.sample(rng)), space.index[decision]
                found = []
                for option in range(len(decision.options)):
                    path[at] = option
                    found.append(_gradients(optimisation, batch, tuple(path)))
                sums[decision] += _distances(found)
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


def _distances(found: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """1 - cosine between gradients, over the tensors that all of them have."""
    apart = torch.zeros((len(found), len(found)), dtype=torch.float64)
    shared = [name for name in found[0] if all(name in other for other in found)]
    if not shared:
        return apart
    flat = [torch.cat([own[name].flatten() for name in shared]) for own in found]
    for i, j in itertools.combinations(range(len(flat)), 2):
        cosine = torch.nn.functional.cosine_similarity(flat[i], flat[j], dim=0)
        apart[i, j] = apart[j, i] = 1 - float(cosine)
    return apart
