"""The differentiable family: options are mixed by weights that learn by gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.cost import CostTable
from manyshot.cost.policy import PolicyCost
from manyshot.nn.policy import MaskMode
from manyshot.seeding import torch_generator
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.generator import Generated
from manyshot.train.parts import Parts
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed
from manyshot.train.pruning import Pruning
from manyshot.train.relaxation import ESTIMATORS, Logs, likeliest_within, log_weights
from manyshot.train.samplers.relaxed_options import RelaxedOptions

BAND = 0.95
"""The expected cost may lie between this share of its target and the target (TAS)."""


@final
class Relaxed:
    """Logits of options that learn by gradient while the weights do; DARTS and what followed it.

    A method is a choice of parts: how weights come from logits (`estimator`), what logits learn
    from (`schedule`), what is added to their loss (`cost_weight`, `entropy_weight`), what keeps
    them from collapsing (`warmup`, `skip`, `edges`, `prune`), and which decisions do not learn
    (`summed`). Every path runs all options that have a weight, so that memory and time of a choice
    block are those of all its options together; `hard` runs one. Final architectures have the
    largest weights within a budget (`search.name = "generator"`), which are then scored and
    finished as any other: what is lost by that is the discretisation gap.

    References: Liu et al. 2019, DARTS (arXiv:1806.09055): softmax, `bilevel` and `unrolled`, Adam
    and its rates; by its public code `summed`. Dong & Yang 2019, GDAS (arXiv:1910.04465): `hard`,
    with a temperature that falls. Xu et al. 2020, PC-DARTS (arXiv:1907.05737): `edges` and
    `partial`. Chu et al. 2021, DARTS- (arXiv:2009.01027): `skip`. Bi et al. 2020, GOLD-NAS
    (arXiv:2007.03331): `sigmoid`, `one_level`, `prune` and its schedule (`manyshot.train.pruning`).
    Dong & Yang 2019, TAS (arXiv:1905.09717): `two` and `cost_target`. Wan et al. 2020, FBNetV2
    (arXiv:2004.05565): `gumbel` over masks of sizes. Ours: logits learn after a step of the
    weights, not before; their held-out loss is that of the network in eval mode, normalised by the
    batch; the unrolled step is without momentum; sizes are mixed by masks everywhere, where TAS
    interpolates channels; how budgets are met (`likeliest_within`).

    Attributes:
        logits: (options of all decisions,), one decision after the other.
        progress: the share of the weight steps that are done.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, CostTable],
        options: RelaxedOptions | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """A sampler of `space`.

        Args:
            space: the search space.
            costs: its cost tables by metric.
            options: see there; by default those of DARTS.
            seed: of the first logits.

        Raises:
            ValueError: for an unknown metric, a name of an option or decision that the space does
                not have, options all of which are excluded, or decisions to be summed whose options
                are no sets.
        """
        self.options = options = options or RelaxedOptions()
        if options.metric not in costs:
            raise ValueError(
                f"no costs for metric {options.metric!r}, have {', '.join(sorted(costs))}"
            )
        self.space, self.metric, self.table = space, options.metric, costs[options.metric]
        self._cost = PolicyCost(self.table, space)
        self._most = float(self.table.range()[1])
        self._counts = space.counts.tolist()
        rng = torch_generator(seed, "logits")
        first = options.spread * torch.randn(sum(self._counts), generator=rng)
        self.logits = nn.Parameter(first)
        self._groups = self._edges(space)
        self._edge_logits = nn.Parameter(torch.zeros(sum(map(len, self._groups))))
        self._sets = self._summed(space)
        self._partial = {
            space.decisions[i]: parts
            for pattern, parts in options.partial.items()
            for i in self._matching(pattern, "partial")
        }
        self._skips = self._named(options.skip, "skip") if options.skip is not None else None
        self._excluded = torch.zeros(sum(self._counts), dtype=torch.bool)
        for name in options.exclude:
            self._excluded |= self._named(name, "exclude")
        if any(bool(each.all()) for each in self._split(self._excluded)):
            raise ValueError(f"exclude = {list(options.exclude)} leaves a decision no option")
        self._pruning = Pruning(options.prune, options.cost_weight) if options.prune else None
        self.alive = torch.ones(sum(self._counts), dtype=torch.bool)
        self.masks: MaskMode
        if options.estimator == "hard":
            self.masks = "full" if options.others else "active"
        else:
            self.masks = "interpolated" if options.widths == "interpolated" else "mixed"
        self.progress, self._news = 0.0, False
        self.probes = options.schedule != "one_level"
        self.unrolls = options.schedule == "unrolled"
        self.clip_norm: float | None = None
        self._apart = None if options.schedule == "one_level" else self._adam()
        self._asked: dict[Decision, Tensor] | None = None

    def _named(self, name: str, option: str) -> Tensor:
        """Where an option of a name is among all options."""
        names = [str(each) for d in self.space.decisions for each in d.options]
        if name not in names:
            raise ValueError(
                f"{option} = {name!r}: it is no option of this space, which has "
                f"{', '.join(dict.fromkeys(names))}"
            )
        return torch.tensor([each == name for each in names])

    def _edges(self, space: SearchSpace) -> list[list[int]]:
        """The positions of decisions in groups, as the option `edges` names them."""
        at = {str(decision.name): i for i, decision in enumerate(space.decisions)}
        named = [name for group in self.options.edges for name in group]
        for name in named:
            if name not in at:
                raise ValueError(f"edges name {name!r}; decisions are {', '.join(at)}")
            if named.count(name) > 1:
                raise ValueError(f"edges name {name!r} {named.count(name)} times: once is allowed")
        return [[at[name] for name in group] for group in self.options.edges]

    def _summed(self, space: SearchSpace) -> dict[int, Parts]:
        """The parts of decisions that do not learn, by position."""
        at = [i for pattern in self.options.summed for i in self._matching(pattern, "summed")]
        return {i: Parts.of(space, space.decisions[i]) for i in at}

    def _matching(self, pattern: str, option: str) -> list[int]:
        """The positions of decisions whose names match."""
        names = [str(decision.name) for decision in self.space.decisions]
        at = [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
        if not at:
            raise ValueError(
                f"{option} = {pattern!r}: no decision has such a name; they are {', '.join(names)}"
            )
        return at

    def _parameters(self) -> list[nn.Parameter]:
        return [self.logits, *([self._edge_logits] if self._groups else [])]

    def _adam(self) -> torch.optim.Adam:
        first, second = self.options.betas
        return torch.optim.Adam(
            self._parameters(),
            self.options.lr,
            betas=(first, second),
            weight_decay=self.options.weight_decay,
        )

    def _split(self, of_all: Tensor) -> tuple[Tensor, ...]:
        """What is of all options, by decision."""
        return torch.split(of_all, self._counts)

    # -- weights ---------------------------------------------------------------------------

    @property
    def tau(self) -> float:
        """The temperature now."""
        first, last = self.options.tau, self.options.tau_end
        return first if last is None else first + (last - first) * self.progress

    @property
    def skip_weight(self) -> float:
        """What is added now to the weight of the option that does nothing."""
        return self.options.skip_weight * (1 - self.progress)

    def mixture(self, generator: torch.Generator) -> dict[Decision, Tensor]:
        """The weights of all options as they are now, with a gradient in the logits.

        Args:
            generator: where an estimator that draws takes its noise from.
        """
        estimate = ESTIMATORS[self.options.estimator]
        logits = self.logits.masked_fill(~self.alive, -math.inf)
        parts = [estimate(each, self.tau, generator) for each in self._split(logits)]
        for i, share in self._edge_shares().items():
            parts[i] = share * parts[i]
        for i, sets in self._sets.items():
            parts[i] = torch.full_like(parts[i], sets.weight)
        if self._skips is not None:
            skips = self._split(self._skips)
            parts = [p + self.skip_weight * s for p, s in zip(parts, skips, strict=True)]
        return dict(zip(self.space.decisions, parts, strict=True))

    def settled(self) -> PlannedPath | None:
        """A path with the weights that mix options at the end, without draws; None if one runs."""
        if self.options.estimator == "hard":
            return None
        parts = self.probabilities()
        for i, share in self._edge_shares().items():
            parts[i] = share.detach() * parts[i]
        for i, sets in self._sets.items():
            parts[i] = torch.full_like(parts[i], sets.weight)
        mixture = dict(zip(self.space.decisions, parts, strict=True))
        return self._path(mixture)

    def _edge_shares(self) -> dict[int, Tensor]:
        """What the weights of decisions in groups of edges are multiplied by, by position."""
        return {
            i: share
            for group, each in zip(self._groups, self._by_group(), strict=True)
            for i, share in zip(group, each.softmax(0) * len(group), strict=True)
        }

    def _by_group(self) -> Sequence[Tensor]:
        return torch.split(self._edge_logits, list(map(len, self._groups))) if self._groups else ()

    def probabilities(self, pruned: bool = False) -> list[Tensor]:
        """Softmax of every decision's logits, or their sigmoids; nothing is drawn or added.

        Of decisions whose sets are summed, it is how strong the parts of a set are together.

        Args:
            pruned: also of options that were left out for good, which else have zero.
        """
        estimate = ESTIMATORS["sigmoid" if self.options.estimator == "sigmoid" else "softmax"]
        gone = torch.zeros_like(self.alive) if pruned else ~self.alive
        logits = self.logits.detach().masked_fill(gone, -math.inf)
        each = [estimate(one, 1.0, torch.Generator()) for one in self._split(logits)]
        if self._sets:
            allowed = torch.cat(each).masked_fill(self._excluded, 0.0)
            strongest = [float(one.max()) for one in self._split(allowed)]
            for i, share in self._edge_shares().items():
                strongest[i] *= float(share.detach())
            for i, sets in self._sets.items():
                each[i] = sets.shares(torch.tensor([strongest[part] for part in sets.members]))
        return each

    def penalty(self, mixture: Mapping[Decision, Tensor]) -> Tensor | None:
        """What costs and entropy add to the loss of logits; None if nothing."""
        options, total = self.options, None
        weight = options.cost_weight if self._pruning is None else self._pruning.weight
        if weight and self.undecided:
            share = self._cost(mixture) / self._most
            now, target = float(share.detach()), options.cost_target
            if target is None:
                total = weight * share
            elif not BAND * target <= now <= target:
                total = math.copysign(weight, now - target) * share.log()
        if options.entropy_weight:
            learnt = (e for i, e in enumerate(self._split(self.logits)) if i not in self._sets)
            softmaxes = [e.log_softmax(0) for e in learnt]
            entropy = torch.stack([-(e.exp() * e).sum() for e in softmaxes]).mean()
            added = options.entropy_weight * entropy
            total = added if total is None else total + added
        return total

    @property
    def undecided(self) -> bool:
        """Whether a decision has several options left, so that a price of costs can still choose.

        Without that it would only make the last weights small, until batch norms see nothing.
        """
        return int(self.alive.sum()) > len(self._counts)

    @property
    def rests(self) -> bool:
        """Whether logits do not learn yet."""
        return self.progress < self.options.warmup

    # -- the loop --------------------------------------------------------------------------

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path that mixes all options, or, drawn hard, one architecture."""
        learns = self._apart is None and not self.rests
        with torch.set_grad_enabled(learns):
            mixture = self.mixture(_generator(rng))
        arch = self._arch(mixture)
        if self.options.estimator == "hard" and not learns:
            return Plan((PlannedPath(arch),))
        return Plan((self._path(mixture),), self.penalty(mixture) if learns else None)

    def _path(self, mixture: Mapping[Decision, Tensor]) -> PlannedPath:
        """A path that mixes options by weights, of which an architecture is only named."""
        partial = self._partial or None
        return PlannedPath(self._arch(mixture), policy=mixture, masks=self.masks, partial=partial)

    def _arch(self, mixture: Mapping[Decision, Tensor]) -> Arch:
        return tuple(int(mixture[decision].argmax()) for decision in self.space.decisions)

    def optimizer(self) -> torch.optim.Optimizer | None:
        """Adam of the logits, where they learn with the weights."""
        return self._adam() if self._apart is None else None

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Asks for the gradient of the held-out loss in the weights of options."""
        self.progress, self._asked = step / steps, None
        self._news = step % self.options.period == 0 or step == steps
        if self._pruning is not None and step % self.options.prune_every == 0 and not self.rests:
            each = enumerate(self.probabilities())
            weights = torch.cat([p + (i in self._sets) for i, p in each])  # no set is left out
            self.alive = self._pruning.round(weights, self.alive, self._counts, self._excluded)
        if self._apart is None or self.rests or step % self.options.every:
            return None
        self._asked = self.mixture(_generator(rng))
        path = self._path(self._asked)
        images = self.options.images
        return Probe((path,), images=images, gradients=True, unrolled=self.unrolls)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Moves the logits by the gradient that was asked for."""
        asked, self._asked = self._asked, None
        if probed is None or asked is None or self._apart is None:
            return
        [gradients] = probed.gradients
        outputs = [(asked[d], gradients[d].to(asked[d])) for d in asked if asked[d].requires_grad]
        penalty = self.penalty(asked)
        if penalty is not None:
            outputs.append((penalty, torch.ones_like(penalty)))
        tensors, grads = zip(*outputs, strict=True)
        torch.autograd.backward(tensors, grads)
        self._apart.step()
        self._apart.zero_grad(set_to_none=True)

    def report(self) -> dict[str, Any] | None:
        """Every `period` steps: the weights of options without draws, and what schedules say."""
        if not self._news:
            return None
        self._news = False
        return {
            "kind": "options",
            "decisions": [str(decision.name) for decision in self.space.decisions],
            "weights": [each.tolist() for each in self.probabilities()],
            "tau": self.tau,
            "skip_weight": 0.0 if self._skips is None else self.skip_weight,
            "cost_weight": (
                self.options.cost_weight if self._pruning is None else self._pruning.weight
            ),
            "edge_weights": [each.softmax(0).tolist() for each in self._by_group()],
            "options_left": int(self.alive.sum()),
        }

    # -- final architectures ---------------------------------------------------------------

    def log_weights(self, archs: Sequence[Arch]) -> list[float]:
        """The order of architectures by what was learnt (see `OrdersByWeights`)."""
        return log_weights(self.space, self.probabilities(), archs)

    def generate(self, limit: float) -> Generated:
        """The architecture of the largest weights within a cost limit.

        Options that were left out for good come back where none without them is within it, and
        `returned` names them.
        """
        logs = self._logs(pruned=False)
        arch = likeliest_within(logs, self.table, limit)
        if self.table([arch])[0] > limit:
            arch = likeliest_within(self._logs(pruned=True), self.table, limit)
        cost = float(self.table([arch])[0])
        active = self.space.active(arch)
        returned = tuple(
            f"{decision.name} = {decision.options[option]}"
            for i, (decision, option) in enumerate(zip(self.space.decisions, arch, strict=True))
            if active[i] and logs[i][option] == -math.inf
        )
        return Generated(arch, cost, 1, cost <= limit, returned)

    def _logs(self, *, pruned: bool) -> list[Logs]:
        """The logarithms of the weights of each decision's options; see `probabilities`."""
        weights = torch.cat(self.probabilities(pruned)).masked_fill(self._excluded, 0.0)
        return [each.numpy() for each in self._split(weights.double().log())]

    def sampled(self, limit: float, seed: int, draws: int = 64) -> list[Arch]:
        """Distinct architectures within a limit, of `draws` by the weights of options."""
        each = torch.cat(self.probabilities()).masked_fill(self._excluded, 0.0)
        rng = torch_generator(seed, "draw")
        columns = [e.multinomial(draws, True, generator=rng) for e in self._split(each)]
        archs = [tuple(arch) for arch in torch.stack(columns, 1).tolist()]
        within = self.table(archs) <= limit
        return list(dict.fromkeys(a for a, fits in zip(archs, within, strict=True) if fits))

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Logits, what moves them apart from the weights, what is left out, and schedules."""
        return {
            "logits": self.logits.detach().clone(),
            "edges": self._edge_logits.detach().clone(),
            "alive": self.alive.clone(),
            "adam": self._apart and self._apart.state_dict(),
            "pruning": self._pruning and self._pruning.state_dict(),
            "progress": self.progress,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ValueError: if it is of another space, or lacks an entry.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"the sampler's state has no {missing[0]!r}")
        if state["logits"].shape != self.logits.shape:
            raise ValueError(
                f"the sampler's state is of {len(state['logits'])} options, this space has "
                f"{len(self.logits)}: use the recipe it was trained with"
            )
        self.logits.copy_(state["logits"])
        self._edge_logits.copy_(state["edges"])
        self.alive = state["alive"].clone()
        if self._apart is not None:
            self._apart.load_state_dict(state["adam"])
        if self._pruning is not None:
            self._pruning.load_state_dict(state["pruning"])
        self.progress = state["progress"]


def _generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**63)))
