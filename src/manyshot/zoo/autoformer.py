"""Elastic vision transformers: the three spaces of AutoFormer, and one for small images.

Chen et al. 2021, "AutoFormer: Searching Transformers for Visual Recognition", arXiv:2107.00651, as
the ViT experiments of ShiftNAS (Zhang et al., ICCV 2023, arXiv:2307.08300) use it. Candidates are
those of the authors' public code (microsoft/Cream): width and depth of the whole network, heads and
MLP ratio of every block. The dimension of a head is fixed. Parameters, and without relative
positions multiply-adds, equal those of its published subnets; the paper leaves the products with
relative positions out.

Ours: weights are as large as the largest candidates (those of the public code are a little larger);
dropout is left out, which its settings have at 0. Stochastic depth is `train.drop_path`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from manyshot import nn as msnn
from manyshot.plugins import Positive, checked
from manyshot.space import Size, choose, round_to
from manyshot.zoo.blocks import Chain

Width: TypeAlias = int | Size
_init = functools.partial(nn.init.trunc_normal_, std=0.02)


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """What a vision transformer may be.

    Attributes:
        embeds: the widths of the tokens.
        depths: the numbers of blocks.
        heads: the numbers of heads of a block.
        ratios: hidden features of a block's MLP, in units of the width; rounded to whole ones.
        head_dim: features of a head.
    """

    embeds: Sequence[int]
    depths: Sequence[int]
    heads: Sequence[int]
    ratios: Sequence[float]
    head_dim: int = 64


SCALES = {
    "tiny": Scale((192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4)),
    "small": Scale((320, 384, 448), (12, 13, 14), (5, 6, 7), (3, 3.5, 4)),
    "base": Scale((528, 576, 624), (14, 15, 16), (9, 10), (3, 3.5, 4)),
}
TINY = Scale((32, 48, 64), (3, 4, 5), (2, 3, 4), (2, 3, 4), head_dim=16)


class Tokens(nn.Module):
    """Images as tokens: a class token and one per patch, each with its position added."""

    def __init__(self, channels: int, image_size: int, patch: int, width: Width) -> None:
        """Makes tokens of square patches of square images.

        Args:
            channels: channels of the images.
            image_size: the side of the images.
            patch: the side of a patch.
            width: features of a token.
        """
        super().__init__()
        self.image_size, tokens = image_size, 1 + (image_size // patch) ** 2
        self.patches = msnn.Conv2d(channels, width, patch, patch)
        self.class_token = msnn.Parameter((1, 1, width), _init)
        self.position = msnn.Parameter((1, tokens, width), _init)

    def no_weight_decay(self) -> set[str]:
        """What does not decay: what says that a token is a place, or the class."""
        return {"class_token", "position"}

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, side, side) to (B, tokens, width)."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images are {x.shape[-2]}x{x.shape[-1]}, the network is made for "
                f"{self.image_size}x{self.image_size}: resize them, or give image_size"
            )
        patches = self.patches(x).flatten(2).transpose(1, 2)
        token = self.class_token().expand(x.shape[0], -1, -1)
        return torch.cat((token, patches), 1) + self.position()  # type: ignore[no-any-return]


class Block(nn.Module):
    """Self-attention and an MLP, each on normalised tokens and added to them."""

    def __init__(
        self,
        width: Width,
        heads: Width,
        ratio: float | Size,
        head_dim: int,
        relative: msnn.RelativePosition | None,
        share: float,
    ) -> None:
        """Makes a block, in which `width * ratio` features are hidden.

        Args:
            width: features of a token.
            heads: the number of heads.
            ratio: hidden features of the MLP, in units of the width.
            head_dim: features of a head.
            relative: learnt relative positions, if there are any.
            share: how deep it lies, for stochastic depth.
        """
        super().__init__()
        hidden = round_to(width * ratio, 1)
        self.attention = nn.Sequential(
            msnn.LayerNorm(width), msnn.SelfAttention(width, heads, head_dim, relative=relative)
        )
        self.mlp = nn.Sequential(
            msnn.LayerNorm(width),
            msnn.Linear(width, hidden),
            nn.GELU(),
            msnn.Linear(hidden, width),
        )
        self.drop = msnn.DropPath(share)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        x = x + self.drop(self.attention(x))
        return x + self.drop(self.mlp(x))  # type: ignore[no-any-return]


class PatchMean(nn.Module):
    """The mean of all tokens but the class token."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to (B, width)."""
        return x[:, 1:].mean(1)


@final
class AutoFormer(Chain):
    """The network of `autoformer` and `tiny_vit`."""

    def __init__(
        self,
        scale: Scale,
        image_size: int,
        patch: int,
        channels: int,
        classes: int,
        relative_position: bool,
    ) -> None:
        """Makes the network that `autoformer` and `tiny_vit` describe."""
        grid = (image_size // patch,) * 2
        width, depth = choose(scale.embeds, "embed"), choose(scale.depths, "depth")
        blocks, most = [], max(scale.depths)
        for i in range(most):
            heads, ratio = choose(scale.heads, f"heads{i}"), choose(scale.ratios, f"ratio{i}")
            relative = msnn.RelativePosition(grid, scale.head_dim) if relative_position else None
            share = i / max(1, most - 1)
            blocks.append(Block(width, heads, ratio, scale.head_dim, relative, share))
        norm, linear = msnn.LayerNorm(width), msnn.Linear(width, classes)
        super().__init__(
            [
                Tokens(channels, image_size, patch, width),
                msnn.Depth(blocks, depth),
                nn.Sequential(norm, PatchMean(), linear),
            ]
        )


@checked
def autoformer(
    scale: Literal["tiny", "small", "base"] = "tiny",
    image_size: Positive = 224,
    patch: Positive = 16,
    channels: Positive = 3,
    classes: Positive = 1000,
    relative_position: bool = True,
) -> AutoFormer:
    """A space of AutoFormer, to be wrapped by `ms.Supernet`: 30 decisions (34 for `base`).

    Decisions are `embed`, `depth`, and per block `heads0`, `ratio0`, `heads1`, ... The classifier
    reads the mean of the patches' tokens. At the default size, without relative positions, it has
    1.17 to 2.26 (tiny), 2.77 to 7.20 (small) or 8.67 to 15.74 (base) GMACs, and 1 to 5 % more with.

    Args:
        scale: tiny, small or base.
        image_size: the side of the images.
        patch: the side of a patch, which divides `image_size`.
        channels: channels of the images.
        classes: outputs of the classifier.
        relative_position: whether attention has learnt relative positions.

    Raises:
        ValueError: for another scale, a number below one, or a patch that does not divide.
    """
    _check_patch("autoformer", image_size, patch)
    return AutoFormer(SCALES[scale], image_size, patch, channels, classes, relative_position)


@checked
def tiny_vit(
    image_size: Positive = 8,
    patch: Positive = 2,
    channels: Positive = 1,
    classes: Positive = 10,
    relative_position: bool = False,
) -> AutoFormer:
    """A vision transformer for small images, to be wrapped by `ms.Supernet`; it is ours.

    It is like `autoformer`, with at most 5 blocks of at most 64 features: 12 decisions, and 0.48 to
    4.37 MMACs at the default size.

    Args:
        image_size: the side of the images.
        patch: the side of a patch, which divides `image_size`.
        channels: channels of the images.
        classes: outputs of the classifier.
        relative_position: whether attention has learnt relative positions.

    Raises:
        ValueError: for a number below one, or a patch that does not divide.
    """
    _check_patch("tiny_vit", image_size, patch)
    return AutoFormer(TINY, image_size, patch, channels, classes, relative_position)


def _check_patch(network: str, image_size: int, patch: int) -> None:
    if image_size % patch:
        raise ValueError(f"{network}: patches of {patch} do not divide images of {image_size}")
