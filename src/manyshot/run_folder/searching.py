"""Records of candidates, and of what a search that moves the weights did."""

from __future__ import annotations

from typing import Literal

from manyshot.records import Part, Record, ScoresRecord
from manyshot.run_folder.parts import ArchText, Count, Moment, Operations, TaskRecord


class WatchedSet(Part):
    """How a search that moved the weights changed the scores and order of watched networks."""

    architectures: Count
    mean_score_before: float
    mean_score_after: float
    tau_before_after: float | None
    halves_tau_before: float | None = None
    """How far two halves of the validation images agree on the order; likewise after."""
    halves_tau_after: float | None = None


class DoseRecord(Part):
    """How much a search moved the weights: sums of the rates of optimiser steps."""

    shifting: float
    training: float
    """Before the search; of a supernet that was moved to other images, of the whole body on
    these."""
    relative: float | None = None
    """The first by the second; None where the optimisers are not the same, or nothing trained."""


class ScoreLine(ScoresRecord):
    """One score of one architecture with the supernet's weights, and what it is a function of."""

    generation: Count
    role: str
    arch: ArchText
    proxy_score: float
    proxy_loss: float
    macs: Count
    params: Count
    latency_ms: float | None = None
    costs: dict[str, float] | None = None
    """Further ones that a budget is on: the size of weights in bytes, and the recipe's own."""
    weights_version: Count
    calibration: str
    validation_images: Count
    weights: str
    """The digest of the supernet's weights."""
    images_forwarded: Count
    halves: tuple[float, float] | None = None
    """By what it ranks on two random halves of the images, but for a reward; absent where they
    cannot be parted."""
    reward: float | None = None
    """The score times a power of a cost, by which the search goes; absent where it goes by the
    score."""

    def fitness(self, task: TaskRecord) -> float:
        """By what it ranks in a search; the highest is the best."""
        plain = task.fitness_of(self.proxy_score, self.proxy_loss)
        return plain if self.reward is None else self.reward


class SearchLine(ScoreLine):
    """A line of `search.jsonl`; `final` scores are taken after the search."""

    role: Literal["candidate", "elite", "final"]


class OrderLine(ScoreLine):
    """A line of `order.jsonl`: a watched architecture, before or after the weights moved."""

    role: Moment


class ShiftingLine(Record):
    """A line of `shifting.jsonl`: a generation that a search trained on before scoring it."""

    generation: Count
    weights_version: Count
    images: Count
    loss: float
    rates: float
    """The sum of the rates of all optimiser steps so far."""
    macs: Count | None = None
    """Multiply-adds so far of what trained in the search, a backward as two forwards; absent in
    records from before it was written. Optimiser steps so far are `weights_version`."""
    candidates: Count
    elites: Count
    top_ups: Count
    proposed: Operations
    trained: Operations
