"""From one copy of the weights to K, and back for one path."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from manyshot.nn.mixing import combine, restack
from manyshot.seeding import torch_generator
from manyshot.sharing.dictionary import rows
from manyshot.sharing.k_shot import KShot
from manyshot.space import Arch

_SCHEME = "sharing."
"""The beginning of the names that belong to the scheme in a supernet's state dict."""


def widen(
    net: nn.Module, state: Mapping[str, Tensor], *, spread: float = 0.1, seed: int = 0
) -> dict[str, Tensor]:
    """A state dict for a K-shot supernet, from that of one with one copy or with K = 1.

    Every slice is the one copy plus normal noise, whose standard deviation is `spread` times that
    of the tensor. The noises of a tensor sum to zero: uniform codes give the one copy. Codes start
    anew, as `net` has them.

    Args:
        net: `ms.Supernet(model, sharing=ms.sharing.KShot(...))`.
        state: the state dict of a supernet of the same model.
        spread: how large the noise is; 0 leaves the slices equal, from which codes cannot be
            learnt.
        seed: the seed of the noise.

    Raises:
        ValueError: for a negative spread, or tensors of other names or shapes.
    """
    if not 0 <= spread < float("inf"):
        raise ValueError(f"widen: spread must be at least 0 and finite, got {spread}")
    copies, stacks = _scheme(net).copies, rows(net)
    generator = torch_generator(seed, "copies")
    wide, noisy = {}, dict[int, Tensor]()
    for name, target in net.state_dict(keep_vars=True).items():
        if name.startswith(_SCHEME):
            wide[name] = target.detach()
            continue
        if name not in state:
            raise ValueError(f"widen: the state dict has no {name}; is it of the same model?")
        one = state[name]
        if target in stacks:
            if one.dim() == target.dim():
                if len(one) > 1:
                    raise ValueError(
                        f"widen: {name} has {len(one)} slices; give the state dict of one copy "
                        "(of ms.sharing.bake, for a path), or load one of equal copies as it is"
                    )
                one = one.squeeze(0)
            if id(target) not in noisy:
                noisy[id(target)] = _noisy(one, copies, spread, generator)
            one = noisy[id(target)]
        if one.shape != target.shape:
            raise ValueError(
                f"widen: {name} has shape {tuple(state[name].shape)}, which does not become "
                f"{tuple(target.shape)}: the state dict is of another model"
            )
        wide[name] = one
    return wide


def _noisy(one: Tensor, copies: int, spread: float, generator: torch.Generator) -> Tensor:
    """K slices around `one`, whose mean it is."""
    deviation = float(one.std(correction=0)) if one.numel() > 1 else 0.0
    noise = torch.randn((copies, *one.shape), generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    noise *= spread * deviation * (copies / max(1, copies - 1)) ** 0.5
    return restack([one + part.to(one.device, one.dtype) for part in noise])


@torch.no_grad()
def bake(net: nn.Module, arch: Arch) -> dict[str, Tensor]:
    """A state dict for the supernet with one copy: all slices mixed by the code of `arch`.

    For `arch` the one copy computes what `net` does; other paths get the weights that this code
    lends them. A code per layer mixes each layer by its row.
    """
    [code] = _scheme(net).code([arch])
    stacks = rows(net)
    baked = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if name.startswith(_SCHEME):
            continue
        if tensor in stacks:
            mixed = combine(code if code.dim() == 1 else code[stacks[tensor]], tensor)
        else:
            mixed = tensor.detach()
        baked[name] = mixed.clone()
    return baked


def _scheme(net: nn.Module) -> KShot:
    scheme = getattr(net, "sharing", None)
    if not isinstance(scheme, KShot):
        raise ValueError(
            f"{type(net).__name__} has no K-shot weights: make it by "
            "ms.Supernet(model, sharing=ms.sharing.KShot(copies))"
        )
    return scheme
