"""Imports go one way (CONTRIBUTING.md): a layer may import only those named beside it."""

import ast
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "manyshot"
BASE = {"_version", "plugins", "seeding", "shown", "watching"}
ALLOWED: dict[str, set[str]] = {
    "space": set(),
    "data": set(),
    "records": set(),
    "run_folder": {"records", "recipe", "space"},
    "progress": set(),
    "plugins": set(),
    "allocation": set(),
    "manual": {"recipe", "toml"},
    "manual.slots": {"manual", "search", "sharing", "tasks", "toml", "train", "zoo"},
    "nn": {"space"},
    "sharing": {"nn", "space"},
    "zoo": {"nn", "space"},
    "supernet": {"sharing", "nn", "space"},
    "conversion": {"supernet", "sharing", "nn", "space"},
    "transfer": {"supernet", "nn", "space"},
    "cost": {"export", "supernet", "nn", "space"},
    "tasks": {"nn"},
    "crews": set(),
    "evaluate": {"crews", "supernet", "nn", "space", "data", "tasks"},
    "recipe": {"shipped", "space", "toml"},
    "shipped": {"toml"},
    "toml": set(),
    "train": {
        *("evaluate", "cost", "sharing", "supernet", "nn", "space", "data", "records"),
        *("recipe", "run_folder", "progress", "tasks"),
    },
    "fitting": {"train", "recipe", "progress", "data", "supernet", "tasks"},
    "finding": {
        *("cost", "evaluate", "data", "nn", "progress", "search", "supernet", "space", "tasks"),
    },
    "search": {"space", "records"},
    "rank": {"space", "run_folder"},
    "trust": {"records", "recipe", "run_folder"},
    "writing": {"records", "recipe", "run_folder"},
    "tables": {"manual", "rank", "recipe", "run_folder", "shipped"},
    "report": {"space", "records", "recipe", "run_folder", "tables"},
    "show": {"manual", "run_folder", "shipped", "tables"},
    "export": {"supernet", "nn", "space", "records", "data"},
}
EVERYTHING = {"pipeline", "runs", "cli", "notebook", "testing", "__init__", "__main__"}
NO_TORCH = {
    "manual",
    "plugins",
    "space",
    "search",
    "rank",
    "tables",
    "report",
    "records",
    "run_folder",
    "recipe",
    "shipped",
    "toml",
    "trust",
    "writing",
    "progress",
    "show",
    "cli",
}
FILES = sorted(SOURCE.rglob("*.py"))
PIPELINE = [f for f in FILES if f.is_relative_to(SOURCE / "pipeline") and f.stem != "__init__"]


def layer_of(path: Path) -> str:
    return layer_named(path.relative_to(SOURCE).with_suffix("").parts)


def layer_named(parts: Sequence[str]) -> str:
    """The layer of a module by the parts of its name: its first one, or a module of its own."""
    one = ".".join(parts[:2])
    return one if one in ALLOWED else parts[0]


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            if node.module == "manyshot":
                found |= {f"manyshot.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer in EVERYTHING or layer in BASE:
        return
    names = [name.split(".") for name in imports(path)]
    used = {layer_named(parts) for package, *parts in names if package == "manyshot" and parts}
    assert used <= ALLOWED[layer] | BASE | {layer}


@pytest.mark.parametrize(
    "path", PIPELINE, ids=lambda path: str(path.relative_to(SOURCE / "pipeline"))
)
def test_in_the_pipeline_verbs_are_above_stages_and_these_above_the_rest(path: Path) -> None:
    parts = ["verbs", "stages"]
    above = parts[: parts.index(path.parent.name)] if path.parent.name in parts else parts
    others = [f"pipeline.{part}" for part in above] + ["runs", "cli", "notebook", "testing"]
    names = tuple(f"manyshot.{other}" for other in others)
    assert not [name for name in imports(path) if name.startswith(names)]


@pytest.mark.parametrize(
    "path", [f for f in FILES if layer_of(f) in NO_TORCH - {"cli"}], ids=lambda p: p.name
)
def test_layers_without_torch(path: Path) -> None:
    heavy = {"torch", "torchvision", "accelerate"}
    assert not {name.split(".")[0] for name in imports(path)} & heavy


def test_every_layer_is_in_the_table() -> None:
    assert {layer_of(path) for path in FILES} <= set(ALLOWED) | EVERYTHING | BASE
