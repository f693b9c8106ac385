"""The subnet of a supernet whose parameters torch alone cuts out of whole tensors.

What it takes more than the bare subnet is the price of stored tensors that are larger than what a
path uses, in whichever library: each parameter is cut out by one operation, whose gradient is of
the whole tensor, and the optimiser moves whole tensors.
"""

from __future__ import annotations

import bisect
import copy
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

import manyshot as ms


def cut_out(net: ms.Supernet, arch: ms.Arch) -> tuple[Callable[[Tensor], Tensor], list[Tensor]]:
    """The forward of such a subnet, and the whole tensors that an optimiser moves.

    Where a parameter comes from is read off a copy of the network whose weights are numbered, so
    that it does not depend on what layers say of themselves.

    Args:
        net: all of whose parts on the path are boxes of stored tensors.
        arch: the path.

    Raises:
        ValueError: if a part is no box, as where the sharing scheme mixes copies.
    """
    subnet, wholes = net.extract(arch), [nn.Parameter(p.detach().clone()) for p in net.parameters()]
    numbered = copy.deepcopy(net).double()
    begins = [0, *itertools.accumulate(whole.numel() for whole in wholes)]
    with torch.no_grad():
        for begin, parameter in zip(begins, numbered.parameters(), strict=False):
            parameter.copy_(torch.arange(begin, begin + parameter.numel()).view_as(parameter))
    cuts: list[tuple[nn.Module, str, Tensor, list[int]]] = []
    moved: dict[int, Tensor] = {}
    for module, places in zip(subnet.modules(), numbered.extract(arch).modules(), strict=True):
        for name, place in list(places._parameters.items()):
            if place is None:
                continue
            numbers = place.detach().long().numpy().ravel()
            owner = bisect.bisect_right(begins, numbers.min()) - 1
            whole = moved[owner] = wholes[owner]
            pads = _pads(numbers - begins[owner], place.shape, whole.shape)
            if any(pads):
                del module._parameters[name]
                cuts.append((module, name, whole, pads))
            else:
                module._parameters[name] = wholes[owner]

    def forward(images: Tensor) -> Tensor:
        for module, name, whole, pads in cuts:
            module.__dict__[name] = torch.constant_pad_nd(whole, pads)
        logits: Tensor = subnet(images)
        return logits

    return forward, list(moved.values())


def _pads(numbers: np.ndarray, shape: torch.Size, whole: torch.Size) -> list[int]:
    """What `torch.constant_pad_nd` cuts entries of a tensor out by, the last dimension first."""
    places = np.unravel_index(numbers, whole)
    ends = [(int(p.min()), int(p.max()) + 1) for p in places]
    if tuple(stop - start for start, stop in ends) != tuple(shape):
        raise ValueError(f"a part of shape {tuple(shape)} is no box of one of {tuple(whole)}")
    pairs = zip(ends, whole, strict=True)
    cut = [(-start, stop - length) for (start, stop), length in pairs]
    return [amount for pair in reversed(cut) for amount in pair]
