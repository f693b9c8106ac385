"""Samplers: which paths train next."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from manyshot.lookup import check_options, look_up
from manyshot.space import SearchSpace
from manyshot.train.plan import Sampler
from manyshot.train.samplers.fixed_rules import Fair, Only, Sandwich, Uniform

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "uniform": Uniform,
    "fair": Fair,
    "sandwich": Sandwich,
}

__all__ = ["SAMPLERS", "Fair", "Only", "Sandwich", "Uniform", "make_sampler"]


def make_sampler(name: str, space: SearchSpace, options: Mapping[str, Any]) -> Sampler:
    """A sampler by name, or by `package.module:attribute`, called with the space and options.

    Raises:
        ValueError: for an unknown sampler or option (it lists what exists), or one that cannot be
            imported.
    """
    factory = look_up("sampler", name, SAMPLERS)
    takes = [option for option in inspect.signature(factory).parameters if option != "space"]
    check_options("sampler", name, options, takes)
    return cast(Sampler, factory(space, **options))
