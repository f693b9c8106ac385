"""Recipes for ImageNet: each trains for some steps on a few small photographs."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manyshot import records
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.stages.train import train_supernet
from manyshot.progress import Silent
from manyshot.recipe import Recipe
from manyshot.train import engine
from two_processes import two_processes

RECIPES = Path(__file__).parents[1] / "recipes"
VIT = ("train.batch_size=6",)
"""Of images that come three times in a batch."""
SMALL = {
    "autoformer_tiny": VIT,
    "autoformer_small": VIT,
    "autoformer_base": VIT,
    "bignas": ("network.options.resolutions=[24, 32]",),
    "attentivenas": ("network.options.resolutions=[24, 32]",),
    "spos": ("network.options.stem_stride=1",),
    "kshot": (
        "network.options={widths=[32, 40], repeats=[2, 2], strides=[2, 2]}",
        "sharing.options.m=2",
    ),
    "supernet_shifting": ("network.options.stem_stride=1", "shifting.batch_size=6"),
}
SLOW = {*SMALL} - {"autoformer_tiny", "spos", "kshot"}
LESS = (
    *("data.image_size=32", "data.validation=8", "data.workers=0", "train.epochs=1"),
    *("train.batch_size=6", "train.log_steps=1", "train.precision=fp32", "evaluate.images=8"),
    'search.budgets=["macs<=100%"]',
)
"""Overrides of all: 24 of 32 images in batches of 6."""


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Two classes of noise, in files as large as small photographs."""
    root, rng = tmp_path_factory.mktemp("jpegs"), np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 3)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (40, 48, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.jpg")
    return root


def reduced(name: str, root: Path) -> Recipe:
    overrides = (*LESS, *SMALL[name], f"data.root={str(root)!r}")
    if name in ("spos", "kshot", "supernet_shifting"):
        overrides += ("finish.training.batch_size=6",)
    return Recipe.load(RECIPES / f"imagenet_{name}.toml", overrides)


def test_there_is_a_test_of_each():
    assert {path.stem for path in RECIPES.glob("imagenet_*.toml")} == {
        f"imagenet_{name}" for name in SMALL
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in SMALL]
)
def test_a_recipe_trains_for_four_steps(name, jpegs, tmp_path):
    recipe = reduced(name, jpegs)
    ws = Workspace.build(recipe)
    check(ws)
    first = {n: p.detach().clone() for n, p in ws.net.named_parameters()}
    train_supernet(ws, engine(ws.device, ws.recipe.train, None), tmp_path, Silent())
    rows = records.read_lines(tmp_path / "train.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(math.isfinite(row.get("loss", row.get("code_loss"))) for row in rows)
    moved = [n for n, p in ws.net.named_parameters() if not torch.equal(p, first[n])]
    assert len(moved) > 0.1 * len(first)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_recipe_says_of_itself(name):
    text = (RECIPES / f"imagenet_{name}.toml").read_text()
    recipe = Recipe.load(RECIPES / f"imagenet_{name}.toml")
    assert f"torchrun --nproc-per-node 8 -m manyshot run recipes/imagenet_{name}.toml" in text
    said = " ".join(line.removeprefix("#").strip() for line in text.splitlines())
    assert "Nobody has run this recipe." in said and "by arithmetic" in said
    batches = [recipe.train.batch_size]
    batches += [recipe.finish.training.batch_size] if recipe.finish.mode != "inherit" else []
    batches += [recipe.shifting.batch_size] if recipe.shifting.name != "none" else []
    assert all(size % (8 * recipe.data.repeats) == 0 for size in batches)


@pytest.mark.slow
def test_a_recipe_in_two_processes(jpegs, tmp_path):
    recipe = reduced("spos", jpegs)
    path, folder = tmp_path / "two.toml", tmp_path / "run"
    path.write_text(recipe.to_toml())
    few = "{stem_stride = 1, widths = [32, 48, 64, 96], repeats = [1, 1, 1, 1], tail = 32}"
    words = ["--set", "train.batch_size=12", "--set", f"network.options={few}"]
    command = [sys.executable, "-m", "manyshot", "train", str(path), "--out", str(folder), *words]
    main, other = two_processes(command)
    assert (main.returncode, other.returncode) == (0, 0), main.errors + other.errors
    rows = records.read_lines(folder / "train.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert (folder / "supernet.safetensors").exists()
