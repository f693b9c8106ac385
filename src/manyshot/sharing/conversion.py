"""From one copy of the weights to K, and back for one path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from manyshot.nn.mixing import Stacked, is_weight_norm, restack
from manyshot.seeding import torch_generator
from manyshot.sharing.dictionary import rows
from manyshot.sharing.k_shot import KShot
from manyshot.space import Arch

_SPREAD = 0.1
_SCHEME = "sharing."
"""The beginning of the names that belong to the scheme in a supernet's state dict."""


def widen(
    net: nn.Module, state: Mapping[str, Tensor], *, spread: float | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """A state dict for a K-shot supernet, from that of one with one copy or with K = 1.

    Every slice is the one copy plus normal noise, whose standard deviation is `spread` times that
    of the tensor. The noises of a tensor sum to zero: uniform codes give the one copy. Codes start
    anew, as `net` has them.

    Args:
        net: `ms.Supernet(model, sharing=ms.sharing.KShot(...))`.
        state: the state dict of a supernet of the same model.
        spread: how large the noise is. 0 leaves the slices equal, from which codes can be learnt
            only if they start apart: it is the default for schemes with `start = "equal"`, whose
            codes do, and 0.1 that of others.
        seed: the seed of the noise.

    Raises:
        ValueError: for a negative spread, or tensors of other names or shapes.
    """
    scheme = _scheme(net)
    if spread is None:
        spread = 0.0 if scheme.start == "equal" else _SPREAD
    if not 0 <= spread < float("inf"):
        raise ValueError(f"widen: spread must be at least 0 and finite, got {spread}")
    copies, stacks = scheme.copies, rows(net)
    targets = net.state_dict(keep_vars=True)
    wide: dict[str, Tensor] = {}
    for name, target in targets.items():
        if name.startswith(_SCHEME):
            wide[name] = target.detach()
            continue
        if name not in state:
            raise ValueError(f"widen: the state dict has no {name}; is it of the same model?")
        one, shape = state[name], target.shape
        if target in stacks:
            shape = shape[1:]
            if one.dim() == target.dim():
                if len(one) > 1:
                    raise ValueError(
                        f"widen: {name} has {len(one)} slices; give the state dict of one copy "
                        "(of ms.sharing.bake, for a path), or load one of equal copies as it is"
                    )
                one = one.squeeze(0)
        if one.shape != shape:
            raise ValueError(
                f"widen: {name} has shape {tuple(state[name].shape)}, which does not become "
                f"{tuple(target.shape)}: the state dict is of another model"
            )
        wide[name] = one
    ones = {target: wide[name] for name, target in reversed(targets.items()) if target in stacks}
    generator = torch_generator(seed, "copies")
    slices: dict[Tensor, Tensor] = {}
    for module in net.modules():
        if isinstance(module, Stacked):
            slices = _widened(module, ones, copies, spread, generator) | slices
    return wide | {name: slices[t] for name, t in targets.items() if t in stacks}


def _widened(
    module: Stacked,
    ones: Mapping[Tensor, Tensor],
    copies: int,
    spread: float,
    generator: torch.Generator,
) -> dict[Tensor, Tensor]:
    """Slices of the stacks of one module, by stack.

    Args:
        module: the module.
        ones: the one copy of every stack.
        copies: K.
        spread: see `widen`.
        generator: the noise's.
    """
    stacks: list[Any] = [module._parameters[name] for name in module._stacks]
    if is_weight_norm(module) and len(stacks) == 2:  # noise of the weight that they make
        norm: Any = next(module.children())
        weights = _noisy(norm(*(ones[stack] for stack in stacks)), copies, spread, generator)
        made = zip(*map(norm.right_inverse, weights), strict=True)
        return dict(zip(stacks, map(restack, made), strict=True))
    rest = None
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        rest = module.padding_idx
    return {stack: _noisy(ones[stack], copies, spread, generator, rest) for stack in stacks}


def _noisy(
    one: Tensor, copies: int, spread: float, generator: torch.Generator, rest: int | None = None
) -> Tensor:
    """K slices around `one`, whose mean it is.

    Args:
        one: the tensor.
        copies: K.
        spread: see `widen`.
        generator: of the noise.
        rest: a row without noise, as that of padding in an embedding.
    """
    deviation = float(one.std(correction=0)) if one.numel() > 1 else 0.0
    noise = torch.randn((copies, *one.shape), generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    noise *= spread * deviation * (copies / max(1, copies - 1)) ** 0.5
    if rest is not None:
        noise[:, rest] = 0
    return restack([one + part.to(one.device, one.dtype) for part in noise])


@torch.no_grad()
def bake(net: nn.Module, arch: Arch) -> dict[str, Tensor]:
    """A state dict for the supernet with one copy: all slices mixed by the code of `arch`.

    For `arch` the one copy computes what `net` does; other paths get the weights that this code
    lends them. A code per layer mixes each layer by its row, one per channel each channel.
    """
    scheme, mixed = _scheme(net), dict[Tensor, Tensor]()
    mixture = scheme.by_code(scheme.code([arch])[0])
    for module in net.modules():
        for name in module._stacks if isinstance(module, Stacked) else ():
            stack: Any = module._parameters[name]
            mixed.setdefault(stack, mixture.merge(cast(Stacked, module), name, ()))
    return {
        name: mixed.get(tensor, tensor).detach().clone()
        for name, tensor in net.state_dict(keep_vars=True).items()
        if not name.startswith(_SCHEME)
    }


def _scheme(net: nn.Module) -> KShot:
    scheme = getattr(net, "sharing", None)
    if not isinstance(scheme, KShot):
        raise ValueError(
            f"{type(net).__name__} has no K-shot weights: make it by "
            "ms.Supernet(model, sharing=ms.sharing.KShot(copies))"
        )
    return scheme
