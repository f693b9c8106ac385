"""Files are looked at once, in parallel, and what is remembered of them never stands in the way."""

import hashlib
import os
import time

import numpy as np
import pytest
from PIL import Image

from manyshot.data import load, looking
from manyshot.data.looking import look
from manyshot.watching import watched


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded to look at them."""
    names, contents = [], looking.contents

    def watched(path):
        names.append(path.name)
        return contents(path)

    monkeypatch.setattr(looking, "contents", watched)
    return names


def write(folder, count):
    for i in range(count):
        Image.new("L", (i + 1, 2 * i + 1)).save(folder / f"{i:03}.png")
    return [f"{i:03}.png" for i in range(count)]


def test_each_file_gets_its_own_look(tmp_path):
    """More files than threads take at once, each of another size, one of them bad."""
    paths = write(tmp_path, 150)
    (tmp_path / "077.png").write_bytes(b"")
    looks = look(tmp_path, paths)
    for i, seen in enumerate(looks):
        assert seen[:5] == (
            (0, 0, False, (), "is empty") if i == 77 else (2 * i + 1, i + 1, True, (), "")
        )
        content = (tmp_path / paths[i]).read_bytes()
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        assert seen.content == ("" if i == 77 else digest)
    assert [*look(tmp_path, paths[::-1])] == [*looks][::-1]


def test_a_long_look_tells_how_far_it_is_and_a_short_one_nothing(tmp_path):
    told = []
    paths = write(tmp_path, 150)
    with watched(lambda *news: told.append(news)):
        look(tmp_path, paths)
        assert [(what, total) for what, _, total in told] == [("images", 150)] * len(told)
        counts = [done for _, done, _ in told]
        assert len(told) > 1 and counts == sorted(set(counts)) and counts[-1] == 150
        told.clear()
        look(tmp_path, paths)  # remembered
        (tmp_path / "few").mkdir()
        look(tmp_path / "few", write(tmp_path / "few", 3))
    assert told == []


def test_a_good_file_is_decoded_once_until_it_changes(tmp_path, decoded):
    paths = write(tmp_path, 5)
    looks = [*look(tmp_path, paths)]
    assert sorted(decoded) == paths
    decoded.clear()
    assert [*look(tmp_path, paths)] == looks
    assert decoded == []
    Image.new("RGB", (3, 9)).save(tmp_path / "002.png")
    assert look(tmp_path, paths)[2][:5] == (9, 3, False, (), "")
    assert decoded == ["002.png"]
    decoded.clear()
    os.utime(tmp_path / "003.png", ns=(1, 1))  # as long as before, but not of the same time
    look(tmp_path, paths)
    assert decoded == ["003.png"]


def test_a_file_with_its_length_and_time_set_back_is_looked_at_again(tmp_path, decoded):
    """As `cp -p` and `rsync -t` leave it: another content, of the length and time it had."""
    paths = write(tmp_path, 2)
    path = tmp_path / paths[1]
    Image.new("L", (8, 8), 10).save(path.with_suffix(".bmp"))
    Image.new("L", (8, 8), 20).save(tmp_path / "other.bmp")
    path.with_suffix(".bmp").replace(path)
    before, status = [*look(tmp_path, paths)], path.stat()
    decoded.clear()
    time.sleep(0.02)  # more than a tick of the clock that file systems read
    path.write_bytes((tmp_path / "other.bmp").read_bytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    seen = [*look(tmp_path, paths)]
    assert decoded == [paths[1]]
    assert (seen[0], seen[1][:5]) == (before[0], before[1][:5])
    assert seen[1].content != before[1].content
    assert [*look(tmp_path, paths)] == seen


def test_a_bad_file_is_looked_at_every_time(tmp_path, decoded):
    paths = write(tmp_path, 3)
    (tmp_path / "001.png").write_bytes(b"?")
    look(tmp_path, paths)
    decoded.clear()
    look(tmp_path, paths)
    assert decoded == ["001.png"]


def test_folders_are_remembered_apart(tmp_path, decoded):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths = write(tmp_path / name, 2)
    for name in ("a", "b", "a"):
        look(tmp_path / name, paths)
    assert len(decoded) == 4


@pytest.mark.parametrize("content", ["", "[1]", '{"000.png": 3}', '{"000.png": [1, 2]}', "\0"])
def test_damaged_memory_is_no_memory(tmp_path, decoded, content):
    paths = write(tmp_path, 2)
    looks = [*look(tmp_path, paths)]
    memory = looking._memory(tmp_path)
    memory.write_text(content)
    assert [*look(tmp_path, paths)] == looks
    assert len(decoded) == 4
    assert [*look(tmp_path, paths)] == looks
    assert len(decoded) == 4
    assert [path.name for path in memory.parent.iterdir() if path.suffix != ".npz"] == []


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, decoded, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    paths = write(tmp_path, 2)
    assert [*look(tmp_path, paths)] == [*look(tmp_path, paths)]
    assert len(decoded) == 4


def test_loading_again_decodes_nothing_to_look_at_it(tmp_path, write_folder_set, decoded):
    write_folder_set(tmp_path)
    first = load("folder", root=tmp_path)
    decoded.clear()
    again = load("folder", root=tmp_path)
    assert decoded == []
    assert again.fingerprint == first.fingerprint
    assert again.notes == first.notes
    assert np.array_equal(again.mean, first.mean)
