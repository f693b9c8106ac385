"""The page and the figures of `run.py`, from its records alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading
from manyshot import records
from manyshot.rank import TruthTable, compare, kendall, load_truth, rank_sets, reliability
from manyshot.rank.compare import mean_over_seeds
from manyshot.rank.other_seeds import by_other_seeds
from manyshot.rank.reliability import over_turns, words
from manyshot.rank.resampling import JudgedSet, mean_over_turns
from manyshot.rank.sets import turns_of
from manyshot.run_folder import ComparedPair, ComparedRun

STUDIES = {
    "tiny": "All 256 networks of `tiny` on digits",
    "macro": "`macro(width=8)` on 10,000 images of Fashion-MNIST",
}
SETS = ("global", "local by truth", "local by prediction", "local by search")
WINNERS = "winners alone"
"""Mean stand-alone accuracy of a run's winners, if the truth has them all."""
SHOWN = ("tau global", "tau local by truth", "tau local by prediction", "regret global", WINNERS)
"""Metrics of which every method is compared with uniform paths."""
PRIMARY = "tau global"
"""Its comparisons with uniform paths are a family of Holm's correction; each set is another."""
IN_TURN = ("local by truth, in turn", "local by other seeds", "global at like cost")
"""Sets that no single run or supernet chose, or of which pairs of like cost count."""
Rows = Sequence[Mapping[str, Any]]


DESIGN = Design(
    primary=PRIMARY,
    same="one recipe per study; methods change sampler, sharing or shifting alone",
    budgets="images forwarded to train, probe and shift, within 4 %; weight steps differ",
    protocol="one truth, the same validation and calibration images for all",
    controls=("uniform", "uniform_finetune", "random_population"),
    benchmark="stand-alone trainings in `benchmarks/truths`",
)


def write_page(path: Path) -> Path:
    """Writes the page and one figure per study beside the records."""
    rows = kept.rows(path)
    parts = ["# Can the ranking be trusted?\n", INTRODUCTION]
    for study, title in STUDIES.items():
        own = [row for row in rows if row["study"] == study]
        if not own:
            continue
        figure = path.with_name(f"{study}.svg")
        records.write_text(figure, figure_of(own))
        alt = f"tau of every method and seed, {title}"
        truth = truth_of(own)
        parts += [f"## {title}\n", about(own, truth), f"![{alt}]({figure.name})\n"]
        parts += tables(own, truth.even)
    return with_checklist(with_reading(path, parts, rows), DESIGN, rows)


INTRODUCTION = """Written by `benchmarks/studies/order_preservation/page.py` from the records \
beside it; the head of `run.py` has the commands. Tau is Kendall's tau-b between proxy accuracy \
(the supernet's weights, batch norms calibrated for each network, validation images) and \
stand-alone test accuracy (the mean over the runs that may judge). ± is Student's 95 % interval \
over supernet seeds. All methods of a study forward equally many images to train, probe and \
shift. Local sets: *by truth*, the best tenth by one run of the truth, judged by the others; *by \
prediction*, the best tenth by another uniform supernet; *by search*, of what the run's own \
search scored, the best. A tau says little without those beside it: of counting multiply-adds or \
parameters, and between two runs of the truth. In the figures, intervals that leave a panel are \
cut at its edge.
"""


def about(rows: Rows, truth: TruthTable) -> str:
    """What the truth is, and what orders without a supernet."""
    first = {own["name"]: own for own in rows[0]["sets"]}
    known_NR = ~np.isnan(truth.scores_NR)
    runs = [f"{run} of {n}" for run, n in zip(truth.runs, known_NR.sum(axis=0), strict=True)]
    repeated = np.count_nonzero(known_NR.sum(axis=1) > 1)
    sd = "unknown" if truth.run_sd is None else f"{100 * truth.run_sd:.2f} points"
    lines = []
    for name in SETS[:3]:
        if name not in first:
            continue
        own = first[name]
        taus = [own["predictors"][p]["kendall"]["value"] for p in ("macs", "params")]
        null = f"{2 * own['null_sd']:.2f}"
        between = number(own["run_to_run"]) if len(own["judged_by"]) > 1 else "unknown"
        lines.append([name, str(own["architectures"]), *map(number, taus), between, null,
                      own["why"], ", ".join(own["judged_by"])])  # fmt: skip
    columns = ("set", "networks", "MACs", "params", "run to run", "noise", "chosen", "judged by")
    return (
        f"Truth: {len(truth)} networks, {', '.join(runs)}; a run is off its network's "
        f"mean by {sd} (standard deviation, over {repeated} networks). *MACs*, *params*, *run to "
        "run*: tau of these; *noise*: what two orders that have nothing in common stay below, "
        "95 times of 100.\n"
        f"\n{markdown(columns, lines)}"
    )


def number(value: float | None) -> str:
    """Two digits, or that there is none."""
    return "undefined" if value is None else f"{value:.2f}"


def spread(values: Sequence[float | None], percent: bool = False) -> str:
    """Mean and interval of one value per seed."""
    over_seeds = mean_over_seeds([value for value in values if value is not None])
    mean, high = over_seeds.mean, over_seeds.high
    if mean is None:
        return "undefined"
    scale, digits, unit = (100, 2, " %") if percent else (1, 2, "")
    said = f"{scale * mean:.{digits}f}"
    if high is not None:
        said += f" ± {scale * (high - mean):.{digits}f}"
    return said + unit


def statistic(row: Mapping[str, Any], name: str, predictor: str, key: str) -> float | None:
    """A statistic of a set of one run; None if the run has no such set."""
    for own in row["sets"]:
        if own["name"] == name and predictor in own["predictors"]:
            value: float | None = own["predictors"][predictor][key]["value"]
            return value
    return None


def tables(rows: Rows, truth: TruthTable) -> list[str]:
    """Methods over seeds, statistics without recalibration, pairs with uniform paths."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_method = {m: [row for row in rows if row["method"] == m] for m in methods}
    lines = []
    for method, own in by_method.items():
        taus = [[statistic(r, name, "proxy", "kendall") for r in own] for name in SETS]
        loss = [statistic(r, "global", "proxy loss", "kendall") for r in own]
        regret = [statistic(r, "global", "proxy", "regret") for r in own]
        truths = [w["truth"] for r in own for w in r["winners"] if w["truth"] is not None]
        winners = sum(len(r["winners"]) for r in own)
        proxy = sum(sum(r["proxy_accuracy"]) / len(r["proxy_accuracy"]) for r in own) / len(own)
        alone = f"{100 * sum(truths) / len(truths):.2f} %" if truths else "none known"
        lines.append([
            method, str(len(own)), f"{sum(r['images']['trained'] for r in own) / len(own):,.0f}",
            *map(spread, taus), spread(loss), spread(regret, percent=True), f"{100 * proxy:.1f} %",
            f"{alone} ({len(truths)} of {winners})",
        ])  # fmt: skip
    columns = (
        *("method", "seeds", "images"), *(f"tau {name}" for name in SETS),
        *("tau global, by loss", "regret", "mean proxy", "winners alone"),
    )  # fmt: skip
    parts = [markdown(columns, lines)]
    off = [row for row in rows if "shared_statistics_accuracy" in row]
    if off:
        pairs = [
            [spread([statistic(r, name, p, "kendall") for r in off]) for name in SETS[:3]]
            for p in ("proxy", "without recalibration")
        ]
        parts += [
            "Batch norms calibrated for each network, and running averages that all paths share "
            f"(uniform paths, {len(off)} seeds):\n",
            markdown(
                ("batch norms", *(f"tau {name}" for name in SETS[:3])),
                [["calibrated", *pairs[0]], ["shared", *pairs[1]]],
            ),  # fmt: skip
        ]
    return [
        *parts,
        f"Against uniform paths, paired by seed. p-values are corrected by Holm: comparisons by "
        f"{PRIMARY} are one family, those by every other set of architectures another. "
        "Intervals are of seeds alone and of each difference by itself; below five seeds there is "
        "no verdict, and none on local sets that one run or one supernet chose: those below stand "
        "in their place.\n",
        sentences(rows),
        "Mean tau of each method (columns) among the tenth that a supernet of another seed "
        "predicts best, by the method that chooses (rows); over all pairs of seeds, without "
        "intervals:\n",
        choosers(by_method, truth),
        "Mean tau over seeds among networks of like cost, a fifth of them each, from fewest to "
        "most multiply-adds; and of the proxy with multiply-adds, over all:\n",
        at_like_cost(by_method, truth),
        "Sets that hang on no single chooser: the best tenth by every run of the truth in turn, "
        "judged by the others; the best tenth by the supernets of all other seeds, of all methods "
        "alike; and all networks, of which only pairs count whose multiply-adds differ by 10 % at "
        "most. Mean tau, and the difference from uniform paths with its interval by seeds and runs "
        "of the truth, and by networks where these are no whole space:\n",
        in_turn(rows, truth),
    ]


def in_turn(rows: Rows, truth: TruthTable) -> str:
    """Every method on the sets that hang on no single chooser, beside uniform paths."""
    whole = rows[0]["study"] == "tiny"
    runs = [
        ComparedRun(
            folder=f"{row['method']}-{row['seed']}",
            method=row["method"],
            seed=row["seed"],
            images=row["images"],
            metrics={},
        )
        for row in rows
    ]
    scores = {
        run.folder: np.array(row["proxy_accuracy"]) for run, row in zip(runs, rows, strict=True)
    }
    sets = judged_in_turn(runs, scores, truth, whole)
    runs = [
        run.model_copy(
            update={
                "metrics": {
                    f"tau {name}": mean_over_turns(own, "tau", run.folder)
                    for name, own in sets.items()
                }
            }
        )
        for run in runs
    ]
    compared = compare(runs, sets=sets)
    lines = []
    for method in compared.methods:
        line = [method.method]
        for name in sets:
            line.append(number(method.metrics[f"tau {name}"].mean))
            pairs = [p for p in compared.pairs if p.metric == f"tau {name}"]
            own = [p for p in pairs if (p.first, p.second) == ("uniform", method.method)]
            line.append("" if not own or own[0].low is None else against(own[0]))
        lines.append(line)
    for label in ("macs", "params"):
        costs = {label: np.array(truth.costs[label], np.float64)}
        free = judged_in_turn(runs, {**scores, **costs}, truth, whole)
        taus = [number(mean_over_turns(own, "tau", label)) for own in free.values()]
        lines.append([label, *(cell for tau in taus for cell in (tau, ""))])
    gates = [f"{name}: {reliable(own)}." for name, own in sets.items()]
    columns = [column for name in sets for column in (f"tau {name}", "minus uniform")]
    return f"{markdown(('method', *columns), lines)}\n{' '.join(gates)}\n"


def against(pair: ComparedPair) -> str:
    """The difference of the second method from uniform paths, and its verdict."""
    assert pair.difference is not None and pair.low is not None and pair.high is not None
    said = f"{-pair.difference:+.2f} ({-pair.high:+.2f} to {-pair.low:+.2f})"
    other = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)
    return f"{said}, {other}"


def reliable(judged: JudgedSet) -> str:
    """Whether the truth can judge a set."""
    return "unknown" if judged.reliability is None else words(judged.reliability)


def judged_in_turn(
    runs: Sequence[ComparedRun], scores: Mapping[str, np.ndarray], truth: TruthTable, whole: bool
) -> dict[str, JudgedSet]:
    """The sets, as far as the truth has them."""
    sets = {}
    row_of = {arch: i for i, arch in enumerate(truth.archs)}
    for own in rank_sets(truth, whole=whole):
        if own.turns:
            chosen = [row_of[arch] for arch in own.truth.archs]
            sets[IN_TURN[0]] = JudgedSet(
                own.truth.fitness_NR,
                {name: column_N[chosen] for name, column_N in scores.items()},
                whole,
                over_turns([reliability(turn.truth.fitness_NR) for turn in own.turns]),
                turns_of(own),
            )
    found = by_other_seeds(runs, scores, truth.fitness_NR, share=0.1, whole=whole)
    if found is not None:
        sets[IN_TURN[1]] = found[0]
    sets[IN_TURN[2]] = JudgedSet(
        truth.fitness_NR,
        scores,
        whole,
        reliability(truth.fitness_NR),
        costs_N=np.array(truth.costs["macs"], np.float64),
    )
    return sets


def truth_of(rows: Rows) -> TruthTable:
    """The truth that a study's runs were ranked against."""
    study, ranked = rows[0]["study"], rows[0]["truth"]
    truth = load_truth(kept.TRUTHS / f"{study}_truth.jsonl")
    if (len(truth), list(truth.runs)) != (ranked["architectures"], ranked["runs"]):
        raise ValueError(f"the records of {study} are of another truth than is on file")
    return truth


def mean_tau(taus: Iterable[float | None]) -> str:
    """Of those that are defined."""
    known = [tau for tau in taus if tau is not None]
    return number(sum(known) / len(known) if known else None)


def at_like_cost(by_method: Mapping[str, Rows], truth: TruthTable) -> str:
    """Whether a proxy orders more than cost does."""
    macs_N = np.array(truth.costs["macs"])
    fifths = np.array_split(np.argsort(macs_N, kind="stable"), 5)
    lines = []
    for method, own in by_method.items():
        proxies = [np.array(row["proxy_accuracy"]) for row in own]
        taus = [[kendall(p[rows], truth.scores_N[rows]) for p in proxies] for rows in fifths]
        taus.append([kendall(p, macs_N) for p in proxies])
        lines.append([method, *map(mean_tau, taus)])
    ordinal = ("fewest", "second", "third", "fourth", "most")
    return markdown(("method", *ordinal, "with multiply-adds"), lines)


def choosers(by_method: Mapping[str, Rows], truth: TruthTable) -> str:
    """Whether who is ahead by prediction depends on who chooses."""
    truth_N = truth.scores_N
    count = math.ceil(len(truth_N) / 10)
    scores = {
        method: {row["seed"]: np.array(row["proxy_accuracy"]) for row in own}
        for method, own in by_method.items()
    }
    lines = []
    for chooser, by_seed in scores.items():
        tops = {s: np.argsort(-own_N, kind="stable")[:count] for s, own_N in by_seed.items()}
        line = [chooser]
        for judged in scores.values():
            line.append(
                mean_tau(
                    kendall(own_N[top], truth_N[top])
                    for seed, own_N in judged.items()
                    for other, top in tops.items()
                    if other != seed
                )
            )
        lines.append(line)
    return markdown(("chosen by", *scores), lines)


def winners_alone(row: Mapping[str, Any]) -> float | None:
    """The mean truth of a run's winners, None unless all have one."""
    truths = [winner["truth"] for winner in row["winners"]]
    return None if None in truths or not truths else sum(truths) / len(truths)


def sentences(rows: Rows) -> str:
    """What may be said of every method beside uniform paths."""
    compared = compare(
        [
            ComparedRun(
                folder=f"{row['method']}-{row['seed']}",
                method=row["method"],
                seed=row["seed"],
                images=row["images"],
                metrics={**row["metrics"], WINNERS: winners_alone(row)},
            )
            for row in rows
        ],
        primary=PRIMARY,
    )
    lines = []
    for pair in compared.pairs:
        ends = pair.difference, pair.high, pair.low
        if pair.first == "uniform" and pair.metric in SHOWN and None not in ends:
            by = [-end for end in ends if end is not None]
            corrected = "" if pair.corrected is None else f"{pair.corrected:.2g}"
            other = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)
            if pair.metric.startswith("tau local"):
                other, corrected = "no verdict, one chooser", ""
            lines.append([pair.second, pair.metric, f"{by[0]:+.3f}",
                          f"{by[1]:+.3f} to {by[2]:+.3f}", str(pair.n), corrected,
                          other])  # fmt: skip
    columns = ("method", "metric", "difference", "95 %", "seeds", "p, corrected", "verdict")
    return markdown(columns, lines)


WIDTH, LEFT, ROW, TOP = 300, 150, 22, 46
"""Of a panel's scale, of the names, of a row, and above the rows, in pixels."""


def figure_of(rows: Rows) -> str:
    """An SVG: a panel per set, a row per method, a dot per seed, mean and interval in bold."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    names = [n for n in SETS[:3] if statistic(rows[0], n, "proxy", "kendall") is not None]
    height = TOP + ROW * len(methods) + 30
    width = LEFT + len(names) * (WIDTH + 24)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="12">',
        "<style>text{fill:#333}.a{stroke:#bbb}.m{stroke:#d55e00}.r{stroke:#009e73}.s{fill:#0072b2;"
        "fill-opacity:.45}.d{fill:#0072b2}.i{stroke:#0072b2;stroke-width:2.5}.om{fill:#d55e00}"
        ".or{fill:#009e73}@media(prefers-color-scheme:dark){text{fill:#ddd}.a{stroke:#555}}"
        "</style>",
    ]
    for i, method in enumerate(methods):
        y = TOP + ROW * i + ROW / 2
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{method}</text>')
    for panel, name in enumerate(names):
        parts += panel_of(rows, methods, name, LEFT + panel * (WIDTH + 24), height)
    return "\n".join([*parts, "</svg>\n"])


def panel_of(
    rows: Rows, methods: Sequence[str], name: str, left: float, height: float
) -> list[str]:
    """One set's panel."""
    own = next(s for s in rows[0]["sets"] if s["name"] == name)
    lines = {"m": own["predictors"]["macs"]["kendall"]["value"], "r": own["run_to_run"]}
    taus = {
        m: [statistic(r, name, "proxy", "kendall") for r in rows if r["method"] == m]
        for m in methods
    }
    known = [t for values in taus.values() for t in values if t is not None]
    known += [value for value in lines.values() if value is not None]
    low, high = math.floor(10 * min(known)) / 10, math.ceil(10 * max(known)) / 10

    def at(tau: float) -> float:
        return left + WIDTH * min(1.0, max(0.0, (tau - low) / (high - low)))

    bottom = height - 30
    parts = [f'<text x="{left}" y="14" font-weight="600">{name}, {own["architectures"]}</text>']
    ticks = round(10 * (high - low))
    for i in range(0, ticks + 1, 1 if ticks <= 6 else 2):
        x = at(low + i / 10)
        parts += [
            f'<line class="a" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>',
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{low + i / 10:.1f}</text>',
        ]
    for kind, label, y in (("m", "MACs", 30), ("r", "run to run", 42)):
        value = lines[kind]
        if value is not None:
            x = at(value)
            anchor = "end" if x > left + WIDTH / 2 else "start"
            parts += [
                f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{bottom}"/>',
                f'<text class="o{kind}" x="{x:.1f}" y="{y - 3}" text-anchor="{anchor}" '
                f'font-size="10">{label} {value:.2f}</text>',
            ]
    for i, method in enumerate(methods):
        middle = TOP + ROW * i + ROW / 2
        values = [tau for tau in taus[method] if tau is not None]
        parts += [f'<circle class="s" cx="{at(t):.1f}" cy="{middle}" r="3"/>' for t in values]
        over_seeds = mean_over_seeds(values)
        low_end, high_end, mean = over_seeds.low, over_seeds.high, over_seeds.mean
        if low_end is not None and high_end is not None:
            parts.append(
                f'<line class="i" x1="{at(low_end):.1f}" x2="{at(high_end):.1f}" '
                f'y1="{middle}" y2="{middle}"/>'
            )
        if mean is not None:
            parts.append(f'<circle class="d" cx="{at(mean):.1f}" cy="{middle}" r="5"/>')
    return parts
