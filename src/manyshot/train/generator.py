"""ShiftNAS's architecture generator: from a cost target to one-hot policies of every decision."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manyshot.cost import CostTable
from manyshot.nn.initial import initialised
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.gumbel import check_temperature, gumbel, straight_through

Targets: TypeAlias = Sequence[float] | npt.NDArray[np.float64] | Tensor


class Decoded(NamedTuple):
    """What a generator decodes for N targets.

    Attributes:
        policies: for every decision, exact one-hots (N, options) with a gradient.
        entropy: (N,), in nats: the sum over decisions of the entropy of what each is drawn from.
    """

    policies: dict[Decision, Tensor]
    entropy: Tensor


@final
class ArchitectureGenerator(nn.Module):
    """An LSTM that decodes a cost target into one option per decision.

    M. Zhang et al. 2023, "ShiftNAS" (arXiv:2307.08300), sections 3.3 and 4.1: an LSTM cell with 64
    hidden units, and fully connected layers, 4 for its transformers and 10 for its convolutional
    networks. Ours is what the paper leaves open: the target enters as an embedding, interpolated
    between those of the two nearest targets of the grid; decisions come in the order of the space,
    and their index is embedded; each choice is fed back; layers are shared by decisions of one role
    (the last part of the name, without digits: `mb3.block0.kernel` and `mb4.block1.kernel`) and
    number of options. Decisions with one option are no step.

    Attributes:
        space: the space whose architectures it generates.
        grid: (K,) cost targets in float64, in the unit of the cost.
        keys: for every decision, which head it has; None for a decision with one option.
    """

    grid: Tensor

    def __init__(
        self,
        space: SearchSpace,
        grid: Targets,
        *,
        hidden: int = 64,
        generator: torch.Generator,
    ) -> None:
        """Makes a generator, initialised from `generator` alone.

        Embeddings are normal with standard deviation 0.1, the start is zero, other weights are
        drawn as torch does.

        Args:
            space: the space whose architectures are generated.
            grid: increasing cost targets, in the unit of the cost (MACs, say).
            hidden: units of the LSTM.
            generator: the random stream, on the CPU.

        Raises:
            ValueError: if the grid does not increase, or `hidden` is below one.
        """
        super().__init__()
        targets = torch.as_tensor(grid, dtype=torch.float64).clone()
        sound = targets.dim() == 1 and len(targets) > 0 and bool(targets.isfinite().all())
        if not sound or not (targets.diff() > 0).all():
            raise ValueError(
                "grid must be finite cost targets, each above the one before, got "
                f"{targets.tolist()}; sort them and drop repeats"
            )
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {hidden}; the paper has 64")
        self.space = space
        self.keys = tuple(head_key(d) if len(d.options) > 1 else None for d in space.decisions)
        steps = [(k, len(d.options)) for k, d in zip(self.keys, space.decisions, strict=True) if k]
        self.register_buffer("grid", targets)
        self.cond = nn.Parameter(_normal(len(targets), hidden, generator))
        self.start = nn.Parameter(torch.zeros(hidden))
        self.pos = nn.Parameter(_normal(len(steps), hidden, generator))
        self.cell = initialised(nn.LSTMCell(hidden, hidden, device="meta"), hidden, generator)
        self.heads = nn.ModuleDict()
        self.feed = nn.ModuleDict()
        for key, n in dict(steps).items():
            self.heads[key] = initialised(nn.Linear(hidden, n, device="meta"), hidden, generator)
        for key, n in dict(steps[:-1]).items():  # the last choice is not fed back
            linear = nn.Linear(n, hidden, bias=False, device="meta")
            self.feed[key] = initialised(linear, n, generator)
        self._warned = False

    def encode(self, targets: Targets) -> Tensor:
        """Cost targets (N,) as weights (N, K) of the two nearest of the grid; one-hot on the grid.

        A target outside the grid is taken as its nearest end, with a warning, the first time.

        Raises:
            ValueError: if a target is not finite.
        """
        wanted = torch.as_tensor(targets, dtype=torch.float64, device=self.grid.device)
        if wanted.dim() != 1 or not wanted.isfinite().all():
            raise ValueError(
                f"cost targets must be finite numbers, a list of them, got {wanted.tolist()}"
            )
        first, last = self.grid[0].item(), self.grid[-1].item()
        clamped = wanted.clamp(first, last)
        outside = wanted[wanted != clamped]
        if len(outside) and not self._warned:
            self._warned = True
            warnings.warn(
                f"cost target {outside[0].item():g} is outside the grid, {first:g} to {last:g}, "
                "and is taken as its end; further ones will be, in silence",
                stacklevel=2,
            )
        if len(self.grid) == 1:
            return self.cond.new_ones(len(wanted), 1)
        below = torch.searchsorted(self.grid[1:-1], clamped)
        low, high = self.grid[below], self.grid[below + 1]
        share = ((clamped - low) / (high - low)).to(self.cond.dtype).unsqueeze(1)
        weights = self.cond.new_zeros(len(wanted), len(self.grid))
        weights.scatter_(1, below.unsqueeze(1), 1 - share)
        return weights.scatter_(1, below.unsqueeze(1) + 1, share)

    def forward(
        self,
        o: Tensor,
        *,
        tau: float = 1.0,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> Decoded:
        """Policies of every decision for `encode`d targets, differentiable in `o` and the weights.

        Args:
            o: (N, K), one-hot or of any weights; its gradient is non-zero for all K.
            tau: temperature of the straight-through gradient; draws do not depend on it.
            greedy: the likeliest option of every decision, each given those before; else draws.
            generator: the random stream of the draws, which are made on its device.

        Raises:
            ValueError: for a shape other than (N, K), a temperature that is not positive, or draws
                without a generator.
        """
        check_temperature(tau)
        if o.dim() != 2 or o.shape[1] != len(self.grid):
            raise ValueError(
                f"o has shape {tuple(o.shape)}, not (N, {len(self.grid)}); make it with "
                "generator.encode(targets)"
            )
        if not greedy and generator is None:
            raise ValueError("draws need generator=torch.Generator(); or decode with greedy=True")
        with torch.autocast(o.device.type, enabled=False):
            return self._decode(o.to(self.cond.dtype), tau, None if greedy else generator)

    def _decode(self, o: Tensor, tau: float, generator: torch.Generator | None) -> Decoded:
        options = [len(d.options) for d in self.space.decisions if len(d.options) > 1]
        noise: Sequence[Tensor | None] = [None] * len(options)
        if generator is not None:
            drawn = gumbel((len(o), sum(options)), generator).to(o)
            noise = torch.split(drawn, options, dim=1)
        steps = zip((o @ self.cond + self.pos.unsqueeze(1)).unbind(0), noise, strict=True)
        policies: dict[Decision, Tensor] = {}
        logits: defaultdict[str, list[Tensor]] = defaultdict(list)
        state, fed = None, self.start
        for decision, key in zip(self.space.decisions, self.keys, strict=True):
            if key is None:
                policies[decision] = o.new_ones(len(o), 1)
                continue
            embedded, step_noise = next(steps)
            state = self.cell(embedded + fed, state)
            scores = self.heads[key](state[0])
            policies[decision] = straight_through(scores, step_noise, tau=tau)
            logits[key].append(scores)
            if key in self.feed:
                fed = self.feed[key](policies[decision])
        entropy = o.new_zeros(len(o))
        for alike in logits.values():
            log = torch.stack(alike).log_softmax(-1)
            entropy = entropy - (log.exp() * log).sum((0, 2))
        return Decoded(policies, entropy)

    def archs(self, policies: Mapping[Decision, Tensor]) -> list[Arch]:
        """The N architectures of policies (N, options): the greatest entry of each."""
        columns = [policies[decision].argmax(-1) for decision in self.space.decisions]
        return [tuple(row) for row in torch.stack(columns, dim=1).tolist()]


def head_key(decision: Decision) -> str:
    """What decisions that share a head have in common: role and number of options, `kernel_2`.

    The role is the last part of the name that is more than digits, without digits; dots separate.
    """
    parts = str(decision.name).split(".")
    words = ["".join(c for c in part if not c.isdigit()) for part in parts]
    return f"{next(filter(None, reversed(words)), '')}_{len(decision.options)}"


def resource_loss(costs: Tensor, targets: Tensor, step: float, dead_zone: float = 0.0) -> Tensor:
    """How far costs are from targets, ((F - C) / step)^2: (N,), in squared steps of the grid.

    ShiftNAS (arXiv:2307.08300, eq. 10) has (F - C)^2 and gives neither unit nor weight. Dividing by
    the step makes the weight free of units; with weight w, a task loss of slope s per step moves
    the optimum to C - s / 2w. With a dead zone z (ours) it is max(0, |F - C| / step - z)^2: nothing
    within z steps, so that a target does not ask all architectures around it to cost the same.

    Args:
        costs: F, (N,).
        targets: C, in the same shape.
        step: of the grid.
        dead_zone: in steps of the grid.

    Raises:
        ValueError: unless `step` is positive and finite and `dead_zone` at least zero, for
            differing shapes.
    """
    if costs.shape != targets.shape:
        raise ValueError(
            f"costs have shape {tuple(costs.shape)}, targets {tuple(targets.shape)}; give one "
            "target per cost"
        )
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step must be positive, the distance of two cost targets, got {step}")
    if not (math.isfinite(dead_zone) and dead_zone >= 0):
        raise ValueError(f"dead_zone must be at least 0 steps of the grid, got {dead_zone}")
    away = (costs - targets) / step
    return (away if dead_zone == 0 else (away.abs() - dead_zone).clamp(min=0)).square()


class Generated(NamedTuple):
    """An architecture for a limit.

    Attributes:
        arch: the architecture.
        cost: what it costs.
        decodes: how many times the generator decoded.
        within: whether the cost is within the limit.
        returned: options of it that were left out for good, as `decision = option`, because no
            architecture without them was within the limit.
    """

    arch: Arch
    cost: float
    decodes: int
    within: bool
    returned: tuple[str, ...] = ()


@torch.no_grad()
def generate(
    generator: ArchitectureGenerator, table: CostTable, limit: float, *, repairs: int = 5
) -> Generated:
    """The likeliest architecture for a cost limit, which needs no search (ShiftNAS, section 4.1).

    The paper decodes once. Ours: while that costs more than the limit, the target is lowered by the
    excess, but by at least an eighth of the grid's mean step (a small excess often decodes to the
    same architecture), and decoded again: at most `repairs` times, down to the grid's lowest
    target. If all cost more, the last is returned, not `within`; `sampled` is a way out.

    Args:
        generator: a trained one.
        table: the costs that the grid is in.
        limit: the highest cost allowed, which is also the first target.
        repairs: 0 decodes once, as the paper.

    Raises:
        ValueError: if the limit is not finite or `repairs` is negative.
    """
    if repairs < 0:
        raise ValueError(f"repairs must be at least 0, got {repairs}")
    limit = target = float(limit)
    lowest, highest = generator.grid[0].item(), generator.grid[-1].item()
    least = (highest - lowest) / max(len(generator.grid) - 1, 1) / 8
    arch, cost = _likeliest(generator, table, target)
    decodes = 1
    while cost > limit and target > lowest and decodes <= repairs:
        target = max(min(target, highest) - max(cost - limit, least), lowest)
        arch, cost = _likeliest(generator, table, target)
        decodes += 1
    return Generated(arch, cost, decodes, cost <= limit)


def _likeliest(
    generator: ArchitectureGenerator, table: CostTable, target: float
) -> tuple[Arch, float]:
    (arch,) = generator.archs(generator(generator.encode([target]), greedy=True).policies)
    return arch, table([arch])[0].item()


@torch.no_grad()
def sampled(
    generator: ArchitectureGenerator,
    table: CostTable,
    limit: float,
    *,
    draws: int = 64,
    rng: torch.Generator,
) -> list[Arch]:
    """Distinct architectures within a cost limit, of `draws` drawn for it; maybe none.

    For strict limits that `generate` does not meet: take the best by validation (ours).

    Raises:
        ValueError: if the limit is not finite or `draws` is below one.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    o = generator.encode([limit]).expand(draws, -1)
    archs = list(dict.fromkeys(generator.archs(generator(o, generator=rng).policies)))
    return [arch for arch, cost in zip(archs, table(archs), strict=True) if cost <= limit]


def _normal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.empty(rows, columns).normal_(0, 0.1, generator=generator)
