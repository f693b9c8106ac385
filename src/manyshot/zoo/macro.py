"""NAS-Bench-Macro: 8 layers of 3 operations, 6,561 encodings, 3,969 distinct networks.

Su et al. 2021, "Prioritized Architecture Sampling with Monte-Carlo Tree Search" (MCT-NAS, CVPR),
benchmark of xiusu/NAS-Bench-Macro. At `width=32`, `channels=3`, `classes=10`, parameters and MACs
equal the published table for every encoding. Width is ours: stem w, stages 2w, 4w, 8w, head 40w.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import nn

from manyshot.nn import Choice
from manyshot.space import Commutation
from manyshot.zoo.blocks import Chain, MBConv, conv_bn, pooled_classifier


@final
class Macro(Chain):
    """The network of `macro`."""

    def __init__(self, width: int, channels: int, classes: int, layers: Sequence[int]) -> None:
        """See `macro`."""
        chain: list[nn.Module] = [nn.Sequential(*conv_bn(channels, width, 3, relu=True))]
        into, number = width, 0
        moving: list[list[Choice]] = []
        for stage, count in enumerate(layers):
            out = width * 2 ** (stage + 1)
            choices = []
            for i in range(count):
                choices.append(_layer(into, out, 2 if i == 0 else 1, f"layer{number}"))
                into, number = out, number + 1
            chain += choices
            moving.append(choices[1:])
        head = conv_bn(into, 40 * width, 1, relu=True)
        chain += [nn.Sequential(*head), pooled_classifier(40 * width, classes)]
        super().__init__(chain)
        self._moving = moving

    def commutations(self) -> list[Commutation]:
        """Identities inside a stage, but for its first layer, commute."""
        return [Commutation(tuple(c.decision for c in stage), 0) for stage in self._moving]


def _layer(into: int, out: int, stride: int, name: str) -> Choice:
    project = stride != 1 or into != out
    identity = conv_bn(into, out, 1, stride, relu=False) if project else []
    return Choice(
        {
            "identity": nn.Sequential(*identity),
            "mb3_k3": MBConv(into, out, 3, stride, 3),
            "mb6_k5": MBConv(into, out, 5, stride, 6),
        },
        name,
    )


def macro(
    width: int = 32, channels: int = 3, classes: int = 10, layers: Sequence[int] = (2, 3, 3)
) -> Macro:
    """The NAS-Bench-Macro network, to be wrapped by `ms.Supernet`.

    Args:
        width: of the stem; stages have 2, 4 and 8 times as many channels, the head 40 times.
        channels: of the images.
        classes: of the classifier.
        layers: searchable layers per stage; the first of each halves the resolution.

    Raises:
        ValueError: if a number is below one.
    """
    for name, number in {"width": width, "channels": channels, "classes": classes}.items():
        if number < 1:
            raise ValueError(f"macro: {name} must be at least 1, got {number}")
    if not layers or min(layers) < 1:
        raise ValueError(f"macro: layers must be positive counts per stage, got {layers}")
    return Macro(width, channels, classes, layers)
