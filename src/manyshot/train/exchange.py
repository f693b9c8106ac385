"""What processes that train one network together exchange: gradients, weights and buffers.

Torch's DistributedDataParallel would do it during the backward pass. It must be told beforehand
whether passes leave parameters out, and those of a supernet do or do not, as paths are drawn; it
then searches every pass for them, and warns of the passes that leave none out. All processes draw
the same paths here, and wait for one another once a step in any case: gradients are exchanged then,
in one message per type, and a parameter that no process used keeps none.

What is shared out among processes (`manyshot.train.sharding`) is exchanged by torch, and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn


def average_gradients(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """Replaces gradients by their mean over all processes.

    A process that has no gradient of a parameter counts as zero, unless none has one.
    """
    if accelerator.num_processes == 1:
        return
    whole = (parameter for parameter in parameters if not is_sharded(parameter))
    all_of_them = list({id(parameter): parameter for parameter in whole}.values())
    if not all_of_them:
        return
    held = [int(parameter.grad is not None) for parameter in all_of_them]
    holders = _mean(torch.tensor(held, dtype=torch.float32), accelerator).tolist()
    grads: list[Tensor] = []
    for parameter, share in zip(all_of_them, holders, strict=True):
        if share:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
    _together(grads, lambda flat: _mean(flat, accelerator))


def take_from_first(tensors: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Overwrites tensors by those of the first process."""
    if accelerator.num_processes > 1:
        tensors = [tensor for tensor in tensors if not is_sharded(tensor)]
        _together(tensors, lambda flat: broadcast(flat.to(accelerator.device)))


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of a tensor."""
    if type(tensor) in (Tensor, nn.Parameter):  # the import below takes a second
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _mean(tensor: Tensor, accelerator: Accelerator) -> Tensor:
    mean = accelerator.reduce(tensor.to(accelerator.device), "mean")
    assert isinstance(mean, Tensor)
    return mean


@torch.no_grad()
def _together(tensors: Sequence[Tensor], exchange: Callable[[Tensor], Tensor]) -> None:
    """Overwrites tensors by what `exchange` makes of all those of one type and place, in a row."""
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        plain = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        by_kind.setdefault((plain.dtype, plain.device), []).append(plain)
    for group in by_kind.values():
        flat = exchange(torch.cat([tensor.flatten() for tensor in group]))
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
