"""Whether a search that moves the weights keeps the order of architectures: before and after."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator

from manyshot import rank
from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.score import Images, Key, Scorer, fitness_of
from manyshot.progress import Progress
from manyshot.rank.verdict import halves_tau, is_noise
from manyshot.run_folder import AFTER, BEFORE, OrderLine, RunFolder, ScoreLine, WatchedSet
from manyshot.search import best, make_searcher
from manyshot.search.limit import any_of
from manyshot.seeding import stream
from manyshot.space import Arch


class Watched:
    """Architectures chosen before anything moves, scored before and after.

    The global set is random among the networks within any budget, or all of them; the local set is
    its best by the weights before. Images and calibration batches are the same both times.

    Attributes:
        overall: the global set; empty if nothing is watched.
        local: the local set, best first.
    """

    def __init__(
        self,
        ws: Workspace,
        accelerator: Accelerator,
        folder: Path,
        batches: Images,
        known: dict[Key, ScoreLine],
    ) -> None:
        """Draws the global set: a function of the recipe alone."""
        shifting, own = ws.recipe.shifting, RunFolder(folder)
        may_stay = shifting.name == "none" or own.shifting_state.exists()
        self._scorer = Scorer(
            ws,
            accelerator,
            own.order_log,
            OrderLine,
            batches,
            known,
            lambda line: may_stay or line.role == BEFORE,
        )
        self._best, self._task = shifting.watched_best, ws.task_record
        self._moves, self._net = ws.recipe.moves, ws.net
        self.overall: list[Arch] = []
        self.local: list[Arch] = []
        self._before: dict[Arch, OrderLine] = {}
        self._after: dict[Arch, OrderLine] = {}
        if shifting.watched:  # by a stream of its own: the search must not begin with the same
            seed = stream(ws.recipe.seed, "watched")
            limits = [any_of(ws.limits())]
            drawn = make_searcher("random", ws.space, seed=seed, limits=limits)
            self.overall = drawn.ask(shifting.watched)

    def score_before(self, progress: Progress) -> None:
        """Scores the global set at the weights that the search begins with; chooses the local one.

        To be called before anything moves, or what has moved is restored.
        """
        if self.overall:
            self._before = self._scored(0, 0, BEFORE, progress)
        if self._best:
            by = {arch: fitness_of(self._task, line) for arch, line in self._before.items()}
            self.local = best(by, k=self._best)

    def score_after(self, generation: int, version: int, progress: Progress) -> None:
        """Scores the same architectures again, at the final weights."""
        if self.overall:
            self._after = self._scored(generation, version, AFTER, progress)
        self._scorer.finish()

    def _scored(
        self, generation: int, version: int, role: str, progress: Progress
    ) -> dict[Arch, OrderLine]:
        scores: dict[Arch, OrderLine] = {}
        with progress.stage(role, len(self.overall)) as advance, evaluating(self._net):
            for arch, line in self._scorer.score(generation, self.overall, version, role):
                scores[arch] = line
                advance(len(scores), "watched")
        return scores

    def doubt(self) -> str | None:
        """Why the order before means nothing to a search, if it does not: a sentence."""
        tau, count = halves_tau(list(self._before.values())), len(self._before)
        if tau is None or not is_noise(tau, count):
            return None
        longer = "train longer (train.epochs)"
        if self._moves:
            longer = "train all of it on these images first (transfer.body_epochs)"
        return (
            f"two halves of the validation images order the {count} watched networks no more alike "
            f"than chance would (tau {tau:.2f}), so that the search will shift the supernet to "
            f"arbitrary networks: {longer}, or keep more images for validation (data.validation)"
        )

    def _supernets(self, line: OrderLine) -> float:
        """By what the supernet ranks a network; a reward, of which weights know nothing, aside."""
        return self._task.fitness_of(line.proxy_score, line.proxy_loss)

    @property
    def images(self) -> int:
        """Images forwarded to score them."""
        return self._scorer.images

    def summary(self) -> dict[str, WatchedSet]:
        """How far the order moved: Kendall's tau between the scores before and after, per set."""
        sets = {}
        for name, archs in (("global", self.overall), ("local", self.local)):
            if archs:
                both = (self._before, self._after)
                means = [
                    sum(lines[arch].proxy_score for arch in archs) / len(archs) for lines in both
                ]
                ranks = [[self._supernets(lines[arch]) for arch in archs] for lines in both]
                halves = [halves_tau([lines[arch] for arch in archs]) for lines in both]
                sets[name] = WatchedSet(
                    architectures=len(archs),
                    mean_score_before=means[0],
                    mean_score_after=means[1],
                    tau_before_after=rank.kendall(*ranks),
                    halves_tau_before=halves[0],
                    halves_tau_after=halves[1],
                )
        return sets
