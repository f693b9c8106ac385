"""Layer normalisation over the active features alone."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.layer import Channels, Norm, Tie, channels
from manyshot.nn.selection import Selection, active
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
        selection = active(self)
        weight, bias = self.cut("weight", selection), self.cut("bias", selection)
        mask = selection.mask(self.features)
        if mask is None:
            return F.layer_norm(x, (selection.count(self.features),), weight, bias, self.eps)
        return masked_layer_norm(x, mask, weight, bias, self.eps)

    def plain(self, selection: Selection, tie: Tie) -> nn.LayerNorm:
        """A `torch.nn.LayerNorm`."""
        features, affine = selection.count(self.features), self.has("weight")
        norm = nn.LayerNorm(features, self.eps, affine, self.has("bias"), device="meta")
        self._give_parameters(norm, tie)
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
    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mask = mask.to(wide)
        count = mask.sum()
        centred = wide - (wide @ mask / count).unsqueeze(-1)
        variance = centred.square() @ mask / count
        normalised = centred * torch.rsqrt(variance + eps).unsqueeze(-1)
        if weight is not None:
            normalised = normalised * weight
        return (normalised if bias is None else normalised + bias).to(x.dtype)
