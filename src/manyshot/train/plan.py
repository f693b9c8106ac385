"""What a sampler proposes: the paths whose gradients make one optimiser step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from manyshot.space import Arch, Decision

Target = Literal["labels", "largest"]


@dataclass(frozen=True, slots=True)
class Path:
    """One architecture in a plan.

    Attributes:
        arch: the architecture.
        policy: straight-through one-hot policies by decision, where a sampler learns by gradient.
        weight: factor of its loss.
        target: what it learns from: the labels, or the detached predictions of the largest
            architecture, which must come before it in the plan (in-place distillation).
    """

    arch: Arch
    policy: Mapping[Decision, Tensor] | None = None
    weight: float = 1.0
    target: Target = "labels"


@dataclass(frozen=True, slots=True)
class Plan:
    """One optimiser step: on the gradient of the weighted sum of the paths' losses, and `penalty`.

    Attributes:
        paths: at least one.
        penalty: a further loss, of the sampler's own parameters.
    """

    paths: tuple[Path, ...]
    penalty: Tensor | None = None


class Sampler(Protocol):
    """Says which paths train next.

    The loop calls `plan(rng, step)` before every optimiser step, with a generator that is a
    function of the run's seed and the step alone (so that all processes draw the same plan), and
    `feedback` after it. What a sampler learns is in `state_dict`, which checkpoints hold.
    """

    def plan(self, rng: np.random.Generator, step: int) -> Plan:
        """The paths of step `step` (from 0)."""
        ...

    def feedback(self, plan: Plan, losses: Sequence[Tensor]) -> None:
        """The detached losses of the plan's paths, in order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt, as tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`."""
        ...
