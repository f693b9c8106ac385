"""What images show by a finished network, from Python and from the command line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import manyshot as ms
from manyshot import cli
from manyshot.data import prepared
from manyshot.pipeline import Workspace, build
from manyshot.pipeline.stages.describe import describe_space
from manyshot.pipeline.verbs.predict import check_predicts
from manyshot.recipe import Recipe
from photos import SHADES, columns
from pipeline_runs import run, small


@pytest.fixture(scope="module")
def opened(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    sets = ("data.name=folder", f"data.root={photos}", "data.validation=24", "data.image_size=8")
    sets += ("search.budgets=['macs<=28%', 'macs<=90%']",)
    run(small(*sets, "data.train_size=64", "finish.mode=inherit"), folder)
    return ms.Run(folder)


@pytest.fixture
def call(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(map(str, arguments)))
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


def test_predictions_are_what_scores_are_made_of(opened, photos):
    files = sorted((photos / "test").glob("*/*"))
    winner = opened.winners[1]
    said = opened.predict(files, budget=winner.budget, top=9)
    named = [classes[0].name for classes in said]
    right = [name == file.parent.name for name, file in zip(named, files, strict=True)]
    assert sum(right) / len(right) == pytest.approx(winner.test_score)
    splits = Workspace.build(opened.recipe).splits
    batches = ms.data.fixed(splits.test, None, 99, mean=splits.mean, std=splits.std, seed=0)
    [(images, _)] = batches
    with torch.no_grad():
        expected = winner.module()(images).softmax(1)
    order = [splits.test.paths.index(str(file.relative_to(photos))) for file in files]
    for classes, row in zip(said, expected[order], strict=True):
        assert len(classes) == 2 and classes[0].probability >= classes[1].probability
        for one in classes:
            assert one.probability == pytest.approx(float(row[one.label]), abs=1e-6)
            assert one.name == splits.class_names[one.label]


def test_an_image_is_the_same_from_anywhere(opened, photos):
    budget, path = opened.winners[0].budget, next((photos / "test").glob("*/*"))
    image = Image.open(path)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    [expected] = opened.predict(str(path), budget=budget)
    for one in (path, image, pixels):
        assert opened.predict(one, budget=budget) == [expected]
    many = opened.predict(torch.stack([pixels] * 70), budget=budget)
    assert (len(many), many[69][0].name) == (70, expected[0].name)
    assert many[69][0].probability == pytest.approx(expected[0].probability, abs=1e-6)
    [whole] = opened.predict(image, budget=budget, top=2)
    [rounded] = opened.predict([pixels / 255], budget=budget, top=2)
    odds = {one.name: one.probability for one in whole}  # resized without rounding to 8 bits
    assert {one.name: one.probability for one in rounded} == pytest.approx(odds, abs=0.01)


def test_the_command_prints_a_line_per_class(opened, photos, call):
    files = sorted((photos / "test").glob("*/*"))[:3]
    winner = opened.winners[0]
    loose = winner.budget.replace("<=", " <= ")
    code, out, err = call("predict", opened.folder, *files, "--budget", loose, "--top", 2)
    assert (code, err) == (0, "")
    rows = columns(out)
    assert {row[1] for row in rows} == {*SHADES}
    assert [row[0] for row in rows] == [str(file) for file in files for _ in range(2)]
    said = opened.predict(files, arch=winner.arch, top=2)
    assert [row[1:] for row in rows] == [[o.name, f"{o.probability:.4f}"] for c in said for o in c]
    arch = "-".join(map(str, winner.arch))
    code, out, _ = call("predict", opened.folder, files[0], "--arch", arch, "--json")
    [shown] = json.loads(out)
    assert code == 0 and shown["image"] == str(files[0])
    assert shown["classes"][0]["name"] == said[0][0].name


def test_what_cannot_be_predicted_is_said(opened, photos, call, tmp_path):
    text, image = tmp_path / "a.png", next((photos / "test").glob("*/*"))
    text.write_text("no image")
    budget = ("--budget", opened.winners[0].budget)
    for arguments, words, code in (
        ((photos, *budget), f"{photos} is a folder: give image files", 1),
        ((text, *budget), f"{text} is none of BMP, JPEG", 1),
        ((image, "--budget", "macs<=7%"), "'macs<=7%' has no winner in", 1),
        ((image, "--budget", "cheap"), "'cheap' has no winner in", 1),
        ((image, "--arch", "9-9-9-9"), "option 9 is not in", 1),
        ((image, "--arch", "0-3-3-0"), "is missing: finish the architecture", 1),
        ((image, "--arch", "0-0-0-0", *budget), "both say which network", 2),
        ((), "'images'", 2),
    ):
        found, out, err = call("predict", opened.folder, *arguments)
        assert (found, out) == (code, "") and words in err, err
    with pytest.raises(ValueError, match=r"must be \[3, height, width\], got \[1, 8, 8\]"):
        opened.predict(torch.zeros(1, 8, 8), budget=opened.winners[0].budget)
    with pytest.raises(ValueError, match="from 0 to 1 that are not normalised, got torch.float32"):
        opened.predict(torch.randn(3, 8, 8), budget=opened.winners[0].budget)
    with pytest.raises(ValueError, match="a path, an image of Pillow or a tensor, got int"):
        opened.predict([3], budget=opened.winners[0].budget)


def test_a_winner_is_named_where_there_are_several(opened, monkeypatch):
    won = [SimpleNamespace(budget=f"macs<={i}", arch=(i,)) for i in (1, 2)]
    monkeypatch.setattr(ms.Run, "winners", won)
    with pytest.raises(
        ValueError, match="several winners: give the budget of one, of macs<=1, mac"
    ):
        opened._chosen(None, None)
    assert opened._chosen("macs <= 2", None) == (2,)
    monkeypatch.setattr(ms.Run, "winners", won[:1] * 2)
    assert opened._chosen(None, None) == (1,)


@pytest.mark.parametrize(
    ("task", "data", "words"),
    [
        ("dense", "digits", "task = 'dense' is another"),
        ("classification", "own_data:made", "data of your own"),
    ],
)
def test_other_runs_are_refused(task, data, words):
    with pytest.raises(ValueError, match=words):
        check_predicts(Recipe(task={"name": task}, data={"name": data}))


def test_a_folder_predicts_where_its_images_are_not(opened, photos, call, tmp_path):
    """Its finished weights and its records are all that is needed."""
    files, budget = sorted((photos / "test").glob("*/*")), opened.winners[1].budget
    expected = opened.predict(files, budget=budget, top=2)
    asked = [Path(shutil.copy(file, tmp_path / f"{i}.png")) for i, file in enumerate(files)]
    folder = shutil.copytree(opened.folder, tmp_path / "moved")
    (folder / "supernet.safetensors").unlink()
    (folder / "recipe.toml").write_text(
        (folder / "recipe.toml").read_text().replace(str(photos), str(tmp_path / "nowhere"))
    )
    with pytest.raises(ms.data.DataNotFound):
        Workspace.build(ms.Run(folder).recipe)
    assert ms.Run(folder).predict(asked, budget=budget, top=2) == expected
    code, out, _ = call("predict", folder, asked[0], "--budget", budget, "--json")
    [[best]] = [row["classes"] for row in json.loads(out)]
    assert code == 0 and best["name"] == expected[0][0].name
    space = json.loads((folder / "space.json").read_text())
    for key in ("mean", "std", "keeps_aspect"):
        del space["images"][key]
    (folder / "space.json").write_text(json.dumps(space))
    with pytest.raises(ms.records.RecordError, match=f"run --resume {folder} adds it"):
        ms.Run(folder).predict(asked, budget=budget)
    describe_space(Workspace.build(opened.recipe), folder)
    assert ms.Run(folder).files.space() == opened.files.space()
    assert ms.Run(folder).winners[1].module()(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


def test_all_that_a_run_may_share_is_in_its_finished_weights(everything, monkeypatch):
    """Of stacked weights too, which shifted: scores are those on record."""
    splits = ms.data.load("digits", validation=64, train_size=128, held_out=32, seed=1)
    monkeypatch.setattr(build, "load_data", lambda recipe: pytest.fail("it asked for images"))
    [(images, labels)] = ms.data.fixed(
        splits.test, None, 449, mean=splits.mean, std=splits.std, seed=0
    )
    for winner in ms.Run(everything).winners:
        with torch.no_grad():
            right = winner.module()(images).argmax(1) == labels
        assert right.double().mean() == pytest.approx(winner.test_score, abs=1e-9)


def test_images_for_arrays_are_squeezed_whole():
    """As those of `ms.data.load(image_size=...)` are, which keep no aspect."""
    splits = ms.data.load("digits", image_size=[8, 8])
    stripes = torch.zeros(1, 8, 32, dtype=torch.uint8)
    stripes[:, :, :8] = 200  # cut away by a crop of the centre
    assert prepared(stripes, splits)[:, :, 0].float().mean() > 150
    image = splits.test.read(0)
    assert torch.equal(prepared(Image.fromarray(image[0].numpy()), splits), image)
