"""Samplers: which paths train next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyshot.cost import CostTable
from manyshot.plugins import build
from manyshot.space import Decision, SearchSpace
from manyshot.train.plan import Sampler
from manyshot.train.samplers.balanced import Balanced
from manyshot.train.samplers.complement import Complement
from manyshot.train.samplers.complexity import ComplexityDistribution, Grid
from manyshot.train.samplers.fixed_rules import Fair, Only, Sandwich, Uniform
from manyshot.train.samplers.greedy import Greedy
from manyshot.train.samplers.mct import MCTSampler
from manyshot.train.samplers.pada import PathImportance
from manyshot.train.samplers.relaxed import Relaxed
from manyshot.train.samplers.relaxed_options import RelaxedOptions
from manyshot.train.samplers.shift import Generates, ShiftNAS, Targeted, uniform_cost
from manyshot.train.samplers.shift_options import ShiftNASOptions
from manyshot.train.samplers.sparse import Sparse, SparseOptions
from manyshot.train.samplers.table import ConditionalTable
from manyshot.train.samplers.taught import Taught

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "complement": Complement,
    "uniform": Uniform,
    "fair": Fair,
    "balanced": Balanced,
    "sandwich": Sandwich,
    "relaxed": Relaxed,
    "shiftnas": ShiftNAS,
    "sparse": Sparse,
    "table": ConditionalTable,
    "uniform_cost": uniform_cost,
    "greedy": Greedy,
    "mct": MCTSampler,
    "pada": PathImportance,
}

__all__ = [
    "SAMPLERS",
    "Balanced",
    "Complement",
    "ComplexityDistribution",
    "ConditionalTable",
    "Fair",
    "Generates",
    "Greedy",
    "Grid",
    "MCTSampler",
    "Only",
    "PathImportance",
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
    widths: Sequence[Decision] | None = None,
    seed: int = 0,
) -> Sampler:
    """Makes a sampler by name.

    Args:
        name: a key of `SAMPLERS`, or `package.module:attribute`.
        space: the search space; like `costs`, `widths` and `seed`, for a sampler with such a
            parameter.
        options: the sampler's options by name.
        costs: the cost tables of the space, by metric.
        widths: its decisions about numbers of channels.
        seed: of what is drawn when it is made.

    Raises:
        ValueError: what `manyshot.plugins.build` says, and for a sampler that needs costs or widths
            if there are none.
    """
    known = {"costs": costs, "widths": widths}
    context = {"space": space, "seed": seed} | {k: v for k, v in known.items() if v is not None}
    return build("sampler", name, options, table=SAMPLERS, contract=Sampler, context=context)
