"""Which weights a path gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from manyshot.plugins import build
from manyshot.sharing.bilateral import Bilateral
from manyshot.sharing.codes import (
    distinctness,
    effective_sharing,
    entropy,
    slice_distance,
    spread,
)
from manyshot.sharing.conversion import bake, widen
from manyshot.sharing.k_shot import KShot
from manyshot.sharing.locally_free import LocallyFree
from manyshot.sharing.reach import Reach
from manyshot.sharing.scheme import (
    Coded,
    Mixes,
    OneShot,
    Passes,
    Phase,
    PlacesChannels,
    Shares,
    Sharing,
    SplitsByGradients,
    learns_codes,
)
from manyshot.sharing.simplex_net import SimplexNet

SHARINGS: dict[str, Callable[..., Sharing]] = {
    "bilateral": Bilateral,
    "k_shot": KShot,
    "locally_free": LocallyFree,
    "one_shot": OneShot,
}

__all__ = [
    "SHARINGS",
    "Bilateral",
    "Coded",
    "KShot",
    "LocallyFree",
    "Mixes",
    "OneShot",
    "Passes",
    "Phase",
    "PlacesChannels",
    "Reach",
    "Shares",
    "Sharing",
    "SimplexNet",
    "SplitsByGradients",
    "bake",
    "distinctness",
    "effective_sharing",
    "entropy",
    "learns_codes",
    "make_sharing",
    "slice_distance",
    "spread",
    "widen",
]


def make_sharing(
    name: str, options: Mapping[str, Any], *, seed: int, init: Callable[[], nn.Module]
) -> Sharing:
    """Makes a scheme by name.

    Args:
        name: a key of `SHARINGS`, or `package.module:attribute`.
        options: the scheme's options by name.
        seed: the seed of what it draws; like `init`, it goes to a scheme with such a parameter.
        init: makes the network afresh.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    context = {"seed": seed, "init": init}
    return build("sharing", name, options, table=SHARINGS, contract=Sharing, context=context)
