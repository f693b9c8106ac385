"""`[evaluate]`, `[search]` and `[latency]`: how candidates are scored, and which is best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from manyshot.recipe.section import NotNegative, Options, Positive, Section
from manyshot.space import Budget


class EvaluationSettings(Section):
    """How a candidate is scored with the supernet's weights."""

    calibration_images: Positive = 512
    """Training images that batch-norm statistics are averaged over, or all if there are fewer."""
    images: Positive | None = None
    """Validation images; by default, or if there are fewer, all."""
    batch_size: Positive = 256
    """Images scored, or calibrated on, at once."""
    fitness: Literal["metric", "loss"] = "metric"
    """By what networks rank: the metric of the task, or its loss, which few images tell better."""


ALPHA = BETA = -0.07
"""MnasNet's exponents of a cost, below its target and above."""


class RewardSettings(Section):
    """What a search goes by in place of the score: that times a power of a cost (MnasNet's)."""

    target: str | None = None
    """The cost, and the value at which the score is left as it is, such as `"macs<=25%"`; what is
    above is not refused for that. Without it, the search goes by the score."""
    below: float = Field(default=ALPHA, le=0)
    """Of (cost / target), the exponent where the cost is the target's at most."""
    above: float = Field(default=BETA, le=0)
    """The exponent where it is more."""

    @field_validator("target")
    @classmethod
    def _readable(cls, target: str | None) -> str | None:
        return None if target is None else Budget.parse(target).text

    @model_validator(mode="after")
    def _has_a_target(self) -> Self:
        if self.target is None and (self.below, self.above) != (ALPHA, BETA):
            raise ValueError("below and above are exponents of a cost: give its target too")
        return self


class SearchSettings(Section):
    """Which architectures are best."""

    name: str = "evolution"
    """random, evolution, regularised_evolution, nsga2, predictor, bananas, local, mct, nevonas,
    dc_nas, perturbation, reinforce, optuna, `package.module:attribute`, or generator: no search,
    the sampler's generator says which."""
    budgets: list[str] = ["macs<=15%", "macs<=25%", "macs<=60%"]
    """Limits on macs, params, size (of weights, as in `"size<=5MB"`), latency_ms or one of [costs],
    absolute or in % of the largest, or several at once (`"macs<=30M and params<=1M"`); one winner
    each. If none are set and the network cannot meet
    these, quantiles of its MACs take their place."""
    candidates: Positive = 120
    """Architectures scored in all."""
    generation: Positive = 30
    """Architectures scored between two proposals."""
    reward: RewardSettings = RewardSettings()
    options: Options = {"population": 30, "parents": 10, "mutants": 15, "crossovers": 15}
    """Those here are for the default searcher, and stay if only some are set; with a `name`, a
    searcher has its own. Where the supernet shifts, evolution has `dedupe = "per_generation"` by
    default, so that what is good is proposed, and trained, again."""

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, values: Any) -> Any:
        """Options of a searcher that is named are its own; else those asked for join ours."""
        if not isinstance(values, Mapping):
            return values
        if "name" in values:
            return {"options": {}, **values}
        asked = values.get("options", {})
        if not isinstance(asked, Mapping):
            return values
        return {**values, "options": {**cls.model_fields["options"].default, **asked}}

    @field_validator("budgets")
    @classmethod
    def _readable(cls, budgets: list[str]) -> list[str]:
        if not budgets:
            raise ValueError("give at least one budget, such as 'macs<=50%'")
        plain = [Budget.spelt(text) for text in budgets]
        if len(set(plain)) != len(plain):
            raise ValueError(f"budgets {', '.join(plain)} repeat one")
        return plain


class LatencySettings(Section):
    """How latency is measured."""

    batch_size: Positive = 1
    """Images at once; a latency is that of the batch."""
    threads: Positive = 1
    """Of the runtime, on the CPU."""
    runtime: Literal["torch", "onnxruntime"] = "torch"
    """What runs the networks: torch, where `device` says, or ONNX Runtime on the CPU, to which each
    part that is timed is exported; that needs the extra `onnx`."""
    warmup: NotNegative = 5
    """Runs that are not timed, before those that are."""
    repeats: Positive = 30
    """Runs that are timed; their median counts."""
