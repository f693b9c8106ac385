"""The page of `run.py`: tables of its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown
from manyshot import records

Rows = list[dict[str, Any]]
TITLES = {
    "vit": "tiny_vit on digits (`recipes/shiftnas_vit.toml`)",
    "cnn": "tiny_cnn on 10,000 images of Fashion-MNIST (`recipes/shiftnas_cnn.toml`)",
}


DESIGN = Design(
    primary="test accuracy of frozen architectures at each target",
    same="one recipe per setting; methods change the sampler alone",
    budgets="images forwarded, probes included",
    protocol="the same 6 architectures per target, and the same finish",
    controls=("uniform", "uniform_cost"),
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    parts = [
        "# ShiftNAS and its baselines\n",
        "Written by `python -m benchmarks.studies.shiftnas.run` from its records. Test accuracy "
        "in %, mean ± standard deviation over seeds; every method of a seed has the same "
        "training images, and as many image-forwards (training and probes). One path per step "
        "everywhere; a step of `shift` and `uniform_cost` runs the largest network, masked, one "
        "of `uniform` the drawn network alone.\n",
    ]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        parts.append(f"## {TITLES[setting]}\n")
        for measure, heading in (
            ("frozen", "The same 6 random architectures per target, weights inherited"),
            (
                "final",
                "Final networks: the generator's; for `uniform` the best of 10 below the target",
            ),
        ):
            parts += [f"{heading}:\n", _by_target([r for r in own if r["measure"] == measure])]
        parts += [
            "Final networks against their targets (`generate` keeps them below: strict budgets); "
            "distances in steps of the grid:\n",
            _misses([r for r in own if r["measure"] == "final"]),
            "Where the distribution of `shift` ended, and what it cost:\n",
            _shifts([r for r in own if r["measure"] == "shift"]),
            _forwards([r for r in own if r["measure"] == "forwards"]),
            "Budgets of the recipe, `shift`:\n",
            _finishes([r for r in own if r["measure"] == "finish"]),
        ]
    done = [row for row in rows if row["measure"] == "done"]
    if done:
        last = done[-1]
        commits = ", ".join(sorted({row["commit"] for row in done}))
        parts.append(
            f"{last['cores']}-core {last['cpu']}, {last['threads']} thread, torch {last['torch']}, "
            f"{last['date']}, commit {commits}.\n"
        )
    page = kept.page_of(path)
    records.write_text(page, "\n".join(parts))
    return with_checklist(page, DESIGN, rows)


def _by_target(rows: Rows) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    targets = sorted({row["target"] for row in rows})
    lines = []
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        seeds = sorted({row["seed"] for row in own})
        means = [np.mean([r["accuracy"] for r in own if r["seed"] == s]) for s in seeds]
        by_target = [
            _spread([row["accuracy"] for row in own if row["target"] == t]) for t in targets
        ]
        lines.append([f"{method} ({len(seeds)} seeds)", *by_target, _spread(means)])
    heads = [f"{target / 1e6:.2f}M" for target in targets]
    return markdown(["method", *heads, "mean"], lines)


def _misses(rows: Rows) -> str:
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        targets = sorted({row["target"] for row in own})
        step = targets[1] - targets[0]
        errors = np.array([(row["cost"] - row["target"]) / step for row in own])
        decodes = [row["decodes"] for row in own if "decodes" in row]
        lines.append(
            [
                method,
                f"{np.mean([row['cost'] for row in own]) / 1e6:.2f}M",
                f"{np.abs(errors).mean():.2f}",
                f"{np.abs(errors).max():.2f}",
                f"{np.mean([row['cost'] <= row['target'] for row in own]):.0%}",
                f"{np.mean(decodes):.2f}" if decodes else "",
            ]
        )
    heads = ["method", "mean MACs", "mean distance", "largest", "within", "decodes"]
    return markdown(heads, lines)


def _shifts(rows: Rows) -> str:
    targets = sorted({row["target"] for row in rows})
    lines = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["seed"] == seed]
        shares = [f"{row['probability']:.3f}" for row in own]
        lines.append([str(seed), str(own[0]["updates"]), *shares])
    return markdown(["seed", "updates", *(f"{t / 1e6:.2f}M" for t in targets)], lines)


def _forwards(rows: Rows) -> str:
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        means = [np.mean([row[key] for row in own]) for key in ("train", "probe", "macs")]
        lines.append([method, f"{means[0]:,.0f}", f"{means[1]:,.0f}", f"{means[2] / 1e6:.2f}M"])
    return markdown(["method", "images trained on", "probed", "MACs of a step's network"], lines)


def _finishes(rows: Rows) -> str:
    kinds = ("inherited", "fine-tuned", "retrained")
    lines = []
    for budget in dict.fromkeys(row["budget"] for row in rows):
        own = [row for row in rows if row["budget"] == budget]
        costs = [f"{row['cost'] / 1e6:.3g}M" for row in own if row["kind"] == "inherited"]
        cells = [_spread([row["accuracy"] for row in own if row["kind"] == k]) for k in kinds]
        lines.append([budget, ", ".join(costs), *cells])
    return markdown(["budget", "MACs, by seed", *kinds], lines)


def _spread(values: list[float]) -> str:
    accuracies = 100 * np.array(values)
    if not len(accuracies):
        return ""
    deviation = f" ± {accuracies.std(ddof=1):.1f}" if len(accuracies) > 1 else ""
    return f"{accuracies.mean():.1f}{deviation}"
