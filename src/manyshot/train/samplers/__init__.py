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
from manyshot.train.samplers.shift import Generates, Shift, uniform_cost
from manyshot.train.samplers.shift_config import ShiftConfig
from manyshot.train.samplers.table import ConditionalTable

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "uniform": Uniform,
    "fair": Fair,
    "sandwich": Sandwich,
    "shift": Shift,
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
    "Shift",
    "ShiftConfig",
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
    takes = inspect.signature(factory, eval_str=True).parameters
    given = {"costs": costs, "seed": seed}
    given = {key: value for key, value in given.items() if key in takes and key not in options}
    if "costs" in given and costs is None:
        raise ValueError(f"sampler {name!r} needs the costs of the space: pass costs=")
    if "config" not in takes:
        check_options("sampler", name, options, [key for key in takes if key != "space"])
        return cast(Sampler, factory(space, **given, **options))
    config = next(filter(dataclasses.is_dataclass, _members(takes["config"].annotation)))
    check_options("sampler", name, options, [field.name for field in dataclasses.fields(config)])
    return cast(Sampler, factory(space, config=cast(Any, config)(**options), **given))


def _members(annotation: Any) -> tuple[Any, ...]:
    """The types of a union; one type is its own only member."""
    return get_args(annotation) or (annotation,)
