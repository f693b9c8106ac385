"""Runs compared: their records gathered, methods told apart by their recipes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyshot import records
from manyshot.pipeline.verbs.rank import FOLDER, RESULT
from manyshot.rank.compare import compare
from manyshot.recipe import Recipe, RecipeError

TRAINED = ("train", "probe", "shifting")
"""Of the images forwarded, those that weights or samplers learn from."""
PLACE = {"root", "download", "workers"}
"""Of a recipe's data, what does not make other images."""
BESIDE: dict[str, Any] = {
    **dict.fromkeys(("seed", "device", "threads", "export", "latency", "truth"), True),
    "data": PLACE,
}
"""Of a recipe, what does not make another method."""


def compare_runs(runs: Sequence[Path], folder: Path, truth: str | None = None) -> dict[str, Any]:
    """Compares finished runs, and writes `compare.json` in `folder`.

    Runs whose recipes differ in their seed alone are one method, and differences between methods
    are paired by seed. Of rankings, those against `truth` count, by default the one truth that all
    runs were ranked against, if there is one; and of their sets those that are the same in all.

    Raises:
        RecordError: if a run is not finished, or not ranked against `truth`.
        RecipeError: if runs are of different images or networks.
    """
    recipes = [Recipe.load(_existing(run / "recipe.toml")) for run in runs]
    for run, recipe in zip(runs, recipes, strict=True):
        for part in ("network", "data"):
            own, other = (getattr(r, part).model_dump(exclude=PLACE) for r in (recipe, recipes[0]))
            if own != other:
                raise RecipeError(
                    f"{part} of {run} is not that of {runs[0]}: numbers of different ones say "
                    "nothing about methods"
                )
    truth = truth or _common_truth(runs)
    methods = _names(recipes)
    ranked = [] if truth is None else _rankings(runs, truth)
    frozen = _frozen(ranked)
    rows = [
        row_of(run, recipe.seed, method, truth, frozen)
        for run, recipe, method in zip(runs, recipes, methods, strict=True)
    ]
    result = {
        "truth": ranked[0]["truth"] if ranked else None,
        "runs": rows,
        "baselines": _baselines(ranked),
        **compare(rows),
    }
    records.write_json(folder / "compare.json", result)
    return result


def _existing(path: Path) -> Path:
    if not path.exists():
        raise records.RecordError(f"{path.parent} is not a finished run: it has no {path.name}")
    return path


def _ranking(run: Path, truth: str) -> Path:
    path = run / FOLDER / truth.replace("/", "-") / RESULT
    if not path.exists():
        raise records.RecordError(
            f"{run} is not ranked against {truth!r}: do it with manyshot rank {run} --truth ..."
        )
    return path


def _rankings(runs: Sequence[Path], truth: str) -> list[dict[str, Any]]:
    """The rankings of all runs, if they are against one and the same table."""
    ranked = [records.read_json(_ranking(run, truth)) for run in runs]
    for run, own in zip(runs, ranked, strict=True):
        if any(own["truth"][key] != ranked[0]["truth"][key] for key in ("digest", "share")):
            raise records.RecordError(
                f"{run} and {runs[0]} are ranked against different tables {truth!r}, or with other "
                "shares in local sets: rank them again, alike"
            )
    return ranked


def _frozen(ranked: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sets that have the same architectures in all rankings.

    A set that each run chose for itself favours whoever chose, and is another for each.
    """
    each = [{own["name"]: own["archs"] for own in ranking["sets"]} for ranking in ranked]
    first = each[0] if each else {}
    return [name for name, archs in first.items() if all(o.get(name) == archs for o in each)]


def _common_truth(runs: Sequence[Path]) -> str | None:
    """The truth that all runs are ranked against, if there is exactly one."""
    each = [{path.parent.name for path in run.glob(f"{FOLDER}/*/{RESULT}")} for run in runs]
    common = set.intersection(*each)
    if not common and any(each):
        known = sorted(set.union(*each))
        without = [str(run) for run, own in zip(runs, each, strict=True) if known[0] not in own]
        raise records.RecordError(
            f"some runs are ranked against {', '.join(known)}, and {', '.join(without)} not: rank "
            "them too, or leave them out"
        )
    if len(common) > 1:
        raise records.RecordError(
            f"the runs are ranked against {', '.join(sorted(common))}: say which by --truth"
        )
    return common.pop() if common else None


def row_of(
    run: Path, seed: int, method: str, truth: str | None, sets: Collection[str]
) -> dict[str, Any]:
    """What `compare` takes of a run, of its ranking against `truth` these sets; and its winners."""
    result = records.read_json(_existing(run / "result.json"))
    forwarded: dict[str, int] = result["images_forwarded"]
    images = {
        **forwarded,
        "trained": sum(forwarded.get(kind, 0) for kind in TRAINED),
        "total": sum(forwarded.values()),
    }
    metrics: dict[str, float | None] = {}
    winners = [
        {key: winner[key] for key in ("budget", "arch", "test_accuracy")} | {"truth": None}
        for winner in result["winners"]
    ]
    if truth is not None:
        ranked = records.read_json(_ranking(run, truth))
        for own in (own for own in ranked["sets"] if own["name"] in sets):
            proxy = own["predictors"]["proxy"]
            metrics[f"tau {own['name']}"] = proxy["kendall"]["value"]
            metrics[f"regret {own['name']}"] = proxy["regret"]["value"]
        known = {point["arch"]: point["truth"] for point in ranked["points"]}
        for winner in winners:
            winner["truth"] = known.get(winner["arch"])
            metrics[f"winner accuracy {winner['budget']}"] = winner["truth"]
    for winner in winners:
        metrics[f"finished accuracy {winner['budget']}"] = winner["test_accuracy"]
    return {
        "folder": str(run),
        "method": method,
        "seed": seed,
        "images": images,
        "metrics": metrics,
        "winners": winners,
    }


def _baselines(ranked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What orders without a supernet, and how well one run orders another, on frozen sets."""
    frozen = _frozen(ranked)
    found = []
    for name in ("macs", "params", "run to run"):
        metrics = {}
        for own in ranked[0]["sets"] if ranked else ():
            if own["name"] not in frozen:
                continue
            tau = own["run_to_run"]
            if name != "run to run":
                tau = own["predictors"][name]["kendall"]["value"]
                regret = own["predictors"][name]["regret"]["value"]
                metrics[f"regret {own['name']}"] = regret
            metrics[f"tau {own['name']}"] = tau
        if metrics:
            found.append({"name": name, "metrics": metrics})
    return found


def _names(recipes: Sequence[Recipe]) -> list[str]:
    """A name per recipe, the same for those that differ in nothing that makes a method.

    That of the recipe; where several methods have one name, with the settings that differ.
    """
    flat = [_flat(recipe.model_dump(exclude=BESIDE)) for recipe in recipes]
    names = []
    for own, recipe in zip(flat, recipes, strict=True):
        alike = [other for other, r in zip(flat, recipes, strict=True) if r.name == recipe.name]
        keys = {key for other in alike for key in own.keys() | other.keys()}
        differing = sorted(k for k in keys if len({other.get(k) for other in alike}) > 1)
        said = ", ".join(f"{key}={own[key]}" for key in differing if key in own)
        names.append(f"{recipe.name} ({said})" if said else recipe.name)
    return names


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = json.dumps(value)
    return found
