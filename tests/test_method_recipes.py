"""The recipe of every method runs to its end, and a second time to the same."""

from pathlib import Path

import pytest

from manyshot import records
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.space import Budget
from pipeline_runs import run

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
RECIPES = sorted((Path(__file__).parents[1] / "recipes" / "methods").glob("*.toml"))
LESS = (
    *("train.epochs=1", "train.batch_size=32", "data.train_size=128", "data.validation=64"),
    *("evaluate.calibration_images=64", "finish.training.epochs=1", "export.formats=[]"),
    *("controls.largest=false", "controls.random=0"),
)
"""Overrides of all."""
SLOW = {"darts_cell", "ista_nas"}
"""Recipes of a network of very many layers, whose costs take long to record; `tests/zoo` and
`tests/train` have what they are made of."""
NOT_COMPARED = {"seconds"}
"""What two runs may differ in."""


def searched(folder: Path) -> list[dict]:
    lines = records.read_lines(RunFolder(folder).search_log)
    return [{k: v for k, v in line.items() if k not in NOT_COMPARED} for line in lines]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else [])
        for path in RECIPES
    ],
)
def test_a_recipe_runs_and_runs_again_to_the_same(path, tmp_path):
    shorter = ("train.snapshots.epochs=0.25",) if "snapshots" in path.read_text() else ()
    recipe = Recipe.load(path, (*LESS, *shorter))
    result = run(recipe, tmp_path / "once")
    assert [winner["budget"] for winner in result["winners"]] == list(recipe.search.budgets)
    space = records.read_json(RunFolder(tmp_path / "once").space_file)
    for winner in result["winners"]:
        for budget in Budget.parse_all(winner["budget"]):
            most = budget.absolute(space["largest"][budget.metric])
            assert winner[budget.metric] <= most
    if recipe.finish.teacher == "none" and "linear_skips" not in recipe.network.options:
        recipe = Recipe.load(path, (*LESS, *shorter, "finish.mode=inherit"))
    run(recipe, tmp_path / "again")
    assert searched(tmp_path / "once") == searched(tmp_path / "again")
