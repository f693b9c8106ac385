"""The page of `run.py`: its records against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from manyshot import rank, records

TRUTH = kept.TRUTHS / "tiny_truth.jsonl"
LOCAL = (26, 51)
"""Sizes of local sets: 10 % and 20 % of the space."""
AS_LONG = dict.fromkeys(
    (
        *("per_step", "per_candidate", "per_generation"),
        *("random_population", "topk_finetune", "as the public code"),
    ),
    "uniform_finetune",
) | {"per_step, lr 0.02": "uniform_finetune, lr 0.02"}
"""The control that trains on as many images at the same rate."""
COSTS = ("frozen, nothing proposed twice", "frozen", "shifting")
Rows = list[dict[str, Any]]


class Truth:
    """Stand-alone test accuracies, (256, seeds), and costs, in the order of the texts `archs`.

    Local sets by truth are the best by the last seed; they are judged by the mean of the others.
    """

    def __init__(self, path: Path = TRUTH) -> None:
        rows = [row for row in records.read_lines(path) if "arch" in row]
        seeds = sorted({row["seed"] for row in rows})
        self.archs = sorted({row["arch"] for row in rows})
        by_key = {(row["arch"], row["seed"]): row["test_score"] for row in rows}
        self.runs = np.array([[by_key[a, s] for s in seeds] for a in self.archs])
        self.all = self.runs.mean(1)
        self.others = self.runs[:, :-1].mean(1)
        net = ms.Supernet(ms.zoo.NETWORKS["tiny"]())
        encoded = [net.space.from_text(text) for text in self.archs]
        self.macs = ms.cost.macs(net, encoded, (1, 8, 8))
        self.params = ms.cost.params(net, encoded)

    def top(self, k: int) -> np.ndarray:
        """The best by the last seed."""
        return np.argsort(-self.runs[:, -1], kind="stable")[:k]


def taus(truth: Truth, scores: np.ndarray, before: np.ndarray) -> dict[str, float | None]:
    """Tau of scores with the truth, by set; the predicted local sets are those of `before`."""
    found = {"global": rank.kendall(scores, truth.all)}
    for k in LOCAL:
        top = truth.top(k)
        found[f"L-truth({k})"] = rank.kendall(scores[top], truth.others[top])
    for k in LOCAL:
        top = np.argsort(-before, kind="stable")[:k]
        found[f"L-pred({k})"] = rank.kendall(scores[top], truth.all[top])
    return found


DESIGN = Design(
    primary="change of tau, global and among those predicted best, against uniform_finetune",
    same="one recipe; arms change `[shifting]` alone, and begin with the same supernets",
    budgets="images that shifting trains on, against `uniform_finetune`",
    protocol="frozen sets, the same images and calibration before and after",
    controls=("none", "uniform_finetune", "random_population", "topk_finetune"),
    random="random_population",
    benchmark="`benchmarks/truths/tiny_truth.jsonl`",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    order = [row for row in rows if row["measure"] == "order"]
    truth = Truth()
    arms = list(dict.fromkeys(row["arm"] for row in order))
    seeds = sorted({row["seed"] for row in order})
    page = with_reading(
        path,
        [
            "# Supernet Shifting and its controls\n",
            "Written by `python -m benchmarks.studies.shifting.run` from its records and "
            "`benchmarks/truths/tiny_truth.jsonl`. "
            f"All 256 networks of `tiny` on digits; {truth.runs.shape[1]} stand-alone trainings "
            f"each (test accuracy); {len(seeds)} supernets. Kendall's tau-b of proxy accuracy "
            "(validation) with the truth. `L-truth(k)`: the k best by the last training, judged "
            "by the mean of the others. `L-pred(k)`: the k best of each supernet before "
            "shifting. Ties at the edge of a set are settled by the order of "
            "encodings. Sets, images and calibration batches are the same before and after, and in "
            "all arms.\n",
            "## What can be expected of tau\n",
            _ceilings(truth),
            "## Before shifting, and after\n",
            "Mean ± standard deviation over supernets:\n",
            _levels(truth, order, arms),
            "Change against before, paired by supernet: mean, 95 % interval (t):\n",
            _changes(truth, order, arms, "accuracy", _before),
            "Change against `uniform_finetune`, at the same rate, which trains on as many "
            "images of uniform paths:\n",
            _changes(
                truth,
                order,
                [a for a in arms if a in AS_LONG],
                "accuracy",
                lambda row: _arm(order, row["seed"], AS_LONG[row["arm"]]),
            ),
            "The same against before, by validation loss instead of accuracy (no ties):\n",
            _changes(truth, order, arms, "loss", _before),
            "## What is found\n",
            _found(truth, order, arms),
            "## What it costs\n",
            _cost([row for row in rows if row["measure"] == "cost"]),
        ],
        rows,
    )
    return with_checklist(page, DESIGN, rows)


def _column(row: dict[str, Any], kind: str, when: str) -> np.ndarray:
    return np.array(row[f"{kind}_{when}"]) * (-1 if kind == "loss" else 1)


def _after(truth: Truth, row: dict[str, Any], kind: str = "accuracy") -> dict[str, float | None]:
    return taus(truth, _column(row, kind, "after"), _column(row, kind, "before"))


def _before(row: dict[str, Any]) -> dict[str, Any]:
    """The row of the supernet as it was."""
    kinds = ("accuracy", "loss")
    return {**row, **{f"{kind}_after": row[f"{kind}_before"] for kind in kinds}}


def _arm(rows: Rows, seed: int, arm: str) -> dict[str, Any]:
    return next(row for row in rows if (row["seed"], row["arm"]) == (seed, arm))


def _ceilings(truth: Truth) -> str:
    sets: dict[str, np.ndarray] = {"global": np.arange(len(truth.archs))}
    sets |= {f"L-truth({k})": truth.top(k) for k in LOCAL}
    table = []
    for name, chosen in sets.items():
        runs = truth.runs[chosen] if name == "global" else truth.runs[chosen, :-1]
        judged = (truth.all if name == "global" else truth.others)[chosen]
        values = (
            rank.run_to_run(runs),
            rank.kendall(truth.macs[chosen], judged),
            rank.kendall(truth.params[chosen], judged),
            rank.null_sd(len(chosen)),
        )
        table.append([name, str(len(chosen)), *(_number(v) for v in values)])
    columns = ["set", "n", "one training against another", "MACs", "parameters", "sd of no order"]
    return markdown(columns, table)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _levels(truth: Truth, rows: Rows, arms: Sequence[str]) -> str:
    first = [row for row in rows if row["arm"] == arms[0]]
    lines = [("before", [_after(truth, _before(row)) for row in first])]
    for arm in arms:
        lines.append((arm, [_after(truth, row) for row in rows if row["arm"] == arm]))
    names = list(lines[0][1][0])
    table = []
    for arm, found in lines:
        cells = []
        for name in names:
            values = [tau for f in found if (tau := f[name]) is not None]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        table.append([arm, *cells])
    return markdown(["weights", *names], table)


def _changes(
    truth: Truth,
    rows: Rows,
    arms: Sequence[str],
    kind: str,
    reference: Callable[[dict[str, Any]], dict[str, Any]],
) -> str:
    table, names = [], list(_after(truth, rows[0]))
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        pairs = [(_after(truth, r, kind), _after(truth, reference(r), kind)) for r in own]
        cells = [_paired([a[n] - b[n] for a, b in pairs]) for n in names]  # type: ignore[operator]
        table.append([arm, *cells])
    return markdown(["weights", *names], table)


def _paired(values: Sequence[float]) -> str:
    mean, n = float(np.mean(values)), len(values)
    if n < 2 or np.ptp(values) == 0:
        return f"{mean:+.3f}"
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def _found(truth: Truth, rows: Rows, arms: Sequence[str]) -> str:
    index = {arch: i for i, arch in enumerate(truth.archs)}
    table = []
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        won = [truth.all[index[row["winner"]]] for row in own]
        regrets = [rank.regret(_column(r, "accuracy", "after"), truth.all) for r in own]
        entropies = [row["entropy"] for row in own if row["entropy"]]
        shown = "-"
        if entropies:
            first, last = np.mean([e[0] for e in entropies]), np.mean([e[-1] for e in entropies])
            shown = f"{first:.2f} to {last:.2f}"
        accuracy = [np.mean(row["accuracy_after"]) for row in own]
        table.append(
            [
                arm,
                f"{100 * np.mean(accuracy):.1f}",
                f"{100 * np.mean(won):.2f} ± {100 * np.std(won, ddof=1):.2f}",
                f"{100 * (truth.all.max() - np.mean(won)):.2f}",
                f"{100 * np.mean(regrets):.2f}",
                shown,
                str(max(row["images"]["shifting"] for row in own)),
            ]
        )
    columns = [
        "weights",
        "proxy accuracy of all 256, %",
        "winner alone, %",
        "below the best, points",
        "regret of the best proxy, points",
        "entropy of proposals, nats",
        "images trained on",
    ]
    return markdown(columns, table)


def _cost(rows: Rows) -> str:
    if not rows:
        return "Not measured.\n"
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in COSTS}
    table = []
    for arm, own in by_arm.items():
        images = own[0]["images"]
        median = float(np.median([row["seconds"] for row in own]))
        pairs = zip(by_arm[COSTS[0]], own, strict=True)
        ratios = [one["seconds"] / first["seconds"] for first, one in pairs]
        spread = f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.append([arm, str(images["search"]), str(images["shifting"]), f"{median:.2f}", spread])
    columns = ["120 candidates", "images to score", "images to train", "seconds", "times the first"]
    return markdown(columns, table) + (
        f"\nMedians of {len(by_arm[COSTS[0]])} turns, in brackets the smallest and the largest. "
        "At frozen weights what is proposed again is not scored again; where weights move it "
        "is, and so are elites, and the best once more at the end.\n"
    )
