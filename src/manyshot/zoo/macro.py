"""NAS-Bench-Macro: 8 layers of 3 operations, 6,561 encodings, 3,969 distinct networks.

Su et al. 2021, "Prioritized Architecture Sampling with Monte-Carlo Tree Search" (MCT-NAS, CVPR),
benchmark of xiusu/NAS-Bench-Macro. At `width=32`, `channels=3`, `classes=10`, parameters and MACs
equal the published table for every encoding. Width is ours: stem w, stages 2w, 4w, 8w, head 40w.
So are elastic hidden widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

from pydantic import Field
from torch import nn

from manyshot.nn import Choice, LinearSkip
from manyshot.plugins import AboveZero, Counts, Positive, checked
from manyshot.space import Commutation, choose
from manyshot.zoo.blocks import Chain, MBConv, conv_bn, pooled_classifier

OPERATIONS = ("identity", "mb3_k3", "mb6_k5")


@final
class Macro(Chain):
    """The network of `macro`."""

    def __init__(
        self,
        width: int,
        channels: int,
        classes: int,
        layers: Sequence[int],
        hidden_factors: Sequence[float] | None,
        linear_skips: bool = False,
    ) -> None:
        """Makes the network that `macro` describes."""
        chain: list[nn.Module] = [nn.Sequential(*conv_bn(channels, width, 3, relu=True))]
        into, number = width, 0
        moving: list[list[Choice]] = []
        for stage, count in enumerate(layers):
            out = width * 2 ** (stage + 1)
            choices = []
            for i in range(count):
                stride, name = 2 if i == 0 else 1, f"layer{number}"
                share = number / max(1, sum(layers) - 1)
                layer = _layer(into, out, stride, name, hidden_factors, share, linear_skips)
                choices.append(layer)
                into, number = out, number + 1
            chain += choices
            moving += [] if hidden_factors else [choices[1:]]
        head = conv_bn(into, 40 * width, 1, relu=True)
        chain += [nn.Sequential(*head), pooled_classifier(40 * width, classes)]
        super().__init__(chain)
        self._moving = moving

    def commutations(self) -> list[Commutation]:
        """The identities inside a stage, which commute but for that of its first layer.

        With `hidden_factors` none do: the hidden width would not move with its operation.
        """
        stages = [[c.decision for c in s if isinstance(c, Choice)] for s in self._moving]
        return [Commutation(tuple(decisions), 0) for decisions in stages]


def _layer(
    into: int,
    out: int,
    stride: int,
    name: str,
    hidden_factors: Sequence[float] | None,
    share: float,
    linear_skips: bool,
) -> Choice:
    project = stride != 1 or into != out
    identity = conv_bn(into, out, 1, stride, relu=False) if project else []
    if linear_skips and not project:
        identity = [LinearSkip(into)]
    operation = choose(OPERATIONS, name)
    factor = choose(hidden_factors, f"{name}.hidden") if hidden_factors else 1
    modules = (
        nn.Sequential(*identity),
        MBConv(into, out, 3, stride, 3 * factor, share),
        MBConv(into, out, 5, stride, 6 * factor, share),
    )
    return Choice(dict(zip(OPERATIONS, modules, strict=True)), operation)


@checked
def macro(
    width: Positive = 32,
    channels: Positive = 3,
    classes: Positive = 10,
    layers: Counts = (2, 3, 3),
    hidden_factors: Annotated[Sequence[AboveZero], Field(min_length=1)] | None = None,
    linear_skips: bool = False,
) -> Macro:
    """The NAS-Bench-Macro network, to be wrapped by `ms.Supernet`.

    Args:
        width: channels of the stem; stages have 2, 4 and 8 times as many, the head 40 times.
        channels: channels of the images.
        classes: outputs of the classifier.
        layers: searchable layers per stage; the first of each halves the resolution.
        hidden_factors: if given, layer i has a second decision `layer{i}.hidden`, inactive under
            `identity`: by which of these its blocks multiply their hidden channels, which
            `ms.round_to` makes whole and at least 1.
        linear_skips: whether identities are `ms.nn.LinearSkip` in the supernet, as in ScarletNAS.
            Its scores are then of networks with these, which finishing takes out.

    Raises:
        ValueError: if a count is below one, or a factor is not above zero.
    """
    return Macro(width, channels, classes, layers, hidden_factors, linear_skips)
