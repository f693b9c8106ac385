"""The page that shows the records of `run.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from benchmarks.studies.differentiable.page import BUDGETS, Record, Truth, mean, paired
from manyshot import rank

REFERENCE = "uniform"
COMMAND = "python -m benchmarks.studies.family.run"
DESIGN = Design(
    primary="tau between proxy scores of all networks and the truth",
    before=True,
    same="digits, `tiny` and its recipe; arms differ in sampler, shrinker and epochs",
    budgets="about 15e9 multiply-adds of training and probes; what shrinkers score is on top",
    protocol="the mean of five trainings alone, the same for all",
    controls=("uniform", "table"),
    random="uniform",
    benchmark="stand-alone trainings of all 256 networks, five each",
    tuning="options are those of the recipes; none was tuned",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    rows, truth = kept.rows(path), Truth()

    def tau(row: Record) -> float:
        return rank.kendall(np.array(row["order"]), truth.worth) or 0.0

    def regret(row: Record) -> float:
        return float(np.mean(list(truth.regrets(row["selected"]).values())))

    lines = []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        reference = [row for row in rows if row["arm"] == REFERENCE]
        macs = [(r["spent"]["macs"]["training"] + r["spent"]["macs"]["probes"]) / 1e9 for r in own]
        seconds = [sum(row["spent"]["seconds"].values()) for row in own]
        differs = arm != REFERENCE
        lines.append(
            [
                f"`{arm}`",
                str(len(own)),
                mean([tau(row) for row in own]),
                paired(own, reference, tau) if differs else "",
                mean([regret(row) for row in own]),
                paired(own, reference, regret) if differs else "",
                f"{np.mean(macs):.1f}",
                f"{np.median(seconds):.0f}",
            ]
        )
    most = truth.regrets(truth.of_most())
    for name, costs in (("multiply-adds", truth.macs), ("parameters", truth.params)):
        worth = f"{np.mean(list(most.values())):.2f}" if name == "multiply-adds" else ""
        lines.append([name, "", f"{rank.kendall(costs, truth.worth):.2f}", "", worth, "", "0", "0"])
    columns = (
        "arm", "seeds", "tau", f"minus `{REFERENCE}`", "regret", f"minus `{REFERENCE}`",
        "1e9 MACs", "seconds",
    )  # fmt: skip
    words = (
        f"Written by `{COMMAND}` from `{path.name}`; what is compared is said in `run.py`. ± is "
        "Student's 95 % interval over seeds. Tau is that of all 256 networks; regret, in points of "
        f"truth, the mean over {', '.join(BUDGETS)}; multiply-adds are of training and probes.\n"
    )
    title = "# Samplers and shrinkers beside uniform paths, at equal compute\n"
    page = with_reading(path, [title, words, markdown(columns, lines)], rows)
    return with_checklist(page, DESIGN, rows)
