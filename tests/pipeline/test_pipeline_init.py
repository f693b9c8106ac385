"""`manyshot init`: a recipe that fits the images, runs, and says why."""

import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyshot.data import DataNotFound
from manyshot.pipeline import Workspace, init
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.checks import check_settings
from manyshot.pipeline.given import load_data
from manyshot.recipe import Recipe, RecipeError


def photos(root: Path, side: int, numbers: dict[str, int]) -> Path:
    """A folder with so many images of each class to learn from, and two to test on."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name, number in numbers.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(number if part == "train" else 2):
                pixels = rng.integers(0, 256, (side, side + i % 3, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def words_of(text: str) -> str:
    """All comments in one line."""
    lines = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    return " ".join(lines)


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (12, "tiny"),
        (24, "convnet"),
        pytest.param(64, "torchvision:mobilenet_v3_small", marks=pytest.mark.slow),
    ],
)
def test_a_recipe_for_images_of_any_size_can_be_run(tmp_path, side, name):
    root = photos(tmp_path / "mine", side, {"cat": 10, "über dog\n": 30})
    out = tmp_path / "new.toml"
    recipe = init(root, out)
    text = out.read_text()
    assert Recipe.load(out) == recipe and tomllib.loads(text)["network"]["name"] == name
    assert recipe.data.root == str(root) and recipe.data.image_size == side
    assert recipe.name == "mine"
    check_settings(recipe)
    ws = Workspace.build(recipe)
    check(ws)
    macs = ws.costs["macs"]
    least, greatest = macs.range()
    for limit in ws.limits():
        assert least < limit.limit < greatest
    words = words_of(text)
    assert "2 classes, 32 in train, 8 in validation, 4 in test; in colour" in words
    assert "uneven: 8 to 24 images to learn from, the fewest of cat" in words


def test_the_folder_is_written_without_detours(tmp_path, monkeypatch):
    root = photos(tmp_path / "mine", 12, {"cat": 10, "dog": 30})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    init(Path("../mine"), Path("new.toml"))
    assert tomllib.loads(Path("new.toml").read_text())["data"]["root"] == str(root)


def test_plain_convolutions_are_trained_as_by_default(tmp_path):
    root = photos(tmp_path / "mine", 24, {"cat": 10, "dog": 30})
    recipe = init(root, tmp_path / "new.toml")
    usual = Workspace.build(Recipe.load(None, ["data.name=folder", f"data.root={root}"])).recipe
    recipe = Workspace.build(recipe).recipe
    ours = {"batch_size"}
    for one, other in (
        (recipe.train, usual.train),
        (recipe.finish.training, usual.finish.training),
    ):
        assert one.model_dump(exclude=ours) == other.model_dump(exclude=ours)
    assert recipe.finish.data == usual.finish.data == "train+validation"
    assert recipe.data.jitter == usual.data.jitter
    assert recipe.data.padding_mode == usual.data.padding_mode


def test_every_value_is_explained(tmp_path):
    out = tmp_path / "new.toml"
    init(None, out)
    lines = out.read_text().splitlines()
    assert max(map(len, lines)) <= 100
    for line, above in zip(lines[4:], lines[3:], strict=False):
        assert not re.match(r"\w+ = ", line) or above.startswith("# "), line
    assert Recipe.load(out).data.name == "digits"
    assert "10 classes, 1078 in train, 270 in validation, 449 in test" in words_of(out.read_text())


def test_nothing_is_overwritten(tmp_path):
    out = tmp_path / "new.toml"
    out.write_text("mine")
    with pytest.raises(RecipeError, match="exists, and is not overwritten"):
        init(None, out)
    assert out.read_text() == "mine"
    with pytest.raises(RecipeError, match="cannot be written: No such file"):
        init(None, tmp_path / "nowhere" / "new.toml")


def test_what_is_no_data_is_said(tmp_path):
    with pytest.raises(
        RecipeError, match="neither a folder with train/CLASS/.* nor one of cifar10"
    ):
        init(tmp_path / "none", tmp_path / "new.toml")
    with pytest.raises(DataNotFound, match="train/<class>/ with image files"):
        init(tmp_path, tmp_path / "new.toml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("parts", [("Training", "valid"), ("train", "test"), ("training",)])
def test_what_a_run_takes_is_taken(tmp_path, parts):
    """And what it does not take is refused in the same words."""
    root, out = tmp_path / "images", tmp_path / "new.toml"
    for part in parts:
        shutil.copytree(photos(tmp_path / "one", 12, {"a": 20, "b": 20}) / "train", root / part)
        shutil.rmtree(tmp_path / "one")
    recipe = init(root, out)
    again = load_data(recipe)
    assert again.test.paths[0].split("/")[0] == parts[-1]
    for wrong in (root / parts[0], tmp_path):
        data = {"name": "folder", "root": str(wrong)}
        with pytest.raises(DataNotFound) as by_run:
            load_data(Recipe.build({"data": data}, (), "wrong"))
        with pytest.raises(DataNotFound) as by_init:
            init(wrong, tmp_path / "other.toml")
        assert str(by_run.value) == str(by_init.value)


def test_names_of_classes_may_hold_anything(tmp_path):
    names = {"a\n[train]\nepochs = 9": 20, "b\tc": 60, 'd"""\r': 60, "e\u2028\x1cf": 60}
    recipe = init(photos(tmp_path / "images", 12, names), tmp_path / "new.toml")
    text = (tmp_path / "new.toml").read_text()
    assert recipe.train.epochs != 9
    assert "[train]?epochs = 9" in words_of(text)


def test_images_of_one_class_are_nothing_to_tell_apart(tmp_path):
    """Neither a recipe is written for them, nor a run begun."""
    root, out = photos(tmp_path / "mine", 12, {"cat": 10}), tmp_path / "new.toml"
    words = r"mine/train holds one class only, 'cat', .* for each of two or more classes"
    with pytest.raises(RecipeError, match=words):
        init(root, out)
    assert not out.exists()
    folder = {"name": "folder", "root": str(root)}
    with pytest.raises(RecipeError, match=words):
        Workspace.build(Recipe.build({"data": folder}, (), "one class"))
