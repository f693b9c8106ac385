"""A grid of costs, and a learnt distribution over it (ShiftNAS).

K counts grid values, S draws.

Reference: Zhang et al. 2023, "ShiftNAS", arXiv:2307.08300, sections 3.2 and 4.1, equation 8.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from typing import Any, Literal, TypeAlias, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manyshot.cost import CostTable
from manyshot.seeding import numpy_rng
from manyshot.space import SearchSpace
from manyshot.train.gumbel import gumbel, straight_through
from manyshot.train.samplers.evidence import ROUNDING, Evidence, weighed

Rule = Literal["bounded", "paper"]
Signal = Literal["signed", "abs"]
Numbers: TypeAlias = Tensor | npt.NDArray[np.float64] | Sequence[float]

DRAWS = 10_000
"""Uniform draws from which `Grid.of` takes its ends."""
CENTRAL = 0.95
"""Share of those draws between its ends."""
ENUMERATED = 16
"""Up to so many bins are all evaluated for one update."""
STRATA = 8
"""How many are, of more."""
WINDOW = 16
"""Updates of a bin from which its gain is estimated, by default."""
LEAST_DRAWN = 0.25
"""Gains are divided by K P, but by no less than this: a bin hardly drawn says little per draw."""


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """K target costs c_k = lo + k * step, in the units of the cost.

    The paper has a step of 0.1 GFLOPs (multiply-adds). That the targets are centres, and that
    sub-space k is [c_k - step / 2, c_k + step / 2), is ours.

    Attributes:
        lo: the first centre.
        hi: the last centre.
        step: from one centre to the next.

    Raises:
        ValueError: unless all are finite, `step` is above zero, and `hi` is a whole number of steps
            (to 1e-6) above `lo`.
    """

    lo: float
    hi: float
    step: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.lo, self.hi, self.step))) or self.step <= 0:
            raise ValueError(f"{self}: all must be finite, and step above zero")
        if self.hi < self.lo:
            raise ValueError(f"{self}: hi must be at least lo")
        steps = (self.hi - self.lo) / self.step
        if abs(steps - round(steps)) > 1e-6:
            below, above = (self.lo + whole(steps) * self.step for whole in (math.floor, math.ceil))
            raise ValueError(
                f"{self}: hi is {steps:.6g} steps above lo, which must be a whole number; hi = "
                f"{below:.10g} or {above:.10g} would fit, or step = "
                f"{(self.hi - self.lo) / max(round(steps), 1):.10g}"
            )

    @classmethod
    def of(cls, table: CostTable, space: SearchSpace, bins: int = 8, seed: int = 0) -> Grid:
        """An automatic grid (ours): even over the central 95 % of 10,000 uniform draws.

        The step is rounded down to two significant digits and `lo` to the same digit, unless such a
        `lo` would leave the reachable range.

        Args:
            table: the cost.
            space: of which it is.
            bins: K.
            seed: of the draws.

        Raises:
            ValueError: for no bins, or if nearly all draws cost the same.
        """
        if bins < 1:
            raise ValueError(f"grid: bins must be at least 1, got {bins}")
        draws = space.draw(numpy_rng(seed, "costs"), DRAWS)
        tail = (1 - CENTRAL) / 2
        low, high = np.quantile(table(draws), (tail, 1 - tail)).tolist()
        if low == high:
            raise ValueError(
                f"{table.metric}: {CENTRAL:.0%} of uniform draws cost {low:,}, so there is nothing "
                "to spread bins over; give a grid (lo, hi, step) of your own"
            )
        exact = (high - low) / max(bins - 1, 1)
        step = float(Context(prec=2, rounding=ROUND_FLOOR).create_decimal_from_float(exact))
        span = (bins - 1) * step
        lo = round((low + high - span) / 2, 1 - math.floor(math.log10(step)))
        least, greatest = table.range()
        lo = min(max(lo, least), greatest - span)
        return cls(lo, min(lo + span, greatest), step)

    @classmethod
    def given(
        cls,
        grid: Grid | Sequence[float] | None,
        table: CostTable,
        space: SearchSpace,
        bins: int = 8,
        seed: int = 0,
    ) -> Grid:
        """A grid that is asked for, as it is or as (lo, hi, step), else an automatic one.

        Raises:
            ValueError: for another form, and what `Grid`, `of` and `check` raise.
        """
        if grid is None:
            return cls.of(table, space, bins, seed)
        if not isinstance(grid, Grid):
            if len(grid) != 3:
                raise ValueError(f"a grid is (lo, hi, step), three numbers, got {list(grid)}")
            grid = cls(*map(float, grid))
        grid.check(table)
        return grid

    def __len__(self) -> int:
        return round((self.hi - self.lo) / self.step) + 1

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        """The targets c_k, shape (K,)."""
        return self.lo + np.arange(len(self), dtype=np.float64) * self.step

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The ends of the sub-spaces, shape (K + 1,)."""
        return self.lo + (np.arange(len(self) + 1, dtype=np.float64) - 0.5) * self.step

    def bin_of(self, costs: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The sub-space of each cost, in the shape of `costs`; -1 for none."""
        found = np.searchsorted(self.edges, np.asarray(costs), side="right") - 1
        return np.where(found < len(self), found, -1)

    def check(self, table: CostTable) -> None:
        """Raises ValueError if a centre is outside the exact range of the cost."""
        least, greatest = table.range()
        if self.lo < least or self.hi > greatest:
            raise ValueError(
                f"{table.metric}: the grid's centres {self.lo:,} .. {self.hi:,} are not all within "
                f"the reachable {least:,} .. {greatest:,}; choose lo and hi in there"
            )


@final
class ComplexityDistribution:
    """Learnt probabilities P = softmax(B) of K target costs, moved by changes of held-out loss.

    Between two updates the supernet trained from w' to w; dL_k = L(w, a_k) - L(w', a_k) is the
    change of the held-out loss of an architecture a_k of target k. Targets whose loss still falls
    gain probability, by one of two rules:

    - `bounded` (ours, the default): the gain per draw -dL_k / max(K P_k, 0.25), less the mean of
      all, is estimated from the last `window` updates of a bin and made smaller by how much of its
      spread noise explains; P is set from it. Noise leaves P uniform, P goes back when the signal
      does, and no two probabilities are further apart than exp(2) (see `evidence.weighed`).
    - `paper`: equation 8 descends J(B) = sum_k P_k dL_k, by Adam. It has no memory of how often a
      target was drawn, so that it rewards what was just trained; and Adam erases the gradient's
      magnitude, so that noise in dL makes B walk at random; `ema` averages it. As in the paper:
      uniform at the start, Adam, `lr` 1e-3. Ours, off with `ema=0, floor=0, clip=math.inf`:
      averages, floor and clip. Two estimators: `update(deltas)`, enumerated (ours), takes the exact
      gradient, from dL of all targets or of `strata`; `update_from(gradient)`, pathwise (the
      paper's), one with respect to B that the caller makes from `straight_through` draws.

    Whichever rule moves P, `evidence` says whether the gains can be told from noise.

    Attributes:
        rule: `bounded` or `paper`.
        logits: B, float64, shape (K,).
        gains: the last gains per draw of each bin, each less the mean of its update, newest last,
            float64, shape (K, window); nan where there was none yet.
        averages: of the signal by the paper's rule, float64, shape (K,); nan for a bin never seen.
    """

    def __init__(
        self,
        bins: int,
        *,
        rule: Rule = "bounded",
        signal: Signal = "signed",
        window: int = WINDOW,
        lr: float | None = None,
        ema: float | None = None,
        floor: float | None = None,
        clip: float | None = None,
    ) -> None:
        """A uniform distribution.

        Args:
            bins: K.
            rule: `bounded` or `paper`; `lr`, `ema`, `floor` and `clip` are of the latter alone.
            signal: `signed` takes dL, `abs` takes -|dL|: any change raises probability.
            window: of how many of its last updates the gains of a bin are kept.
            lr: of Adam (betas 0.9 and 0.999, no weight decay), 1e-3 by default. B moves by about
                `lr` per update: with few updates, take about 5 / (their number).
            ema: share of the old in the average of the signal, 0.9 by default; 0 for the last
                signal alone.
            floor: share of the uniform distribution in `sampling_probabilities`, 0.05 by default.
            clip: largest distance of a logit from the mean, 3 by default; `math.inf` for none.

        Raises:
            ValueError: for a value out of bounds, or one of the paper's rule without it.
        """
        checks = {
            "bins must be at least 1": bins >= 1,
            f"rule must be one of {get_args(Rule)}": rule in get_args(Rule),
            "window must be at least 2": window >= 2,
            "lr must be above zero": lr is None or 0 < lr < math.inf,
            "ema must be in [0, 1)": ema is None or 0 <= ema < 1,
            "floor must be in [0, 1]": floor is None or 0 <= floor <= 1,
            "clip must be above zero": clip is None or clip > 0,
            f"signal must be one of {get_args(Signal)}": signal in get_args(Signal),
            "lr, ema, floor and clip are of rule = 'paper': leave them out, or take that": (
                rule == "paper" or (lr, ema, floor, clip) == (None,) * 4
            ),
        }
        given = (
            f"bins={bins}, rule={rule!r}, signal={signal!r}, window={window}, lr={lr}, ema={ema}, "
            f"floor={floor}, clip={clip}"
        )
        for law, holds in checks.items():
            if not holds:
                raise ValueError(f"complexity distribution: {law}, got {given}")
        self.rule, self.signal = rule, signal
        self.logits = torch.zeros(bins, dtype=torch.float64)
        self.gains = torch.full((bins, window), math.nan, dtype=torch.float64)
        self.averages = torch.full_like(self.logits, math.nan)
        self.ema = 0.9 if ema is None else ema
        self.floor = 0.0 if rule == "bounded" else 0.05 if floor is None else floor
        self.clip = 3.0 if clip is None else clip
        self._adam = torch.optim.Adam([self.logits], lr=1e-3 if lr is None else lr)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def lr(self) -> float:
        """Adam's rate, of the paper's rule; it may be set between updates, and is in the state."""
        return float(self._adam.param_groups[0]["lr"])

    @lr.setter
    def lr(self, rate: float) -> None:
        self._adam.param_groups[0]["lr"] = rate

    def probabilities(self) -> Tensor:
        """P = softmax(B), float64, shape (K,)."""
        return self.logits.softmax(0)

    def sampling_probabilities(self) -> Tensor:
        """(1 - floor) P + floor / K, float64, shape (K,): no target is ever given up.

        By the bounded rule P itself, which gives up none.
        """
        return (1 - self.floor) * self.probabilities() + self.floor / len(self)

    def sample(self, rng: np.random.Generator) -> int:
        """A bin, by `sampling_probabilities`."""
        return int(rng.choice(len(self), p=self.sampling_probabilities().numpy()))

    @property
    def evaluated(self) -> int:
        """How many bins are evaluated for one update."""
        return len(self) if len(self) <= ENUMERATED else STRATA

    def strata(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """The bins to evaluate for one update, ascending: all, or 8 of more than 16.

        The 8 (ours) are one at random from each of 8 contiguous groups of about equal size.
        """
        bins = np.arange(len(self))
        if len(bins) == self.evaluated:
            return bins
        return np.array([rng.choice(group) for group in np.array_split(bins, STRATA)])

    def update(
        self,
        deltas: Numbers,
        bins: Sequence[int] | npt.NDArray[np.int64] | None = None,
        drawn: Tensor | None = None,
    ) -> None:
        """One update on changes of held-out loss: the enumerated estimator.

        The gains per draw of `bins` come into `gains`, in the place of their oldest. By the bounded
        rule P is then what `evidence` says. By the paper's, the averages of `bins` take in their
        signal (a first one starts them), and Adam steps on `enumerated_gradient` of all averages.
        What is rounding is zeroed first, or it would be amplified: gains below 1e-8 of the largest,
        or of one, and gradients below 1e-8 of the largest average, or of one.

        Args:
            deltas: L(w, a_k) - L(w', a_k) of one held-out batch, shape (K,) or (number of bins,).
            bins: the bins that they are of; by default all.
            drawn: the probabilities by which bins were drawn between w' and w, (K,); by default
                those of now.

        Raises:
            ValueError: for another shape, a delta that is not finite, or bins that do not exist or
                are given twice.
        """
        index = np.arange(len(self)) if bins is None else np.asarray(bins, dtype=np.int64)
        if len(set(index.tolist()) & set(range(len(self)))) < len(index):
            raise ValueError(
                f"bins must be different ones of 0..{len(self) - 1}, got {index.tolist()}"
            )
        fresh = _finite("deltas", deltas, len(index))
        if self.signal == "abs":
            fresh = -fresh.abs()
        self._keep(fresh, index, self.sampling_probabilities() if drawn is None else drawn)
        if self.rule == "bounded":
            self.logits.copy_(self.evidence().logits())
            return
        old = self.averages[index]
        mixed = self.ema * old + (1 - self.ema) * fresh
        self.averages[index] = torch.where(old.isnan(), fresh, mixed)
        gradient = enumerated_gradient(self.probabilities(), self.averages)
        scale = max(1.0, float(self.averages.abs().nan_to_num(0.0).max()))
        self._step(gradient.where(gradient.abs() >= ROUNDING * scale, 0.0))

    def evidence(self) -> Evidence:
        """What the gains of the last updates say, and how well it can be told from noise."""
        return weighed(self.gains, self.evaluated)

    def update_from(self, gradient: Numbers) -> None:
        """One step of the paper's rule on a given gradient dJ/dB, shape (K,): pathwise.

        Raises:
            ValueError: for another shape, one that is not finite, or the bounded rule.
        """
        if self.rule != "paper":
            raise ValueError(
                f"a given gradient moves a distribution of rule = 'paper', this one has rule = "
                f"{self.rule!r}: make it with that rule, or give changes of loss to `update`"
            )
        self._step(_finite("gradient", gradient, len(self)))

    def straight_through(
        self, draws: int, generator: torch.Generator, *, tau: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Draws of targets whose gradient reaches a copy of B, for the pathwise estimator.

        With g_s = dJ/d(one-hot s) from anywhere, the gradient for `update_from` is
        `torch.autograd.grad(one_hots, logits, g / draws)[0]`. One draw (the paper's, as we read it)
        is mostly noise: take 8 or more. For both weights use the same draws.

        Args:
            draws: S.
            generator: of the Gumbel noise, on the CPU.
            tau: temperature.

        Returns:
            One-hots with a graph, float64, shape (S, K); and the logits they were drawn from.
        """
        logits = self.logits.clone().requires_grad_()
        noise = gumbel((draws, len(self)), generator)
        return straight_through(logits.expand(draws, -1), noise, tau=tau), logits

    def state_dict(self) -> dict[str, Any]:
        """A copy of the rule, B, gains, averages and Adam's state, as tensors and plain values."""
        state = {
            "rule": self.rule,
            "logits": self.logits,
            "gains": self.gains,
            "averages": self.averages,
            "adam": self._adam.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`: the next step is the same, bit for bit.

        Raises:
            ValueError: if it is of another number of bins, another rule or another window.
        """
        if len(state["logits"]) != len(self):
            raise ValueError(
                f"complexity distribution: the state has {len(state['logits'])} bins, this one "
                f"{len(self)}; make it with the grid of the run that is resumed"
            )
        if state.get("rule") != self.rule:
            raise ValueError(
                f"complexity distribution: the state is of rule = {state.get('rule')!r}, this one "
                f"of rule = {self.rule!r}; make it with the rule of the run that is resumed"
            )
        if state["gains"].shape != self.gains.shape:
            raise ValueError(
                f"complexity distribution: the state has a window of {state['gains'].shape[1]} "
                f"updates, this one of {self.gains.shape[1]}; make it with that of the run that is "
                "resumed"
            )
        self.logits.copy_(state["logits"])
        self.gains.copy_(state["gains"])
        self.averages.copy_(state["averages"])
        self._adam.load_state_dict(copy.deepcopy(state["adam"]))

    def _keep(self, signal: Tensor, index: npt.NDArray[np.int64], drawn: Tensor) -> None:
        gains = -signal / (len(self) * drawn[index]).clamp(min=LEAST_DRAWN)
        centred = gains - gains.mean()
        scale = max(1.0, float(gains.abs().max()))
        centred = centred.where(centred.abs() >= ROUNDING * scale, 0.0)
        self.gains[index] = torch.cat((self.gains[index, 1:], centred.unsqueeze(1)), dim=1)

    def _step(self, gradient: Tensor) -> None:
        self.logits.grad = gradient
        self._adam.step()
        mean = self.logits.mean()
        self.logits.clamp_(mean - self.clip, mean + self.clip)


def enumerated_gradient(probabilities: Tensor, deltas: Tensor) -> Tensor:
    """P_k (dL_k - sum_j P_j dL_j): the gradient of sum_k P_k dL_k in the logits of P; shape (K,).

    A bin whose delta is nan counts as the mean of the others, so that its gradient is zero.
    """
    known = ~deltas.isnan()
    p, values = probabilities[known], deltas[known]
    gradient = torch.zeros_like(probabilities)
    gradient[known] = p * (values - (p * values).sum() / p.sum())
    return gradient


def _finite(what: str, values: Numbers, length: int) -> Tensor:
    tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    if tensor.shape != (length,) or not tensor.isfinite().all():
        raise ValueError(f"{what} must be {length} finite numbers, got {tensor.tolist()}")
    return tensor
