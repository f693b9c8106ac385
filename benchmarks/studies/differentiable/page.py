"""The page that shows the records of `run.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from manyshot import rank
from manyshot.space import Arch, Budget

Record = dict[str, Any]
BUDGETS = ("macs<=25%", "macs<=45%", "macs<=70%", "macs<=100%")
"""Of `tiny`."""
TRUTH = kept.TRUTHS / "tiny_truth.jsonl"
REFERENCE = "evolution"
WITHOUT_WEIGHTS = {0: "none", 1: "skip", 4: "pooling"}
"""Operations of a cell's edge that have no weights, by their option."""
COMMAND = "python -m benchmarks.studies.differentiable.run"
DESIGN = Design(
    primary="regret of what is selected within four budgets, in points of truth",
    before=True,
    same="digits, `tiny` and its recipe; arms differ in sampler, search and epochs",
    budgets="36.6e9 multiply-adds of training, probes and search in `tiny`, 13.7e9 in `cell`",
    protocol="the mean of five trainings alone, the same for all; in `cell` trained anew",
    controls=("evolution", "random"),
    random="random",
    benchmark="stand-alone trainings of all 256 networks, five each",
    tuning="none but the rate of logits, 0.02 for all, from a recipe on seed 0 that is not judged",
)


class Truth:
    """What every network of `tiny` is worth, and what it costs."""

    def __init__(self) -> None:
        table = rank.load_truth(TRUTH)
        net = ms.Supernet(ms.zoo.tiny())
        worth = dict(zip(table.archs, np.asarray(table.scores_N).tolist(), strict=True))
        self.archs: list[Arch] = list(net.space.enumerate())
        self.worth = np.array([worth[arch] for arch in self.archs])
        self.macs = np.asarray(ms.cost.macs(net, self.archs, (1, 8, 8)))
        self.params = np.asarray(ms.cost.params(net, self.archs))
        self._row = {net.space.to_text(arch): i for i, arch in enumerate(self.archs)}

    def regrets(self, selected: Mapping[str, str]) -> dict[str, float]:
        """By budget, in points, how far what is selected is from the best within it."""
        return {
            budget: 100
            * float(self.worth[self._within(budget)].max() - self.worth[self._row[arch]])
            for budget, arch in selected.items()
        }

    def of_most(self) -> dict[str, str]:
        """By budget, the network of the most multiply-adds within it."""
        texts = list(self._row)
        return {
            budget: texts[max(np.flatnonzero(self._within(budget)), key=lambda i: self.macs[i])]
            for budget in BUDGETS
        }

    def _within(self, budget: str) -> np.ndarray:
        [limit] = Budget.parse_all(budget)
        return np.asarray(self.macs <= limit.absolute(int(self.macs.max())))


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    rows, truth = kept.rows(path), Truth()
    parts = (
        "# Differentiable search beside one-shot search, at equal compute\n",
        f"Written by `{COMMAND}` from `{path.name}`; what is compared is said in `run.py`. ± is "
        f"Student's 95 % interval over seeds.{_code(rows)}\n",
        f"## `tiny` on digits\n\n{_regrets(rows, truth)}\n\n{_orders(rows, truth)}\n",
        f"## Cells of NAS-Bench-201 on digits\n\n{_cells(rows).rstrip()}\n",
    )
    return with_checklist(with_reading(path, parts, rows), DESIGN, rows)


def _code(rows: Sequence[Record]) -> str:
    """Which arms ran at which commit, where there are several; the oldest record's first."""
    arms: dict[str, dict[str, None]] = {}
    for row in sorted(rows, key=lambda row: str(row["date"])):
        arms.setdefault(row["commit"], {})[f"{row['arm']} ({row['space']})"] = None
    if len(arms) == 1:
        return ""
    each = "; ".join(f"{commit}: {', '.join(ran)}" for commit, ran in arms.items())
    return f" Not all records are of the same code. {each}."


def _of(rows: Sequence[Record], space: str, arm: str) -> list[Record]:
    own = [row for row in rows if (row["space"], row["arm"]) == (space, arm)]
    return sorted(own, key=lambda row: int(row["seed"]))


def _arms(rows: Sequence[Record], space: str) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows if row["space"] == space))


def mean(values: Sequence[float], digits: int = 2) -> str:
    """A mean with Student's 95 % interval, as text; of one value, that alone."""
    array = np.array(values)
    if len(array) < 2:
        return f"{array.mean():.{digits}f}"
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / len(array) ** 0.5
    return f"{array.mean():.{digits}f} ± {half:.{digits}f}"


def paired(
    rows: Sequence[Record],
    others: Sequence[Record],
    value: Callable[[Record], float],
    digits: int = 2,
) -> str:
    """The differences of the seeds that both have, as text; nothing where there are none."""
    one, other = ({row["seed"]: value(row) for row in each} for each in (rows, others))
    both = sorted(one.keys() & other.keys())
    return mean([one[seed] - other[seed] for seed in both], digits) if both else ""


def _paired(
    rows: Sequence[Record], space: str, arm: str, value: Callable[[Record], float], digits: int = 2
) -> str:
    """The difference from the reference; nothing of itself."""
    if arm == REFERENCE:
        return ""
    return paired(_of(rows, space, arm), _of(rows, space, REFERENCE), value, digits)


def _regrets(rows: Sequence[Record], truth: Truth) -> str:
    most = truth.regrets(truth.of_most())

    def regret(row: Record) -> float:
        return float(np.mean(list(truth.regrets(row["selected"]).values())))

    lines = []
    for arm in _arms(rows, "tiny"):
        own = _of(rows, "tiny", arm)
        each = [truth.regrets(row["selected"]) for row in own]
        macs = [sum(row["spent"]["macs"].values()) / 1e9 for row in own]
        seconds = [sum(row["spent"]["seconds"].values()) for row in own]
        lines.append(
            [
                f"`{arm}`",
                str(len(own)),
                *(mean([by[budget] for by in each]) for budget in BUDGETS),
                mean([regret(row) for row in own]),
                _paired(rows, "tiny", arm, regret),
                f"{np.mean(macs):.1f}",
                f"{np.median(seconds):.0f}",
            ]
        )
    lines.append(
        ["most multiply-adds", "", *(f"{most[budget]:.2f}" for budget in BUDGETS)]
        + [f"{np.mean(list(most.values())):.2f}", "", "0", "0"]
    )
    columns = (
        "arm", "seeds", *BUDGETS, "mean", f"minus `{REFERENCE}`", "1e9 MACs", "seconds"
    )  # fmt: skip
    return (
        "Regret, in points of test accuracy of five trainings alone: how far what is selected lies "
        f"below the best within the budget.\n\n{markdown(columns, lines)}"
    )


def _orders(rows: Sequence[Record], truth: Truth) -> str:
    lines = []
    for arm in _arms(rows, "tiny"):
        own = _of(rows, "tiny", arm)
        taus = [rank.kendall(np.array(row["order"]), truth.worth) or 0.0 for row in own]
        gaps = [100 * (row["mixed"] - row["proxy"][BUDGETS[-1]]) for row in own if row["mixed"]]
        mixed = [100 * row["mixed"] for row in own if row["mixed"]]
        lines.append(
            [
                f"`{arm}`",
                mean(taus),
                mean(mixed, 1) if mixed else "",
                mean(gaps, 1) if gaps else "",
            ]
        )
    for name, costs in (("multiply-adds", truth.macs), ("parameters", truth.params)):
        lines.append([name, f"{rank.kendall(costs, truth.worth):.2f}", "", ""])
    columns = ("ordered by", "tau with the truth", "options mixed, %", "discretisation gap, points")
    return (
        "Order of all 256 networks by the weights of options, or by proxy scores of the one-shot "
        "supernet, against the truth; the score of the mixture on validation images, and how much "
        "less the selected network without a limit has with the same weights.\n\n"
        f"{markdown(columns, lines)}"
    )


def _cells(rows: Sequence[Record]) -> str:
    lines = []
    for arm in _arms(rows, "cell"):
        own = _of(rows, "cell", arm)
        archs = [tuple(map(int, next(iter(row["selected"].values())).split("-"))) for row in own]
        counts = [
            mean([sum(option == number for option in arch) for arch in archs], 1)
            for number in WITHOUT_WEIGHTS
        ]
        tests = [100 * next(iter(row["test"].values())) for row in own]
        macs = [
            sum(v for part, v in row["spent"]["macs"].items() if part != "finishing") / 1e9
            for row in own
        ]
        mixed = [100 * row["mixed"] for row in own if row["mixed"]]
        lines.append(
            [
                f"`{arm}`",
                str(len(own)),
                *counts,
                mean(mixed, 1) if mixed else "",
                mean(tests, 1),
                _paired(rows, "cell", arm, lambda row: 100 * next(iter(row["test"].values())), 1),
                f"{np.mean(macs):.1f}",
            ]
        )
    columns = (
        "arm", "seeds", "edges of none", "of skips", "of pooling", "options mixed, %",
        "trained anew, test, %", f"minus `{REFERENCE}`", "1e9 MACs",
    )  # fmt: skip
    return (
        "Of six edges, how many the selected cell gives to operations without weights, and what it "
        f"has when it is trained anew for 40 epochs.\n\n{markdown(columns, lines)}"
    )
