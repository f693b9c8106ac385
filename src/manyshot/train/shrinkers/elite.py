"""Keeping the options of the best networks of a small evolution (pEvoNAS)."""

from __future__ import annotations

from typing import final

import numpy as np

from manyshot.plugins import Counts, Positive, Probability, checked
from manyshot.space import Arch, SearchSpace
from manyshot.train.shrinking import Forgetful, OptionScores, Shrunk, Stage, without_lowest

EVERY = 10**9
"""No limit on how many options go."""


@final
class Elite(Forgetful):
    """Keeps of each decision the options that are most frequent in the elite of an evolution.

    A small evolution in the present view ends when its best network has stayed the same for
    `patience` generations. Options count by the share of its `elites` best networks that hold them;
    those of the best network come before all others. A decision keeps `keep` options after each
    time, so that views are one inside the other.

    Reference: pEvoNAS, "Neural Architecture Search using Progressive Evolution", Sinha & Chen 2022,
    arXiv:2203.01559. Stages with fewer options each, the evolution between them (a population of
    20, an elite of 1, tournaments of 5, mutation at 0.1, an end after 10 generations) and weights
    that go on are theirs, as are 5 and 2, or 3 and 2 options. Theirs ranks options by the weights
    that the best individual gives them; a network of one option per decision has none, and the
    share of the elite in its place is ours, as is that budgets are kept within reach.
    """

    measure = "share of the elite"

    @checked
    def __init__(
        self,
        *,
        keep: Counts = (2,),
        population: Positive = 20,
        tournament: Positive = 5,
        mutation_probability: Probability = 0.1,
        patience: Positive = 10,
        elites: Positive = 5,
    ) -> None:
        """Says how many options stay, and how the evolution goes.

        Args:
            keep: options that a decision keeps, after each time.
            population: networks of a generation.
            tournament: the best of so many random networks of a generation is a parent.
            mutation_probability: with which each decision of a child is drawn anew.
            patience: generations without a better network before the end.
            elites: the best networks whose options are counted.
        """
        self.keep, self.population, self.tournament = tuple(keep), population, tournament
        self.probability, self.patience, self.elites = mutation_probability, patience, elites
        self.stages: int | None = len(self.keep)

    def shrink(self, stage: Stage) -> Shrunk:
        """Evolves, counts, and drops what is not among the most frequent."""
        ranked = self.evolve(stage)
        scores = _shares(stage.space, ranked[: self.elites])
        held = _shares(stage.space, ranked[:1])
        order = {option: share + held[option] for option, share in scores.items()}
        keep = self.keep[stage.number - 1]
        view = without_lowest(stage, order, EVERY, keep=keep, per_decision=True)
        return Shrunk(view, scores)

    def evolve(self, stage: Stage) -> list[Arch]:
        """All networks that the evolution scored, best first."""
        space, rng = stage.space, stage.rng
        scored: dict[Arch, float] = {}

        def ranked(archs: list[Arch]) -> list[Arch]:
            new = [arch for arch in dict.fromkeys(archs) if arch not in scored]
            fitness = [judged.fitness for judged in stage.judge(new)] if new else []
            scored.update(zip(new, fitness, strict=True))
            return sorted(archs, key=lambda arch: (-scored[arch], arch))

        drawn = [space.canonical(space.sample(rng)) for _ in range(self.population)]
        generation, still = ranked(drawn), 0
        while still < self.patience:
            best = generation[0]
            children = [self._child(space, generation, rng) for _ in range(self.population - 1)]
            generation = ranked([best, *children])
            still = still + 1 if generation[0] == best else 0
        return ranked(list(scored))

    def _child(self, space: SearchSpace, ranked: list[Arch], rng: np.random.Generator) -> Arch:
        """A mutated crossover of two winners of tournaments, canonical."""
        ranks = rng.integers(len(ranked), size=(2, self.tournament)).min(axis=1)
        one, other = (ranked[rank] for rank in ranks)
        child = space.crossover(one, other, rng)
        return space.canonical(space.mutate(child, rng, self.probability))


def _shares(space: SearchSpace, archs: list[Arch]) -> OptionScores:
    """Of every option of a view, the share of networks that hold it where it matters."""
    active = [space.active(arch) for arch in archs]
    return {
        (i, option): sum(a[i] == option and on[i] for a, on in zip(archs, active, strict=True))
        / len(archs)
        for i, options in enumerate(space.allowed)
        for option in options
    }
