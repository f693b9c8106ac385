"""Copies of the records of real runs, and edits of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

EVIL = "<script>alert(1)</script>"


def copy_of(folder: Path, to: Path) -> Path:
    """The records of a run without its weights."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors", "*.pt")))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, record: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def named(folder: Path, name: str) -> Path:
    """The same run under a name that no recipe may have."""
    (folder / "recipe.toml").unlink()
    write_json(folder / "result.json", {**read_json(folder / "result.json"), "name": name})
    return folder


def with_options(folder: Path, *options: str) -> Path:
    """The same run with other names for the options of all decisions."""
    record = read_json(folder / "space.json")
    for decision in record["space"]["decisions"]:
        assert len(decision["options"]) == len(options)
        decision["options"] = list(options)
    write_json(folder / "space.json", record)
    return folder


def undefined_macs(ranked: dict[str, Any]) -> None:
    """Makes a set one of networks that have all the same multiply-adds."""
    undefined = dict.fromkeys(("value", "low", "high"))
    ranked["predictors"]["macs"]["kendall"] = undefined
    for statistics in ranked["predictors"].values():
        if statistics.get("beats"):
            statistics["beats"] = undefined


def many_points(ranking: dict[str, Any], count: int) -> dict[str, Any]:
    """The same ranking with its points over and over again, a little apart."""
    points = ranking["points"]
    more = [{**points[i % len(points)], "truth": i / count} for i in range(count)]
    return {**ranking, "points": more}
