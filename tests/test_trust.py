"""Whose code a run's folder may run."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

import manyshot as ms
from manyshot import trust
from manyshot.recipe import Recipe, RecipeError
from manyshot.run_folder import RunFolder


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def folder_with(path: Path, *overrides: str) -> RunFolder:
    path.mkdir()
    folder = RunFolder(path)
    folder.recipe_file.write_text(Recipe.load(None, overrides).to_toml())
    return folder


def test_recipes_without_code_need_no_trust(tmp_path):
    trust.check_trusted(folder_with(tmp_path / "run"))


@pytest.mark.parametrize("section", ["network", "sharing", "sampler", "search"])
def test_code_of_a_stranger_is_refused_until_trusted(tmp_path, section):
    folder = folder_with(tmp_path / "run", f"{section}.name=os:system")
    with pytest.raises(RecipeError, match=rf"{section}.name = 'os:system'; look at it.*--trust"):
        trust.check_trusted(folder)
    trust.check_trusted(folder, trust=True)


def test_a_signed_folder_may_neither_be_moved_nor_changed(tmp_path, home):
    """Beside a copy there may be a stranger's module of the name that the recipe has."""
    folder = folder_with(tmp_path / "run", "network.name=my:net")
    trust.sign(folder)
    trust.check_trusted(folder)
    moved = RunFolder(shutil.copytree(tmp_path / "run", tmp_path / "moved"))
    with pytest.raises(RecipeError, match="my:net"):
        trust.check_trusted(moved)
    text = folder.recipe_file.read_text()
    folder.recipe_file.write_text(Recipe.load(None, ["network.name=your:net"]).to_toml())
    with pytest.raises(RecipeError, match="your:net"):
        trust.check_trusted(folder)
    folder.recipe_file.write_text(text)
    trust.check_trusted(folder)
    shutil.rmtree(home)  # another user has another key
    with pytest.raises(RecipeError, match="my:net"):
        trust.check_trusted(folder)
    trust.sign(folder)
    trust.check_trusted(folder)
    assert stat.S_IMODE((home / "manyshot" / "key").stat().st_mode) == 0o600


def test_without_a_home_nothing_is_signed(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    folder = folder_with(tmp_path / "run", "network.name=my:net")
    trust.sign(folder)
    assert not folder.signature_file.exists()
    with pytest.raises(RecipeError, match="--trust"):
        trust.check_trusted(folder)


CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


def test_nothing_of_a_strangers_run_runs(tmp_path, monkeypatch):
    """By no verb on a folder, and in no way in Python but with trust."""
    from manyshot.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(CODE)
    run = folder_with(tmp_path / "run", "network.name=theirs:net").path
    (run / "lock").touch()
    for command in (
        ["run", "--resume", str(run)],
        ["search", str(run)],
        ["transfer", str(run), "--data", "digits"],
        ["export", str(run), "--arch", "0-0"],
        ["rank", str(run), "--truth", "nas-bench-macro"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 2
    opened = ms.Run(run)
    for use in (opened.resume, lambda: opened.net, lambda: opened.export((0,), "json")):
        with pytest.raises(RecipeError, match="trust=True"):
            use()
    assert not (tmp_path / "ran").exists()
    with pytest.raises(RecipeError, match="theirs:net' cannot be imported: .*no attribute 'net'"):
        ms.Run(run, trust=True).resume()
    assert (tmp_path / "ran").exists()


def test_the_working_folder_hides_nothing_that_is_installed(tmp_path, monkeypatch):
    from manyshot.plugins import look_up

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import colorsys\ndef net(): return colorsys.__file__\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('hidden')\n")
    assert not look_up("network", "mine:net", {})().startswith(str(tmp_path))
    with pytest.raises(ImportError):
        __import__("my_other_module")
    import sys

    assert str(tmp_path) not in sys.path
    monkeypatch.syspath_prepend(str(tmp_path))  # as python -m does
    before = list(sys.path)
    look_up("network", "mine:net", {})
    assert sys.path == before
