"""The benchmark scripts run at toy size; what they measure is not asserted."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_sides_take_turns_and_the_first_round_is_left_out():
    from measuring import alternate

    calls, clock = [], itertools.count()

    def timed(side, item):
        return lambda: calls.append((side, item)) or (next(clock),)

    sides = {side: [timed(side, item) for item in range(2)] for side in "ab"}
    seconds = alternate(sides, 1)
    assert calls == [
        (s, i) for i, order in ((0, "ab"), (1, "ba"), (0, "ba"), (1, "ab")) for s in order
    ]
    assert seconds["a"].tolist() == [[[5], [6]]]
    assert seconds["b"].tolist() == [[[4], [7]]]


def test_ratio_is_of_pairs():
    from measuring import ratio

    found = ratio(np.array([[2.0, 30.0], [2.0, 30.0]]), np.array([[1.0, 10.0], [1.0, 10.0]]))
    assert (found["n"], found["median"], found["q1"], found["q3"]) == (4, 2.5, 2.0, 3.0)
    assert found["interval"] == [2.0, 3.0]


def test_both_sides_of_a_step_and_of_an_evaluation():
    from speed import measure_evaluation, measure_steps
    from workloads import WORKLOADS

    tiny = WORKLOADS["tiny"]
    steps = {record["what"]: record for record in measure_steps(tiny, 1, count=2)}
    assert len(steps) == 7
    assert steps["step: supernet ÷ bare"]["n"] == 2
    assert "bar" not in steps["step: supernet ÷ bare"]  # only the design's shapes have one
    assert [record["n"] for record in measure_evaluation(tiny, 1, count=2, images=8)] == [2, 2]


def test_the_loop_times_one_bare_step_per_step(monkeypatch):
    import speed
    from workloads import WORKLOADS

    bare = []
    step = speed.step
    monkeypatch.setattr(speed, "step", lambda *a: bare.append(a[0]) or step(*a))
    (record,) = speed.measure_loop(WORKLOADS["tiny"], 2, count=2)
    assert record["n"] == 4  # the first round warms up
    assert len(bare) == 6
    assert len(set(map(id, bare))) == 2


def test_costs_and_page(tmp_path, monkeypatch, capsys):
    import speed

    from manyshot.zoo import tiny

    networks = {"tiny": tiny}
    macs = speed.measure_macs
    monkeypatch.setattr(speed, "measure_macs", lambda rounds: macs(rounds, networks))
    path = tmp_path / "speed.jsonl"
    speed.main(["macs", "--rounds", "1", "--records", str(path)])
    assert "10,000" in capsys.readouterr().out
    first, _ = map(json.loads, path.read_text().splitlines())
    slow = {**first, "median": 2.5}
    path.write_text(path.read_text() + json.dumps(slow) + "\n")
    speed.main(["--page-only", "--records", str(path)])
    (page,) = tmp_path.glob("speed_*.md")
    assert "Bars missed: MACs of 10,000, zoo.tiny(): 2.5 over 1." in page.read_text()
    assert page.read_text().count("| MACs") == 2  # the newest of each


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("side", ["supernet", "bare"])
def test_peak_memory_of_both_sides(side):
    from memory import peak
    from workloads import WORKLOADS

    assert isinstance(peak(WORKLOADS["tiny"], side), int)
