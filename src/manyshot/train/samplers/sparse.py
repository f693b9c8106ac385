"""Sparse coding: options are mixed by codes of few non-zero entries, which learn compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple, final

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from manyshot.cost import CostTable
from manyshot.plugins import STRICT, AboveZero, AtLeastZero, Positive, Share
from manyshot.seeding import torch_generator
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.train.generator import Generated
from manyshot.train.parts import Parts
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed
from manyshot.train.relaxation import likeliest_within, log_weights
from manyshot.train.sparse_coding import sparse_code


@final
@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class SparseOptions:
    """The options of `Sparse`; the defaults are those of the authors' code."""

    sets: Sequence[str] = ()
    """Names of decisions between sets of parts, or patterns such as `*.inputs*`: the options of all
    parts have one code together. Every other decision between options has its own."""

    exclude: Sequence[str] = ()
    """Names of options that no architecture has, such as `none`."""

    dims: Positive = 7
    """How many numbers a code is compressed to, which are what learns."""

    penalty: AboveZero = 1e-5
    """Of the sum of absolute entries, when a code is recovered."""

    every: Positive = 100
    """Codes are recovered after every so many weight steps; the paper does after each epoch."""

    lr: AboveZero = 6e-4
    """The rate of Adam for compressed codes."""

    betas: Annotated[Sequence[Share], Field(min_length=2, max_length=2)] = (0.5, 0.999)
    """Of that Adam."""

    weight_decay: AtLeastZero = 1e-3
    """Likewise, added to the gradient."""

    spread: AboveZero = 1e-3
    """The standard deviation of compressed codes at first."""

    images: Positive = 64
    """They learn on so many held-out images after each weight step, others each time."""

    metric: str = "macs"
    """The cost that budgets are of."""


class _Unit(NamedTuple):
    """What has one code: the parts of the sets of a decision, or a decision by itself.

    Attributes:
        members: the positions of the decisions whose options are its entries.
        sets: which parts an option of the deciding one holds, (options, parts).
        chooses: the position of that decision; None without.
        allowed: which entries an architecture may have.
    """

    members: tuple[int, ...]
    sets: Tensor
    chooses: int | None
    allowed: Tensor


@final
class Sparse:
    """Codes of options of which few entries are not zero, so that what is mixed is what is chosen.

    The weights of the options of all edges into a node are a code z, the solution of a LASSO,
    min |A z - b|^2 / 2 + penalty |z|_1, with a dictionary A of uniform entries that stays as it is;
    b, which has few numbers, learns by Adam from the loss on held-out images. Between two
    recoveries the chosen entries S, and no others, have weights A_S' b - (A_S' A_S - 1) z_S, whose
    gradient goes to b; all others are zero, and what has weight zero does not run: a step costs
    what one architecture does. Final architectures have the chosen entries (`search.name =
    "generator"`).

    Reference: Yang et al. 2020, ISTA-NAS (arXiv:2010.06176), two stages, by its abstract and its
    public code (iboing/ISTA-NAS): the problem, the dictionary, weights between recoveries, Adam and
    its rates, dims and penalty. Ours: a number is chosen at weight one, with the gradient of its
    entry, as weights of sizes have to sum to one; FISTA in place of a commercial solver; a node's
    two largest entries are of different edges, where the code allows two of one; decisions that are
    no parts of sets have codes by themselves; b learns after a step of the weights, not before; how
    a budget is met. Their one stage, in which weights go on to be the final network's, is left out.
    """

    probes = True
    clip_norm: float | None = None

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, CostTable],
        options: SparseOptions | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """A sampler of `space`, whose codes are recovered for the first time.

        Args:
            space: the search space.
            costs: its cost tables by metric.
            options: see there; by default those of the authors' code.
            seed: of dictionaries, and of compressed codes at first.

        Raises:
            ValueError: for an unknown metric, names that the space does not have, or options all of
                which are excluded.
        """
        self.options = options = options or SparseOptions()
        if options.metric not in costs:
            have = ", ".join(sorted(costs))
            raise ValueError(f"metric = {options.metric!r}: there are no such costs, have {have}")
        self.space, self.metric, self.table = space, options.metric, costs[options.metric]
        self._units = self._made_units()
        rng = torch_generator(seed, "dictionaries")
        sizes = [len(unit.allowed) for unit in self._units]
        self._dictionaries = [
            torch.rand(options.dims, size, generator=rng, dtype=torch.float64) for size in sizes
        ]
        first = torch.randn(len(sizes), options.dims, generator=rng, dtype=torch.float64)
        self.compressed = nn.Parameter(options.spread * first)
        first_beta, second_beta = options.betas
        self._adam = torch.optim.Adam(
            [self.compressed],
            options.lr,
            betas=(first_beta, second_beta),
            weight_decay=options.weight_decay,
        )
        self._asked: dict[Decision, Tensor] | None = None
        self._news: dict[str, Any] | None = None
        self.codes = self._recovered()

    def _made_units(self) -> list[_Unit]:
        names = [str(decision.name) for decision in self.space.decisions]
        held: dict[int, Parts] = {}
        for pattern in self.options.sets:
            at = [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
            if not at:
                raise ValueError(
                    f"sets = {pattern!r}: no decision has such a name; they are {', '.join(names)}"
                )
            held |= {i: Parts.of(self.space, self.space.decisions[i]) for i in at}
        known = {str(option) for d in self.space.decisions for option in d.options}
        for name in self.options.exclude:
            if name not in known:
                listed = ", ".join(sorted(known))
                raise ValueError(f"exclude = {name!r}: there is no such option, have {listed}")
        inside = {member for parts in held.values() for member in parts.members}
        alone = [i for i in range(len(names)) if i not in held and i not in inside]
        one = torch.ones(1, 1, dtype=torch.bool)
        units = [_Unit(p.members, p.holds, i, self._allowed(p.members)) for i, p in held.items()]
        return units + [_Unit((i,), one, None, self._allowed((i,))) for i in alone]

    def _allowed(self, members: Sequence[int]) -> Tensor:
        allowed = []
        for i in members:
            decision = self.space.decisions[i]
            each = [str(option) not in self.options.exclude for option in decision.options]
            if not any(each):
                excluded = list(self.options.exclude)
                raise ValueError(f"exclude = {excluded}: {decision.name!r} is left no option")
            allowed += each
        return torch.tensor(allowed)

    # -- codes -----------------------------------------------------------------------------

    def _recovered(self) -> list[Tensor]:
        """The codes whose compressed forms are what is learnt now."""
        pairs = zip(self._dictionaries, self.compressed.detach(), strict=True)
        return [sparse_code(a, b, self.options.penalty) for a, b in pairs]

    def _split(self, unit: _Unit, of_unit: Tensor) -> tuple[Tensor, ...]:
        return torch.split(of_unit, [len(self.space.decisions[i].options) for i in unit.members])

    def _strengths(self, unit: _Unit, code: Tensor) -> list[Tensor]:
        """How large the entries of each part are, of which none is zero but what is excluded."""
        sizes = (code.abs() + self.options.penalty).masked_fill(~unit.allowed, 0.0)
        return list(self._split(unit, sizes))

    def _chosen(self, unit: _Unit, code: Tensor) -> tuple[int, list[int], list[int]]:
        """The set whose parts are largest together, its parts, and their largest entries."""
        parts = self._strengths(unit, code)
        largest = torch.stack([part.max() for part in parts])
        option = int(torch.stack([largest[row].sum() for row in unit.sets]).argmax())
        held = unit.sets[option].nonzero()[:, 0].tolist()
        return option, held, [int(parts[i].argmax()) for i in held]

    def mixture(self) -> dict[Decision, Tensor]:
        """The weights of all options as they are now, with a gradient in `compressed`."""
        weights = [
            torch.eye(len(d.options), dtype=torch.float64)[0] for d in self.space.decisions
        ]  # what is not chosen does not run, whatever its own weights are
        units = zip(self._units, self._dictionaries, self.compressed, self.codes, strict=True)
        for unit, dictionary, target, code in units:
            option, parts, entries = self._chosen(unit, code)
            sizes = [len(self.space.decisions[i].options) for i in unit.members]
            at = [sum(sizes[:i]) + entry for i, entry in zip(parts, entries, strict=True)]
            some, entry_values = dictionary[:, at], code[at]
            step = some.T @ target - some.T @ some @ entry_values + entry_values
            for i, entry, value in zip(parts, entries, step, strict=True):
                one = torch.eye(sizes[i], dtype=torch.float64)[entry]
                if self.space.decisions[unit.members[i]].is_number:
                    value = 1 + value - value.detach()  # noqa: PLW2901
                weights[unit.members[i]] = value * one
            if unit.chooses is not None:
                options = len(self.space.decisions[unit.chooses].options)
                weights[unit.chooses] = torch.eye(options, dtype=torch.float64)[option]
        return {d: w.float() for d, w in zip(self.space.decisions, weights, strict=True)}

    def architecture(self) -> Arch:
        """The chosen options; of parts that are not chosen their largest entries."""
        return tuple(int(each.argmax()) for each in self._shares())

    def _shares(self) -> list[Tensor]:
        """By decision how large entries are, and the parts of sets together; each sums to one."""
        shares = [torch.ones(1, dtype=torch.float64)] * len(self.space)
        for unit, code in zip(self._units, self.codes, strict=True):
            parts = self._strengths(unit, code)
            for i, part in zip(unit.members, parts, strict=True):
                shares[i] = part / part.sum()
            if unit.chooses is not None:
                largest = torch.stack([part.max() for part in parts])
                together = torch.stack([largest[row].sum() for row in unit.sets])
                shares[unit.chooses] = together / together.sum()
        return shares

    # -- the loop --------------------------------------------------------------------------

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """One path, of the chosen options at their weights."""
        with torch.no_grad():
            return Plan((self._path(self.mixture()),))

    def _path(self, mixture: Mapping[Decision, Tensor]) -> PlannedPath:
        return PlannedPath(self.architecture(), policy=mixture, masks="mixed")

    def optimizer(self) -> torch.optim.Optimizer | None:
        """None: compressed codes learn from probes."""
        return None

    def probe(self, rng: np.random.Generator, step: int, steps: int) -> Probe | None:
        """Recovers codes when it is time, and asks for the gradient of the held-out loss."""
        if step % self.options.every == 0:
            before, self.codes = (self.architecture(), self.codes), self._recovered()
            moved = [float((a - b).norm()) for a, b in zip(self.codes, before[1], strict=True)]
            pairs = zip(self.architecture(), before[0], strict=True)
            changed = sum(new != old for new, old in pairs)
            self._news = {"kind": "codes", "options_changed": changed, "largest_move": max(moved)}
        self._asked = self.mixture()
        return Probe((self._path(self._asked),), images=self.options.images, gradients=True)

    def feedback(self, plan: Plan, losses: Sequence[Tensor], probed: Probed | None = None) -> None:
        """Moves compressed codes by the gradient that was asked for."""
        asked, self._asked = self._asked, None
        if probed is None or asked is None:
            return
        [gradients] = probed.gradients
        learnt = [d for d, weights in asked.items() if weights.requires_grad]
        torch.autograd.backward(
            [asked[d] for d in learnt], [gradients[d].to(asked[d]) for d in learnt]
        )
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def report(self) -> dict[str, Any] | None:
        """After each recovery, how many options it changed."""
        news, self._news = self._news, None
        return news

    def settled(self) -> PlannedPath | None:
        """The path with the weights of the chosen options as they are now."""
        with torch.no_grad():
            return self._path(self.mixture())

    # -- final architectures ---------------------------------------------------------------

    def log_weights(self, archs: Sequence[Arch]) -> list[float]:
        """The order of architectures by the sizes of entries (see `OrdersByWeights`)."""
        return log_weights(self.space, self._shares(), archs)

    def generate(self, limit: float) -> Generated:
        """The chosen options, or others of large entries where these cost more than a limit."""
        logs = [each.log().numpy() for each in self._shares()]
        arch = likeliest_within(logs, self.table, limit)
        cost = float(self.table([arch])[0])
        return Generated(arch, cost, 1, cost <= limit)

    def sampled(self, limit: float, seed: int, draws: int = 64) -> list[Arch]:
        """Distinct architectures within a limit, of `draws` by the sizes of entries."""
        rng = torch_generator(seed, "draw")
        columns = [e.multinomial(draws, True, generator=rng) for e in self._shares()]
        archs = [tuple(arch) for arch in torch.stack(columns, 1).tolist()]
        within = self.table(archs) <= limit
        return list(dict.fromkeys(a for a, fits in zip(archs, within, strict=True) if fits))

    # -- state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Codes, what they are compressed to, and what moves that."""
        return {
            "compressed": self.compressed.detach().clone(),
            "codes": [code.clone() for code in self.codes],
            "adam": self._adam.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`.

        Raises:
            ValueError: if it is of another space or other dims, or lacks an entry.
        """
        missing = [name for name in self.state_dict() if name not in state]
        if missing:
            raise ValueError(f"the sampler's state has no {missing[0]!r}")
        sizes = [len(code) for code in state["codes"]]
        if state["compressed"].shape != self.compressed.shape or sizes != [*map(len, self.codes)]:
            raise ValueError(
                f"the sampler's state is of {len(sizes)} codes of {sum(sizes)} entries, this space "
                f"has {len(self.codes)} of {sum(map(len, self.codes))}: use the recipe it was "
                "trained with"
            )
        self.compressed.copy_(state["compressed"])
        self.codes = [code.clone() for code in state["codes"]]
        self._adam.load_state_dict(state["adam"])
