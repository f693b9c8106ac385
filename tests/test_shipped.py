"""The recipes that come with manyshot: found, listed, printed, run by name, in a wheel too."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from manyshot import cli, shipped
from manyshot.recipe import Recipe, RecipeError
from manyshot.shipped import shipped_recipes

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


def test_all_are_listed_with_what_their_heads_say(call):
    code, out, _ = call("recipes", "--json")
    listed = {Path(row["path"]): row for row in json.loads(out)}
    assert code == 0 and sorted(listed) == FILES
    for path, row in listed.items():
        assert row["title"] and row["method"] and row["time"], path
        values = tomllib.loads(path.read_text())
        for slot in ("sharing", "sampler", "search", "shifting"):
            named = f"{slot} {values[slot]['name']}" if "name" in values.get(slot, {}) else None
            assert [s for s in row["slots"] if s.startswith(f"{slot} ")] == [named] * bool(named)
    fair = listed[ROOT / "recipes" / "methods" / "fair.toml"]
    assert fair["name"] == "methods/fair" and fair["title"] == "Strict fairness on digits."
    assert fair["papers"] == ["arXiv:1907.01845"] and fair["slots"][1:] == ["search nsga2"]


def test_the_list_has_a_line_for_each_and_can_be_searched(call):
    lines = call("recipes")[1].splitlines()
    listed = [line for line in lines if line.startswith("  ")]
    assert len(listed) == len(FILES)
    titles = {recipe.title for recipe in shipped_recipes()}
    assert {line.split("  ")[-1].strip() for line in listed} == titles  # whole, off a terminal
    assert lines.index("Whole runs:") < lines.index("One method each:")
    found = call("recipes", "--find", "ARXIV:1907.01845")[1]  # by its paper, which the list omits
    assert "methods/fair" in found and "methods/spos" not in found
    code, out, _ = call("recipes", "--find", "sampler fair", "--json")
    named = [row["name"] for row in json.loads(out)]
    assert code == 0 and named == [
        path.relative_to(ROOT / "recipes").with_suffix("").as_posix()
        for path in FILES
        if tomllib.loads(path.read_text()).get("sampler", {}).get("name") == "fair"
    ]
    table = call("recipes", "--find", "methods/fair", "--details")[1]
    assert "1907.01845" in table and "methods/spos" not in table
    code, _, err = call("recipes", "--find", "no such thing")
    assert code == 2 and "no recipe speaks of that" in err
    assert call("recipes", "fair", "--details")[0] == 2


def test_one_is_printed_as_it_is_and_taken_by_its_name(call):
    path = ROOT / "recipes" / "methods" / "fair.toml"
    for name in ("fair", "methods/fair", "methods/fair.toml"):
        assert call("recipes", name)[1] == path.read_text()
        assert Recipe.load(Path(name)) == Recipe.load(path)
    code, out, _ = call("recipe", "fair", "--set", "train.epochs=2")
    assert code == 0 and Recipe.load(path, ["train.epochs=2"]).to_toml() == out
    assert shipped.shipped("digits").path == ROOT / "recipes" / "digits.toml"  # outside comes first


def test_a_file_of_ones_own_comes_first(call, tmp_path):
    (tmp_path / "fair").write_text('name = "mine"\n')
    assert Recipe.load(Path("fair")).name == "mine"


def test_another_name_is_an_error_with_the_nearest(call):
    code, _, err = call("run", "regularized_evolution")
    assert code == 2 and "did you mean 'regularised_evolution'? `manyshot recipes` lists" in err
    assert "did you mean 'fair'?" in call("recipes", "fairr")[2]
    with pytest.raises(RecipeError, match="there is no recipe /nowhere/fair.toml"):
        Recipe.load(Path("/nowhere/fair.toml"))


def test_a_wheel_has_them(tmp_path):
    """By the step that fills a wheel; what it made is imported from there."""
    pytest.importorskip("setuptools")
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    look = "from manyshot.shipped import *; print(recipes_folder(), len(shipped_recipes()))"
    told = subprocess.run(
        [sys.executable, "-c", look],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [str(tmp_path / "manyshot" / "recipes"), str(len(FILES))]
