"""Samplers: which paths train next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyshot.cost import CostTable
from manyshot.plugins import build
from manyshot.space import SearchSpace
from manyshot.train.plan import Sampler
from manyshot.train.samplers.complexity import ComplexityDistribution, Grid
from manyshot.train.samplers.fixed_rules import Fair, Only, Sandwich, Uniform
from manyshot.train.samplers.relaxed import Relaxed
from manyshot.train.samplers.relaxed_options import RelaxedOptions
from manyshot.train.samplers.shift import Generates, ShiftNAS, Targeted, uniform_cost
from manyshot.train.samplers.shift_options import ShiftNASOptions
from manyshot.train.samplers.sparse import Sparse, SparseOptions
from manyshot.train.samplers.table import ConditionalTable
from manyshot.train.samplers.taught import Taught

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "uniform": Uniform,
    "fair": Fair,
    "sandwich": Sandwich,
    "relaxed": Relaxed,
    "shiftnas": ShiftNAS,
    "sparse": Sparse,
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
    "Relaxed",
    "RelaxedOptions",
    "Sandwich",
    "ShiftNAS",
    "ShiftNASOptions",
    "Sparse",
    "SparseOptions",
    "Targeted",
    "Taught",
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
    """Makes a sampler by name.

    Args:
        name: a key of `SAMPLERS`, or `package.module:attribute`.
        space: the search space; like `costs` and `seed`, for a sampler with such a parameter.
        options: the sampler's options by name.
        costs: the cost tables of the space, by metric.
        seed: of what is drawn when it is made.

    Raises:
        ValueError: what `manyshot.plugins.build` says, and for a sampler that needs costs if there
            are none.
    """
    context = {"space": space, "seed": seed} | ({} if costs is None else {"costs": costs})
    return build("sampler", name, options, table=SAMPLERS, contract=Sampler, context=context)
