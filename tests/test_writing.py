"""One writer per folder, and nothing of anybody else's is touched."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from manyshot import records, writing
from manyshot.recipe import RecipeError
from manyshot.records import RecordError

HOLDS = """
import sys, time
from pathlib import Path
from manyshot.writing import writing
with writing(Path(sys.argv[1]), "manyshot sleep"):
    (Path(sys.argv[1]) / "recipe.toml").touch()
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    folder = tmp_path / "new"
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        message = rf"^manyshot sleep \(process {process.pid} on .+\) is at work in {folder}: wait"
        for _ in range(2):  # neither attempt spoils what the message is made of
            with pytest.raises(RecordError, match=message), writing.writing(folder, "another"):
                pass
        process.kill()
    assert (folder / "lock.json").exists()  # left by the kill, and in nobody's way
    with writing.writing(folder, "one"):
        with pytest.raises(RecordError, match="^one"), writing.writing(folder, "two"):
            pass
        assert json.loads((folder / "lock.json").read_text())["pid"] == os.getpid()
    assert not (folder / "lock.json").exists()


def test_a_lock_is_free_again_after_an_error_and_says_little_without_a_note(tmp_path):
    with pytest.raises(ZeroDivisionError), writing.writing(tmp_path, "one"):
        raise ZeroDivisionError
    with writing.writing(tmp_path, "one"):
        (tmp_path / "lock.json").unlink()
        with pytest.raises(RecordError, match="^another process is"):
            writing.writing(tmp_path, "two").__enter__()


def test_only_the_main_process_locks(tmp_path, monkeypatch):
    with writing.writing(tmp_path, "main"):
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(RecordError, match="^main"):  # nobody else was started with it
            writing.writing(tmp_path, "alone after all").__enter__()
        monkeypatch.setenv("WORLD_SIZE", "2")
        with writing.writing(tmp_path, "its helper"):
            pass
    monkeypatch.setenv("WORLD_SIZE", "x")
    with pytest.raises(RecipeError, match="WORLD_SIZE is 'x', not a number"):
        writing.processes()


def test_a_folder_in_which_nothing_was_written_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = writing.new_folder("name")
    with pytest.raises(ZeroDivisionError), writing.writing(folder, "run"):
        raise ZeroDivisionError
    assert not Path("runs").exists()
    folder = writing.new_folder("name")
    with writing.writing(folder, "run"):
        records.write_text(folder / "environment.json", "{}")
    assert {path.name for path in folder.iterdir()} == {"lock", "environment.json"}


def test_new_folders_are_claimed(tmp_path, monkeypatch):
    """By so many threads at once: each gets its own, and no number is left out."""
    monkeypatch.chdir(tmp_path)
    folders: list[Path] = []
    gate = threading.Barrier(20)

    def claim() -> None:
        gate.wait()
        folders.append(writing.new_folder("name"))

    threads = [threading.Thread(target=claim) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f.name for f in folders} == {"name", *(f"name-{i}" for i in range(2, 21))}


def test_a_folder_that_was_there_stays(tmp_path):
    with pytest.raises(ZeroDivisionError), writing.writing(tmp_path, "run"):
        raise ZeroDivisionError
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("kind", "file"), [("truth", "space.json"), ("run", "truth.jsonl"), ("rank", "result.json")]
)
def test_what_is_of_another_kind_is_refused(tmp_path, kind, file):
    for name in ("lock", "recipe.toml", file):
        (tmp_path / name).touch()
    with pytest.raises(RecordError, match=f"and this command writes a {kind}: choose another"):
        writing.writing(tmp_path, "x", kind).__enter__()


def test_files_that_are_called_like_ours_are_not_ours(tmp_path):
    (tmp_path / "environment.json").write_text('{"name": "conda"}')
    (tmp_path / "lock").write_text("yarn")
    with pytest.raises(RecordError, match="holds environment.json, which manyshot did not write"):
        writing.writing(tmp_path, "run").__enter__()


def test_links_do_not_lead_out_of_a_folder(tmp_path):
    theirs, folder = tmp_path / "theirs", tmp_path / "run"
    theirs.write_text("mine")
    folder.mkdir()
    for name in ("lock", "recipe.toml"):
        (folder / name).touch()
    (folder / "lock.json").symlink_to(theirs)
    (folder / "search.jsonl").symlink_to(tmp_path / "new")
    with writing.writing(folder, "run"), pytest.raises(RecordError, match="jsonl is a link"):
        records.append(folder / "search.jsonl", {"x": 1})
    assert theirs.read_text() == "mine" and not (tmp_path / "new").exists()
    (folder / "subnets").symlink_to(tmp_path)
    with pytest.raises(RecordError, match="subnets is a link"):
        writing.writing(folder, "run").__enter__()


def test_another_folder_in_its_place_is_not_written_to(tmp_path):
    folder = tmp_path / "run"
    with writing.writing(folder, "run"):
        (folder / "subnets").mkdir()
        folder.rename(tmp_path / "away")
        (folder / "subnets").mkdir(parents=True)
        for path in (folder / "a.json", folder / "subnets" / "b.json"):
            with pytest.raises(RecordError, match="removed, renamed or replaced"):
                records.write_text(path, "x")
    assert list((folder / "subnets").iterdir()) == []


@pytest.mark.parametrize("name", ["notes.txt", "recipe.toml", ".part", "a folder"])
def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path, name):
    (tmp_path / name).mkdir() if name == "a folder" else (tmp_path / name).write_text("mine")
    with pytest.raises(RecordError, match=rf"holds {name}, which manyshot did not write: choose"):
        writing.writing(tmp_path, "run").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(RecordError, match="is a file"):
        writing.writing(Path(__file__), "run").__enter__()


def test_only_torn_files_of_ours_are_removed(tmp_path):
    ours, subnets = tmp_path / ".trainer.abc.manyshot-part.pt", tmp_path / "subnets"
    theirs = [tmp_path / ".x.part.txt", tmp_path / "deep" / ".y.abc.manyshot-part.pt"]
    for folder in (subnets, tmp_path / "deep", tmp_path / ".folder.manyshot-part"):
        folder.mkdir()
    for path in (ours, subnets / ".0-1.abc.manyshot-part", tmp_path / "recipe.toml", *theirs):
        path.write_text("x")
    (tmp_path / "lock").touch()
    (tmp_path / ".link.manyshot-part.pt").symlink_to(theirs[0])
    with writing.writing(tmp_path, "run"):
        assert not ours.exists() and not list(subnets.iterdir())
    assert all(path.read_text() == "x" for path in theirs)
    assert (tmp_path / ".link.manyshot-part.pt").is_symlink()
    assert (tmp_path / ".folder.manyshot-part").is_dir()


def test_a_folder_that_is_removed_stays_removed(tmp_path):
    folder = tmp_path / "run"
    with writing.writing(folder, "run"):
        records.append(folder / "a.jsonl", {"x": 1})
        shutil.rmtree(folder)
        with pytest.raises(RecordError, match="run is not there: if it was removed"):
            records.append(folder / "a.jsonl", {"x": 2})
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full, so .*log.jsonl was not written: make room, then resume"),
        (errno.EROFS, "can only be read, so .*log.jsonl was not written: let it be written to"),
        (errno.EACCES, "is not allowed, so .*log.jsonl was not written: give this user the right"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_disk_that_takes_nothing_says_so(tmp_path, monkeypatch, number, words):
    def refuses(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuses)
    for write in (records.append, records.write_json):
        with pytest.raises(OSError, match=words) as caught:
            write(tmp_path / "log.jsonl", {"x": 1})
        assert caught.value.errno == number


def test_a_disk_that_takes_nothing_does_not_hide_why_a_command_ended(tmp_path, monkeypatch):
    def refuses(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with (
        pytest.raises(ValueError, match="why"),
        monkeypatch.context() as patch,
        writing.writing(tmp_path, "run"),
    ):
        patch.setattr(type(tmp_path), "unlink", refuses)
        raise ValueError("why")
    assert (tmp_path / "lock.json").exists()
    with writing.writing(tmp_path, "run"):
        pass
    assert not (tmp_path / "lock.json").exists()


def test_a_scheduler_may_end_a_command(tmp_path):
    """SIGTERM is said in one line, and what is done stays done."""
    command = [sys.executable, "-m", "manyshot", "run", "--set", "train.epochs=500", "--out", "r"]
    command += ["--set", "export.formats=['json']", "--set", "train.log_steps=1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "r" / "train.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.splitlines()[-1] == (
        "error: interrupted; go on with manyshot run --resume r or, if it was truth or rank, "
        "with the same command"
    )
    assert "Traceback" not in err
    assert not (tmp_path / "r" / "lock.json").exists()
