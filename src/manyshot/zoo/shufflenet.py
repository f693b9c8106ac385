"""The ShuffleNetV2 choice blocks of Single Path One-Shot: 20 layers of 4 operations, 4^20 networks.

Guo et al. 2020, "Single Path One-Shot Neural Architecture Search with Uniform Sampling",
arXiv:1904.00420, with the blocks of Ma et al. 2018, "ShuffleNet V2", arXiv:1807.11164. It is also
the space of Supernet Shifting (Zhang et al., CVPR 2024). With the default arguments the parameters
and, at 224x224, the MACs of every operation equal those of the authors' public code.

Ours: widths, repeats and strides are arguments and the pooling is adaptive, so that small images
work; a first block of stride 1 is built like one of stride 2, from all input channels; images are
RGB and normalised (the authors' code feeds BGR in 0..255).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from manyshot.nn import Choice
from manyshot.plugins import Counts, Positive, Share, checked
from manyshot.zoo.blocks import Chain, conv_bn

KERNELS = {"shuffle3": 3, "shuffle5": 5, "shuffle7": 7}


def split_channels(x: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd channels of (B, C, H, W), each (B, C / 2, H, W).

    This is the channel shuffle of ShuffleNetV2: the two branches of the block before were
    concatenated, so each half holds channels of both.
    """
    batch, channels, height, width = x.shape
    even, odd = x.view(batch, channels // 2, 2, height, width).unbind(2)
    return even, odd


class SplitBlock(nn.Module):
    """A block that keeps resolution and width: half the channels pass, half go through `main`."""

    def __init__(self, main: nn.Module) -> None:
        super().__init__()
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape; the even channels come first, unchanged."""
        passing, processed = split_channels(x)
        return torch.cat((passing, self.main(processed)), 1)


class WideningBlock(nn.Module):
    """A block that changes resolution or width: both branches see all input channels."""

    def __init__(self, projection: nn.Module, main: nn.Module) -> None:
        super().__init__()
        self.projection = projection
        self.main = main

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, out, H / stride, W / stride); `in` channels from the projection."""
        return torch.cat((self.projection(x), self.main(x)), 1)


def _shuffle(into: int, out: int, mid: int, kernel: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        *conv_bn(into, mid, 1, relu=True, affine=affine),
        *conv_bn(mid, mid, kernel, stride, mid, relu=False, affine=affine),
        *conv_bn(mid, out, 1, relu=True, affine=affine),
    )


def _xception(into: int, out: int, mid: int, stride: int, affine: bool) -> nn.Module:
    layers: list[nn.Module] = []
    widths = (into, mid, mid, out)
    for narrow, wide in zip(widths, widths[1:], strict=False):
        layers += conv_bn(narrow, narrow, 3, stride, narrow, relu=False, affine=affine)
        layers += conv_bn(narrow, wide, 1, relu=True, affine=affine)
        stride = 1
    return nn.Sequential(*layers)


def _block(operation: str, into: int, out: int, stride: int, affine: bool) -> nn.Module:
    widening = stride != 1 or into != out
    seen = into if widening else into // 2
    kernel = KERNELS.get(operation, 3)
    if operation in KERNELS:
        main = _shuffle(seen, out - seen, out // 2, kernel, stride, affine)
    else:
        main = _xception(seen, out - seen, out // 2, stride, affine)
    if not widening:
        return SplitBlock(main)
    projection = nn.Sequential(
        *conv_bn(into, into, kernel, stride, into, relu=False, affine=affine),
        *conv_bn(into, into, 1, relu=True, affine=affine),
    )
    return WideningBlock(projection, main)


@final
class ShuffleNet(Chain):
    """The network of `shufflenet`."""

    def reset_parameters(self) -> None:
        """Draws all weights anew: normal, by torch's global generator, as the authors' code does.

        Standard deviations: 1 / (input channels per group) for convolutions (1 for depthwise ones),
        0.01 for the stem and the classifier. Where batch norm has them, scale 1 and shift 1e-4.
        """
        stem = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                deviation = 0.01 if module is stem else 1 / module.weight.shape[1]
                nn.init.normal_(module.weight, 0, deviation)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            elif isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.ones_(module.weight)
                nn.init.constant_(module.bias, 1e-4)


@checked
def shufflenet(
    channels: Positive = 3,
    classes: Positive = 1000,
    widths: Counts = (64, 160, 320, 640),
    repeats: Counts = (4, 4, 8, 4),
    stem: Positive = 16,
    tail: Positive = 1024,
    stem_stride: Positive = 2,
    strides: Counts = (2, 2, 2, 2),
    dropout: Share = 0.1,
    affine: bool = False,
) -> ShuffleNet:
    """The ShuffleNetV2 space of Single Path One-Shot, to be wrapped by `ms.Supernet`.

    Decisions are `layer0`, `layer1`, ..., each of `shuffle3`, `shuffle5`, `shuffle7`, `xception`.
    With the default arguments an image is halved five times, so for 32x32 take `stem_stride=1`.

    Args:
        channels: channels of the images.
        classes: outputs of the classifier, which has no bias.
        widths: channels of each stage, even and growing from `stem` on.
        repeats: searchable blocks per stage.
        stem: channels of the first convolution.
        tail: channels of the last convolution.
        stem_stride: the stride of the first convolution.
        strides: the stride of the first block of each stage; the other blocks have stride 1.
        dropout: the probability of dropout before the classifier.
        affine: whether batch norms scale and shift. The authors' supernet does not; an architecture
            that is trained alone does, so extract it from a supernet made with `affine=True`.

    Raises:
        ValueError: if lengths differ, a number is below one, or widths are odd or do not grow.
    """
    _check_stages((stem, *widths), repeats, strides)
    first = conv_bn(channels, stem, 3, stem_stride, relu=True, affine=affine)
    last = conv_bn(widths[-1], tail, 1, relu=True, affine=affine)
    head = nn.Linear(tail, classes, bias=False)
    network = ShuffleNet(
        [
            nn.Sequential(*first),
            *_layers((stem, *widths), repeats, strides, affine),
            nn.Sequential(*last),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), head),
        ]
    )
    network.reset_parameters()
    return network


def _layers(
    widths: Sequence[int], repeats: Sequence[int], strides: Sequence[int], affine: bool
) -> list[Choice]:
    layers: list[Choice] = []
    stages = zip(widths, widths[1:], repeats, strides, strict=False)
    for into, out, count, stride in stages:
        for i in range(count):
            shape = (into, out, stride) if i == 0 else (out, out, 1)
            options = {name: _block(name, *shape, affine) for name in (*KERNELS, "xception")}
            layers.append(Choice(options, f"layer{len(layers)}"))
    return layers


def _check_stages(widths: Sequence[int], repeats: Sequence[int], strides: Sequence[int]) -> None:
    if not len(widths) - 1 == len(repeats) == len(strides):
        raise ValueError(
            f"shufflenet: widths {widths[1:]}, repeats {repeats} and strides {strides} must have "
            "one entry per stage each"
        )
    if any(width % 2 for width in widths[1:]):
        raise ValueError(
            f"shufflenet: widths {widths[1:]} must be even, blocks split channels in half"
        )
    if any(wide <= narrow for narrow, wide in zip(widths, widths[1:], strict=False)):
        raise ValueError(
            f"shufflenet: widths {widths[1:]} must grow from the stem's {widths[0]} on, because "
            "the first block of a stage adds channels to the projection of its input"
        )
