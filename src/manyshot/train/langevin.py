"""The noise that makes a step of SGD one of Langevin dynamics."""

from __future__ import annotations

import torch


@torch.no_grad()
def heat(optimizer: torch.optim.Optimizer, temperature: float, number: int) -> None:
    """Adds the noise of a step of Langevin dynamics to the weights that an optimiser has moved.

    With rate r every weight gets a normal number of variance 2 * temperature * r. At temperature 1
    and without momentum the step is w - (e / 2) * gradient + N(0, e), where e = 2 r. The gradients
    must still be there: a weight whose gradient is zero or None gets nothing, so that what a step's
    paths do not use stays as it is, and unused parts of elastic tensors do not wander.

    Reference: ST-NAS (Guo et al. 2020,
    https://www.ecva.net/papers/eccv_2020/papers_ECCV/html/2244_ECCV_2020_paper.php). That shared
    weights move by Langevin dynamics (those of Welling & Teh 2011) is the paper's, by its abstract;
    its space of topologies is not here. A temperature, momentum beside it, and that weights without
    a gradient rest are ours.

    Args:
        optimizer: whose parameters have just moved, each by the rate of its group.
        temperature: of the noise, above 0.
        number: the seed of the noise of this step, the same in all processes.
    """
    generator: torch.Generator | None = None
    for group in optimizer.param_groups:
        deviation = (2 * temperature * float(group["lr"])) ** 0.5
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if generator is None:  # where the weights are: the host draws nothing for a GPU
                generator = torch.Generator(parameter.device).manual_seed(number)
            noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.add_(noise * (parameter.grad != 0), alpha=deviation)
