"""The search loop: ask, score with the supernet's weights, tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from manyshot import evaluate, records
from manyshot.pipeline.checking import GENERATOR
from manyshot.pipeline.generating import Proposal, Proposed
from manyshot.pipeline.workspace import Workspace
from manyshot.progress import Progress
from manyshot.search import Infeasible, Searcher, best
from manyshot.space import Arch
from manyshot.train import digest

LOG = "search.jsonl"


def search(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    proposed: Sequence[Proposal] | None = None,
) -> dict[Arch, float]:
    """Scores candidates until the recipe's number is reached; returns proxy accuracies.

    Those of `proposed` alone, where there is nothing to search.

    Every score is a line of `search.jsonl`. A search that was killed goes on from them: searchers
    are functions of what they were told. Processes share the candidates of a proposal.

    Raises:
        RecordError: if the records on disk belong to other weights or settings.
        Infeasible: if no architecture within a budget is found.
    """
    settings, told, generation = ws.recipe.search, 0, 0
    candidates = settings.candidates
    searcher: Searcher
    if proposed is None:
        searcher = ws.searcher(ws.limits())
    else:
        searcher = Proposed(proposed)
        candidates = len(searcher.left)
    scorer = _Scorer(ws, accelerator, folder / LOG)
    scores: dict[Arch, float] = {}
    with progress.stage("search", candidates) as advance:
        while told < candidates:
            archs = searcher.ask(min(settings.generation, candidates - told))
            if not archs:
                break  # every network within the budgets is scored
            for arch, accuracy in scorer.score(generation, archs):
                scores[arch], told = accuracy, told + 1
                advance(told, f"best {max(scores.values()):.4f}")
            searcher.tell(archs, [scores[arch] for arch in archs], weights_version=0)
            generation += 1
    scorer.finish()
    return scores


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
                "the generator misses its targets: train for longer, or with more "
                "sampler.options.resource_weight, or search the supernet by another search.name"
            )
        raise Infeasible(
            f"none of the {len(scores)} architectures scored is within {', '.join(missing)}: "
            f"{way_out}"
        )


class _Scorer:
    """Scores the candidates of a generation, those on record from the record."""

    def __init__(self, ws: Workspace, accelerator: Accelerator, log: Path) -> None:
        self.ws, self.accelerator, self.log = ws, accelerator, log
        self.weights = digest(ws.net.state_dict())
        self.validation = ws.fixed("validation", ws.recipe.evaluate.images)
        self.calibration = ws.calibration()
        self.calibration_id = f"{ws.splits.fingerprint}:{ws.recipe.seed}:{self.calibration.images}"
        if accelerator.is_main_process:
            records.keep_lines(log, lambda record: True)
        accelerator.wait_for_everyone()
        self.recorded = [self._checked(record) for record in records.read_lines(log)]

    def _checked(self, record: dict[str, Any]) -> dict[str, Any]:
        for key, own in (("weights", self.weights), ("calibration", self.calibration_id)):
            if record[key] != own:
                raise records.RecordError(
                    f"{self.log} was made with other {key} ({record[key]}, now {own}): move it "
                    "away to search anew, or use another --out folder"
                )
        return record

    def score(self, generation: int, archs: list[Arch]) -> Iterator[tuple[Arch, float]]:
        """The proxy accuracy of each architecture, in order; new ones are recorded as they come."""
        world = self.accelerator.num_processes
        replayed = self._replayed(generation, archs)
        for arch, record in zip(archs, replayed, strict=False):
            yield arch, record["proxy_accuracy"]
        fresh = archs[len(replayed) :]
        for start in range(0, len(fresh), world):
            turn = fresh[start : start + world]
            own = [
                self._record(generation, arch)
                for arch in turn[self.accelerator.process_index :][:1]
            ]
            for arch, record in zip(turn, gather_object(own) if world > 1 else own, strict=True):
                if self.accelerator.is_main_process:
                    records.append(self.log, record)
                yield arch, record["proxy_accuracy"]

    def _replayed(self, generation: int, archs: list[Arch]) -> list[dict[str, Any]]:
        """The records of the first of `archs`: as many as are left on disk."""
        replayed, self.recorded = self.recorded[: len(archs)], self.recorded[len(archs) :]
        for record, arch in zip(replayed, archs, strict=False):
            proposed = {"generation": generation, "arch": self.ws.net.space.to_text(arch)}
            if any(record[key] != value for key, value in proposed.items()):
                raise records.RecordError(
                    f"{self.log} has architecture {record['arch']} in generation "
                    f"{record['generation']} where this search proposes {proposed['arch']} in "
                    f"{generation}: its settings have changed, use another --out folder"
                )
        return replayed

    def _record(self, generation: int, arch: Arch) -> dict[str, Any]:
        ws = self.ws
        score = evaluate.score(
            ws.net, arch, calibration=self.calibration, validation=self.validation
        )
        return {
            "generation": generation,
            "arch": ws.net.space.to_text(arch),
            "proxy_accuracy": score.accuracy,
            "proxy_loss": score.loss,
            **{metric: table([arch])[0].item() for metric, table in ws.costs.items()},
            "weights_version": 0,
            "weights": self.weights,
            "calibration": self.calibration_id,
        }

    def finish(self) -> None:
        """Refuses records beyond the search."""
        if self.recorded:
            raise records.RecordError(
                f"{self.log} holds {len(self.recorded)} records more than this search proposes: "
                "its settings have changed, use another --out folder"
            )
