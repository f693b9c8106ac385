"""Layer and root-mean-square normalisation over the active features alone."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.layer import Channels, Norm, Tie, channels
from manyshot.nn.modes import without_autocast
from manyshot.nn.selection import Selection, active, current
from manyshot.space import Size


@final
class LayerNorm(Norm):
    """Layer normalisation over the last dimension, whose length may be a size.

    Mean and variance are those of the active features: a plain `LayerNorm` behind a mask would take
    in the others.
    """

    _size_name = "features"

    def __init__(
        self,
        features: Channels,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        """Makes a layer norm as `torch.nn.LayerNorm` over one dimension.

        Args:
            features: the length of the last dimension, which may be a size.
            eps: what is added to the variance.
            elementwise_affine: whether there is a scale.
            bias: whether there is a shift beside the scale.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__()
        self.features: int | Size = channels(features, "LayerNorm: features")
        self.eps = eps
        self._make_parameters(elementwise_affine, elementwise_affine and bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., features) normalised over the last dimension."""
        if not self._elastic:
            return F.layer_norm(x, self._stored, self.weight, self.bias, self.eps)
        selection = current() or active(self)
        used = self.used(selection)
        weight, bias = self.tensors(used, selection)
        mask = None if selection.policies is None else selection.mask(self.features)
        if mask is None:
            return F.layer_norm(x, (used.numbers,), weight, bias, self.eps)
        return masked_layer_norm(x, mask, weight, bias, self.eps)

    def plain(self, selection: Selection, tie: Tie) -> nn.LayerNorm:
        """A `torch.nn.LayerNorm`."""
        features, affine = selection.count(self.features), self.has("weight")
        norm = nn.LayerNorm(features, self.eps, affine, self.has("bias"), device="meta")
        self._give_parameters(norm, tie)
        return norm


@final
class RMSNorm(Norm):
    """Division by the root of the mean square over the last dimension, whose length may be a size.

    With masks the mean is that of the active features.
    """

    _size_name = "features"

    def __init__(
        self, features: Channels, eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        """Makes a norm as `torch.nn.RMSNorm` over one dimension.

        Args:
            features: the length of the last dimension, which may be a size.
            eps: what is added to the mean square; by default the machine epsilon of the type that
                torch computes in.
            elementwise_affine: whether there is a scale.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__()
        self.features: int | Size = channels(features, "RMSNorm: features")
        self.eps = eps
        self._make_parameters(elementwise_affine, False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., features) divided by the root of their mean square."""
        if not self._elastic:
            return F.rms_norm(x, self._stored, self.weight, self.eps)
        selection = current() or active(self)
        used = self.used(selection)
        weight, _ = self.tensors(used, selection)
        mask = None if selection.policies is None else selection.mask(self.features)
        if mask is None:
            return F.rms_norm(x, (used.numbers,), weight, self.eps)
        return masked_rms_norm(x, mask, weight, self.eps)

    def plain(self, selection: Selection, tie: Tie) -> nn.RMSNorm:
        """A `torch.nn.RMSNorm`."""
        features = selection.count(self.features)
        norm = nn.RMSNorm(features, self.eps, self.has("weight"), device="meta")
        norm.register_parameter("weight", tie("weight") if self.has("weight") else None)
        return norm


def masked_layer_norm(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Layer normalisation over the features whose mask is one; the others come out arbitrary.

    The mean is sum(m x) / n and the variance sum(m (x - mean)^2) / n with n = sum(m): at one-hot
    masks these are the numbers of the sliced layer, with gradients also for entries that are zero.
    They are computed in float32 at least, as `torch.nn.functional.layer_norm` does.

    Args:
        x: (..., C).
        mask: (C,) of zeros and ones.
        weight: (C,) or None.
        bias: (C,) or None.
        eps: what is added to the variance.

    Returns:
        (..., C) in the type of `x`.
    """
    with without_autocast(x.device.type):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mask = mask.to(wide)
        count = mask.sum()
        centred = wide - (wide @ mask / count).unsqueeze(-1)
        variance = centred.square() @ mask / count
        normalised = centred * torch.rsqrt(variance + eps).unsqueeze(-1)
        if weight is not None:
            normalised = normalised * weight
        return (normalised if bias is None else normalised + bias).to(x.dtype)


def masked_rms_norm(x: Tensor, mask: Tensor, weight: Tensor | None, eps: float | None) -> Tensor:
    """Division by the root of the mean square of the features whose mask is one.

    It is sum(m x^2) / n with n = sum(m), in float32 at least (see `masked_layer_norm`).

    Args:
        x: (..., C).
        mask: (C,) of zeros and ones.
        weight: (C,) or None.
        eps: what is added to the mean square; None for the machine epsilon.

    Returns:
        (..., C) in the type of `x`.
    """
    with without_autocast(x.device.type):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mask = mask.to(wide)
        square = (wide.square() @ mask / mask.sum()).unsqueeze(-1)
        normalised = wide * torch.rsqrt(
            square + (torch.finfo(wide.dtype).eps if eps is None else eps)
        )
        return (normalised if weight is None else normalised * weight).to(x.dtype)
