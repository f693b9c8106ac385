"""The page of `run.py`, from its records and the truth alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from benchmarks.studies.methods.arms import ARMS, CONTRASTS, REFERENCE
from manyshot.rank import TruthTable, judges, load_truth, rank_sets, reliability
from manyshot.rank.compare import FEWEST, WRONG, mean_over_seeds
from manyshot.rank.crossed import Difference, difference, holm
from manyshot.rank.other_seeds import by_other_seeds
from manyshot.rank.reliability import over_turns, reliability_at_like_cost, words
from manyshot.rank.resampling import JudgedSet, Resampled, mean_over_turns, resample
from manyshot.rank.sets import turns_of
from manyshot.run_folder import ComparedRun

TRUTH = kept.TRUTHS / "methods_truth.jsonl"
SHARE = 0.2
"""Of the networks that are in a local set."""
PRIMARY = "global"
BY_TRUTH, BY_PREDICTION, LIKE_COST = "local by truth", "local by other seeds", "at like cost"
SETS = (PRIMARY, BY_TRUTH, BY_PREDICTION, LIKE_COST)
WINNERS = "winners"
"""The mean test loss of a run's winners, trained alone."""
Rows = Sequence[Mapping[str, Any]]
Floats = np.ndarray

DESIGN = Design(
    primary="tau global, by loss",
    before=True,
    same="`study.toml` for all; methods change sampler, sharing or shifting alone",
    budgets="multiply-adds of training, probes, code steps and shifting; see `design.md`",
    protocol="one truth, the same validation and calibration images; winners trained as the truth",
    controls=tuple(dict.fromkeys(second for _, second in CONTRASTS if second in ARMS)),
    random="random_population",
    benchmark="stand-alone trainings in `benchmarks/truths/methods_truth.jsonl`",
    tuning="none but the rate and length of all, for `one_shot` alone, by loss, on another seed",
)

INTRODUCTION = """Written by `benchmarks/studies/methods/page.py` from the records beside it; \
[design.md](design.md), which was written before, says what is asked, why it can be answered, and \
what is compared. Tau is Kendall's tau-b between the supernet's loss on validation images and the \
mean test loss of networks trained alone. Differences are paired by seed, with 95 % intervals by \
seeds, networks and runs of the truth (a crossed bootstrap). A difference is called better or \
worse only if the truth can judge the set, there are five seeds, and p is below 0.05 after Holm's \
correction within its table and column, for all comparisons that were declared, made or not.
"""


def write_page(path: Path) -> Path:
    """Writes the page beside the records."""
    rows = kept.rows(path)
    truth = load_truth(TRUTH, by="loss")
    runs, scores = _runs(rows)
    sets = judged(runs, scores, truth)
    order = [arm for arm in ARMS if any(run.method == arm for run in runs)]
    against = [(arm, REFERENCE) for arm in order if arm != REFERENCE]
    contrasts = [pair for pair in CONTRASTS if set(pair) <= {run.method for run in runs}]
    parts = [
        "# The three methods and their controls, on a truth that can judge\n",
        INTRODUCTION,
        *_missing(rows),
        "## Can the truth judge?\n",
        _gates(sets, truth),
        "## Every method\n",
        _means(rows, runs, sets, order),
    ]
    if against:
        declared = len(ARMS) - 1
        parts += [f"## Against `{REFERENCE}`\n", _differences(rows, runs, sets, against, declared)]
    if contrasts:
        parts += ["## Why\n", _differences(rows, runs, sets, contrasts, len(CONTRASTS))]
    parts += ["## What it took\n", _spent(rows, order)]
    timed = [{**row, "seconds": sum(row["spent"]["seconds"].values())} for row in rows]
    return with_checklist(with_reading(path, parts, rows), DESIGN, timed)


def _missing(rows: Rows) -> list[str]:
    """What is not on record yet, if anything."""
    seeds = {arm: {row["seed"] for row in rows if row["method"] == arm} for arm in ARMS}
    fewer = [f"`{arm}` ({len(own)})" for arm, own in seeds.items() if len(own) < FEWEST]
    if not fewer:
        return []
    return [
        "**The study is not complete.** With fewer than five seeds on record, how many in "
        f"brackets: {', '.join(fewer)}.\n"
    ]


def _runs(rows: Rows) -> tuple[list[ComparedRun], dict[str, Floats]]:
    """Every set of weights that was ranked as a run, and its scores; higher is better."""
    runs, scores = [], {}
    for row in rows:
        for weights, own in row["weights"].items():
            method = row["method"] if weights == "after" else f"{row['method']} ({weights})"
            folder = f"{method}-{row['seed']}"
            runs.append(
                ComparedRun(
                    folder=folder, method=method, seed=row["seed"], images=row["images"], metrics={}
                )
            )
            scores[folder] = -np.array(own["loss"])
    return runs, scores


def judged(
    runs: Sequence[ComparedRun], scores: Mapping[str, Floats], truth: TruthTable
) -> dict[str, JudgedSet]:
    """The sets by name, as far as truth and seeds allow."""
    fitness_NR = truth.fitness_NR
    known = reliability(fitness_NR)
    sets = {PRIMARY: JudgedSet(fitness_NR, scores, reliability=known)}
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    for own in rank_sets(truth, share=SHARE):
        if own.turns:
            chosen = [row_of[arch] for arch in own.truth.archs]
            sets[BY_TRUTH] = JudgedSet(
                own.truth.fitness_NR,
                {name: column_N[chosen] for name, column_N in scores.items()},
                reliability=over_turns([reliability(turn.truth.fitness_NR) for turn in own.turns]),
                turns=turns_of(own),
            )
    by_others = by_other_seeds(runs, scores, fitness_NR, share=SHARE)
    if by_others is not None:
        sets[BY_PREDICTION] = by_others[0]
    macs_N = np.array(truth.costs["macs"], np.float64)
    sets[LIKE_COST] = JudgedSet(
        fitness_NR, scores, reliability=reliability_at_like_cost(fitness_NR, macs_N), costs_N=macs_N
    )
    return sets


def _gates(sets: Mapping[str, JudgedSet], truth: TruthTable) -> str:
    free = {name: np.array(truth.costs[name], np.float64) for name in ("macs", "params")}
    lines = []
    for name, own in sets.items():
        taus = ["", ""]
        if not own.turns:
            beside = JudgedSet(own.truth_NR, free, costs_N=own.costs_N)
            taus = [_number(mean_over_turns(beside, "tau", cost)) for cost in free]
        known = own.reliability
        ceiling = "" if known is None or known.ceiling is None else f"{known.ceiling:.2f}"
        said = "unknown" if known is None else words(known)
        lines.append([name, str(len(own.truth_NR)), *taus, ceiling, said])
    runs = ", ".join(
        f"{run} of {count}"
        for run, count in zip(
            truth.runs, np.count_nonzero(~np.isnan(truth.scores_NR), axis=0), strict=True
        )
    )
    columns = ("set", "networks", "tau of MACs", "tau of params", "ceiling", "can it judge")
    return f"Truth: {len(truth)} networks ({runs}).\n\n{markdown(columns, lines)}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"


def _spread(values: Sequence[float | None], digits: int = 2) -> str:
    over_seeds = mean_over_seeds([value for value in values if value is not None])
    if over_seeds.mean is None:
        return ""
    reach = "" if over_seeds.high is None else f" ± {over_seeds.high - over_seeds.mean:.{digits}f}"
    return f"{over_seeds.mean:.{digits}f}{reach}"


def _winners(row: Mapping[str, Any]) -> float | None:
    """The mean test loss of the winners."""
    losses = [winner["test_loss"] for winner in row["winners"]]
    return sum(losses) / len(losses) if losses else None


def _means(
    rows: Rows,
    runs: Sequence[ComparedRun],
    sets: Mapping[str, JudgedSet],
    order: Sequence[str],
) -> str:
    lines = []
    for method in dict.fromkeys(run.method for run in runs):
        folders = [run.folder for run in runs if run.method == method]
        own = [row for row in rows if row["method"] == method]
        taus = [_spread([mean_over_turns(one, "tau", f) for f in folders]) for one in sets.values()]
        regrets = _spread([mean_over_turns(sets[PRIMARY], "regret", f) for f in folders], 3)
        says = ARMS[method].says if method in order else "its weights before the search moved them"
        winners = _spread([_winners(row) for row in own], 3)
        lines.append([f"`{method}`", says, str(len(folders)), *taus, regrets, winners])
    columns = ("method", "what it is", "seeds", *(f"tau {name}" for name in sets),
               "regret", "winners' loss")  # fmt: skip
    return (
        "± is Student's 95 % interval over seeds. *Regret*: by how much the network that the "
        "supernet puts first loses more, alone, than the best of the truth.\n\n"
        + markdown(columns, lines)
    )


def _differences(
    rows: Rows,
    runs: Sequence[ComparedRun],
    sets: Mapping[str, JudgedSet],
    pairs: Sequence[tuple[str, str]],
    declared: int,
) -> str:
    """Every pair in every set, each column a family of Holm's correction.

    Args:
        rows: the records.
        runs: all weights that were ranked.
        sets: what they were ranked on.
        pairs: what is compared.
        declared: how many comparisons the family has, also where records of some are missing.
    """
    cells: dict[str, list[str]] = {}
    seeds: list[int] = []
    for name, own in sets.items():
        drawn = resample(own, "tau", [run.folder for run in runs])
        values = {run.folder: mean_over_turns(own, "tau", run.folder) for run in runs}
        known = None if own.reliability is None else judges(own.reliability)
        each = [_of_pair(pair, runs, values, drawn) for pair in pairs]
        seeds = seeds or [by.seeds for by in each]
        cells[f"tau {name}"] = _cells(each, declared, can_judge=known is True, more_is_better=True)
    losses = {f"{row['method']}-{row['seed']}": _winners(row) for row in rows}
    each = [_of_pair(pair, runs, losses, None) for pair in pairs]
    cells["winners' loss"] = _cells(each, declared, can_judge=True, more_is_better=False)
    lines = [
        [f"`{first}` minus `{second}`", str(seeds[i]), *(column[i] for column in cells.values())]
        for i, (first, second) in enumerate(pairs)
    ]
    return markdown(("difference", "seeds", *cells), lines)


def _of_pair(
    pair: tuple[str, str],
    runs: Sequence[ComparedRun],
    values: Mapping[str, float | None],
    drawn: Resampled | None,
) -> Difference:
    first, second = (
        {
            run.seed: (run.folder, value)
            for run in runs
            if run.method == method and (value := values.get(run.folder)) is not None
        }
        for method in pair
    )
    return difference(first, second, drawn)


def _cells(
    each: Sequence[Difference], declared: int, *, can_judge: bool, more_is_better: bool
) -> list[str]:
    """The differences of a column in words, corrected together with those not on record yet."""
    tested = [i for i, by in enumerate(each) if by.p is not None]
    missing = [1.0] * (declared - len(tested))
    adjusted = holm([*(float(each[i].p or 0.0) for i in tested), *missing])
    corrected = dict(zip(tested, adjusted, strict=False))
    cells = []
    for i, by in enumerate(each):
        if by.value is None or by.low is None or by.high is None:
            cells.append("" if by.value is None else f"{by.value:+.3f}")
            continue
        said = f"{by.value:+.3f} ({by.low:+.3f} to {by.high:+.3f}), p {corrected[i]:.2g}"
        if can_judge and by.seeds >= FEWEST and corrected[i] < WRONG:
            said += ", **better**" if (by.value > 0) == more_is_better else ", **worse**"
        cells.append(said)
    return cells


def _spent(rows: Rows, order: Sequence[str]) -> str:
    lines = []
    for method in order:
        own = [row for row in rows if row["method"] == method]
        images = [sum(row["images"].get(kind, 0) for kind in LEARNT) for row in own]
        steps = [row["spent"]["weight_steps"] for row in own]
        macs = [
            (row["spent"]["macs"]["training"] or 0) + (row["spent"]["macs"]["probes"] or 0)
            for row in own
        ]
        seconds = [row["spent"]["seconds"].get("training", 0.0) for row in own]
        shifting = [row["images"].get("shifting", 0) for row in own]
        lines.append(
            [
                f"`{method}`",
                f"{np.mean(steps):,.0f}",
                f"{np.mean(images):,.0f}",
                f"{np.mean(macs) / 1e12:.3f}",
                f"{np.mean(shifting):,.0f}",
                f"{np.median(seconds):,.0f}",
            ]
        )
    columns = (
        *("method", "steps of the weights", "images to learn from", "TMACs to train and probe"),
        *("images of them in the search", "seconds of training"),
    )
    return (
        "Means over seeds, medians of seconds. A backward pass counts as two forward ones, a pass "
        "with masks as one of the largest network. Seconds are of a machine that did other work "
        "beside it.\n\n" + markdown(columns, lines)
    )


LEARNT = ("train", "probe", "shifting")
"""What images are forwarded for that weights or samplers learn from."""
