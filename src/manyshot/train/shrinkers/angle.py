"""Dropping the options whose weights turned least since training began (ABS)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn

from manyshot.nn import Choice
from manyshot.nn.inputs import inputs_of
from manyshot.nn.modes import evaluating
from manyshot.plugins import NotNegative, Positive, checked
from manyshot.space import Arch, SearchSpace
from manyshot.supernet import Supernet
from manyshot.train.probing import at_weights
from manyshot.train.shrinking import Shrunk, Stage, means_of_options, sampled, without_lowest

POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


@final
class Angle:
    """Drops the options with the smallest mean angle between initial and present weights.

    The angle of an architecture is that between two vectors: its weights as training began, W0, and
    as they are. That of an option is the mean over sampled architectures that hold it. The options
    of the smallest angles are dropped, of which each decision keeps one. Once more than `renew` are
    dropped, the present weights become W0.

    Reference: Hu et al. 2020, "Angle-based Search Space Shrinking for Neural Architecture Search",
    arXiv:2004.13431. The angle, its mean by option, dropping the lowest, W0 renewed and a pooling
    as a vector of 1/k² are theirs. Ours: vectors are of all parameters of two dimensions or more in
    the extracted network, so that elastic and K-shot weights have angles too; a pooling in an
    option without parameters is k² entries of 1/k² for each of its channels; architectures are
    drawn from the whole view, where theirs are within a limit; an option that is in a network only
    through others is judged where it matters.

    Attributes:
        initial: W0, by the names of parameters.
        dropped: how many options were dropped since W0 was taken.
    """

    measure = "mean angle (radians)"
    judges = False
    stages: int | None = None

    @checked
    def __init__(
        self,
        *,
        drop: Positive = 1,
        per: Literal["space", "decision"] = "space",
        samples: Positive = 1000,
        renew: NotNegative = 50,
        pooling: Literal["filled", "empty"] = "filled",
    ) -> None:
        """Begins without weights.

        Args:
            drop: options dropped each time; the paper has 7 with uniform sampling.
            per: whether that is of all decisions together, or of each; the paper has one of each
                with strict fairness.
            samples: architectures whose angles are averaged, at least.
            renew: after more dropped options than these W0 is taken anew.
            pooling: whether a pooling without parameters is a vector of 1/k², or an empty one.
        """
        self.drop, self.per_decision, self.samples = drop, per == "decision", samples
        self.renew, self.pooling = renew, pooling
        self.initial: dict[str, Tensor] = {}
        self.dropped = 0

    def begin(self, net: Supernet) -> SearchSpace:
        """The whole space; the weights are kept."""
        self.initial = weights_of(net)
        return net.space

    def shrink(self, stage: Stage) -> Shrunk:
        """Drops the lowest, and keeps the weights if it is time."""
        archs = sampled(stage, self.samples)
        filled = fixed_vectors(stage) if self.pooling == "filled" else []
        angles = []
        for arch in archs:
            active = stage.space.active(arch)
            squared = sum(x for i, option, x in filled if arch[i] == option and active[i])
            angles.append(self.angle(stage.net, arch, math.sqrt(squared)))
        scores = means_of_options(stage.space, archs, angles)
        view = without_lowest(stage, scores, self.drop, per_decision=self.per_decision)
        self.dropped += sum(map(len, stage.space.allowed)) - sum(map(len, view.allowed))
        if self.dropped > self.renew:
            self.initial, self.dropped = weights_of(stage.net), 0
        return Shrunk(view, scores)

    def angle(self, net: Supernet, arch: Arch, fixed: float = 0.0) -> float:
        """By how much the weights of an architecture turned, in [0, pi].

        Args:
            net: the supernet.
            arch: the architecture.
            fixed: the norm of what is in both vectors.
        """
        now = _vector(net, arch, fixed)
        with at_weights(net, self.initial):
            before = _vector(net, arch, fixed)
        norms = before.norm(), now.norm()
        if not all(norms):
            return 0.0
        one, other = before / norms[0], now / norms[1]
        # of unit vectors, exact where they are nearly equal or opposite, as arccos is not
        return 2 * math.atan2(float((one - other).norm()), float((one + other).norm()))

    def state_dict(self) -> dict[str, Any]:
        """W0, and how many options are dropped since."""
        return {"initial": self.initial, "dropped": self.dropped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self.initial, self.dropped = dict(state["initial"]), state["dropped"]


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def _vector(net: Supernet, arch: Arch, fixed: float) -> Tensor:
    """The weights of an architecture in one vector, and one entry for all that is fixed.

    What is equal in both vectors counts in their angle by its norm alone.
    """
    parts = [p.detach().flatten().double() for p in net.extract(arch).parameters() if p.dim() > 1]
    device = next((part.device for part in parts), torch.device("cpu"))
    return torch.cat([*parts, torch.tensor([fixed], dtype=torch.float64, device=device)])


def fixed_vectors(stage: Stage) -> list[tuple[int, int, float]]:
    """The options without parameters that pool: decision, option, squared norm of their vector.

    Channels are those that forwards without values see, of encodings that hold every option of the
    view; an option that elastic widths give several numbers has the last of them.
    """
    net = copy.deepcopy(stage.net)
    pools = {
        (net.space.index[choice.decision], index, module): 0.0
        for choice in net.modules()
        if isinstance(choice, Choice)
        for index in range(len(choice.decision.options))
        if not any(True for _ in choice.option(index).parameters())
        for module in choice.option(index).modules()
        if isinstance(module, POOLS)
    }
    if not pools:
        return []

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sides = cast(int | tuple[int, ...], module.kernel_size)
        area = math.prod(sides if isinstance(sides, tuple) else (sides,) * (inputs[0].dim() - 2))
        for key in pools:
            if key[2] is module:
                pools[key] = inputs[0].shape[1] / area

    for _, _, module in pools:
        module.register_forward_pre_hook(look)
    net.to("meta")
    with evaluating(net), torch.no_grad():
        for arch in stage.space.cover(stage.rng):
            net(inputs_of(net), arch, stats="batch")
    return [(position, index, squared) for (position, index, _), squared in pools.items()]
