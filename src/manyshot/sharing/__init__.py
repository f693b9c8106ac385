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
    """Makes a scheme by name.

    Args:
        name: a key of `SHARINGS`, or `package.module:attribute`.
        options: the arguments that it is called with.
        seed: given to schemes that take it.
        init: makes the network afresh; given to schemes that take it.

    Raises:
        ValueError: for an unknown scheme or option (the message lists what exists), or one that
            cannot be imported.
    """
    factory = look_up("sharing", name, SHARINGS)
    takes = list(inspect.signature(factory).parameters)
    given = {k: v for k, v in {"seed": seed, "init": init}.items() if k in takes}
    check_options("sharing", name, options, [option for option in takes if option not in given])
    return cast(Sharing, factory(**options, **given))
