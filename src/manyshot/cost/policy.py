"""The cost of policies: cost tables contracted with one vector per decision, differentiable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias, final, get_args

import numpy as np
import torch
from torch import Tensor

from manyshot.cost.tables import CostTable, Table
from manyshot.nn.policy import check_known
from manyshot.space import Arch, Decision, SearchSpace

CostForm: TypeAlias = Literal["exact", "additive"]


@final
class PolicyCost:
    """The cost of policies, linear in the policy of each decision, with its gradient.

    For one-hot policies it is the cost of their architecture, exactly; for probabilities, the
    expected cost of independent decisions. At one-hot policies dF/dp_i - dF/dp_j is the change of
    cost when a decision moves from option j to i and the others stay, also where the cost is
    quadratic in a size (the square of an expected size would not give that).

    The resource model of ShiftNAS (arXiv:2307.08300, eq. 10) is a sum over decisions. Costs are no
    such sum, as sizes multiply one another, so the exact form is ours. `additive` is the paper's,
    around the largest architecture a: F(a) + sum_d sum_i (F(a with option i of d) - F(a)) p_di; the
    largest leaves no block out, so that no decision of a block is without effect. The paper
    multiplies costs with cumulative masks, which gives the same only if they are increments from
    one option to the next: the full costs of options would be counted several times.
    """

    def __init__(self, table: CostTable, space: SearchSpace, *, form: CostForm = "exact") -> None:
        """Makes the cost of policies over the decisions of `space`.

        Args:
            table: a cost table of any metric; of a `LatencyTable` give its `table`.
            space: the space whose decisions are the keys of policies.
            form: `exact` or `additive` (see the class).

        Raises:
            ValueError: if the table is of another space, or for an unknown form.
        """
        counts = tuple(space.counts.tolist())
        if table.counts != counts or not counts:
            raise ValueError(
                f"{table.metric}: the table is of decisions with {table.counts} options, the space "
                f"has {counts}: make the table for this space, of at least one decision"
            )
        if form not in get_args(CostForm):
            raise ValueError(f"form must be one of {get_args(CostForm)}, got {form!r}")
        if form == "additive":
            table = _around(table, space.largest)
        self.space, self.metric = space, table.metric
        self._constant = float(table.constant)
        self._on = {torch.device("cpu"): _factors(table)}

    def __call__(self, policies: Mapping[Decision, Tensor]) -> Tensor:
        """Costs in float64: (N,) for policies (N, options), a scalar for policies (options,).

        Raises:
            ValueError: if a decision has no policy, a policy is of a decision that is not in the
                space, or shapes disagree.
        """
        vectors = self._vectors(policies)
        stacked = torch.cat(vectors, dim=-1).double()
        factors = self._factors(stacked.device)
        columns = stacked.view(-1, stacked.shape[-1]).t()  # (options of all decisions, N)
        pieces = iter(torch.split(columns.index_select(0, factors.rows), factors.lengths))
        total = stacked.new_full(columns.shape[1:], self._constant)
        for table, others in factors.groups:
            rest = table @ next(pieces).view(len(table), table.shape[-1], -1)
            for size in others:
                policy = next(pieces).view(len(table), 1, size, -1)
                rest = (rest.view(len(table), -1, size, rest.shape[-1]) * policy).sum(2)
            total = total + rest.sum((0, 1))
        return total.view(stacked.shape[:-1])

    def _vectors(self, policies: Mapping[Decision, Tensor]) -> list[Tensor]:
        check_known(policies, self.space.decisions)
        missing = [str(d.name) for d in self.space.decisions if d not in policies]
        if missing:
            raise ValueError(
                f"{self.metric}: no policy for {', '.join(missing)}; give one for every decision "
                "of the space (ones, where there is one option)"
            )
        vectors = [policies[d] for d in self.space.decisions]
        batch = vectors[0].shape[:-1]
        for decision, vector in zip(self.space.decisions, vectors, strict=True):
            if vector.shape != (*batch, len(decision.options)) or len(batch) > 1:
                raise ValueError(
                    f"{self.metric}: the policy of {decision.name} has shape "
                    f"{tuple(vector.shape)}; it must be (N, {len(decision.options)}) with one N "
                    f"for all decisions, or ({len(decision.options)},)"
                )
        return vectors

    def _factors(self, device: torch.device) -> _Factors:
        if device not in self._on:
            rows, lengths, groups = self._on[torch.device("cpu")]
            moved = [(table.to(device), others) for table, others in groups]
            self._on[device] = _Factors(rows.to(device), lengths, moved)
        return self._on[device]


class _Factors(NamedTuple):
    """Tables of one shape, stacked, and the policies that they are contracted with.

    Attributes:
        rows: entries of the concatenated policies: for every group, from its last axis to its
            first, the options of that axis' decision in each table.
        lengths: how many rows each axis of each group has.
        groups: tables (tables, cells, options of the last axis), and the options of the other
            axes, from the last to the first.
    """

    rows: Tensor
    lengths: list[int]
    groups: list[tuple[Tensor, list[int]]]


def _factors(cost: CostTable) -> _Factors:
    by_shape: defaultdict[tuple[int, ...], list[tuple[list[int], Table]]] = defaultdict(list)
    for positions, table in cost.tables.items():
        order = np.argsort(table.shape, kind="stable").tolist()  # longest last: contracted first
        turned = table.transpose(order)
        by_shape[turned.shape].append(([positions[axis] for axis in order], turned))
    ends = np.cumsum(cost.counts).tolist()
    rows: list[int] = []
    lengths: list[int] = []
    groups = []
    for shape, members in by_shape.items():
        for axis in reversed(range(len(shape))):
            for places, _ in members:
                end = ends[places[axis]]
                rows += range(end - shape[axis], end)
            lengths.append(len(members) * shape[axis])
        stacked = np.stack([table for _, table in members]).astype(np.float64)
        flat = torch.from_numpy(stacked).reshape(len(members), -1, shape[-1])
        groups.append((flat, [*reversed(shape[:-1])]))
    return _Factors(torch.tensor(rows, dtype=torch.int64), lengths, groups)


def _around(cost: CostTable, reference: Arch) -> CostTable:
    """The cost table that sums the changes which single decisions make to `reference`."""
    base = cost([reference])[0]
    tables: dict[tuple[int, ...], Table] = {}
    for position, count in enumerate(cost.counts):
        before, after = reference[:position], reference[position + 1 :]
        tables[position,] = cost([(*before, option, *after) for option in range(count)]) - base
    return CostTable(cost.metric, cost.counts, base.item(), tables)
