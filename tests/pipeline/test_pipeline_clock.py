"""How long the parts of a run took is on record, whatever interrupted it, beside its results."""

import time
from typing import get_args

import pytest

from manyshot import records
from manyshot.pipeline.clock import KEPT_S, Clock
from manyshot.pipeline.stages import train as training
from manyshot.pipeline.stages import work
from manyshot.progress import Silent
from manyshot.run_folder import RunFolder, RunPart
from pipeline_runs import lines, outcome, run, small


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def on_record(file):
    return records.read_json(file)["seconds"]


def test_a_part_inside_another_counts_for_itself_alone(tmp_path):
    at, file = Time(), tmp_path / "seconds.json"
    clock = Clock(file, at)
    at.now += 7  # between parts nothing counts
    with clock.part("finishing"):
        at.now += 10
        with clock.part("tests"):
            at.now += 2
        assert not file.exists()
        at.now += 5
        with clock.part("exports"):
            at.now += 1
            with clock.part("tests"):
                at.now += 0.25
    at.now += 7
    assert on_record(file) == {"finishing": 15.0, "tests": 2.25, "exports": 1.0}


def test_another_command_adds_to_what_is_on_record(tmp_path):
    at, file = Time(), tmp_path / "seconds.json"
    for spent in (10.0, 0.5):
        clock = Clock(file, at)
        at.now += 100
        with clock.part("search"):
            at.now += spent
    assert on_record(file) == {"search": 10.5}


def test_what_was_counted_before_there_was_a_file_is_added(tmp_path):
    at, file = Time(), tmp_path / "seconds.json"
    before = Clock(now=at)
    with before.part("preparation"):
        at.now += 3
    for expected in (4.0, 8.0):
        with Clock(file, at, before.seconds).part("preparation"):
            at.now += 1
        assert on_record(file) == {"preparation": expected}


def test_a_kill_loses_no_more_than_what_was_not_kept_yet(tmp_path):
    at, file = Time(), tmp_path / "seconds.json"
    clock = Clock(file, at)
    kept = []
    shown = clock.watching(Silent()).stage("train", 100)
    with pytest.raises(KeyboardInterrupt), clock.part("training"), shown as advance:
        for step in range(10):
            at.now += KEPT_S / 4
            advance(step, "")
            kept.append(on_record(file)["training"] if file.exists() else 0)
        raise KeyboardInterrupt
    assert kept == [0, 0, 0, 30, 30, 30, 30, 60, 60, 60]
    assert on_record(file) == {"training": 60.0}
    again = Clock(file, at)
    with again.part("training"):
        at.now += 4
    assert on_record(file) == {"training": 64.0}


def test_what_is_but_read_again_does_not_count(tmp_path):
    at, file, log = Time(), tmp_path / "seconds.json", tmp_path / "search.jsonl"
    clock = Clock(file, at)
    with clock.part("search", log):
        at.now += 5
        log.write_text("a line\n")
    for part in ("search", "finishing"):
        with clock.part(part, log):
            at.now += 3
    assert on_record(file) == {"search": 5.0} == clock.seconds


def test_outside_of_parts_nothing_is_written(tmp_path):
    at, file = Time(), tmp_path / "seconds.json"
    clock = Clock(file, at)
    at.now += 10 * KEPT_S
    clock.tick()
    assert not file.exists() and clock.seconds == {}


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "seconds.json").write_text('{"schema": 1, "seconds": {"sleeping": 1.0}}')
    with pytest.raises(records.RecordError, match=r"seconds\.json has 'seconds\.sleeping"):
        Clock(tmp_path / "seconds.json")


def test_every_part_of_a_run_is_on_record_once(tmp_path, monkeypatch):
    """Tests that take long are not in what finishing took, and nothing is counted twice."""
    real, pause = work.tested, 0.4

    def slow(*args, **kwargs):
        time.sleep(pause)
        return real(*args, **kwargs)

    monkeypatch.setattr(work, "tested", slow)
    began = time.perf_counter()
    run(small("search.budgets=['macs<=20%', 'latency_ms<=1000']"), tmp_path)
    whole = time.perf_counter() - began
    seconds = on_record(tmp_path / "seconds.json")
    assert seconds.keys() == {*get_args(RunPart)}
    tested = len(lines(tmp_path, "finish.jsonl"))
    assert tested >= 1
    assert seconds["tests"] >= tested * pause - 0.01
    assert sum(seconds.values()) < whole, "what is in two parts counts once"


def test_a_stopped_training_counts_on_and_changes_no_result(base, tmp_path, monkeypatch):
    whole, recipe = outcome(base[0]), base[1]
    real, pause = training.save_weights, 0.3

    def stopping(*args):
        time.sleep(pause)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_weights", stopping)
    monkeypatch.setattr("manyshot.pipeline.clock.KEPT_S", 0.0)  # keeps with every step
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path)
    before = RunFolder(tmp_path).seconds().seconds
    assert before.keys() == {"preparation", "estimate", "formats", "latency", "training"}
    assert min(before["preparation"], before["training"]) > 0
    monkeypatch.setattr(training, "save_weights", lambda *args: (time.sleep(pause), real(*args)))
    run(recipe, tmp_path)
    after = RunFolder(tmp_path).seconds().seconds
    assert after["training"] >= before["training"] + pause
    assert after["preparation"] == before["preparation"], "what has begun is not prepared again"
    assert outcome(tmp_path) == whole
    run(recipe, tmp_path)
    assert RunFolder(tmp_path).seconds().seconds == after, "all was done already"
