"""Changes of held-out loss from answers that were kept, without a copy of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from manyshot.train.plan import Probed


class Change(NamedTuple):
    """How losses changed over one period.

    Attributes:
        bins: the targets that they are of.
        losses: now, (N,), float64.
        deltas: the losses now less those of a period before, (N,), float64.
        drawn: the probabilities by which targets were drawn in between, (K,), float64.
    """

    bins: list[int]
    losses: Tensor
    deltas: Tensor
    drawn: Tensor


@dataclass
class _Period:
    """What was asked and answered in one period.

    Attributes:
        bins: the targets of which losses are wanted.
        drawn: the probabilities by which targets are drawn in this period.
        answers: by turn, the weight of its images and the losses of `bins`.
    """

    bins: list[int]
    drawn: Tensor
    answers: dict[int, tuple[float, Tensor]] = field(default_factory=dict)


@final
class Answers:
    """Losses of one period, compared with those of the period before.

    A period has as many turns as steps, and the held-out images are shared out over them. A target
    is asked about in a turn by the same architecture on the same images in every period. Where a
    period asks about other targets than the one before, each turn answers for both: for the new
    ones, to keep; for the old ones, to compare with what was kept.

    So a change belongs to no one pair of weights. It is the mean, over the turns, of the change
    between the weights of a step and those of exactly one period earlier: on average it is half a
    period old, and the noise of single steps is averaged with it. Of the steps that lie between,
    the earlier ones drew targets by the probabilities of the period before.
    """

    def __init__(self, period: int) -> None:
        """Knows nothing yet.

        Args:
            period: turns of a period.
        """
        self.period = period
        self._now: _Period | None = None
        self._old: _Period | None = None
        self._seen: list[tuple[int, float, Tensor]] = []  # turn, weight, losses of the old bins

    def begin(self, bins: Iterable[int], drawn: Tensor) -> None:
        """Begins a period; the one before is what it is compared with.

        Args:
            bins: the targets whose losses are wanted.
            drawn: the probabilities by which targets are drawn until it ends, (K,).
        """
        self._old, self._seen = self._now, []
        self._now = _Period(list(bins), drawn.clone())

    @property
    def bins(self) -> list[int]:
        """The targets that are asked about in each turn of this period, without repeats."""
        assert self._now is not None
        old = [] if self._old is None else self._old.bins
        return list(dict.fromkeys([*self._now.bins, *old]))

    def take(self, turn: int, probed: Probed) -> None:
        """Takes the answer of a turn about `bins`; one without images says nothing."""
        if not probed.weight:
            return
        assert self._now is not None
        losses = dict(zip(self.bins, probed.losses.unbind(), strict=True))
        self._now.answers[turn] = (probed.weight, _of(losses, self._now.bins))
        if self._old is not None:
            self._seen.append((turn, probed.weight, _of(losses, self._old.bins)))

    def change(self) -> Change | None:
        """What changed, after the last turn; None in the first period."""
        if self._old is None or self._now is None or not self._seen:
            return None
        whole = sum(weight for _, weight, _ in self._seen)
        now = torch.zeros(len(self._old.bins), dtype=torch.float64)
        then, share = now.clone(), 0.0
        for turn, weight, losses in self._seen:
            now += weight / whole * losses
            then += weight / whole * self._old.answers[turn][1]
            share += weight / whole * turn / self.period
        drawn = share * self._now.drawn + (1 - share) * self._old.drawn
        return Change(self._old.bins, now, now - then, drawn)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        return {
            "now": self._now and _plain(self._now),
            "old": self._old and _plain(self._old),
            "seen": [(turn, weight, losses.clone()) for turn, weight, losses in self._seen],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        self._now, self._old = (
            None if state[name] is None else _period(state[name]) for name in ("now", "old")
        )
        self._seen = [(turn, weight, losses.clone()) for turn, weight, losses in state["seen"]]


def _of(losses: Mapping[int, Tensor], bins: Sequence[int]) -> Tensor:
    return torch.stack([losses[k] for k in bins])


def _plain(period: _Period) -> dict[str, Any]:
    return {
        "bins": list(period.bins),
        "drawn": period.drawn.clone(),
        "answers": {turn: (w, losses.clone()) for turn, (w, losses) in period.answers.items()},
    }


def _period(state: Mapping[str, Any]) -> _Period:
    return _Period(
        list(state["bins"]),
        state["drawn"].clone(),
        {turn: (w, losses.clone()) for turn, (w, losses) in state["answers"].items()},
    )
