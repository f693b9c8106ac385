"""ShiftNAS: training shifts to the costs at which loss still falls; a generator makes the paths.

Zhang et al. 2023, "ShiftNAS: Improving One-shot NAS via Probability Shift", arXiv:2307.08300.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from manyshot.cost import CostTable
from manyshot.cost.policy import PolicyCost
from manyshot.seeding import numpy_rng, torch_generator
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.generator import (
    ArchitectureGenerator,
    Generated,
    generate,
    resource_loss,
    sampled,
)
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed
from manyshot.train.samplers.complexity import WINDOW, ComplexityDistribution, Grid
from manyshot.train.samplers.kept import Answers
from manyshot.train.samplers.members import Members
from manyshot.train.samplers.shift_options import ShiftNASOptions

MOVED, FASTEST = 5.0, 0.05
"""By default of the paper's rule: Adam's rate times the number of updates, about how far a logit
can move in all; and the largest such rate, for runs of few updates, which say little."""
DRAWS = 200
"""Per target, of which a report counts the distinct ones."""
ANNEAL, PROBED = 0.6, 8
"""By default: the share of the steps in which the dead zone and the entropy's weight shrink, and
how many architectures the pathwise estimator draws."""
PROBED_NETWORKS = 16
"""By so many architectures kept answers speak of a target; the turns of a period share them out."""
SETTLED, RECENT = 0.25, 0.9
"""The generator's draws are near their targets where their mean squared distance, in steps of the
grid, is below this; and the share of the old in that mean over its steps."""


@runtime_checkable
class Generates(Protocol):
    """A sampler whose final networks need no search.

    Attributes:
        metric: the cost whose limits it takes.
    """

    metric: str

    def generate(self, limit: float) -> Generated:
        """The architecture for a cost limit."""
        ...

    def sampled(self, limit: float, seed: int, draws: int = 64) -> list[Arch]:
        """Architectures within a cost limit, for where the generated one is not."""
        ...


@runtime_checkable
class Targeted(Protocol):
    """A sampler that is trained for certain costs, beyond which budgets are of no use.

    Attributes:
        grid: the targets.
    """

    grid: Grid


@final
class ShiftNAS:
    """The sampler of ShiftNAS: a learnt distribution over costs, and a generator of architectures.

    Every step draws a target cost and the generator decodes one architecture for it; the step moves
    the weights by the loss of the task, and the generator by that loss, through the masks, and by
    the resource loss. Every `period` weight steps after a warm-up the distribution moves by the
    changes of held-out loss since its last update: targets whose loss still falls are drawn more
    often. One path per step, no sandwich rule, no distillation, as in the paper.

    Reference: ShiftNAS (Zhang et al. 2023, arXiv:2307.08300). What it leaves open and is ours: how
    the generator is built (`ArchitectureGenerator`), the bounded rule and the enumerated estimator
    of the distribution (`ComplexityDistribution`), the unit of the resource loss (`resource_loss`),
    and that it is averaged over all targets. Ours too is what keeps steps cheap (`policy_share`,
    `policy_every`, `kept`) and the generator varied (`dead_zone`, `entropy_weight`, `mix_uniform`,
    `tau_end`); `ShiftNASOptions` says how the paper has it.

    Attributes:
        space: the search space.
        metric: the cost that targets are of.
        table: its table.
        grid: the targets.
        generator: from a target to policies; it stays on the CPU.
        distribution: over the targets.
        counts: how many steps were trained for each target, (K,).
        progress: how much of the weight steps is done, in [0, 1].
        distance: the mean squared distance of its draws from their targets, in squared steps of
            the grid, over the last steps of the generator; infinite before the first.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, CostTable],
        options: ShiftNASOptions | None = None,
        *,
        seed: int = 0,
        learn: bool = True,
    ) -> None:
        """A sampler of `space`.

        Args:
            space: the search space.
            costs: its cost tables by metric.
            options: see there; by default `ShiftNASOptions()`.
            seed: of the generator's weights, and of an automatic grid.
            learn: whether the distribution moves; see `uniform_cost`.

        Raises:
            ValueError: for an unknown metric, a grid out of reach, and what
                `ComplexityDistribution` and `ArchitectureGenerator` raise.
        """
        options = options or ShiftNASOptions()
        if options.metric not in costs:
            raise ValueError(
                f"no costs for metric {options.metric!r}, have {', '.join(sorted(costs))}; latency "
                "is measured where a budget of the recipe is on latency_ms"
            )
        self.space, self.options, self.metric = space, options, options.metric
        self.table = costs[options.metric]
        self.grid = Grid.given(options.grid, self.table, space, bins=options.bins or 8, seed=seed)
        self.cost = PolicyCost(self.table, space, form=options.cost_form)
        self._centres = torch.from_numpy(self.grid.centres)
        self.generator = ArchitectureGenerator(
            space,
            self.grid.centres.tolist(),
            hidden=options.hidden,
            generator=torch_generator(seed, "generator"),
        )
        self.distribution = ComplexityDistribution(
            len(self.grid),
            rule=options.rule,
            signal=options.signal,
            window=options.window or WINDOW,
            lr=options.distribution_lr,
            ema=options.ema,
            floor=options.floor,
            clip=math.inf if options.logit_clip == 0 else options.logit_clip,
        )
        self._seed = seed
        self.progress, self.distance = 0.0, math.inf
        kept = options.kept or ("weights" if options.estimator == "pathwise" else "answers")
        self._answers = Answers(options.period) if kept == "answers" else None
        self.probes = learn and len(self.grid) > 1
        self.clip_norm = options.clip_norm or None
        self.counts = torch.zeros(len(self.grid), dtype=torch.int64)
        self._target = 0  # of the last plan
        self._missed: float | None = None  # by the draws of the last plan, if the generator learns
        self._asked: _Asked | None = None
        self._news: dict[str, Any] | None = None

    # -- what trains next ------------------------------------------------------------------

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path for a drawn target; if the generator learns, with its losses as penalty."""
        options = self.options
        self._target, self._missed = self.distribution.sample(rng), None
        if options.mix_uniform and rng.random() < options.mix_uniform:
            arch = self.members.draw(self._target, rng)
            if arch is not None:
                return Plan((PlannedPath(arch),))
        targets, row = self._centres, self._target
        if options.jitter:
            off = (rng.random() - 0.5) * self.grid.step
            near = (self._centres[row] + off).clamp(self._centres[0], self._centres[-1])
            targets, row = torch.cat((targets, near.view(1))), len(targets)
        learns = self.settling or int(self.counts.sum()) % options.policy_every == 0
        if not (options.all_bins and learns):
            targets, row = targets[row : row + 1], 0
        with torch.set_grad_enabled(learns):
            decoded = self.generator(
                self.generator.encode(targets), tau=self.tau, generator=_generator(rng)
            )
        path = self._path(decoded.policies, row)
        if not learns:
            return Plan((PlannedPath(path.arch),))
        costs = self.cost(decoded.policies)
        left = self.annealed
        losses = resource_loss(costs, targets, self.grid.step, left * options.dead_zone)
        penalty = options.resource_weight * losses.mean()
        if left * options.entropy_weight:
            penalty = penalty - left * options.entropy_weight * decoded.entropy.mean()
        self._missed = float(resource_loss(costs.detach(), targets, self.grid.step).mean())
        return Plan((path,), penalty)

    @functools.cached_property
    def members(self) -> Members:
        """The architectures around each target, and how many there are."""
        return Members(self.space, self.table, self.grid, seed=self._seed)

    @functools.cached_property
    def probed(self) -> list[list[Arch]]:
        """The architectures by which kept answers speak of each target; the same in a whole run."""
        rng = numpy_rng(self._seed, "probed")
        return [self.members.spread(k, PROBED_NETWORKS, rng) for k in range(len(self.grid))]

    @property
    def settling(self) -> bool:
        """Whether the generator's draws are still far from their targets."""
        return not self.distance < SETTLED

    @property
    def annealed(self) -> float:
        """What is left of the dead zone and of the weight of the entropy, from 1 to 0."""
        anneal = ANNEAL if self.options.anneal is None else self.options.anneal
        return max(0.0, 1 - self.progress / anneal) if anneal else 0.0

    @property
    def tau(self) -> float:
        """The temperature now."""
        first, last = self.options.tau, self.options.tau_end
        return first if last is None else first * (last / first) ** self.progress

    def _path(self, policies: Mapping[Decision, Tensor], row: int) -> PlannedPath:
        own = {decision: policy[row] for decision, policy in policies.items()}
        [arch] = self.generator.archs({d: p.unsqueeze(0) for d, p in own.items()})
        return PlannedPath(
            arch, policy=own, masks=self.options.masks, policy_share=self.options.policy_share
        )

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam of the generator, without weight decay."""
        return torch.optim.Adam(self.generator.parameters(), self.options.lr)

    # -- the distribution ------------------------------------------------------------------

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Asks for the losses of architectures of all targets, for an update every `period` steps.

        Either of the likeliest, all at once, at these weights and those of the last update; or of
        `probed`, in parts of which each step of a period has some, to be compared with those of the
        period before.
        """
        options, self._asked = self.options, None
        self.progress = step / steps
        first = round(options.warmup * steps) or options.period  # weights are saved, for the next
        if self._answers is not None:
            first = max(first, options.period)  # answers are kept in the period that ends with it
        updates, since = max(0, steps - first) // options.period, step - first
        due = since > 0 and since % options.period == 0
        if step % options.period == 0 or step == steps or due:
            self._news = {}
        if self.probes and not updates and step == 1:
            warnings.warn(
                f"the distribution over costs will not move: {steps} weight steps, the first "
                f"{first} without it, have no {options.period} left to its first update; lower "
                "period or warmup, or train for longer",
                stacklevel=2,
            )
        if not self.probes:
            return None
        if due and options.rule == "paper" and options.distribution_lr is None:
            self.distribution.lr = min(FASTEST, MOVED / updates)
        if self._answers is not None:
            return self._turn(rng, since, updates) if updates else None
        if not (since == 0 or due):
            return None
        if since == 0:
            return Probe(save=True)
        self._asked = self._drawn(rng) if options.estimator == "pathwise" else self._listed(rng)
        return Probe(
            self._asked.paths,
            images=options.images,
            since=True,
            gradients=options.estimator == "pathwise",
            save=True,
        )

    def _turn(self, rng: np.random.Generator, since: int, updates: int) -> Probe | None:
        """The part of an update's probe that is of this step; the last ends with the last update.

        Args:
            rng: of the targets, where there are many.
            since: steps since the end of the first period that is asked about, whose answers are
                the first to compare with.
            updates: how many there will be.
        """
        options, answers = self.options, self._answers
        assert answers is not None
        if not -options.period < since <= updates * options.period:
            return None
        turn = (since - 1) % options.period + 1
        if turn == 1:
            answers.begin(
                self.distribution.strata(rng).tolist(), self.distribution.sampling_probabilities()
            )
        archs = [self.probed[k][turn % PROBED_NETWORKS] for k in answers.bins]
        self._asked = _Asked(tuple(map(PlannedPath, archs)), [], turn=turn)
        return Probe(
            self._asked.paths,
            images=options.images,
            which=0,
            turn=turn,
            turns=options.period,
        )

    def _listed(self, rng: np.random.Generator) -> _Asked:
        """The likeliest architecture of every target, or of a stratified part of many."""
        bins = self.distribution.strata(rng)
        with torch.no_grad():
            encoded = self.generator.encode(self._centres[torch.from_numpy(bins)])
            archs = self.generator.archs(self.generator(encoded, greedy=True).policies)
        return _Asked(tuple(map(PlannedPath, archs)), bins.tolist())

    def _drawn(self, rng: np.random.Generator) -> _Asked:
        """Draws of targets and of the generator for them, with the graph to the logits."""
        draws, noise = self.options.draws or PROBED, _generator(rng)
        one_hots, logits = self.distribution.straight_through(draws, noise)
        policies = self.generator(one_hots, tau=self.tau, generator=noise).policies
        paths = tuple(self._path(policies, row) for row in range(draws))
        return _Asked(paths, [], policies, logits)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Counts the target, and moves the distribution on the answer to its probe."""
        self.counts[self._target] += 1
        if self._missed is not None:
            old = self._missed if math.isinf(self.distance) else self.distance
            self.distance = RECENT * old + (1 - RECENT) * self._missed
        asked, self._asked = self._asked, None
        if probed is None or asked is None:
            return
        if asked.turn is not None:
            self._compare(asked.turn, probed)
        elif probed.before is not None and asked.logits is None:
            self._update(probed.losses, probed.losses - probed.before, asked.bins)
        elif probed.before is not None:
            self.distribution.update_from(asked.gradient(probed))
            deltas = probed.losses - probed.before
            self._news = {"update": True, "change": deltas.tolist()}

    def _compare(self, turn: int, probed: Probed) -> None:
        """Keeps the answer of a turn; after the last one of a period the distribution moves."""
        assert self._answers is not None
        self._answers.take(turn, probed)
        change = self._answers.change() if turn == self.options.period else None
        if change is not None:
            self._update(change.losses, change.deltas, change.bins, change.drawn)

    def _update(
        self, losses: Tensor, deltas: Tensor, bins: list[int], drawn: Tensor | None = None
    ) -> None:
        self.distribution.update(deltas, bins, drawn)
        self._news = {
            "update": True,
            "bins": bins,
            "held_out_loss": losses.tolist(),
            "change": deltas.tolist(),
            **self.distribution.evidence().plain(),
        }

    def report(self) -> dict[str, Any] | None:
        """Every `period` steps: probabilities, counts, state of the generator; news of updates.

        An update tells the changes of loss, and of the enumerated estimator what `Evidence` says.
        """
        news, self._news = self._news, None
        if news is None:
            return None
        return {
            "kind": "target costs",
            "metric": self.metric,
            "targets": self._centres.tolist(),
            "probabilities": self.distribution.probabilities().tolist(),
            "counts": self.counts.tolist(),
            **self.state_of_the_generator(),
            "bin_entropy_nats": list(self.members.entropy_nats),
            **news,
        }

    @torch.no_grad()
    def state_of_the_generator(self) -> dict[str, list[Any]]:
        """How well it meets every target, and how varied its draws are.

        By how many steps of the grid the likeliest architecture misses the target; how many of 200
        draws are distinct; and the entropy of what they are drawn from, in nats: the mean over
        draws of the entropies of their choices, each given those before.
        """
        encoded = self.generator.encode(self._centres)
        likeliest = self.generator(encoded, greedy=True)
        costs = torch.from_numpy(self.table(self.generator.archs(likeliest.policies)))
        errors = (costs - self._centres) / self.grid.step
        rng = torch_generator(self._seed, "draw")
        drawn = self.generator(encoded.repeat_interleave(DRAWS, 0), generator=rng)
        archs = self.generator.archs(drawn.policies)
        return {
            "error_grid_steps": errors.tolist(),
            "entropy_nats": drawn.entropy.view(-1, DRAWS).mean(1).tolist(),
            "distinct": [
                len(set(archs[first : first + DRAWS])) for first in range(0, len(archs), DRAWS)
            ],
        }

    # -- final networks --------------------------------------------------------------------

    def generate(self, limit: float) -> Generated:
        """The likeliest architecture for a cost limit, lowering the target where it costs more."""
        return generate(self.generator, self.table, limit)

    def sampled(self, limit: float, seed: int, draws: int = 64) -> list[Arch]:
        """Distinct architectures within a limit, of `draws`, for where `generate` misses it."""
        rng = torch_generator(seed, "draw")
        return sampled(self.generator, self.table, limit, draws=draws, rng=rng)

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The generator's weights, the distribution, answers to compare with, and the counts."""
        return {
            "generator": {k: v.clone() for k, v in self.generator.state_dict().items()},
            "distribution": self.distribution.state_dict(),
            "answers": self._answers and self._answers.state_dict(),
            "counts": self.counts.clone(),
            "progress": self.progress,
            "distance": self.distance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ValueError: if it is of another grid, or lacks an entry.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if self._answers is not None and state.get("answers") is None:
            missing.append("answers")
        if missing:
            raise ValueError(
                f"the sampler's state has no {missing[0]!r}, since it is of an earlier version of "
                "manyshot, or of another option kept"
            )
        grid = state["generator"]["grid"]
        if grid.shape != self._centres.shape or not torch.equal(grid, self._centres):
            raise ValueError(
                f"the sampler's state is of targets {grid.tolist()}, this one has "
                f"{self._centres.tolist()}: use the recipe it was trained with"
            )
        self.generator.load_state_dict(state["generator"])
        self.distribution.load_state_dict(state["distribution"])
        if self._answers is not None:
            self._answers.load_state_dict(state["answers"])
        self.counts.copy_(state["counts"])
        self.progress, self.distance = state["progress"], state["distance"]


@final
@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """A probe that is not answered yet.

    Attributes:
        paths: of the probe.
        bins: the targets that they are of, unless drawn.
        policies: of all draws, with their graph.
        logits: of the distribution, at the end of that graph.
        turn: which part of a period's images it is about, if these are spread over steps.
    """

    paths: tuple[PlannedPath, ...]
    bins: list[int]
    policies: Mapping[Decision, Tensor] | None = None
    logits: Tensor | None = None
    turn: int | None = None

    def gradient(self, probed: Probed) -> Tensor:
        """Of the mean change of loss in the logits, through policies and draws; (K,)."""
        assert self.policies is not None and self.logits is not None
        outputs = list(self.policies.values())
        grads = [
            torch.stack([own[decision] for own in probed.gradients]).to(policy)
            for decision, policy in self.policies.items()
        ]
        learnt = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
        policies, gradients = zip(*learnt, strict=True)
        [total] = torch.autograd.grad(policies, self.logits, gradients)
        return total / len(self.paths)


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))


def uniform_cost(
    space: SearchSpace,
    costs: Mapping[str, CostTable],
    options: ShiftNASOptions | None = None,
    *,
    seed: int = 0,
) -> ShiftNAS:
    """`ShiftNAS` with targets that stay uniform.

    Reference: ShiftNAS (Zhang et al. 2023, arXiv:2307.08300), section 4.3, whose baseline it is;
    all that `ShiftNAS` says to be ours is ours here too.
    """
    return ShiftNAS(space, costs, options, seed=seed, learn=False)
