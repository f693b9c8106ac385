"""Which architectures a truth is made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from manyshot import records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.score import latest_scores
from manyshot.recipe import RecipeError
from manyshot.run_folder import RESULT, RunFolder, TruthLine
from manyshot.search import best, make_searcher
from manyshot.seeding import numpy_rng
from manyshot.space import Arch

MOST = 100_000
"""A space of more encodings is not listed."""
DRAWS = 20_000
"""Random networks that stand for a larger space when strata are filled."""


def planned(
    ws: Workspace,
    lines: Sequence[TruthLine],
    *,
    seed: int,
    of: Sequence[Path] = (),
    archs: Sequence[str] = (),
) -> list[Arch]:
    """The canonical architectures to train, in an order whose beginnings are samples too.

    Args:
        ws: the network, its costs, the plan (`recipe.truth`).
        lines: the trainings on record, for the plan `best`.
        seed: of what is drawn, whatever seeds train it.
        of: folders of runs, for `top` and `winners`.
        archs: architectures as text, in place of the plan.

    Raises:
        RecipeError: for a plan that cannot be made, or an architecture that is not in the space.
    """
    space, plan = ws.net.space, ws.recipe.truth.plan
    if archs:
        try:
            return list(dict.fromkeys(space.canonical(space.from_text(text)) for text in archs))
        except ValueError as error:
            raise RecipeError(f"--arch: {error}") from error
    if of and plan not in ("top", "winners"):
        raise RecipeError(f"--of is for truth.plan = 'top' or 'winners', not {plan!r}")
    makers: dict[str, Callable[[], list[Arch]]] = {
        "all": lambda: _shuffled(_listed(ws), seed),
        "uniform": lambda: _uniform(ws, ws.recipe.truth.count, seed),
        "stratified": lambda: _stratified(ws, seed),
        "top": lambda: _of_runs(ws, of, _top),
        "winners": lambda: _of_runs(ws, of, _winners),
        "best": lambda: _best(ws, lines),
    }
    return makers[plan]()


def _listed(ws: Workspace) -> list[Arch]:
    space = ws.net.space
    if space.size > MOST:
        raise RecipeError(
            f"truth.plan = 'all' lists spaces of at most {MOST:,} encodings, and this one has "
            f"{space.size:,}: take 'uniform' or 'stratified'"
        )
    return list(dict.fromkeys(map(space.canonical, space.enumerate())))


def _shuffled(archs: list[Arch], seed: int) -> list[Arch]:
    order = numpy_rng(seed, "truth_plan").permutation(len(archs))
    return [archs[i] for i in order]


def _uniform(ws: Workspace, count: int, seed: int) -> list[Arch]:
    return make_searcher("random", ws.net.space, seed=seed).ask(count)


def _stratified(ws: Workspace, seed: int) -> list[Arch]:
    """Equally many from equal ranges of MACs, in turn, the emptiest range's rest from others."""
    truth, table = ws.recipe.truth, ws.costs["macs"]
    small = ws.net.space.size <= MOST
    pool = _shuffled(_listed(ws), seed) if small else _uniform(ws, DRAWS, seed)
    macs_N = table(pool).astype(np.float64)
    edges = np.linspace(macs_N.min(), macs_N.max(), truth.strata + 1)
    stratum_N = np.clip(np.searchsorted(edges, macs_N, side="right") - 1, 0, truth.strata - 1)
    groups = [[pool[i] for i in np.flatnonzero(stratum_N == k)] for k in range(truth.strata)]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*groups))
    return [arch for arch in turns if arch is not None][: truth.count]


def _of_runs(
    ws: Workspace, of: Sequence[Path], take: Callable[[Workspace, Path], list[Arch]]
) -> list[Arch]:
    if not of:
        raise RecipeError(
            f"truth.plan = {ws.recipe.truth.plan!r} is of runs: give their folders by --of"
        )
    found: list[Arch] = []
    for run in of:
        other = RunFolder(run).recipe()
        for part in ("network", "task"):
            theirs, ours = (getattr(recipe, part) for recipe in (other, ws.recipe))
            if theirs != ours:
                raise RecipeError(
                    f"{run} is of {part} {theirs.name!r} with options {theirs.options}; the "
                    f"truth's is {ours.name!r} with options {ours.options}"
                )
        found += take(ws, run)
    return list(dict.fromkeys(found))


def _top(ws: Workspace, run: Path) -> list[Arch]:
    """The best by their latest proxy score of all that the search of a run scored."""
    return best(latest_scores(run, ws.net.space, ws.task_record), k=ws.recipe.truth.count)


def _winners(ws: Workspace, run: Path) -> list[Arch]:
    result = RunFolder(run).result()
    if result is None:
        raise records.RecordError(f"{run} has no {RESULT}: finish it with --resume {run}")
    return [ws.net.space.from_text(winner.arch) for winner in result.winners]


def _best(ws: Workspace, lines: Sequence[TruthLine]) -> list[Arch]:
    """The best by the first seed on record, to be trained with others: it chooses, they judge."""
    if not lines:
        raise RecipeError("truth.plan = 'best' is of trainings on record, and there are none yet")
    first = min(line.seed for line in lines)
    if first in ws.recipe.truth.seeds:
        raise RecipeError(
            f"truth.plan = 'best' chooses by seed {first}, which must not judge: leave it out of "
            f"truth.seeds = {ws.recipe.truth.seeds}"
        )
    parse = ws.net.space.from_text
    scores = {
        parse(line.arch): line.metric.oriented(line.test_score)
        for line in lines
        if line.seed == first
    }
    return best(scores, k=ws.recipe.truth.count)
