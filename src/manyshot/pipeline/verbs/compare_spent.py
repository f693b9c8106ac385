"""What compared runs spent, and how good their best was by then; from their records alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from manyshot import records
from manyshot.run_folder import (
    AnytimePoint,
    Result,
    RunFolder,
    SearchLine,
    Spent,
    SpentPart,
    TrainLine,
)
from manyshot.space import Budget
from manyshot.train.compute import BACKWARD

MISSING = {
    "training": "training was recorded before multiply-adds were: train the run again",
    "shifting": "shifting was recorded before multiply-adds were: run the search again",
    "finishing": "there are no records of how winners were finished",
}
"""Why a number of multiply-adds is not known."""


def spent_by(run: Path, result: Result) -> Spent:
    """Weight steps, multiply-adds and seconds of a finished run, by what for.

    Args:
        run: its folder.
        result: its result.
    """
    folder = RunFolder(run)
    last, shifted = next(reversed(folder.train_lines()), None), folder.shifting_lines()
    macs: dict[SpentPart, int | None] = {
        "training": 0 if last is None else _trained(last),
        "probes": 0 if last is None else _probes(last),
        "search": sum(line.macs * line.images_forwarded for line in _scored(folder)),
        "shifting": 0 if not shifted else shifted[-1].macs,
        "finishing": _finishing(folder, result),
    }
    missing = {
        name: MISSING[name] for name, number in macs.items() if number is None if name in MISSING
    }
    seconds = folder.seconds()
    return Spent(
        weight_steps=_weight_steps(folder, last),
        macs=macs,
        seconds={} if seconds is None else dict(seconds.seconds),
        missing=missing,
    )


def _weight_steps(folder: RunFolder, last: TrainLine | None) -> int | None:
    """Steps that moved the weights, those while the search shifted them included."""
    trained = 0 if last is None else last.weight_steps
    shifted = folder.shifting_lines() if folder.shifting_log.exists() else []
    if trained is None or not shifted:
        return trained
    return trained + shifted[-1].weights_version


def _trained(last: TrainLine) -> int | None:
    """Of training paths, and of the gradients that say how one copy splits."""
    return None if last.macs is None else last.macs + (last.split_macs or 0)


def _probes(last: TrainLine) -> int | None:
    return None if last.macs is None else last.probe_macs or 0


def _scored(folder: RunFolder) -> Sequence[SearchLine]:
    return folder.search_lines() if folder.search_log.exists() else ()


def _finishing(folder: RunFolder, result: Result) -> int | None:
    """Of training winners and controls: what each learnt from, forward and backward."""
    if result.finish == "inherit":
        return 0
    total = 0
    for arch, macs in {own.arch: own.macs for own in (*result.winners, *result.controls)}.items():
        log = folder.subnets / f"{arch}.train.jsonl"
        lines = records.load_lines(log, TrainLine) if log.exists() else []
        if not lines:
            return None
        total += (1 + BACKWARD) * macs * lines[-1].images
    return total


def anytime(
    run: Path, result: Result, spent: Spent, truths: Mapping[str, float]
) -> tuple[AnytimePoint, ...]:
    """How good the best of a run's first budget was, by what had been spent when it was scored.

    The best is that by proxy score so far; how good it is says its truth, if there is one, and a
    best that the truth does not have is left out. After the last candidate there is a point even if
    the best did not change. What a generation trained on is spent before any of it is scored.
    Seconds of single candidates are not on record: those of the search are divided evenly.

    Args:
        run: its folder.
        result: its result.
        spent: what it spent.
        truths: by architecture its score trained alone; empty if there is no truth.

    Returns:
        The points; none where `not_by_then` says why.
    """
    folder = RunFolder(run)
    lines = _scored(folder)
    if not lines or not result.winners or not_by_then(run, result) is not None:
        return ()
    allowed = _within(folder, result.winners[0].budget)
    parts = [spent.macs.get(part) for part in ("training", "probes", "shifting")]
    trained = None if None in parts else sum(filter(None, parts[:2]))
    shifted = {line.generation: line.macs or 0 for line in folder.shifting_lines()}
    scored = 0
    training, search = (spent.seconds.get(part) for part in ("training", "search"))
    fitness: dict[str, float] = {}
    scores: dict[str, float] = {}
    points: list[AnytimePoint] = []
    for i, line in enumerate(lines, start=1):
        scored += line.macs * line.images_forwarded
        macs = trained
        if trained is not None:
            by_then = min(line.generation, len(shifted) - 1)  # final scores come after all
            macs = trained + scored + shifted.get(by_then, 0)
        if allowed(line):
            fitness[line.arch] = line.fitness(result.task)
            scores[line.arch] = line.proxy_score
        elif i < len(lines):  # the last point is at the end of the search whatever was scored there
            continue
        if not fitness:
            continue
        best = max(fitness, key=lambda arch: fitness[arch])
        score = truths.get(best) if truths else scores[best]
        if score is None or (points and points[-1].score == score and i < len(lines)):
            continue
        seconds = None
        if training is not None and search is not None:
            seconds = round(training + search * i / len(lines), 2)
        points.append(AnytimePoint(macs=macs, seconds=seconds, score=score))
    return tuple(points)


def not_by_then(run: Path, result: Result) -> str | None:
    """Why a run has no best by what was spent, a sentence: its budget is a share of no known cost.

    Args:
        run: its folder.
        result: its result.
    """
    largest = _largest(RunFolder(run))
    for part in _parts(result.winners[0].budget) if result.winners else ():
        if part.relative and part.metric not in largest:
            return (
                f"The best by what was spent is not known of {run}: its budget "
                f"{result.winners[0].budget!r} is a share of the largest {part.metric}, and its "
                f"space has on record {', '.join(largest) or 'no cost'}. A budget that is a number "
                "needs none."
            )
    return None


def _largest(folder: RunFolder) -> Mapping[str, float]:
    """The costs of the largest network of a run's space, as far as they are on record."""
    space = folder.space()
    return {} if space is None else space.largest


def _within(folder: RunFolder, budget: str) -> Callable[[SearchLine], bool]:
    """Whether a candidate is within a budget of a run."""
    largest = _largest(folder)
    limits = [
        (part.metric, part.limit * (largest[part.metric] if part.relative else 1.0))
        for part in _parts(budget)
    ]

    def within(line: SearchLine) -> bool:
        costs = {
            "macs": line.macs,
            "params": line.params,
            "latency_ms": line.latency_ms,
            **(line.costs or {}),
        }
        known = ((costs.get(metric), limit) for metric, limit in limits)
        return all(cost is not None and cost <= limit * (1 + 1e-9) for cost, limit in known)

    return within


def _parts(budget: str) -> Iterator[Budget]:
    """The limits of a budget; none of a name that is no limit, as of a search without budgets."""
    if "<=" in budget:
        yield from Budget.parse_all(budget)
