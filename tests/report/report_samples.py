"""Records by hand, small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

OPTIONS = ("project", "conv1", "sep3", "conv3")
PREDICTORS = ("proxy", "proxy loss", "without recalibration", "macs", "params")
EVIL = "<script>alert(1)</script>"


def write_json(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps({"schema": 1, **line}) + "\n" for line in lines))


def space(options: tuple[str, ...] = OPTIONS) -> dict[str, Any]:
    """Four layers of four options; the last matters only if the third is not the first option."""
    decisions = [
        {"name": f"layer{i}", "options": list(options), "ranks": [0, 1, 2, 3]} for i in range(4)
    ]
    uses = {"3": [[[2, [1, 2, 3]]]]}
    return {
        "schema": 1,
        "space": {"schema": 1, "decisions": decisions, "uses": uses, "commutations": []},
        "largest": {"macs": 200_000, "params": 9000},
    }


def scores() -> list[dict[str, Any]]:
    """Two generations; `3-1-2-0` is scored twice."""
    table = [
        (0, "0-0-1-0", 0.30, 20_000),
        (0, "1-1-1-1", 0.45, 40_000),
        (0, "3-1-2-0", 0.40, 90_000),
        (1, "0-1-1-2", 0.50, 29_000),
        (1, "3-1-2-0", 0.55, 90_000),
        (1, "3-3-0-0", 0.52, 150_000),
    ]
    return [
        {
            "generation": generation,
            "role": "candidate",
            "arch": arch,
            "proxy_accuracy": accuracy,
            "proxy_loss": 2 - accuracy,
            "macs": macs,
            "params": macs // 20,
            "weights_version": 0,
            "images_forwarded": 782,
        }
        for generation, arch, accuracy, macs in table
    ]


def winner(budget: str, arch: str, macs: int, accuracy: float, test: float) -> dict[str, Any]:
    return {
        "budget": budget,
        "arch": arch,
        "choices": {f"layer{i}": OPTIONS[int(o)] for i, o in enumerate(arch.split("-"))},
        "macs": macs,
        "params": macs // 20,
        "latency_ms": 0.1637,
        "proxy_accuracy": accuracy,
        "test_accuracy": test,
        "files": {"pt2": f"subnets/{arch}.pt2", "json": f"subnets/{arch}.json"},
    }


def recipe(name: str = "sample") -> str:
    return (
        f"schema = 1\nname = {json.dumps(name)}\nseed = 0\n\n[network]\nname = 'tiny'\n\n"
        "[data]\nname = 'digits'\n\n[sharing]\nname = 'k_shot'\n\n[sampler]\nname = 'shiftnas'\n\n"
        "[search]\nbudgets = ['macs<=15%', 'macs<=60%', 'params<=4K']\n"
    )


def train() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": step / 16,
            "images": step * 64,
            "lr": 0.1 * (1 - step / 500),
            "loss": 2.3 - step / 400,
            "code_loss": 2.4 - step / 500,
            "code_entropy": 0.69 - step / 5000,
            "code_spread": step / 3000,
            "slice_distance": 0.5 + step / 2000,
            "images_per_second": 16000 + step,
        }
        for step in range(50, 401, 50)
    ]


def order() -> list[dict[str, Any]]:
    lines = []
    for role, gain in (("before", 0.0), ("after", 0.07)):
        for i, arch in enumerate(("0-0-1-0", "1-1-1-1", "3-1-2-0")):
            score = {"proxy_accuracy": 0.3 + 0.05 * i + gain * (i - 0.5)}
            lines.append({"generation": 0, "role": role, "arch": arch, "macs": 1000 * i, **score})
    return lines


def shift() -> list[dict[str, Any]]:
    return [
        {
            "generation": g,
            "weights_version": 80 * (g + 1),
            "images": 5120 * (g + 1),
            "loss": 1.9 - 0.1 * g,
            "proposed": {"counts": [[5, 5, 5, 5]] * 4, "entropy": [1.3 - 0.2 * g] * 4},
        }
        for g in range(3)
    ]


def sampler() -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "metric": "macs",
            "targets": [7e5, 1.1e6, 1.5e6],
            "probabilities": [1 / 3 - step / 1000, 1 / 3, 1 / 3 + step / 1000],
            "counts": [step // 3, step // 4, step // 2],
            "error": [0.2, -0.1, 0.4],
            "entropy": [1.0, 0.9, 0.8],
            "update": step > 100,
        }
        for step in (50, 100, 150, 200)
    ]


def codes() -> list[dict[str, Any]]:
    return [
        {"arch": f"{i % 4}-{i // 4}-1-0", "macs": 20_000 + 7000 * i, "code": [i / 12, 1 - i / 12]}
        for i in range(12)
    ]


def result(name: str = "sample") -> dict[str, Any]:
    return {
        "schema": 1,
        "name": name,
        "winners": [
            winner("macs<=15%", "0-1-1-2", 29_000, 0.50, 0.5879),
            winner("macs<=60%", "3-1-2-0", 90_000, 0.55, 0.6503),
            winner("params<=4K", "0-1-1-2", 29_000, 0.50, 0.5879),
        ],
        "finish": "finetune",
        "latency": {
            "0-1-1-2": {"batch_size": 1, "threads": 1, "repeats": 30, "device": "cpu: sample"}
        },
        "space": {"size": 256, "decisions": 4},
        "searched": 5,
        "shifting": "population",
        "order": {
            "global": {
                "architectures": 3,
                "mean_accuracy_before": 0.35,
                "mean_accuracy_after": 0.385,
                "tau_before_after": None,
            }
        },
        "images_forwarded": {"train": 25_600, "search": 4692, "shifting": 15_360, "probe": 0},
    }


def write_run(folder: Path, name: str = "sample", options: tuple[str, ...] = OPTIONS) -> Path:
    """A finished run with every record there is but a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.toml").write_text(recipe(name))
    write_json(folder / "environment.json", {"schema": 1, "torch": "2.14", "argv": ["run", "<b>"]})
    write_json(folder / "space.json", space(options))
    write_json(folder / "result.json", result(name))
    for log, lines in {
        "train": train(),
        "search": scores(),
        "order": order(),
        "shifting": shift(),
        "sampler": sampler(),
        "codes": codes(),
    }.items():
        write_lines(folder / f"{log}.jsonl", lines)
    return folder


def stat(value: float | None, half: float | None = 0.04) -> dict[str, float | None]:
    if value is None or half is None:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": value - half, "high": value + half}


def stats(tau: float | None) -> dict[str, Any]:
    return {
        "kendall": stat(tau),
        "spearman": stat(None if tau is None else min(1.0, 1.3 * tau)),
        "pearson": stat(None if tau is None else min(1.0, 1.2 * tau)),
        "clear_pairs": stat(None),
        "overlap": {"5": stat(0.4, 0.2), "10": stat(0.5, 0.15)},
        "best_rank": {"1": 17, "5": 3, "10": 1},
        "regret": stat(0.0123, None),
        "beats": stat(None if tau is None else tau / 3),
    }


def ranking(points: int = 120) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    truth = rng.uniform(0.55, 0.95, points)
    macs = (truth * 2e5 + rng.normal(0, 2e4, points)).round().astype(int)
    proxy = (0.6 * truth + rng.normal(0, 0.04, points)).clip(0, 1)
    taus = (0.612, 0.588, 0.417, 0.433, 0.391)

    def part(name: str, n: int, why: str, ceiling: float | None, sd: float | None, by: float):
        return {
            "name": name,
            "why": why,
            "architectures": n,
            "judged_by": ["run 1", "run 2"],
            "archs": [f"{i}-0-0-0" for i in range(n)],
            "run_to_run": ceiling,
            "null_sd": sd,
            "predictors": {
                p: stats(None if by == 0 and p == "macs" else by * t)
                for p, t in zip(PREDICTORS, taus, strict=True)
            },
        }

    return {
        "schema": 1,
        "run": "sample",
        "seed": 0,
        "weights": "017ccbc9fc2d6714",
        "truth": {
            "name": "tiny-digits",
            "source": "trained by manyshot truth",
            "runs": ["run 0", "run 1", "run 2"],
            "architectures": points,
            "run_sd": 0.0104,
        },
        "evaluation": {
            "architectures": points,
            "images_forwarded": 93_840,
            "macs_executed": 3_000_000_000,
            "macs_plain": 9_000_000_000,
            "seconds": 245.2,
            "method": "prefix tree",
        },
        "points": [
            {
                "arch": f"{i % 4}-{i // 4 % 4}-{i // 16 % 4}-{i // 64}",
                "truth": float(truth[i]),
                "runs": 3,
                "error": 0.006,
                "macs": int(macs[i]),
                "params": int(macs[i]) // 20,
                "proxy_accuracy": float(proxy[i]),
                "proxy_loss": float(2 - proxy[i]),
                "shared_statistics_accuracy": float(proxy[i] / 2),
            }
            for i in range(points)
        ],
        "sets": [
            part("global", points, "all architectures that have a truth", 0.871, 0.062, 1.0),
            part(
                "local by truth",
                24,
                "the 24 best by run 0, which does not judge them",
                0.302,
                0.143,
                0.4,
            ),
            part(
                "local by prediction",
                12,
                "the 12 best by this supernet's own proxy accuracy, which favours it",
                None,
                None,
                0.0,
            ),
        ],
    }


def comparison() -> dict[str, Any]:
    methods, metrics = (
        ("one-shot", "k-shot", "supernet shifting"),
        {
            "tau global": (0.61, 0.65, None),
            "regret global": (0.012, 0.009, 0.015),
            "winner accuracy macs<=15%": (0.58, 0.60, 0.61),
            "images": (120_000.0, 120_000.0, 190_000.0),
        },
    )
    runs, rows, pairs = [], [], []
    for m, method in enumerate(methods):
        for seed in range(3):
            own = {
                name: None if values[m] is None else values[m] * (1 + 0.03 * (seed - 1))
                for name, values in metrics.items()
            }
            runs.append(
                {
                    "folder": f"runs/{method}-{seed}",
                    "method": method,
                    "seed": seed,
                    "images": {"train": 100_000 + m, "search": 20_000, "total": 120_000 + m},
                    "metrics": own,
                    "winners": [
                        {
                            "budget": "macs<=15%",
                            "arch": "0-1-1-2",
                            "truth": None if m else 0.711,
                            "test_accuracy": 0.5879,
                        }
                    ],
                }
            )
        summary = {
            name: {
                "mean": values[m],
                "low": None if values[m] is None else 0.93 * values[m],
                "high": None if values[m] is None else 1.07 * values[m],
                "n": 0 if values[m] is None else 3,
            }
            for name, values in metrics.items()
        }
        images = metrics["images"][m]
        rows.append({"method": method, "seeds": [0, 1, 2], "images": images, "metrics": summary})
    for second, verdict, equal in (
        ("k-shot", "better", True),
        ("supernet shifting", "undefined", False),
    ):
        pairs.append(
            {
                "first": "one-shot",
                "second": second,
                "metric": "tau global",
                "n": 3,
                "difference": None if verdict == "undefined" else 0.04,
                "low": None if verdict == "undefined" else 0.01,
                "high": None if verdict == "undefined" else 0.07,
                "verdict": verdict,
                "equal_images": equal,
                "sentence": f"one-shot against {second} over 3 seeds: {verdict}.",
            }
        )
    return {
        "schema": 1,
        "truth": {"name": "tiny-digits", "source": "trained by manyshot truth"},
        "baselines": [
            {"name": "macs", "metrics": {"tau global": 0.433, "regret global": 0.021}},
            {"name": "run to run", "metrics": {"tau global": 0.871}},
        ],
        "runs": runs,
        "methods": rows,
        "pairs": pairs,
    }
