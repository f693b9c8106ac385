"""Samplers: which paths train next."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from manyshot.cost import CostTable
from manyshot.lookup import check_options, look_up
from manyshot.space import SearchSpace
from manyshot.train.plan import Sampler
from manyshot.train.samplers.complexity import ComplexityDistribution, Grid
from manyshot.train.samplers.fixed_rules import Fair, Only, Sandwich, Uniform
from manyshot.train.samplers.shift import Generates, ShiftNAS, uniform_cost
from manyshot.train.samplers.shift_config import ShiftNASOptions
from manyshot.train.samplers.table import ConditionalTable

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "uniform": Uniform,
    "fair": Fair,
    "sandwich": Sandwich,
    "shiftnas": ShiftNAS,
    "table": ConditionalTable,
    "uniform_cost": uniform_cost,
}

__all__ = [
    "SAMPLERS",
    "ComplexityDistribution",
    "ConditionalTable",
    "Fair",
    "Generates",
    "Grid",
    "Only",
    "Sandwich",
    "ShiftNAS",
    "ShiftNASOptions",
    "Uniform",
    "make_sampler",
    "uniform_cost",
]


def make_sampler(
    name: str,
    space: SearchSpace,
    options: Mapping[str, Any],
    *,
    costs: Mapping[str, CostTable] | None = None,
    seed: int = 0,
) -> Sampler:
    """A sampler by name, or by `package.module:attribute`, called with the space and options.

    It is given `costs` and `seed` if it takes them. Options are its keyword arguments, or the
    fields of the dataclass that it takes as `config`.

    Raises:
        ValueError: for an unknown sampler or option (it lists what exists), one that cannot be
            imported, or one that needs costs where there are none.
    """
    factory = look_up("sampler", name, SAMPLERS)
    takes = [key for key in inspect.signature(factory).parameters if key not in ("space", "costs")]
    given: dict[str, Any] = {"seed": seed} if "seed" in takes and "seed" not in options else {}
    if "costs" in inspect.signature(factory).parameters:
        if costs is None:
            raise ValueError(f"sampler {name!r} needs the costs of the space: pass costs=")
        given["costs"] = costs
    config = _config_of(factory)
    if config is None:
        check_options("sampler", name, options, takes)
        sampler = factory(space, **given, **options)
    else:
        known = [field.name for field in dataclasses.fields(config)]
        check_options("sampler", name, options, known)
        sampler = factory(space, config=config(**options), **given)
    members = [name for name in (*Sampler.__annotations__, *vars(Sampler)) if name[0] != "_"]
    missing = [name for name in members if name not in dir(sampler)]
    if missing:
        raise ValueError(
            f"sampler {name!r} has no {', '.join(missing)}: inherit manyshot.train.Stateless, "
            "which answers for samplers that learn nothing"
        )
    return cast(Sampler, sampler)


def _config_of(factory: Callable[..., Any]) -> Any:
    """The dataclass that it takes as `config`, if it takes one."""
    if "config" not in inspect.signature(factory).parameters:
        return None
    try:
        annotation = inspect.signature(factory, eval_str=True).parameters["config"].annotation
    except NameError:
        return None  # of types that are imported for checking alone
    return next(filter(dataclasses.is_dataclass, get_args(annotation) or (annotation,)), None)
