"""The search loop: ask, train if the supernet shifts, score, tell."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.search_checks import GENERATOR
from manyshot.pipeline.stages.generate import Proposal, Proposed, sampler_of_search
from manyshot.pipeline.stages.order import Watched
from manyshot.pipeline.stages.score import Images, Key, Scorer, fitness_of
from manyshot.pipeline.stages.shift import ShiftingStage
from manyshot.progress import Advance, Progress
from manyshot.run_folder import DoseRecord, RunFolder, ScoreLine, SearchLine, WatchedSet
from manyshot.search import Infeasible, Searcher, best, generations
from manyshot.space import Arch
from manyshot.train.shifting import Span


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        scores: by what all that may win rank: everything scored, or if the weights moved the best,
            scored again at the final weights.
        lines: the records of these scores.
        searched: how many distinct architectures were scored.
        images: forwarded, by what for.
        order: how the watched architectures changed their order; empty if there are none.
        dose: how much the weights moved; None if they did not.
    """

    scores: dict[Arch, float]
    lines: dict[Arch, ScoreLine]
    searched: int
    images: dict[str, int]
    order: dict[str, WatchedSet]
    dose: DoseRecord | None


def search(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    proposed: Sequence[Proposal] | None = None,
) -> Searched:
    """Scores candidates until the recipe's number is reached.

    Those of `proposed` alone, where there is nothing to search. Where the recipe shifts the
    supernet, every generation trains before it is scored, and `ws.net` has the final weights
    afterwards.

    Every score is a line of `search.jsonl`. A search that was killed goes on from them: searchers
    are functions of what they were told, and all that moves is saved after every generation.
    Processes share the candidates of a proposal.

    Raises:
        RecordError, CheckpointError: if the records on disk belong to other weights or settings.
        NonFiniteLoss: if shifting diverges.
        Infeasible: if no architecture within a budget is found.
    """
    known: dict[Key, ScoreLine] = {}
    batches = Images(ws)
    watched = Watched(ws, accelerator, folder, batches, known)
    watched.score_before(progress)
    searcher: Searcher
    if proposed is None:
        searcher = ws.searcher(ws.limits(), sampler_of_search(ws, folder))
        candidates = ws.recipe.search.candidates
    else:
        searcher = Proposed(proposed)
        candidates = len(searcher.left)
    loop = _Loop(ws, accelerator, folder, searcher, candidates, watched.local, batches, known)
    doubt = watched.doubt() if loop.begins else None
    if doubt is not None and accelerator.is_main_process:
        warnings.warn(doubt, stacklevel=2)
    with progress.stage("search", candidates) as advance:
        loop.run(advance)
    searched = len(loop.scores)
    scores = loop.final(progress)
    watched.score_after(loop.generation, loop.version, progress)
    images, dose = {"search": loop.scorer.images, "shifting": 0, "order": watched.images}, None
    if loop.shifting is not None:
        images["shifting"], dose = loop.shifting.images, loop.shifting.dose()
    return Searched(scores, loop.lines, searched, images, watched.summary(), dose)


class _Loop:
    """A search as far as it is.

    Attributes:
        candidates: how many architectures are proposed in all.
        best_before: the best of the watched architectures by the frozen supernet.
        shifting: what trains between proposals; None if weights are frozen.
        scores: by what every architecture told ranks, by its latest record.
        lines: these records.
        generation: how many were told.
    """

    def __init__(
        self,
        ws: Workspace,
        accelerator: Accelerator,
        folder: Path,
        searcher: Searcher,
        candidates: int,
        best_before: Sequence[Arch],
        batches: Images,
        known: dict[Key, ScoreLine],
    ) -> None:
        self.ws, self.searcher, self.candidates = ws, searcher, candidates
        self.best_before = best_before
        self.shifting: ShiftingStage | None = None
        self.scores: dict[Arch, float] = {}
        self.lines: dict[Arch, ScoreLine] = {}
        self.generation = 0
        if ws.recipe.shifting.name != "none":
            self.shifting = ShiftingStage(ws, accelerator, folder)
        log = RunFolder(folder).search_log
        self.scorer = Scorer(ws, accelerator, log, SearchLine, batches, known, self._complete)

    def _complete(self, line: SearchLine) -> bool:
        """Whether a record is of a generation after which the weights were saved, or needs none."""
        if self.shifting is None:
            return True
        is_final = line.role == "final"
        return line.generation < self.shifting.generation + is_final

    @property
    def version(self) -> int:
        """Of the weights: optimiser steps since the search began; one more if averaged."""
        return 0 if self.shifting is None else self.shifting.shifter.version

    def run(self, advance: Advance) -> None:
        """Proposes and tells generation after generation."""
        told, size = 0, self.ws.recipe.search.generation
        for archs in generations(self.searcher, self.candidates, size, self.ws.space):
            span = (told / self.candidates, (told + len(archs)) / self.candidates)
            elites = self._elites(archs)

            def scored(arch: Arch, line: ScoreLine, archs: list[Arch] = archs) -> None:
                nonlocal told
                self.scores[arch] = self._take(arch, line)
                if arch in archs:
                    told += 1
                    advance(told, self._note())

            version = self._generation(archs, elites, span, scored)
            both = [*archs, *elites]
            self.searcher.tell(both, [self.scores[arch] for arch in both], weights_version=version)
            self.generation += 1

    def _take(self, arch: Arch, line: ScoreLine) -> float:
        """Remembers a record, and returns by what it ranks."""
        self.lines[arch] = line
        return fitness_of(self.ws.task_record, line)

    def _elites(self, archs: Sequence[Arch]) -> list[Arch]:
        """What is scored again because the weights move, beside what is proposed."""
        if self.shifting is None or self.ws.recipe.shifting.elites == "keep":
            return []
        return [arch for arch in self.searcher.elites() if arch not in archs]

    def _generation(
        self,
        archs: list[Arch],
        elites: list[Arch],
        span: Span,
        scored: Callable[[Arch, ScoreLine], None],
    ) -> int:
        """Trains and scores a generation; returns the version that its scores are told under.

        Of a generation that is complete already, nothing but the records is looked at.

        Args:
            archs: what is proposed.
            elites: what is scored again beside it.
            span: from which share of all candidates to which it is.
            scored: is handed every record.
        """
        number, shifting = self.generation, self.shifting
        if shifting is None:
            self._score(archs, "candidate", scored)
            return 0
        settings, losses = shifting.settings, []
        trained = [*archs, *elites] if settings.elites == "train" else archs
        order, visits = shifting.visits(number, trained, self.best_before)
        if settings.timing == "after_candidate":
            for i, (arch, visit) in enumerate(zip(order, visits, strict=True)):
                if not self._is_complete:
                    losses.append(shifting.train([visit], _part(span, i, len(visits))))
                self._score([arch], "elite" if arch in elites else "candidate", scored)
        else:
            if not self._is_complete:
                losses.append(shifting.train(visits, span))
            self._score(archs, "candidate", scored)
        done = order if settings.timing == "after_candidate" else archs
        self._score([arch for arch in elites if arch not in done], "elite", scored)
        if not self._is_complete:
            shifting.complete(self.searcher, archs, elites, visits, losses)
        return shifting.versions[number]

    @property
    def begins(self) -> bool:
        """Whether the weights will move, and have not yet."""
        return self.shifting is not None and self.shifting.generation == 0

    @property
    def _is_complete(self) -> bool:
        """Whether the current generation was told before this search was killed."""
        return self.shifting is not None and self.generation < self.shifting.generation

    def _score(
        self, archs: Sequence[Arch], role: str, scored: Callable[[Arch, ScoreLine], None]
    ) -> None:
        version = None if self._is_complete else self.version
        stats = None if self.shifting is None else self.shifting.stats
        with evaluating(self.ws.net):
            for pair in self.scorer.score(self.generation, archs, version, role, stats=stats):
                scored(*pair)

    def _note(self) -> str:
        shown = f"best {max(self.scores.values()):.4f}"
        return shown if self.shifting is None else f"{shown}, {self.version:,} steps"

    def final(self, progress: Progress) -> dict[Arch, float]:
        """The scores that decide: where weights moved, of the best, at the weights as they are."""
        scores = self.scores
        if self.shifting is not None:
            self.shifting.finish()
            count, limits = self.ws.recipe.shifting.rescored, self.ws.limits()
            again = list(dict.fromkeys(a for own in limits for a in best(scores, own, count)))
            scores = {}
            with progress.stage("rescore", len(again)) as advance:
                for arch, line in self.scorer.score(
                    self.generation, again, self.version, "final", whole=True
                ):
                    scores[arch] = self._take(arch, line)
                    advance(len(scores), f"best {max(scores.values()):.4f}")
        self.scorer.finish()
        return scores


def _part(span: Span, i: int, count: int) -> Span:
    """The i-th of so many equal parts of a span."""
    begin, end = span
    return begin + (end - begin) * i / count, begin + (end - begin) * (i + 1) / count


def winners(
    ws: Workspace, scores: dict[Arch, float], proposed: Sequence[Proposal] | None = None
) -> dict[str, Arch]:
    """The best-scored architecture within each budget that has one; see `check_winners`.

    With `proposed`, of what was proposed for that budget, which is one where the generator met it.
    """
    if proposed is None:
        found = {limit.name: best(scores, limit) for limit in ws.limits()}
    else:
        found = {p.limit.name: best({a: scores[a] for a in p.archs}, p.limit) for p in proposed}
    return {budget: within[0] for budget, within in found.items() if within}


def check_winners(ws: Workspace, scores: dict[Arch, float], chosen: dict[str, Arch]) -> None:
    """Refuses budgets without a winner.

    Raises:
        Infeasible: if there are any.
    """
    search = ws.recipe.search
    missing = [repr(budget) for budget in search.budgets if budget not in chosen]
    if missing:
        way_out = f"raise search.candidates (at least one per budget, now {search.candidates})"
        if search.name == GENERATOR:
            way_out = (
                "the generator misses its targets: train for longer, or with a larger weight of "
                "costs in sampler.options (resource_weight of shiftnas, cost_weight of relaxed), "
                "or search the supernet by another search.name"
            )
        raise Infeasible(
            f"none of the {len(scores)} architectures scored is within {', '.join(missing)}: "
            f"{way_out}"
        )
