"""What a dry run of a truth says against what the truth then does."""

import shutil

import pytest

from manyshot import cli, records
from manyshot.pipeline import preview_truth, truth
from manyshot.pipeline.stages import lengths
from manyshot.run_folder import TruthFolder
from pipeline_runs import small

RECIPE = (
    "truth.training={epochs=3, batch_size=32}", "truth.seeds=[1, 4]", "truth.plan=uniform",
    "truth.count=3",
)  # fmt: skip


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A truth of two networks, which tests only read."""
    folder = tmp_path_factory.mktemp("truth")
    truth(small(*RECIPE, "truth.count=2"), folder)
    return folder


@pytest.fixture
def timed(monkeypatch):
    """A step takes 0.1 seconds; a few real ones are taken."""
    monkeypatch.setattr(lengths, "seconds_of_a_step", lambda train, *_: train(1) and 0.1)


def test_what_is_left_is_counted_and_timed(begun, timed, tmp_path):
    """128 images in batches of 32 are 4 steps an epoch: 1.2 seconds for each training."""
    folder = shutil.copytree(begun, tmp_path / "truth")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    told = preview_truth(small(*RECIPE), folder)
    assert told["trainings"] == {"planned": 6, "left": 2} and told["problems"] == []
    assert told["seconds"]["training"] == pytest.approx(2 * 1.2)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert "6 trainings. 4 are on record, and not done again." in told["steps"][0]
    assert told["steps"][1].endswith("weights: 3 epochs of 4 steps of 32.")
    assert truth(small(*RECIPE), folder) == told["trainings"]["left"]
    lines = TruthFolder(folder).lines()
    least, most = (f"{pick(line.macs for line in lines) / 1000:.3g}\u202fK" for pick in (min, max))
    assert f"3 networks of {least} to {most} multiply-adds" in told["steps"][0]
    assert preview_truth(small(*RECIPE), folder)["seconds"] == {}
    assert {one["file"] for one in told["files"]} < {path.name for path in folder.iterdir()}


def test_trainings_at_once_share_the_time(timed, tmp_path):
    told = preview_truth(small(*RECIPE), tmp_path / "new", workers=2, archs=["0-1-2-3"])
    assert told["trainings"] == {"planned": 2, "left": 2}
    assert told["seconds"]["training"] == pytest.approx(1.2)
    assert "as they are asked for" in told["steps"][0] and told["steps"][-1].startswith("Up to 2")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("truth.plan=top",), "'top' is of runs: give their folders by --of"),
        (("truth.training.batch_size=500",), "truth.training.batch_size = 500 is more than"),
    ],
)
def test_what_would_end_it_is_said(sets, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "small.toml"
    recipe.write_text(small(*RECIPE, *sets).to_toml())
    with pytest.raises(SystemExit) as left:
        cli.main(["truth", str(recipe), "--dry-run", "--quiet"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and words in printed.err
    assert "Nothing was written." in printed.out and [*tmp_path.iterdir()] == [recipe]


def test_trainings_of_other_settings_are_refused(begun):
    with pytest.raises(records.RecordError, match="use another --out folder"):
        preview_truth(small(*RECIPE, "truth.training={epochs=2, batch_size=32}"), begun)


def test_the_command_prints_it(begun, timed, tmp_path, capsys):
    recipe = tmp_path / "small.toml"
    recipe.write_text(small(*RECIPE).to_toml())
    with pytest.raises(SystemExit) as left:
        cli.main(["truth", str(recipe), "--dry-run", "--quiet", "--out", str(begun)])
    out = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and "Nothing was written." in out
    assert "It takes about 2.4s (training 2.4s); tests come on top." in out
