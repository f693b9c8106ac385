"""The page of `run.py`: its records against the tables, and the checks that both must pass.

M networks within a budget, Q numbers of queries, S searches. Accuracies are in percent.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from benchmarks.studies.searchers.problems import (
    ARMS,
    QUERIES,
    Problem,
    few,
    held_out,
    problems,
)
from manyshot import rank
from manyshot.rank.published import ACCURACIES, columns, nas_bench_201
from manyshot.space import Arch

BEST = {"none": 93.127, "macs<=30M": 89.38, "macs<=40M": 91.51, "macs<=50M": 92.17}
BEST |= {"macs<=60M": 92.57, "macs<=80M": 93.08}
"""Of NAS-Bench-Macro, as its description has them."""
EXPECTED = {1: 90.25, 10: 92.43, 50: 92.77, 100: 92.87, 500: 93.02}
"""Of the best of so many encodings of NAS-Bench-Macro drawn with replacement, as it has them."""
Rows = list[dict[str, Any]]
Pair = tuple[str, str]
EVOLUTION = "evolution, population 20"
PAIRS: tuple[Pair, ...] = (
    *((arm, "random") for arm in ARMS if arm != "random"),
    *((arm, "evolution, population 20") for arm in ARMS if arm not in ("random", EVOLUTION)),
    ("predictor, 5 members", "predictor"),
    ("bananas, one_hot", "bananas"),
    ("bananas, one_hot", "predictor"),
    ("local, first better", "local"),
    ("regularised_evolution, one at a time", "regularised_evolution"),
    ("predictor", "evolution"),
    ("predictor", "regularised_evolution"),
    ("predictor, top 10", "predictor"),
    ("predictor, 5 members", "predictor, top 10"),
    ("evolution, population 20", "evolution"),
    ("nsga2", "evolution"),
)


class CheckFailed(Exception):
    """A measured number is not what it must be."""


@cache
def within(problem: Problem) -> np.ndarray:
    """The rows of the table within the budget."""
    truth = problem.truth
    if not problem.cost:
        return np.arange(len(truth))
    return np.flatnonzero(truth.costs[problem.cost] <= problem.limit)


def expected(problem: Problem, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance, (Q,) both, of what random search of a seed returns: in closed form.

    Of k networks drawn from M without replacement, the one of rank r by what is told is the best
    with probability C(M - r, k - 1) / C(M, k).
    """
    truth, rows = problem.truth, within(problem)
    told, cost = 100 * problem.oracle(seed), problem.costs
    archs = truth.archs
    ties = (lambda i: cost[archs[i]]) if problem.cost else (lambda i: 0)
    order = sorted(rows.tolist(), key=lambda i: (-told[i], ties(i), archs[i]))
    value_M = 100 * truth.scores_N[order]
    m = len(order)
    rank_M = np.arange(1, m + 1)
    moments = []
    for k in np.minimum(QUERIES, m):
        with np.errstate(divide="ignore"):
            left = _log_binomial(m - rank_M, k - 1) - _log_binomial(np.array([m]), k)
        chance_M = np.where(m - rank_M >= k - 1, np.exp(left), 0)
        mean = chance_M @ value_M
        moments.append((mean, chance_M @ (value_M - mean) ** 2))
    means, variances = zip(*moments, strict=True)
    return np.array(means), np.array(variances)


def _log_binomial(n: np.ndarray, k: int) -> np.ndarray:
    n = np.maximum(n, k)
    return special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)


def check(table: Mapping[tuple[Problem, str], np.ndarray], seeds: Sequence[int]) -> str:
    """Compares random search with its expectation, and the tables with their descriptions.

    Raises:
        CheckFailed: naming what is off.
    """
    every = columns("nas_bench_macro")["mean_acc"]
    count = len(every)
    sorted_M, share_M = np.sort(every), np.arange(count + 1) / count
    for k, value in EXPECTED.items():
        found = float(sorted_M @ np.diff(share_M**k))
        if abs(found - value) > 6e-3:
            raise CheckFailed(f"the best of {k} encodings is {found:.3f}, not {value}")
    for problem in problems():
        if problem.table == "nas_bench_macro":
            found = 100 * problem.truth.scores_N[within(problem)].max()
            if abs(found - BEST[problem.budget]) > 6e-3:
                raise CheckFailed(f"best within {problem.budget}: {found:.3f}")
    rows, scores = [], []
    for problem in (*problems(), *held_out()):
        if (problem, "random") not in table:
            continue
        have = ~np.isnan(table[problem, "random"][:, 0])
        moments = [expected(problem, seed) for seed in itertools.compress(seeds, have)]
        mean_Q = np.mean([mean for mean, _ in moments], axis=0)
        error_Q = np.sqrt(np.sum([v for _, v in moments], axis=0)) / len(moments)
        found_Q = table[problem, "random"][have].mean(0)
        z_Q = (found_Q - mean_Q)[error_Q > 1e-9] / error_Q[error_Q > 1e-9]
        scores.extend(z_Q.tolist())
        title = f"{problem.table}, {problem.budget}"
        pairs = zip(found_Q, mean_Q, strict=True)
        rows.append([title, *(f"{f:.2f} / {m:.2f}" for f, m in pairs)])
    worst, square = float(np.abs(scores).max()), float(np.mean(np.square(scores)))
    if worst > 4.5:
        raise CheckFailed(f"random search is {worst:.1f} standard errors off its expectation")
    text = markdown(("measured / expected", *map(str, QUERIES)), rows)
    return (
        f"Random search against its closed form (a uniform draw without replacement): of "
        f"{len(scores)} means the farthest is {worst:.1f} standard errors off, and the mean square "
        f"is {square:.2f} (1 expected).\n\n{text}"
    )


def gathered(rows: Rows) -> tuple[dict[tuple[Problem, str], np.ndarray], list[int]]:
    """Accuracy of what each search returned, (S, Q), nan where there is none; and all seeds."""
    by_key = {
        (row["table"], row["budget"], row["searcher"], row["seed"]): row["found"] for row in rows
    }
    seeds = sorted({seed for *_, seed in by_key})
    table = {}
    for problem in (*problems(), *held_out()):
        accuracy = dict(zip(problem.truth.archs, 100 * problem.truth.scores_N, strict=True))
        for arm in ARMS:
            values_SQ = np.full((len(seeds), len(QUERIES)), np.nan)
            for s, seed in enumerate(seeds):
                found = by_key.get((problem.table, problem.budget, arm, seed), [])
                values_SQ[s, : len(found)] = [accuracy[_arch(text)] for text in found]
            if not np.isnan(values_SQ).all():
                table[problem, arm] = values_SQ
    return table, seeds


def _arch(text: str) -> Arch:
    return tuple(map(int, text))


def error_of(values_S: np.ndarray) -> float:
    """The standard error of a mean over seeds."""
    return float(values_S.std(ddof=1) / len(values_S) ** 0.5)


def paired(one_SQ: np.ndarray, two_SQ: np.ndarray, q: int) -> np.ndarray:
    """The differences of the seeds that both have."""
    by_S = one_SQ[:, q] - two_SQ[:, q]
    return np.asarray(by_S[~np.isnan(by_S)])


def sign(by_S: np.ndarray) -> int:
    """1 or -1 if the mean of differences is over two standard errors from zero, else 0."""
    return int(np.sign(by_S.mean()) * (abs(by_S.mean()) > 2 * error_of(by_S)))


def cell(found_SQ: np.ndarray, random_SQ: np.ndarray, q: int) -> str:
    """Mean ± s.e., and in brackets the paired difference from random ± s.e., in bold if clear."""
    own_S = found_SQ[~np.isnan(found_SQ[:, q]), q]
    if len(own_S) < 2:
        return ""
    text = f"{own_S.mean():.2f} ± {error_of(own_S):.2f}"
    if found_SQ is random_SQ:
        return text
    by_S = paired(found_SQ, random_SQ, q)
    difference = f"{by_S.mean():+.2f} ± {error_of(by_S):.2f}"
    return f"{text} ({f'**{difference}**' if sign(by_S) else difference})"


def section(problem: Problem, table: Mapping[tuple[Problem, str], np.ndarray]) -> str:
    """The table of one problem, under what is known without a search."""
    truth, rows = problem.truth, within(problem)
    accuracy, macs = 100 * truth.scores_N[rows], truth.costs["macs"][rows]
    most = accuracy[macs == macs.max()].mean()
    known = [
        f"{len(rows):,} of {len(truth):,} networks are within it",
        f"the best has {accuracy.max():.2f}",
        f"those of the most MACs have {most:.2f}",
    ]
    if problem.cost.startswith("latency"):
        cost = truth.costs[problem.cost][rows]
        tau = rank.kendall(macs, cost)
        known.append(f"the slowest {accuracy[cost == cost.max()].mean():.2f}")
        known.append(f"tau of latency and MACs within it is {tau:.2f}")
    if len(truth.runs) > 1 or problem.told:
        limits = [accuracy[problem.oracle(run)[rows].argmax()] for run in range(len(truth.runs))]
        known.append(f"the best by what is told, {' or '.join(f'{x:.2f}' for x in limits)}")
    random_SQ = table[problem, "random"]
    lines = [
        [arm, *(cell(table[problem, arm], random_SQ, q) for q in range(len(QUERIES)))]
        for arm in ARMS
        if (problem, arm) in table
    ]
    head = f"### {problem.table}, budget {problem.budget}\n\n{'; '.join(known)}.\n"
    return head + "\n" + markdown(("queries", *map(str, QUERIES)), lines)


def summary(
    table: Mapping[tuple[Problem, str], np.ndarray], among: Sequence[Problem], pairs: Sequence[Pair]
) -> str:
    """For each pair on how many problems the first is clearly above or below the second."""
    lines = []
    for one, two in pairs:
        on = [p for p in among if (p, one) in table and (p, two) in table]
        cells = []
        for q in range(len(QUERIES)):
            each = [paired(table[problem, one], table[problem, two], q) for problem in on]
            signs = [sign(by_S) for by_S in each if len(by_S) > 1]
            cells.append(f"{signs.count(1)} / {signs.count(-1)}" if signs else "")
        if on:
            lines.append([one, two, str(len(on)), *cells])
    head = ("above / below", "than", "budgets", *map(str, QUERIES))
    return markdown(head, lines)


def speed(rows: Rows) -> str:
    """CPU time of the searchers themselves."""
    lines = []
    for arm in ARMS:
        for table in dict.fromkeys(problem.table for problem in problems()):
            own = [r for r in rows if r["searcher"] == arm and r["table"] == table]
            full = [r["cpu_seconds"] for r in own if r["told"] == ARMS[arm].most]
            if full:
                low, middle, high = 1000 * np.quantile(full, (0.25, 0.5, 0.75))
                queries = str(ARMS[arm].most)
                lines.append(
                    [arm, table, str(len(full)), queries, f"{middle:.0f} ({low:.0f} to {high:.0f})"]
                )
    head = ("searcher", "table", "n", "queries", "CPU ms per search (quartiles)")
    return markdown(head, lines)


def optima(rows: Rows) -> str:
    """How many searches were told the best network, and after how many queries."""
    lines = []
    for arm in ARMS:
        own = [r for r in rows if r["searcher"] == arm]
        cells = []
        for problem in few():
            here = [r for r in own if (r["table"], r["budget"]) == (problem.table, problem.budget)]
            after = sorted(r["optimum_after"] for r in here if r["optimum_after"])
            middle = f", {after[len(after) // 2]}" if after else ""
            cells.append(f"{len(after)} of {len(here)}{middle}" if here else "")
        if any(cells):
            lines.append([arm, str(ARMS[arm].most), *cells])
    chance = [f"{min(1, max(QUERIES) / len(within(problem))):.0%}" for problem in few()]
    lines.append(["random, in closed form", str(max(QUERIES)), *chance])
    head = ("searcher", "queries", *(f"{p.table}, {p.budget}" for p in few()))
    return markdown(head, lines)


def fronts(rows: Rows) -> str:
    """Hypervolumes, where there is no budget."""
    lines = []
    for problem in (p for p in problems() if not p.cost and not p.told):
        for arm in ARMS:
            own = [
                row["front"]
                for row in rows
                if (row["table"], row["budget"], row["searcher"])
                == (problem.table, problem.budget, arm)
            ]
            if len(own) > 1:
                own_SQ = np.array(own)
                cells = [f"{v.mean():.3f} ± {error_of(v):.3f}" for v in own_SQ.T]
                cells += [""] * (len(QUERIES) - len(cells))
                lines.append([problem.table, arm, *cells])
    return markdown(("table", "searcher", *map(str, QUERIES)), lines)


def optimism(rows: Rows) -> str:
    """What judging by the run that was told adds, where there are other runs."""
    (truth,) = {p.truth for p in problems() if len(p.truth.runs) > 1}
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    added = []
    for row in rows:
        if row["table"] == truth.name and row["told"] == QUERIES[-1]:
            runs = 100 * truth.scores_NR[row_of[_arch(row["found"][-1])]]
            others = np.delete(runs, row["seed"] % len(runs))
            added.append(float(runs.mean() - others.mean()))
    return (
        f"By the mean of the two runs that were not told, networks returned after {QUERIES[-1]} on "
        f"{truth.name} are {np.mean(added):.3f} points worse than by the mean of all three, which "
        "the tables have.\n"
    )


def baselines() -> str:
    """How well MACs order 12 epochs of NAS-Bench-201, and how well another training does."""
    rows = columns("nas_bench_201")
    connected = rows["connected"] == 1
    functions: dict[float, list[int]] = collections.defaultdict(list)
    for i in np.flatnonzero(connected):
        functions[rows["iso_id"][i]].append(int(i))
    several = [f for f in functions.values() if len(f) > 1]
    lines = []
    for accuracy, column in ACCURACIES.items():
        value, macs = rows[column], rows["live_macs"]
        truth = nas_bench_201(accuracy)
        first, second = (np.array([value[f[i]] for f in several]) for i in (0, 1))
        top = first >= np.quantile(first, 0.9)
        squares = sum(len(f) * np.var(value[f]) for f in several)
        freedom = sum(len(f) - 1 for f in several)
        taus = (
            rank.kendall(macs[connected], value[connected]),
            rank.spearman(macs[connected], value[connected]),
            rank.kendall(truth.costs["live_macs"], truth.scores_N),
            rank.kendall(first, second),
            rank.spearman(first, second),
            rank.kendall(first[top], second[top]),
        )
        lines.append([accuracy, *(f"{t:.3f}" for t in taus), f"{(squares / freedom) ** 0.5:.2f}"])
    head = (
        *("accuracy", "tau MACs", "rho MACs", "tau MACs, canonical"),
        *("tau of two", "rho of two", "tau of two, top tenth", "s.d. of a training"),
    )
    return markdown(head, lines)


DESIGN = Design(
    primary="accuracy of what a search returns after so many queries, against random search",
    same="the same published tables, budgets and seeds for all searchers",
    budgets="queries of the table",
    protocol="the mean of all runs of the table for what each search returns",
    random="random",
    anytime="accuracy after 10 to 400 queries, above",
    benchmark="NAS-Bench-Macro, NAS-Bench-201",
)


def write_page(path: Path) -> Path:
    """Writes the page of the records at `path`, and returns it.

    Raises:
        CheckFailed: if random search is not what it must be.
    """
    lines = kept.rows(path)
    rows = [row for row in lines if "found" in row]
    table, seeds = gathered(rows)
    parts = [
        "# Searchers on published tables\n",
        "Written by `python -m benchmarks.studies.searchers.run` from its records. Accuracy in "
        "percent of what a search returns after so many queries, mean ± standard error over "
        f"{len(seeds)} seeds, of slow searchers over fewer (how many searches there are of each is "
        "in the table of times); in brackets the difference from random search, paired by seed, in "
        "bold if it is over two standard errors. What is told and what judges is said in "
        "`run.py`.\n",
        "## In how many budgets a searcher is clearly above, below another\n",
        summary(table, problems(), PAIRS),
        *(section(problem, table) for problem in problems() if (problem, "random") in table),
        "## Tables that no default was chosen on\n",
        "For the default of `predictor`, by the rule of [design.md](design.md). `methods` has 160 "
        "of 15,625 networks, and all others are over its limits.\n",
        summary(table, held_out(), PAIRS),
        *(section(problem, table) for problem in held_out() if (problem, "random") in table),
        "## The best network of all\n",
        "How many searches were told the network that is best by what is told, and the median "
        "number of queries of those that were.\n",
        optima(rows),
        "## Fronts\n",
        "Hypervolume of test error and multiply-adds of all that was told, as a share of that of "
        "the whole table; from an error of 20 % and the multiply-adds of the largest. Only `nsga2` "
        "looks for it.\n",
        fronts(rows),
        "## Time of the searchers\n",
        speed(rows),
        "## Checks\n",
        check(table, seeds),
        optimism(rows),
        "## NAS-Bench-201, 12 epochs: baselines and noise\n",
        "Live MACs over the 15,284 connected cells, and over the 9,444 canonical ones. Two of each "
        "of the 1,205 functions that several cells compute, the first two by index (whose order "
        "is a shuffle): how one training orders another; top tenth by the first. The deviation, "
        "in points, is of a training from the mean of its function, pooled.\n",
        baselines(),
    ]
    page = with_reading(path, parts, [row for row in lines if "commit" in row])
    return with_checklist(page, DESIGN, lines)
