"""Whether a search that moves the weights keeps the order of architectures: before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from manyshot import rank
from manyshot.pipeline.scoring import Key, Scorer
from manyshot.pipeline.workspace import Workspace
from manyshot.progress import Progress
from manyshot.rank import FrozenSet
from manyshot.search import make_searcher
from manyshot.search.limit import any_of
from manyshot.space import Arch

LOG = "order.jsonl"


class Watched:
    """Architectures chosen before anything moves, scored before and after.

    The global set is random among the networks within any budget, or all of them; the local set is
    its best by the weights before. Images and calibration batches are the same both times.

    Attributes:
        overall: the global set; empty if nothing is watched.
        local: the local set, or None.
    """

    def __init__(
        self,
        ws: Workspace,
        accelerator: Accelerator,
        folder: Path,
        known: dict[Key, dict[str, Any]],
    ) -> None:
        """Draws the global set: a function of the recipe alone."""
        self._scorer = Scorer(ws, accelerator, folder / LOG, known)
        self._settings = ws.recipe.shift
        self.overall: list[Arch] = []
        self.local: FrozenSet | None = None
        self._before: dict[Arch, float] = {}
        self._after: dict[Arch, float] = {}
        if self._settings.watched:
            limits = [any_of(ws.limits())]
            drawn = make_searcher("random", ws.net.space, seed=ws.recipe.seed, limits=limits)
            self.overall = drawn.ask(self._settings.watched)

    def score_before(self, progress: Progress) -> None:
        """Scores the global set at the weights that the search begins with; chooses the local one.

        To be called before anything moves, or what has moved is restored.
        """
        if self.overall:
            self._before = self._scored(0, 0, "before", progress)
            if self._settings.watched_best:
                archs, scores = list(self._before), list(self._before.values())
                count = min(self._settings.watched_best, len(archs))
                self.local = FrozenSet.top("local", archs, scores, count)

    def score_after(self, generation: int, version: int, progress: Progress) -> None:
        """Scores the same architectures again, at the final weights."""
        if self.local is not None and version:
            self.local.check_before(version)
        if self.overall:
            self._after = self._scored(generation, version, "after", progress)
        self._scorer.finish()

    def _scored(
        self, generation: int, version: int, role: str, progress: Progress
    ) -> dict[Arch, float]:
        scores: dict[Arch, float] = {}
        with progress.stage(role, len(self.overall)) as advance:
            for arch, accuracy in self._scorer.score(generation, self.overall, version, role):
                scores[arch] = accuracy
                advance(len(scores), "watched")
        return scores

    @property
    def images(self) -> int:
        """Images forwarded to score them."""
        return self._scorer.images

    def summary(self) -> dict[str, Any]:
        """How far the order moved: Kendall's tau between the scores before and after, per set."""
        sets = {"global": tuple(self.overall)} if self.overall else {}
        if self.local is not None:
            sets["local"] = self.local.archs
        found = {}
        for name, archs in sets.items():
            before, after = ([s[arch] for arch in archs] for s in (self._before, self._after))
            found[name] = {
                "architectures": len(archs),
                "mean_accuracy_before": sum(before) / len(before),
                "mean_accuracy_after": sum(after) / len(after),
                "tau_before_after": rank.kendall(before, after),
            }
        return found
