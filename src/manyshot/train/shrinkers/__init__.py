"""Shrinkers: in which view of the space training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyshot.plugins import build
from manyshot.space import SearchSpace
from manyshot.train.shrinkers.angle import Angle
from manyshot.train.shrinkers.balanced import BalancedDrop
from manyshot.train.shrinkers.elite import Elite
from manyshot.train.shrinkers.progressive import Progressive
from manyshot.train.shrinkers.slimming import Slimming
from manyshot.train.shrinking import Shrinker

SHRINKERS: dict[str, Callable[..., Shrinker]] = {
    "angle": Angle,
    "balanced": BalancedDrop,
    "elite": Elite,
    "progressive": Progressive,
    "slimming": Slimming,
}

__all__ = [
    "SHRINKERS",
    "Angle",
    "BalancedDrop",
    "Elite",
    "Progressive",
    "Slimming",
    "make_shrinker",
]


def make_shrinker(
    name: str,
    space: SearchSpace,
    options: Mapping[str, Any],
    *,
    at: Sequence[float] = (),
    seed: int = 0,
) -> Shrinker:
    """Makes a shrinker by name.

    Args:
        name: a key of `SHRINKERS`, or `package.module:attribute`.
        space: the whole space; like `at` and `seed`, for a shrinker with such a parameter.
        options: the shrinker's options by name.
        at: the shares of training after which it is asked.
        seed: of what is drawn when it is made.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    context = {"space": space, "at": tuple(at), "seed": seed}
    return build("shrinker", name, options, table=SHRINKERS, contract=Shrinker, context=context)
