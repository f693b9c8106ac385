"""A run of a second, and what two runs must have in common."""

import contextlib
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from manyshot import pipeline, records
from manyshot.rank import TruthTable
from manyshot.recipe import Recipe
from manyshot.train.checkpoint import digest


def run(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What `pipeline.run` returns, as plain values."""
    return plain(pipeline.run(*arguments, **options))


def rank_run(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What `pipeline.rank_run` returns, as plain values."""
    return plain(pipeline.rank_run(*arguments, **options))


def compare_runs(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What `pipeline.compare_runs` returns, as plain values."""
    return plain(pipeline.compare_runs(*arguments, **options))


def export_architecture(*arguments: Any, **options: Any) -> dict[str, Any]:
    """What `pipeline.export_architecture` returns, as plain values."""
    return plain(pipeline.export_architecture(*arguments, **options))


def plain(record: records.Record) -> dict[str, Any]:
    """The content of a record but for its schema."""
    return {key: value for key, value in record.plain().items() if key != "schema"}


SMALL = """
schema = 1
name = "small"
seed = 1
[network]
name = "tiny"
options = { width = 3 }
[data]
validation = 64
train_size = 128
[train]
epochs = 1
batch_size = 32
checkpoint_steps = 2
log_steps = 2
[evaluate]
calibration_images = 64
batch_size = 64
[search]
budgets = ["macs<=20%", "macs<=90%"]
candidates = 6
generation = 3
options = { population = 3, parents = 1, mutants = 2, crossovers = 1 }
[finish.training]
epochs = 1
batch_size = 64
checkpoint_steps = 1
log_steps = 2
lr = 0.01
[latency]
warmup = 0
repeats = 1
[controls]
largest = false
random = 0
scaled = false
[export]
formats = ["json"]
"""


def small(*overrides: str) -> Recipe:
    """The small recipe."""
    return Recipe.build(tomllib.loads(SMALL), overrides, "small.toml")


def random_truth(archs, runs=3, name="made", seed=0) -> TruthTable:
    """A truth of random accuracies."""
    scores_NR = np.random.default_rng(seed).uniform(0.5, 0.9, (len(archs), runs))
    return TruthTable(name, tuple(archs), tuple(f"seed {i}" for i in range(runs)), scores_NR)


def truth_of_24() -> TruthTable:
    """A random truth of about so many networks of the small recipe."""
    rng = np.random.default_rng(0)
    return random_truth(sorted({tuple(arch) for arch in rng.integers(4, size=(24, 4)).tolist()}))


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return records.read_lines(folder / name)


def timeless(result: dict[str, Any]) -> dict[str, Any]:
    """A copy of a result without what is measured."""
    kept = {key: value for key, value in result.items() if key not in ("latency", "schema")}
    for networks in ("winners", "controls"):
        kept[networks] = [
            {key: value for key, value in network.items() if key != "latency_ms"}
            for network in result.get(networks, ())
        ]
    return kept


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run wrote, but for times."""
    from safetensors.torch import load_file

    result = timeless(records.read_json(folder / "result.json"))
    found: dict[str, Any] = {
        "result": result,
        "recipe": (folder / "recipe.toml").read_text(),
        "weights": digest(load_file(folder / "supernet.safetensors")),
        "files": sorted(
            str(p.relative_to(folder))
            for p in folder.rglob("*")
            if p.is_file() and p.name not in ("report.html",)
        ),
    }
    for path in sorted(folder.rglob("*.jsonl")):
        rows = lines(path.parent, path.name)
        for row in rows:
            row.pop("images_per_second", None)
        found[str(path.relative_to(folder))] = rows
    for path in sorted((folder / "subnets").glob("*.json")):
        found[path.name] = json.loads(path.read_text())
    return found


BUDGET = "macs<=60%"
SHIFT = (
    f"search.budgets=['{BUDGET}']",
    "search.candidates=12",
    "search.generation=4",
    "search.options={population=4, parents=2, mutants=2, crossovers=1, dedupe='global'}",
    "shifting.name=population",
    "shifting.steps=2",
    "shifting.batch_size=16",
    "shifting.rescored=3",
    "shifting.elites=score",
    "shifting.watched=9",
    "shifting.watched_best=4",
    "finish.mode=inherit",
)
P, G, S, B = 4, 3, 2, 16
"""Candidates per generation, generations, mini-batches per candidate, images."""
EVERYTHING = (
    *SHIFT,
    "search.budgets=['macs<=20%', 'macs<=90%', 'params<=90%']",
    "train.epochs=2",
    "sharing.name=k_shot",
    "sharing.options={copies=2, code_every=2}",
    "sampler.name=shiftnas",
    "sampler.held_out=32",
    "sampler.options={grid=[5000, 26000, 7000], period=1, images=32, warmup=0.25}",
)
KEPT = ("shifting.elites=keep", "search.options.stale_scores=true")


def again(shifted, folder, *overrides):
    """The search of the shifted run's supernet under other settings."""
    recipe = small(*SHIFT, *overrides)
    return run(recipe, folder / "run", trained=shifted[0])


def archs_of(ws, rows):
    return [ws.net.space.from_text(row["arch"]) for row in rows]


class Stages:
    """Progress that remembers: name, total, and the numbers done from before the first on."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, list[int]]] = []

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
        counts = [done]
        self.seen.append((name, total, counts))
        yield lambda done, note: counts.append(done)


class Stopped(BaseException):
    """A kill, as far as Python can play one."""


def stopped(monkeypatch, writes: int, work) -> str | None:
    """Does `work`, killed once it has made so many durable writes and one more.

    Returns the name of the file written last, or None if there was nothing to kill any more.
    """
    left, last = [writes], []

    def wrote(path: Path) -> None:
        if "manyshot-formats-" in str(path):  # a trial, which leaves nothing
            return
        left[0] -= 1
        if left[0] < 0:
            last.append(path.name)
            raise Stopped

    monkeypatch.setattr(records, "wrote", wrote)
    try:
        work()
    except Stopped:
        return last[0]
    finally:
        monkeypatch.setattr(records, "wrote", lambda path: None)
    return None
