"""Runs that are killed, and files that are damaged: nothing is lost, nothing is different."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from kills import EVERY, left_by_kills
from manyshot import records
from manyshot.cli import main
from manyshot.pipeline.stages import exports
from manyshot.train import CheckpointError
from pipeline_runs import SMALL, Stopped, lines, outcome, run, small


@EVERY
@pytest.mark.usefixtures("built_once")
def test_stopped_after_every_durable_write(tmp_path, of):
    recipe = small("search.candidates=4", "search.generation=3")
    left = left_by_kills(tmp_path / "whole", lambda: run(recipe, tmp_path / "whole"))
    whole = outcome(tmp_path / "whole")
    written = [name for name, _ in left]
    for name, folder in of(left):
        run(recipe, folder)
        assert outcome(folder) == whole, name
        shutil.rmtree(folder)
    fixed = {"recipe.toml", "environment.json", "train.jsonl", "trainer.pt", "search.jsonl"}
    assert fixed | {"supernet.safetensors", "finish.jsonl", "result.json"} <= set(written)
    assert any(name.endswith(".trainer.pt") for name in written)  # a winner being fine-tuned
    assert written.count("search.jsonl") == 4


def test_stopped_between_the_files_of_a_winner_and_its_record(base, tmp_path, monkeypatch):
    whole, recipe = outcome(base[0]), base[1]
    export = exports.export

    def stopping(*args, **kwargs):
        written = export(*args, **kwargs)
        if "manyshot-formats-" not in str(kwargs["folder"]):  # no trial
            raise Stopped
        return written

    monkeypatch.setattr(exports, "export", stopping)
    with pytest.raises(Stopped):
        run(recipe, tmp_path)
    assert lines(tmp_path, "finish.jsonl") == []
    monkeypatch.undo()
    run(recipe, tmp_path)
    assert outcome(tmp_path) == whole


def test_what_a_kill_left_half_written_is_swept_away(base, tmp_path):
    whole, recipe = outcome(base[0]), base[1]
    shutil.copy(base[0] / "environment.json", tmp_path)
    (tmp_path / "subnets").mkdir()
    (tmp_path / ".trainer.abc.manyshot-part.pt").write_bytes(b"half")
    (tmp_path / "subnets" / ".0-1-2-3.abc.manyshot-part.json").write_bytes(b"half")
    run(recipe, tmp_path)
    assert outcome(tmp_path) == whole


def killed_when(process, ready, delay):
    """Kills a process some time after something has happened; whether it was still alive."""
    deadline = time.monotonic() + 100
    while process.poll() is None and not ready():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_two_kills_at_random_moments(tmp_path):
    """Of one run: while it trains and while it searches."""
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"moments drawn with seed {seed}")
    rng = np.random.default_rng(seed)
    evolved = "population = 16, parents = 4, mutants = 8, crossovers = 8"
    longer = ["train.epochs=12", "search.candidates=50", "search.budgets=['macs<=95%']"]
    longer.append(f"search.options={{{evolved}}}")
    recipe, folder = small(*longer), tmp_path / "run"
    run(recipe, tmp_path / "whole")
    path = tmp_path / "long.toml"
    path.write_text(recipe.to_toml())

    def rows(name):
        file = folder / name
        return file.read_bytes().count(b"\n") if file.exists() else 0

    train_rows, search_rows = rng.integers(1, 20), rng.integers(1, 45)
    moments = [
        lambda: rows("train.jsonl") >= train_rows,
        lambda: rows("search.jsonl") >= search_rows,
    ]
    delays = rng.uniform(0, 0.05, 2)
    arguments, killed = [str(path), "--out", str(folder)], 0
    for ready, delay in zip(moments, delays, strict=True):
        command = [sys.executable, "-m", "manyshot", "run", *arguments, "--quiet"]
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
        )
        killed += killed_when(process, ready, delay)
        arguments = ["--resume", str(folder)]
    assert killed == 2
    with pytest.raises(SystemExit) as left:
        main(["run", "--resume", str(folder), "--quiet"])
    assert left.value.code == 0
    assert outcome(folder) == outcome(tmp_path / "whole")


# -- damage ------------------------------------------------------------------------------------


@pytest.fixture
def copy(base, tmp_path):
    """A copy of the finished run, without its result."""
    folder = tmp_path / "copy"
    shutil.copytree(base[0], folder)
    (folder / "result.json").unlink()
    return folder


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def failure(folder, capsys) -> str:
    """The message with which `--resume` fails; it must have changed nothing."""
    before = snapshot(folder)
    with pytest.raises(SystemExit) as left:
        main(["run", "--resume", str(folder), "--quiet"])
    assert left.value.code == 1
    assert snapshot(folder) == before
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("error: ")
    assert out.err.count("\n") == 1
    return out.err


def test_a_truncated_checkpoint(base, copy, capsys):
    path = copy / "trainer.pt"
    (copy / "supernet.safetensors").unlink()  # so that the checkpoint is needed
    path.write_bytes(path.read_bytes()[:1000])
    text = failure(copy, capsys)
    assert f"checkpoint {path} cannot be read" in text
    assert "delete it to train from the start, or restore it from a copy" in text
    path.unlink()
    for name in ("search.jsonl", "finish.jsonl"):
        (copy / name).unlink()
    run(base[1], copy)
    assert outcome(copy) == outcome(base[0])


def test_truncated_weights_are_made_again_from_the_checkpoint(base, copy, capsys):
    path = copy / "supernet.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "delete the file and resume: it is made again from trainer.pt" in failure(copy, capsys)
    path.unlink()
    run(base[1], copy)
    assert outcome(copy) == outcome(base[0])


def test_a_torn_last_line_is_dropped(base, copy):
    for name in ("search.jsonl", "finish.jsonl"):
        path = copy / name
        path.write_bytes(path.read_bytes()[:-20])
    run(base[1], copy)
    assert outcome(copy) == outcome(base[0])


@pytest.mark.parametrize("name", ["search.jsonl", "finish.jsonl"])
def test_a_damaged_middle_line_is_an_error(base, copy, capsys, name):
    path = copy / name
    text = path.read_text()
    path.write_text(text.replace("{", "", 1) + text)  # more follows, even if one network won all
    assert f"{path}, line 1 is not a record" in failure(copy, capsys)
    path.unlink()
    run(base[1], copy)
    assert outcome(copy) == outcome(base[0])


def changed(path, number, **fields):
    rows = records.read_lines(path)
    rows[number] |= fields
    path.write_text("")
    for row in rows:
        records.append(path, row)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"weights": "0" * 16}, "was made with other weights (0000000000000000, now "),
        ({"calibration": "x:0:64"}, "was made with other calibration (x:0:64, now "),
        (
            {"arch": "3-3-3-3"},
            "has architecture 3-3-3-3 in generation 0 where this search proposes ",
        ),
        ({"generation": 1}, " in generation 1 where this search proposes "),
        ({"schema": 9}, "has schema 9; this version reads 2"),
    ],
    ids=str,
)
def test_records_of_another_search_are_refused(copy, capsys, fields, text):
    changed(copy / "search.jsonl", 1, **fields)
    assert text in failure(copy, capsys)


def test_records_beyond_the_search_are_refused(copy, capsys):
    row = records.read_lines(copy / "search.jsonl")[-1]
    records.append(copy / "search.jsonl", row | {"generation": 5})
    assert "holds 1 records more than this search proposes" in failure(copy, capsys)


def test_a_checkpoint_of_other_settings_is_refused(copy, capsys):
    (copy / "supernet.safetensors").unlink()
    state = torch.load(copy / "trainer.pt", weights_only=True)
    torch.save(state | {"fingerprint": "f" * 16}, copy / "trainer.pt")
    assert "belongs to other settings (ffffffffffffffff, now" in failure(copy, capsys)


def test_a_checkpoint_of_other_processes_is_refused_but_at_the_end(base, copy, capsys):
    (copy / "supernet.safetensors").unlink()
    path = copy / "trainer.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"step": 2, "losses": [[[], []]] * 3}, path)
    text = failure(copy, capsys)
    assert f"checkpoint {path} is of a training by 3 processes, and now there is 1: " in text
    assert "go on with 3, or delete the file" in text
    torch.save(state | {"losses": [[[], []]] * 3}, path)  # of the end
    run(base[1], copy)
    assert outcome(copy) == outcome(base[0])


def test_a_recipe_that_was_edited_is_noticed(base, copy, capsys):
    """The weights are there, but they are those of another learning rate."""
    (copy / "supernet.safetensors").unlink()
    path = copy / "recipe.toml"
    path.write_text(path.read_text().replace("lr = 0.1", "lr = 0.2"))
    assert "belongs to other settings" in failure(copy, capsys)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path, capsys):
    (tmp_path / "small.toml").write_text(SMALL)
    arguments = ["--set", "train.lr=1e30", "--set", "train.schedule=constant"]
    arguments += ["--set", "train.epochs=4", "--set", "train.checkpoint_steps=1"]
    with pytest.raises(SystemExit) as left:
        out = str(tmp_path / "run")
        main(["run", str(tmp_path / "small.toml"), *arguments, "--out", out, "--quiet"])
    assert left.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("error: step ")
    assert "Lower train.lr" in text
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_errors_have_types_of_their_own():
    assert issubclass(CheckpointError, ValueError)
    assert issubclass(records.RecordError, ValueError)
