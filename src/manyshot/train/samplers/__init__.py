"""Samplers: which paths train next."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

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
    factory = SAMPLERS.get(name)
    if factory is None:
        module, colon, attribute = name.partition(":")
        if not colon:
            raise ValueError(
                f"unknown sampler {name!r}; have {sorted(SAMPLERS)}, or give "
                "package.module:attribute"
            )
        try:
            factory = cast(Callable[..., Sampler], getattr(import_module(module), attribute))
        except (ImportError, AttributeError) as error:
            raise ValueError(f"sampler {name!r} cannot be imported: {error}") from error
    known = [p for p in inspect.signature(factory).parameters if p != "space"]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"sampler {name!r} has no option {option!r} (has {known}){hint}")
    return factory(space, **options)
