"""The benchmark scripts run at toy size; what they measure is not asserted."""

import importlib
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


def test_policies_and_the_generator_are_timed(tmp_path):
    import shift_speed

    path = tmp_path / "shift_speed.jsonl"
    shift_speed.main(["--at", "digits", "--rounds", "1", "--records", str(path)])
    found = [json.loads(line)["what"] for line in path.read_text().splitlines()]
    assert len(found) == 5 + 2
    (page,) = tmp_path.glob("shift_speed_*.md")
    assert all(f"| {what} |" in page.read_text() for what in found)


def test_the_page_of_shift_has_means_over_seeds(tmp_path):
    from shift_page import write_page

    from manyshot import records

    path = tmp_path / "shifting.jsonl"
    done = {"cores": 2, "cpu": "a CPU", "threads": 1, "torch": "2", "date": "today", "commit": "c"}
    for seed, accuracy in enumerate((0.5, 0.7)):
        key = {"setting": "vit", "method": "shift", "seed": seed}
        for target in (1e6, 2e6):
            row = {**key, "target": target, "accuracy": accuracy}
            records.append(path, {**row, "measure": "frozen"})
            made = {"cost": int(target - 1e5), "within": True, "decodes": 1}
            records.append(path, {**row, "measure": "final", **made})
            moved = {"updates": 4, "probability": 0.5, "count": 9, "entropy": 1.0}
            records.append(path, {**row, "measure": "shift", **moved})
        cost = {"train": 1000, "probe": 10, "macs": 2e6}
        records.append(path, {**key, "measure": "forwards", **cost})
        for kind in ("inherited", "fine-tuned", "retrained"):
            finish = {"budget": "macs<=2M", "kind": kind, "accuracy": accuracy, "cost": 1_900_000}
            records.append(path, {**key, "measure": "finish", **finish})
        records.append(path, {**key, "measure": "done", **done})
    text = write_page(path).read_text()
    assert "| shift (2 seeds) | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 |" in text
    assert "| shift | 1.40M | 0.10 | 0.10 | 100% | 1.00 |" in text
    assert "| 1 | 4 | 0.500 | 0.500 |" in text
    assert "| shift | 1,000 | 10 | 2.00M |" in text
    assert "| macs<=2M | 1.9M, 1.9M | 60.0 ± 14.1 | 60.0 ± 14.1 | 60.0 ± 14.1 |" in text


PAGES = (
    *("shifting_page", "transfer_page", "searchers_page", "order_preservation_page"),
    *("prefix_tree", "truth_speed"),
)
"""Modules that write a page of records alone."""


@pytest.mark.parametrize("module", PAGES)
def test_pages_are_those_of_the_records_beside_them(module, tmp_path):
    stem = module.removesuffix("_page")
    for name in (f"{stem}.jsonl", f"{stem}_reading.txt"):
        (tmp_path / name).write_text((BENCHMARKS / name).read_text())
    page = importlib.import_module(module).write_page(tmp_path / f"{stem}.jsonl")
    assert page.read_text() == (BENCHMARKS / f"{stem}.md").read_text()
