"""A run whose search space shrinks while it trains."""

import shutil

import pytest

from kills import left_by_kills
from manyshot import records
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.identity import weights_fingerprint
from manyshot.pipeline.stages.shrink import judged
from manyshot.pipeline.verbs.transfer import transfer_recipe
from manyshot.recipe import Recipe, RecipeError
from manyshot.report.reading import RunRecords
from manyshot.report.run import run_page
from manyshot.run_folder import RunFolder
from manyshot.train import load_weights
from pipeline_runs import (
    export_architecture,
    lines,
    outcome,
    random_truth,
    rank_run,
    run,
    small,
)

SHRINKS = ("shrink.name=balanced", "shrink.options={ drop = 3, samples = 8 }")
MORE = (
    "train.epochs=2",
    "finish.mode=inherit",
    "controls.random=1",
    "controls.largest=true",
    "shrink.at=[0.25, 1.0]",
)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shrunk") / "run"
    recipe = small(*SHRINKS, *MORE, "sampler.name=fair")
    left = left_by_kills(folder, lambda: run(recipe, folder))
    return folder, recipe, left


def test_it_searches_the_last_view(shrunk):
    folder, recipe, _ = shrunk
    ws = Workspace.build(recipe)
    views = RunFolder(folder).shrink_lines()
    assert [(line.stage, line.step, len(line.changes)) for line in views] == [
        *((0, 0, 0), (1, 2, 3), (2, 8, 3))
    ]
    last = views[-1].view_of(ws.net.space)
    searched = [ws.net.space.from_text(line["arch"]) for line in lines(folder, "search.jsonl")]
    result = records.read_json(folder / "result.json")
    controls = [ws.net.space.from_text(control["arch"]) for control in result["controls"]]
    assert searched and controls
    assert all(arch in last for arch in [*searched, *controls])
    paths = [max(map(len, line.view_of(ws.net.space).allowed)) for line in views]
    assert result["images_forwarded"]["train"] == 32 * (2 * paths[0] + 6 * paths[1])
    assert result["images_forwarded"]["shrink"] == sum(line.judged for line in views) * (64 + 64)


def test_its_page_says_what_was_dropped(shrunk):
    folder, _, _ = shrunk
    line = RunFolder(folder).shrink_lines()[1]
    [section] = [s for s in run_page(RunRecords.read(RunFolder(folder))).sections
                 if s.title == "Views of the space"]  # fmt: skip
    _, table = section.parts
    assert [row["From step"] for row in table.rows] == ["0", "2", "8"]
    assert "Opened" not in table.head and line.measure in table.note
    for option in line.changes:
        assert f"{option.decision} {option.option}" in table.rows[1]["Dropped"]


def test_its_last_scores_are_those_of_the_search(shrunk):
    """Scores of the time after the last step are by the weights and images that decide later."""
    folder, recipe, _ = shrunk
    ws = Workspace.build(recipe)
    load_weights(RunFolder(folder).weights, ws.net, weights_fingerprint(ws))
    line = lines(folder, "search.jsonl")[0]
    [again] = judged(ws, [ws.net.space.from_text(line["arch"])])
    assert (again.fitness, again.loss) == (line["proxy_score"], line["proxy_loss"])


def test_a_killed_run_ends_with_the_same(shrunk):
    """After each write of the training, also between a view's record and a checkpoint."""
    folder, recipe, left = shrunk
    whole = outcome(folder)
    names = [name for name, _ in left]
    assert names.count("shrink.jsonl") == 3
    at = [i for i, name in enumerate(names) if name == "shrink.jsonl"]
    for i in (at[1], at[2]):
        run(recipe, left[i][1])
        assert outcome(left[i][1]) == whole
        shutil.rmtree(left[i][1])


def test_a_trained_supernet_is_searched_in_its_view(shrunk, tmp_path):
    """By other budgets too, of which its views did not know."""
    folder, _, _ = shrunk
    recipe = Recipe.load(folder / "recipe.toml", ["search.budgets=['macs<=80%']"])
    assert recipe.shrink.budgets == ["macs<=20%", "macs<=90%"]
    run(recipe, tmp_path, trained=folder)
    assert lines(tmp_path, "shrink.jsonl") == lines(folder, "shrink.jsonl")
    with pytest.raises(RecipeError, match="shrink.name = 'balanced'.*a transfer trains"):
        transfer_recipe(folder, None, "fashion_mnist", [])
    (tmp_path / "shrink.jsonl").unlink()
    with pytest.raises(records.RecordError, match="a line for the beginning and for each of 2"):
        run(recipe, tmp_path)


def test_networks_that_training_dropped_are_said_to_be_so(shrunk, tmp_path):
    """By an export of one, and a rank on some; a winner is exported without a word."""
    shutil.copytree(shrunk[0], tmp_path / "run")
    folder, recipe, _ = tmp_path / "run", *shrunk[1:]
    space = RunFolder(folder).space().search_space()
    view = RunFolder(folder).shrink_lines()[-1].view_of(space)
    outside = [arch for arch in space.enumerate() if arch not in view]
    with pytest.warns(UserWarning, match="^1 of 1 architectures, .* 'balanced' dropped"):
        export_architecture(recipe, folder, space.to_text(outside[0]))
    [won, *_] = records.read_json(folder / "result.json")["winners"]
    export_architecture(recipe, folder, won["arch"])
    truth = random_truth([*outside[:3], *list(view.enumerate())[:5]])
    with pytest.warns(UserWarning, match=f"^3 of 8 .* such as {space.to_text(outside[0])}, hold"):
        rank_run(recipe, folder, truth)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("shrink.at=[0.5]",), "at say how a space shrinks, and name = 'none'"),
        (("shrink.name=angle",), "give the shares of training"),
        (("shrink.name=angle", "shrink.at=[0.5, 0.2]"), "in ascending order"),
        (("shrink.name=angle", "shrink.at=[0.5]", "train.epochs=0"), "train.epochs = 0"),
        (("shrink.name=angel", "shrink.at=[0.5]"), "did you mean 'angle'"),
        (("shrink.name=angle", "shrink.at=[0.5]", "sampler.name=table"), "sampler table cannot go"),
        (("shrink.name=elite", "shrink.at=[0.5, 0.6]"), "changes the space 1 times, and .* has 2"),
        (
            ("shrink.name=angle", "shrink.at=[0.5]", "shrink.budgets=['macs<=0.1%']"),
            "budget .* is impossible",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(overrides, words, tmp_path):
    with pytest.raises(RecipeError, match=words):
        run(small(*overrides), tmp_path)
    assert not (tmp_path / "recipe.toml").exists()
