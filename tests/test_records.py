"""Files that are whole or not there, and lines that survive a kill."""

import json
import os
import stat
import tracemalloc

import pytest

from manyshot import records
from manyshot.records import RecordError


def test_a_record_comes_back_with_its_schema(tmp_path):
    path = tmp_path / "r.json"
    records.write_json(path, {"accuracy": 0.1 + 0.2, "name": "größe"})
    assert records.read_json(path) == {"schema": 1, "accuracy": 0.1 + 0.2, "name": "größe"}
    assert path.read_text().endswith("}\n")


def test_files_have_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "plain").write_text("")
    records.write_text(tmp_path / "ours", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "r.txt"
    records.write_text(path, "old")
    with pytest.raises(type(error)), records.atomic(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "r.txt"
    records.write_text(path, "old")
    with records.atomic(path) as temporary:
        temporary.write_text("new, but not yet")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # the same file system, so that replacing is atomic
    assert path.read_text() == "new, but not yet"


def test_every_durable_write_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(records, "wrote", told.append)
    records.write_text(tmp_path / "a", "")
    records.write_json(tmp_path / "b", {})
    records.append(tmp_path / "c", {})
    assert [path.name for path in told] == ["a", "b", "c"]


def test_what_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_json(tmp_path / "r.json", {"loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.append(tmp_path / "r.jsonl", {"loss": float("inf")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": 3}', "{}", "\xff\xfe"])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RecordError, match=r"r\.json (is not a record|has schema)"):
        records.read_json(path)
    (tmp_path / "r.jsonl").write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(RecordError, match=r"r\.jsonl(, line 1 is not| has schema)"):
        records.read_lines(tmp_path / "r.jsonl")


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "r.jsonl"
    for step in range(3):
        records.append(path, {"step": step, "loss": 1 / 3})
    return path


def test_lines_come_back_in_order(lines):
    assert records.read_lines(lines) == [
        {"schema": 1, "step": step, "loss": 1 / 3} for step in range(3)
    ]
    assert records.read_lines(lines.with_name("none")) == []


def test_any_torn_last_line_is_dropped_and_appending_goes_on(lines):
    """A kill may cut the last line at any byte, but for its line break."""
    whole = lines.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        lines.write_bytes(whole[:cut])
        assert [r["step"] for r in records.read_lines(lines)] == [0, 1]
        records.keep_lines(lines, lambda record: True)
        records.append(lines, {"step": 2, "loss": 1 / 3})
        assert lines.read_bytes() == whole


def test_any_other_damaged_line_is_an_error_that_changes_nothing(lines):
    good = lines.read_text().split("\n")
    for number in (0, 1, 2):
        damaged = "\n".join([*good[:number], good[number][:-5], *good[number + 1 :]])
        lines.write_text(damaged)
        for read in (records.read_lines, lambda path: records.keep_lines(path, lambda r: False)):
            with pytest.raises(RecordError) as caught:
                read(lines)
            assert f"{lines}, line {number + 1} is not a record" in str(caught.value)
            assert "restore it from a copy, or delete it" in str(caught.value)
        assert lines.read_text() == damaged


def test_keeping_lines(lines, monkeypatch):
    kept = records.keep_lines(lines, lambda record: record["step"] != 1)
    assert [record["step"] for record in kept] == [0, 2]
    assert records.read_lines(lines) == kept
    monkeypatch.setattr(records, "wrote", lambda path: pytest.fail("nothing was to be written"))
    records.keep_lines(lines, lambda record: True)
    assert records.keep_lines(lines.with_name("none"), lambda record: True) == []
    assert not lines.with_name("none").exists()


class Step(records.Record):
    step: int
    loss: float | None = None


def test_typed_lines_are_read_when_they_are_asked_for(lines):
    """So that what is before a damaged line comes first, and the error when it is reached."""
    with lines.open("a") as file:
        file.write('{"schema": 1, "step": "three"}\n{"schema": 1, "ste')
    steps = records.iterate_lines(lines, Step)
    assert [next(steps).step for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RecordError) as caught:
        next(steps)
    assert str(caught.value).startswith(f"{lines}, line 4 has 'step' = 'three': input should be")
    assert list(records.iterate_lines(lines.with_name("none"), Step)) == []


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (b'{"schema": 1, "step": 1', "is not a record"),
        (b"", "is not a record"),
        (b"[1]", "is not a record"),
        (b'{"schema": 2, "step": 1}', "has schema 2; this version reads 1"),
        (b'{"step": 1}', "has schema None; this version reads 1"),
        (b'{"schema": 1}', "has no 'step'"),
        (b'{"schema": 1, "step": 1, "more": 2}', "has an unknown key 'more'"),
        (b'{"schema": 1, "step": 1}{"schema": 1, "step": 2}', "is not a record"),
        (b'{"schema": 1, "step": 1, "loss": NaN}', "has 'loss' = nan"),
    ],
)
def test_a_damaged_typed_line_is_named_and_nothing_is_changed(lines, damaged, says):
    for number in range(3):
        whole = lines.read_bytes().split(b"\n")
        lines.write_bytes(b"\n".join([*whole[:number], damaged, *whole[number:]]))
        before = lines.read_bytes()
        for read in (records.load_lines, lambda *a: records.keep(*a, lambda line: False)):
            with pytest.raises(RecordError) as caught:
                read(lines, Step)
            assert str(caught.value).startswith(f"{lines}, line {number + 1} {says}")
        assert lines.read_bytes() == before
        lines.write_bytes(b"\n".join(whole))


def test_keeping_typed_lines(lines, monkeypatch):
    """What stays is the same to the byte, however it was written; what is cut or unwanted goes."""
    with lines.open("ab") as file:
        file.write(b'{"step":3,  "schema":1}\n{"schema": 1, "st')
    before = lines.read_bytes().split(b"\n")
    kept = records.keep(lines, Step, lambda line: line.step != 1)
    assert [line.step for line in kept] == [0, 2, 3]
    assert lines.read_bytes() == b"\n".join([before[0], before[2], before[3], b""])
    monkeypatch.setattr(records, "wrote", lambda path: pytest.fail("nothing was to be written"))
    assert records.keep(lines, Step) == kept
    assert records.keep(lines.with_name("none"), Step) == []
    assert not lines.with_name("none").exists()


def test_lines_of_a_long_file_are_in_memory_one_at_a_time(tmp_path):
    path = tmp_path / "long.jsonl"
    records.write_lines(path, ({"step": step, "loss": 0.5} for step in range(20_000)))
    tracemalloc.start()
    assert sum(line.step for line in records.iterate_lines(path, Step)) == 20_000 * 19_999 // 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 4


def test_a_record_is_one_line_whatever_is_in_it(tmp_path):
    path = tmp_path / "r.jsonl"
    records.append(path, {"text": "two\nlines\u2028 and \x85 more"})
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().isascii()
    assert records.read_lines(path)[0]["text"] == "two\nlines\u2028 and \x85 more"


def test_writes_reach_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
    records.append(tmp_path / "r.jsonl", {})
    assert len(synced) == 1
    records.write_text(tmp_path / "r.txt", "")
    assert len(synced) == 3  # the file and its folder
    assert json.loads((tmp_path / "r.jsonl").read_text()) == {"schema": 1}
