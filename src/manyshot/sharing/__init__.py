"""Which weights a path gets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from manyshot.lookup import check_options, look_up
from manyshot.sharing.codes import distinctness, entropy, slice_distance, spread
from manyshot.sharing.conversion import bake, widen
from manyshot.sharing.k_shot import KShot
from manyshot.sharing.scheme import OneShot, Phase, Shares, Sharing
from manyshot.sharing.simplex_net import SimplexNet

SHARINGS: dict[str, Callable[..., Sharing]] = {"one_shot": OneShot, "k_shot": KShot}

__all__ = [
    "SHARINGS",
    "KShot",
    "OneShot",
    "Phase",
    "Shares",
    "Sharing",
    "SimplexNet",
    "bake",
    "distinctness",
    "entropy",
    "make_sharing",
    "slice_distance",
    "spread",
    "widen",
]


def make_sharing(
    name: str, options: Mapping[str, Any], *, seed: int, init: Callable[[], nn.Module]
) -> Sharing:
    """A scheme by name, or by `package.module:attribute`, called with the options.

    Those that take them are also given `seed`, and `init`, which makes the network afresh.

    Raises:
        ValueError: for an unknown scheme or option (it lists what exists), or one that cannot be
            imported.
    """
    factory = look_up("sharing", name, SHARINGS)
    takes = list(inspect.signature(factory).parameters)
    given = {k: v for k, v in {"seed": seed, "init": init}.items() if k in takes}
    check_options("sharing", name, options, [option for option in takes if option not in given])
    return cast(Sharing, factory(**options, **given))
