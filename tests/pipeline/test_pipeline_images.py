"""Runs whose images change: what depends on them is done again or refused, and nothing else."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import manyshot as ms
from kills import EVERY, left_by_kills
from manyshot import records
from manyshot.cli import main
from manyshot.pipeline import Workspace, train_only, truth
from manyshot.pipeline.identity import truth_fingerprint, weights_fingerprint
from manyshot.pipeline.stages import alone, work
from manyshot.pipeline.stages import train as training
from manyshot.pipeline.stages.score import Images
from manyshot.pipeline.verbs.truth import workspace
from manyshot.recipe import Recipe
from manyshot.train import CheckpointError
from pipeline_runs import lines, outcome, run, small

CLASSES = ("dark", "light")


def write(path, shade: int, rng) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 128, (8, 8)) + shade
    Image.fromarray(pixels.astype(np.uint8)).save(path.with_suffix(".bmp"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """An image folder of two classes, whose files are all of one length."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, each in (("train", 60), ("test", 20)):
        for label, name in enumerate(CLASSES):
            for i in range(each):
                write(root / part / name / str(i), 60 * label, rng)
    return root


def on(root, *overrides) -> Recipe:
    data = ("data.name=folder", f"data.root={root}", "data.validation=24", "data.train_size=64")
    searched = ("train.epochs=4", "train.lr=0.05", "search.candidates=8", "seed=2")
    return small(*data, *searched, *overrides)


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """A finished run on these images, which tests only read."""
    folder = tmp_path_factory.mktemp("finished")
    run(on(photos), folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def replaced(photos):
    """Replaces the first image of a part by another one, until the test is over."""
    before = {}

    def replace(part: str) -> None:
        path = photos / getattr(Workspace.build(on(photos)).splits, part).paths[0]
        before[path] = path.read_bytes()
        write(path, 127, np.random.default_rng(len(before)))
        assert len(path.read_bytes()) == len(before[path])
        assert path.read_bytes() != before[path]

    yield replace
    for path, content in before.items():
        path.write_bytes(content)


@pytest.fixture
def nothing_is_trained_or_scored(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("done again")

    for module, name in ((alone, "fit"), (training, "fit"), (ms.evaluate, "score")):
        monkeypatch.setattr(module, name, refused)


def half(folder) -> None:
    """Takes from a finished run its result and all that it holds of its last winner."""
    (folder / "result.json").unlink()
    *rest, last = lines(folder, "finish.jsonl")
    assert rest
    records.write_lines(folder / "finish.jsonl", rest)
    for path in (folder / "subnets").glob(f"{last['arch']}.*"):
        path.unlink()


def test_after_another_test_image_a_finished_run_only_tests_again(
    photos, copy, replaced, nothing_is_trained_or_scored
):
    before = lines(copy, "finish.jsonl")
    kept = [*copy.glob("*.safetensors"), *copy.glob("subnets/*.safetensors")]
    kept += [copy / "train.jsonl", copy / "search.jsonl"]
    before_bytes = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}
    replaced("test")
    with pytest.warns(UserWarning, match=r"test images are others .* what is finished is tested"):
        result = run(on(photos), copy)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == before_bytes
    after = {row["arch"]: row for row in lines(copy, "finish.jsonl")}
    assert after.keys() == {row["arch"] for row in before}
    splits = Workspace.build(on(photos)).splits
    paths = [(label, p) for label, c in enumerate(CLASSES) for p in (photos / "test" / c).iterdir()]
    pixels = np.stack([np.array(Image.open(path)) for _, path in paths])[:, None]
    images = torch.from_numpy((pixels / 255 - splits.mean[0]) / splits.std[0]).float()
    labels = torch.tensor([label for label, _ in paths])
    for row in before:
        new = after[row["arch"]]
        with torch.no_grad():
            logits = ms.Run(copy).finished(tuple(map(int, row["arch"].split("-"))))(images)
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert new["test_loss"] == pytest.approx(loss, rel=1e-5) != row["test_loss"]
        assert new["test_score"] == pytest.approx((logits.argmax(1) == labels).double().mean())
        assert new["fingerprint"] == row["fingerprint"]
        assert new["tested_on"] == splits.digests["test"] != row["tested_on"]
    for winner in result["winners"]:
        assert winner["test_score"] == after[winner["arch"]]["test_score"]


@pytest.mark.parametrize("cut", [lambda folder: None, half], ids=["finished", "half finished"])
def test_it_ends_as_a_run_on_the_new_images(photos, copy, replaced, tmp_path, cut):
    cut(copy)
    replaced("test")
    with pytest.warns(UserWarning, match="test images are others"):
        run(on(photos), copy)
    run(on(photos), tmp_path / "new")
    assert outcome(copy) == outcome(tmp_path / "new")
    for name in ("space.json", "recipe.toml"):
        assert (copy / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
    run(on(photos), copy)  # and nothing is said any more


@EVERY
@pytest.mark.filterwarnings("ignore:the test images are others", "ignore:.*not what is on record")
def test_stopped_after_every_write_while_it_tests_again(
    photos, finished, replaced, tmp_path, monkeypatch, of
):
    replaced("test")
    run(on(photos), tmp_path / "new")
    new = outcome(tmp_path / "new")
    for module, name in ((alone, "fit"), (work, "finished")):
        monkeypatch.setattr(module, name, None)
    again = shutil.copytree(finished, tmp_path / "again")
    left = left_by_kills(again, lambda: run(on(photos), again))
    written = [name for name, _ in left]
    for name, folder in of(left):
        run(on(photos), folder)
        assert outcome(folder) == new, name
    of_networks = [name for name in written if name.count("-") == 3]
    cards = [name for name in of_networks if not name.endswith(".tested.json")]
    assert len(cards) == written.count("finish.jsonl") == 2
    assert {*written} - {*of_networks} == {
        *("space.json", "finish.jsonl", "result.json", "seconds.json")
    }


def contents(folder):
    """Of all files but the report, which is drawn anew whatever happens."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"]
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize("part", ["train", "validation"])
def test_after_another_image_of_any_other_part_it_is_refused(photos, copy, replaced, capsys, part):
    replaced(part)
    files = contents(copy)
    with pytest.raises(SystemExit):
        main(["run", "--resume", str(copy), "--quiet"])
    assert "belong to other settings, another seed or other images" in capsys.readouterr().err
    (copy / "supernet.safetensors").unlink()
    with pytest.raises(CheckpointError, match="belongs to other settings"):
        train_only(on(photos), copy)
    del files[copy / "supernet.safetensors"]
    assert contents(copy) == files


@pytest.mark.parametrize(
    ("part", "same"), [("train", False), ("validation", False), ("held_out", False), ("test", True)]
)
def test_scores_depend_on_all_parts_but_test(photos, replaced, part, same):
    recipe = on(photos, "sampler.held_out=20")
    before = Workspace.build(recipe)
    path = photos / getattr(before.splits, part).paths[0]
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        after = Workspace.build(recipe)
    finally:
        path.write_bytes(content)
    assert (Images(before).calibration_id == Images(after).calibration_id) == same
    assert (weights_fingerprint(before) == weights_fingerprint(after)) == same
    settings = recipe.truth.training
    assert truth_fingerprint(before, settings) != truth_fingerprint(after, settings)
    changed = {name for name, d in after.splits.digests.items() if d != before.splits.digests[name]}
    assert changed == {part}


def test_an_export_without_a_test_keeps_the_figures_and_what_they_are_of(photos, copy, replaced):
    row = lines(copy, "finish.jsonl")[0]
    arch = tuple(map(int, row["arch"].split("-")))
    card = copy / "subnets" / f"{row['arch']}.json"
    content = card.read_bytes()
    card.unlink()
    replaced("test")
    ms.Run(copy).export(arch, "json")
    assert card.read_bytes() == content
    assert row in lines(copy, "finish.jsonl")
    with pytest.warns(UserWarning, match=f"others than those that {row['arch']} had been tested"):
        ms.Run(copy).export(arch, "json", test=True)
    assert card.read_bytes() != content
    assert row not in lines(copy, "finish.jsonl")


def test_a_truth_says_which_images_it_is_of(photos, replaced, tmp_path):
    recipe = on(photos, "truth={seeds = [0], training = {epochs = 1, batch_size = 32}}")
    assert truth(recipe, tmp_path, archs=["0-0-0-0"]) == 1
    digests = Workspace.build(recipe.model_copy(update={"seed": 0})).splits.digests
    [row] = lines(tmp_path, "truth.jsonl")
    assert (row["trained_on"], row["tested_on"]) == (digests["train"], digests["test"])
    replaced("test")
    workspace.cache_clear()  # as in another process
    with pytest.raises(records.RecordError, match=f"on other test images .{digests['test']}, now"):
        truth(recipe, tmp_path, archs=["1-0-0-0"])
    replaced("train")
    workspace.cache_clear()
    with pytest.raises(records.RecordError, match="holds trainings on other train images"):
        truth(recipe, tmp_path, archs=["1-0-0-0"])
