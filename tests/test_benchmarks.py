"""The benchmark scripts run at toy size; what they measure is not asserted."""

import argparse
import ast
import functools
import importlib
import itertools
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import manyshot as ms
from benchmarks.lib import kept, pages, reading
from benchmarks.studies.emoji import images as emoji_images
from benchmarks.studies.emoji import run as emoji_run
from manyshot import records

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = sorted(path for path in BENCHMARKS.rglob("*.py") if path.stem != "__init__")
RUN = [p for p in SCRIPTS if "\ndef main(" in p.read_text() and p.parent.name != "lib"]
"""The scripts that people run."""
KEPT = sorted(BENCHMARKS.rglob("*.jsonl.gz"))
READINGS = sorted(BENCHMARKS.rglob("*reading.md"))
DESIGNS = sorted(BENCHMARKS.rglob("design.md"))
SPOKEN = [
    *(ROOT / name for name in ("README.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.toml")),
    *sorted(BENCHMARKS.rglob("*.md")),
    *sorted(BENCHMARKS.rglob("*.toml")),
    *SCRIPTS,
]
"""Files that name benchmarks."""


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return shown(path).removesuffix(".py").replace("/", ".")


def test_sides_take_turns_and_the_first_round_is_left_out():
    from benchmarks.lib.measuring import alternate

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
    from benchmarks.lib.measuring import ratio

    found = ratio(np.array([[2.0, 30.0], [2.0, 30.0]]), np.array([[1.0, 10.0], [1.0, 10.0]]))
    assert (found["n"], found["median"], found["q1"], found["q3"]) == (4, 2.5, 2.0, 3.0)
    assert found["interval"] == [2.0, 3.0]


def test_both_sides_of_a_step_and_of_an_evaluation():
    from benchmarks.lib.workloads import WORKLOADS
    from benchmarks.speed.speed import measure_evaluation, measure_steps

    tiny = WORKLOADS["tiny"]
    steps = {record["what"]: record for record in measure_steps(tiny, 1, count=2)}
    assert len(steps) == 9
    assert steps["step: supernet ÷ bare"]["n"] == 2
    assert "bar" not in steps["step: supernet ÷ bare"]  # only the design's shapes have one
    assert [record["n"] for record in measure_evaluation(tiny, 1, count=2, images=8)] == [2] * 4


def test_a_subnet_whose_parameters_torch_cuts_out_is_that_of_the_supernet():
    from benchmarks.lib.workloads import ELASTIC
    from benchmarks.speed.cuts import cut_out

    net, (arch,) = ELASTIC["tiny_cnn"].build(1)
    images, _ = ELASTIC["tiny_cnn"].images(2)
    forward, moved = cut_out(net, arch)
    assert torch.equal(forward(images), net(images, arch))
    net(images, arch).sum().backward()
    forward(images).sum().backward()
    ours = sorted(p.grad.abs().sum().item() for p in net.parameters() if p.grad is not None)
    assert ours == sorted(p.grad.abs().sum().item() for p in moved)


def test_the_loop_times_one_bare_step_per_step(monkeypatch):
    from benchmarks.lib.workloads import WORKLOADS
    from benchmarks.speed import speed

    bare = []
    step = speed.step
    monkeypatch.setattr(speed, "step", lambda *a: bare.append(a[0]) or step(*a))
    found = list(speed.measure_loop(WORKLOADS["tiny"], 2, count=2))
    assert [record["n"] for record in found] == [4, 4]  # the first round warms up
    assert len(bare) == 12  # six of subnets, then six of the supernet
    assert len(set(map(id, bare[:6]))) == len(set(map(id, bare[6:]))) == 2


def test_calls_of_python_functions_are_counted():
    from benchmarks.lib.workloads import WORKLOADS
    from benchmarks.speed.speed import measure_calls, python_calls

    def inner():
        return len("built-in functions do not count")

    def outer():
        return inner() + inner()

    assert python_calls(outer) == 2
    (record,) = measure_calls(WORKLOADS["tiny"], 1, count=2)
    assert 1 < record["median"] < 1.5


def test_costs_and_page(tmp_path, monkeypatch, capsys):
    from benchmarks.speed import speed
    from manyshot.zoo import tiny

    networks = {"tiny": tiny}
    macs = speed.measure_macs
    monkeypatch.setitem(speed.ONCE, "macs", lambda rounds: macs(rounds, networks))
    speed.main(["macs", "--rounds", "1", "--fresh", "--work", str(tmp_path)])
    assert "10,000" in capsys.readouterr().out
    path = tmp_path / "records.jsonl"
    first, _ = map(json.loads, path.read_text().splitlines())
    slow = {**first, "median": 2.5}
    path.write_text(path.read_text() + json.dumps(slow) + "\n")
    speed.write_page(path)
    page = tmp_path / "page.md"
    assert "Bars missed: MACs of 10,000, zoo.tiny(): 2.5 over 1." in page.read_text()
    assert page.read_text().count("| MACs") == 2  # the newest of each


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_files_are_counted_and_jpegs_read_in_every_way(tmp_path):
    from benchmarks.speed import files, jpeg

    files.write_tree(tmp_path / "tree", 20, 2)
    assert files.listing(tmp_path / "tree") == files.states(tmp_path / "tree") == 20
    assert files.loading(tmp_path / "tree") == 20
    photo = jpeg.photo(60, 80, np.random.default_rng(0))
    with warnings.catch_warnings(action="ignore"):
        spent = jpeg.seconds([photo], 40, rounds=2)
        same = [way(photo, 40) for way in jpeg.WAYS.values()]
    assert {len(rounds) for rounds in spent.values()} == {2}
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


def test_growth_is_measured_and_its_page_has_a_row_for_each(tmp_path):
    from benchmarks.speed import growth

    for name in ("random", "evolution", "nsga2"):
        assert growth.proposing(name, 60) > 0
    path = tmp_path / "search.jsonl"
    growth.write_search(path, 30)
    assert growth.reading(path, "iterate") > 0 and growth.reading(path, "keep") > 0
    written = tmp_path / "records.jsonl"
    rows = (("predictor, 10,000 told", 0.5, 200.0), ("canonical", 0.00005, 0.0))
    for what, seconds, mb in rows:
        about = {"commit": "abc", "cores": 2, "cpu": "x", "threads": 1, "torch": "2", "date": "d"}
        records.append(written, {"what": what, "seconds": seconds, "mb": mb, **about})
    page = growth.write_page(written).read_text()
    assert "| predictor, 10,000 told | 0.5 s | 200 MB | 1 s and 300 MB |" in page
    assert "| canonical | 0.05 ms | 0 MB |  |" in page


@pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")  # dynamo
def test_the_script_for_a_gpu_runs_dry_and_fails_where_a_check_does(tmp_path, monkeypatch):
    from benchmarks import gpu

    dry = ["--device", "cpu", "--small", "--fresh", "--work", str(tmp_path)]
    gpu.main(dry)
    text = (tmp_path / "page.md").read_text()
    assert "Nothing on this page is of a GPU" in text
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    checks = [row for row in rows if "passed" in row]
    assert len(checks) == 4 and all(row["passed"] for row in checks)
    assert sum("median" in row for row in rows) == 8
    assert all(f"| {row['what']} |" in text for row in rows)
    monkeypatch.setattr(gpu, "far", lambda one, other: float("nan"))
    with pytest.raises(SystemExit, match="4 checks failed: device against CPU"):
        gpu.main(["checks", *dry])
    assert "FAILED" in (tmp_path / "page.md").read_text()
    gpu.main(["speed", *dry[:3], "--minutes", "0", "--fresh", "--work", str(tmp_path / "late")])
    late = (tmp_path / "late" / "page.md").read_text()
    assert late.count("left out: the time was over") == len(gpu.SECTIONS["speed"])


def test_simulated_workers_and_searches_without_scores_are_on_the_page(tmp_path, monkeypatch):
    from benchmarks import scale

    monkeypatch.setattr(scale, "SECONDS", 1e-4)
    monkeypatch.setattr(scale, "SIZES", (8,))
    monkeypatch.setattr(scale, "MARKS", ("20", "30"))
    given = SimpleNamespace(candidates=60, generation=20, minutes=1e-9)
    about = {"commit": "abc", "cores": 2, "cpu": "x", "threads": 1, "torch": "2", "date": "d"}
    path = tmp_path / "records.jsonl"
    for row in (*scale.simulated(given), *scale.searchers(given)):
        records.append(path, {**row, **about})
    page = scale.write_page(path).read_text()
    assert page.count("| generations of 8, ") == 5
    assert "| evolution, generations of 20 | 20 of 60 | 0 s |" in page


@pytest.mark.parametrize("side", ["supernet", "bare"])
def test_peak_memory_of_both_sides(side):
    from benchmarks.lib.workloads import WORKLOADS
    from benchmarks.speed.memory import peak

    assert isinstance(peak(WORKLOADS["tiny"], side), int)


def test_policies_and_the_generator_are_timed(tmp_path, monkeypatch):
    from benchmarks.speed import shift_speed

    few = {"steps": functools.partial(shift_speed.measure_steps, count=2),
           "whole": functools.partial(shift_speed.measure_whole, items=2)}  # fmt: skip
    monkeypatch.setattr(shift_speed, "SECTIONS", {**shift_speed.SECTIONS, **few})
    monkeypatch.setattr(shift_speed, "STEPS", 2)
    monkeypatch.setattr(shift_speed, "TOGETHER", 1)
    shift_speed.main(["--at", "digits", "--rounds", "1", "--fresh", "--work", str(tmp_path)])
    path = tmp_path / "records.jsonl"
    found = [json.loads(line)["what"] for line in path.read_text().splitlines()]
    assert len(found) == 5 + 2 + 3
    page = tmp_path / "page.md"
    assert all(f"| {what} |" in page.read_text() for what in found)


def test_the_page_of_shiftnas_has_means_over_seeds(tmp_path):
    from benchmarks.studies.shiftnas.page import write_page

    path = tmp_path / "records.jsonl"
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


def test_the_planted_page_takes_the_best_rate_of_problem_0(tmp_path):
    from benchmarks.studies.planted_sharing.page import results_of

    rows = [
        {"variant": "K=1", "steps": 10, "seed": seed, "lr": lr, "mse": mse}
        for seed, lr, mse in ((0, 0.1, 2.0), (0, 0.2, None), (2, 0.1, 3.0), (1, 0.1, 4.0))
    ]
    (found,) = results_of([*rows, {**rows[0], "steps": 5, "mse": 0.5}])
    assert [row["lr"] for row in found.tuning] == [0.1, 0.2]
    assert found.errors.tolist() == [4.0, 3.0]  # by problem, of the longest training


def test_the_planted_orders_are_those_of_data_and_networks():
    """Truth by least squares on the samples, errors by the network, the optimum by its sides."""
    from benchmarks.studies.planted_shifting import problem

    own, (samples, *_) = problem.Problem(3), problem.data(seed=3)
    inputs, targets = (tensor.double() for tensor in samples.tensors)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(problem.ARCHS), 5, replace=False)
    net = ms.Supernet(problem.network(seed=3)).double()
    assert list(net.space.enumerate()) == problem.ARCHS
    weights = own.uniform()
    assert np.allclose(problem.weights_of(net), weights, atol=1e-6)
    errors = own.errors(weights)
    for i in chosen:
        arch = problem.ARCHS[i]
        looks = own.looks[range(problem.LAYERS), list(arch)].reshape(-1, problem.INPUTS)
        seen = inputs.numpy() @ looks.T
        fit = np.linalg.lstsq(seen, targets[:, 0].numpy(), rcond=None)[0]
        alone = ((seen @ fit - targets[:, 0].numpy()) ** 2).mean()
        assert own.truth[i] == pytest.approx(alone, rel=1e-5)
        assert errors[i] >= own.truth[i] - 1e-9
        outputs = net(inputs, arch).detach()
        assert errors[i] == pytest.approx(float((outputs - targets).square().mean()), rel=1e-5)
    for _ in range(3):  # the mean error is quadratic, so that at its least both sides are equal
        way = rng.normal(size=weights.shape)
        up, down = (own.errors(weights + side * way).mean() for side in (0.1, -0.1))
        assert up == pytest.approx(down, rel=1e-9)
        assert up > errors.mean()


def test_the_planted_rates_are_those_of_sampled_data():
    """Excess by the network on many samples, and what steps leave by replayed least squares."""
    from benchmarks.studies.planted_sampling import problem

    own, rng = problem.Problem(problem.KINDS["rates differ"], 3), np.random.default_rng(0)
    net = ms.Supernet(problem.Network(own)).double()
    weights = rng.normal(size=(problem.OPTIONS, problem.INPUTS))
    with torch.no_grad():
        for parameter, row in zip(net.model.parameters(), weights, strict=True):
            parameter.copy_(torch.tensor(row)[None])
    assert np.allclose(problem.weights_of(net), weights)
    inputs, labels = (tensor.double() for tensor in own.samples(100_000, 0.5, 7).tensors)
    with torch.no_grad():
        losses = [float((net(inputs, (k,)) - labels).square().mean()) for k in range(8)]
    # the mean of 100,000 squares, each with a standard deviation of about 1.4 times its mean
    assert losses == pytest.approx(own.excess(weights) + 0.5**2, rel=0.02)

    at, runs, draws = int(own.gains.argmax()), 2000, 6
    errors = np.tile(-own.target, (runs, 1))  # weights times gain, less the truth
    means = []
    for _ in range(draws):
        x = rng.normal(size=(runs, problem.BATCH, problem.INPUTS))
        off = np.einsum("rbi,ri->rb", x, errors) - problem.NOISE * rng.normal(size=x.shape[:2])
        step = 2 * problem.RATE * own.gains[at] ** 2 / problem.BATCH
        errors = errors - step * np.einsum("rbi,rb->ri", x, off)
        means.append(np.square(errors).sum(1).mean())
    left, floor = own.left[at], own.floor[at]
    expected = [floor + (1 - floor) * left**n for n in range(1, draws + 1)]
    assert means == pytest.approx(expected, rel=0.03)  # 2,000 runs, which differ by up to half
    assert own.floor[at] * (1 - left) == pytest.approx(  # from the truth one step adds this
        step**2 * problem.BATCH * problem.INPUTS * problem.NOISE**2
    )

    best = own.best_shares()
    counts = rng.binomial(problem.STEPS, best, size=(100_000, 8))
    drawn = own.floor + (1 - own.floor) * own.left**counts
    assert own.expected(best) == pytest.approx(drawn.mean(0), rel=0.03)
    assert best.sum() == pytest.approx(1)
    for _ in range(20):
        near = best * np.exp(0.1 * rng.normal(size=8))
        assert own.expected(near / near.sum()).mean() > own.expected(best).mean()


def test_the_page_of_shifting_has_means_and_intervals_over_problems(tmp_path):
    from benchmarks.studies.planted_shifting.page import write_page

    path, sets = tmp_path / "records.jsonl", ("local by prediction", "local by truth", "global")
    for seed, change in enumerate((0.1, 0.2, 0.3)):
        row = {"arm": "population", "seed": seed, "rates": 2.0, "images": 1000, "seconds": 5.0}
        row |= {"tau": {name: [0.5, 0.5 + change] for name in sets}}
        row |= {"error": {name: [0.4, 0.3] for name in sets}}
        about = {"cpu": "a CPU", "threads": 1, "torch": "2", "date": "today", "commit": "c"}
        records.append(path, {**row, **about})
    text = write_page(path).read_text()
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom, by table
    assert f"| population | 3 | +0.200 ± {half:.3f} |" in text
    assert "0.400 → 0.300" in text


def test_lines_of_code_leave_out_what_is_none():
    from benchmarks.studies.convert.run import lines

    def counted(a):
        """Said.

        And more.
        """
        # a remark
        b = [
            a,
        ]

        if b:
            return "text"  # another
        return """two
        lines"""

    assert lines([counted]) == 8
    assert lines([counted, counted]) == 16


def test_the_scaled_network_is_the_widest_within_its_cost(tmp_path):
    from benchmarks.studies.convert.network import SmallResNet, Task
    from benchmarks.studies.convert.scaled import scaled

    def macs(widths):
        """Of 28x28 pixels, by hand: convolutions at 14, 14, 7, 4 and 2 pixels, and the head."""
        total, before = widths[0] * 9 * 14**2, widths[0]
        for width, side in zip(widths, (14, 7, 4, 2), strict=True):
            shortcut = 0 if side == 14 else before * width
            total += side**2 * (9 * before * width + 3 * 9 * width**2 + shortcut)
            before = width
        return total + 10 * before

    limit = macs((16, 32, 64, 128)) // 3
    found = scaled(SmallResNet(), Task(None, {0.3: limit}, 0, tmp_path))[0.3]
    widths = [found.get_submodule(f"layer{i}.0.conv1").out_channels for i in range(1, 5)]
    assert macs(widths) <= limit
    assert macs([width + 1 for width in widths]) > limit


@pytest.mark.filterwarnings("ignore:candidates = 8 are all drawn at random")
def test_arms_of_the_study_of_conversion_are_within_their_costs(monkeypatch, tmp_path):
    import manyshot as ms
    from benchmarks.studies.convert import network, ours, run
    from benchmarks.studies.convert.network import Task

    monkeypatch.setattr(ours, "CANDIDATES", 8)
    few = ms.TrainingSettings(epochs=1, batch_size=128, lr=0.01)
    names = ("convert, untrained", "scaled")
    for name in names:
        monkeypatch.setitem(run.ARMS, name, run.ARMS[name]._replace(settings=few))
    splits = ms.data.load("digits", image_size=28, train_size=128, validation=64)
    test = list(ms.data.fixed(splits.test, 64, 64, mean=splits.mean, std=splits.std, seed=0))
    original = network.SmallResNet().eval()
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    limit = ms.cost.subnet_macs(original, network.SHAPE) // 2
    task = Task(splits, {0.5: limit}, 0, tmp_path)
    for name in names:
        [row] = run.measured(name, original, task, test, rounds=1)
        assert row["macs"] <= limit
        assert row["epochs"] == 1
        assert 0 <= row["accuracy"] <= 1
        assert row["ms_1"] > 0
    assert all(torch.equal(before[n], t) for n, t in original.state_dict().items())


def test_the_page_of_conversion_has_a_row_per_arm_and_cost(tmp_path):
    from benchmarks.studies.convert.page import write_page

    path = tmp_path / "records.jsonl"
    done = {"cores": 2, "cpu": "a CPU", "threads": 1, "torch": "2", "date": "today", "commit": "c"}
    size = {"macs": 4_000_000, "params": 300_000}
    original = {"measure": "original", "accuracy": 0.9, "train_cpu_seconds": 100.0}
    records.append(path, {**original, **size, "macs": 8_000_000, **done})
    for seed, accuracy in enumerate((0.7, 0.8, 0.9)):
        for share in (0.5, 0.25):
            row = {"measure": "arm", "arm": "pruned", "seed": seed, "share": share, "epochs": 3}
            row |= {"lines": 7, "method_seconds": 20.0, "method_cpu_seconds": 10.0}
            row |= {"finish_seconds": 9.0, "finish_cpu_seconds": 4.0, "validation_before": 0.5}
            row |= {"ms_1": 1.0, "original_ms_1": 2.0, "ms_64": 3.0, "original_ms_64": 4.0}
            records.append(path, {**row, "accuracy": accuracy - share, **size, **done})
    text = write_page(path).read_text()
    start = "| pruned (3 seeds) | 3 "
    assert f"{start}| 30.00 ± 10.00 | 50.0 ± 0.0 | 4.00 M | 300 K |" in text
    assert f"{start}| 55.00 ± 10.00 |" in text
    assert "| 1.00 (0.50 of the original's) | 3.00 (0.75 of the original's) |" in text
    assert "| pruned | 7 | 10 | 8 | 38 |" in text  # a half and a quarter share the method
    assert text.index("50% of the multiply-adds") < text.index("25% of the multiply-adds")


def of_records(path: Path) -> set[str]:
    """The pages and figures beside kept records that are theirs."""
    beside = {p.name for kind in ("*.md", "*.svg") for p in path.parent.glob(kind)}
    beside -= {p.name for p in (*READINGS, *DESIGNS)}
    stem = path.name.removesuffix(".jsonl.gz")
    if stem == "records":
        return beside
    return {name for name in beside if re.fullmatch(rf"{stem}(_\d+-core-cpu_.*)?\.md", name)}


@pytest.mark.parametrize("path", KEPT, ids=shown)
def test_pages_are_those_of_the_records_beside_them(path, tmp_path):
    for source in (path, kept.reading_of(path)):
        if source.exists():
            shutil.copy(source, tmp_path)
    inputs = set(tmp_path.iterdir())
    pages.writer(path)(tmp_path / path.name)
    made = {page.name: page.read_bytes() for page in set(tmp_path.iterdir()) - inputs}
    names = made.keys() | of_records(path)
    on_file = {n: f.read_bytes() for n in names if (f := path.with_name(n)).exists()}
    stale = sorted(name for name in names if made.get(name) != on_file.get(name))
    command = f"python -m benchmarks.lib.pages {pages.name_of(path)}"
    assert not stale, f"{stale} are not the pages of {shown(path)}: run {command}"


def test_a_checklist_says_no_where_it_is_not_so():
    from benchmarks.lib.checklist import Design, items

    same = {"commit": "abc", "cpu": "a", "torch": "1", "threads": 1, "cores": 2, "seconds": 1.0}
    rows = [{"arm": arm, "seed": seed, **same} for arm in ("mine", "random") for seed in range(5)]
    declared = ("same", "budgets", "protocol", "anytime", "benchmark", "tuning")
    design = Design(
        primary="tau",
        before=True,
        controls=("random",),
        random="random",
        **dict.fromkeys(declared, "so"),
    )
    assert all(item.is_so for item in items(design, rows))
    assert not any(item.is_so for item in items(Design(), [{"arm": "mine"}]))
    for change, asked in (
        ({"seed": 3}, "At least 5 seeds"),
        ({"cpu": "b"}, "One machine"),
        ({"edited": True}, "The code"),
        ({"arm": "mine"}, "Compared with random"),
    ):
        other = [{**row, **change} if row["arm"] == "random" else row for row in rows]
        lost = {item.asked for item in items(design, other) if not item.is_so}
        assert any(said.startswith(asked) for said in lost), asked


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "studies").glob("*/page.md")), ids=shown)
def test_every_study_has_its_checklist(path):
    assert path.read_text().count("## Checklist") == 1


def test_every_page_is_of_kept_records():
    found = {path for kind in ("*.md", "*.svg") for path in BENCHMARKS.rglob(kind)}
    found -= {*READINGS, *DESIGNS, BENCHMARKS / "README.md"}
    assert found == {path.with_name(name) for path in KEPT for name in of_records(path)}


@pytest.mark.parametrize("path", KEPT, ids=shown)
def test_kept_records_carry_no_time_and_no_name(path):
    magic_method_flags_time = b"\x1f\x8b" + bytes([8, 0]) + bytes(4)  # RFC 1952, section 2.3
    assert path.read_bytes()[:8] == magic_method_flags_time
    assert kept.content(path).endswith(b"\n")


@pytest.mark.parametrize("path", READINGS, ids=shown)
def test_readings_are_of_the_records_beside_them(path):
    reading.check(path)


def test_a_reading_of_other_records_is_told_apart(tmp_path):
    own, log = tmp_path / "reading.md", tmp_path / "records.jsonl.gz"
    own.write_text("## Reading\n")
    with pytest.raises(reading.ReadingError, match="no records beside it"):
        reading.check(own)
    kept.write(log, b'{"schema": 1}\n')
    with pytest.raises(reading.ReadingError, match="names no records"):
        reading.check(own)
    reading.confirm(own)
    reading.check(own)
    assert reading.text(log) == "## Reading\n"
    kept.write(log, b'{"schema": 1, "more": 2}\n')
    with pytest.raises(reading.ReadingError, match="python -m benchmarks.lib.reading .*reading.md"):
        reading.check(own)
    reading.confirm(own)
    reading.check(own)
    assert own.read_text().count("<!--") == 1


def told(tmp_path: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    kept.options(parser, tmp_path / "work")
    return parser.parse_args(words)


def write_count(path: Path) -> Path:
    page = kept.page_of(path)
    page.write_text(str(len(kept.rows(path))))
    return page


def test_a_run_begins_with_what_is_kept_and_keeps_when_told(tmp_path):
    own = tmp_path / "records.jsonl.gz"
    kept.write(own, b'{"schema": 1, "n": 0}\n')
    before = own.read_bytes()
    given = told(tmp_path)
    path = kept.begin(given, own)
    records.append(path, {"n": 1})
    kept.end(given, own, write_count)
    assert own.read_bytes() == before
    assert (tmp_path / "work" / "page.md").read_text() == "2"
    assert not (tmp_path / "page.md").exists()
    kept.end(told(tmp_path, "--keep"), own, write_count)
    assert [row["n"] for row in kept.rows(own)] == [0, 1]
    assert (tmp_path / "page.md").read_text() == "2"


def test_a_working_folder_that_lacks_records_is_not_kept(tmp_path):
    own = tmp_path / "records.jsonl.gz"
    kept.write(own, b'{"schema": 1, "n": 0}\n')
    path = kept.begin(told(tmp_path, "--fresh"), own)
    records.append(path, {"n": 1})
    with pytest.raises(records.RecordError, match="lacks 1 of the records"):
        kept.begin(told(tmp_path), own)
    with pytest.raises(records.RecordError, match="lacks 1 of the records"):
        kept.end(told(tmp_path, "--keep"), own, write_count)
    assert [row["n"] for row in kept.rows(own)] == [0]
    with pytest.raises(SystemExit):
        told(tmp_path, "--fresh", "--keep")


@pytest.mark.parametrize("path", RUN, ids=shown)
def test_every_script_says_how_it_is_used(path, monkeypatch, capsys):
    name = module_name(path)
    assert f"python -m {name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(name).main()
    assert "usage:" in capsys.readouterr().out


def test_the_table_of_benchmarks_has_a_row_for_each():
    text = (BENCHMARKS / "README.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    commands = [re.search(r"python -m ([\w.]+)", row)[1] for row in rows]
    assert sorted(commands) == sorted(map(module_name, RUN))
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (BENCHMARKS / link).exists(), link


@pytest.mark.parametrize("path", SPOKEN, ids=shown)
def test_what_is_said_of_benchmarks_is_there(path):
    text = path.read_text()
    for named in re.findall(r"(?<!\w)benchmarks/[\w./-]*\w", text):
        assert (ROOT / named).exists(), f"{shown(path)} names {named}"
    for named in re.findall(r"python -m (benchmarks[\w.]*\w)", text):
        assert (ROOT / f"{named.replace('.', '/')}.py").exists(), f"{shown(path)} names {named}"


@pytest.mark.parametrize(
    "path", [*SCRIPTS, *sorted((ROOT / "examples").glob("*.py"))], ids=lambda p: shown(p)
)
def test_names_of_the_library_exist(path):
    """Names behind `ms` come at run time, where a type checker cannot miss them."""
    import manyshot as ms

    for node in ast.walk(ast.parse(path.read_text())):
        names, inner = [], node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if names and isinstance(inner, ast.Name) and inner.id == "ms":
            found = ms
            for name in reversed(names):
                if isinstance(found, ModuleType):
                    found = getattr(found, name)


def test_drawn_shapes_are_the_same_wherever_they_are_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(emoji_images, "_EACH", {"train": 3, "test": 2})
    one, other = (emoji_images.draw(tmp_path / name) for name in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.png"))
    assert len(files) == 3 * 5
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    pixels = {np.asarray(Image.open(one / file)).tobytes() for file in files}
    assert len(pixels) == 15


def test_plain_networks_beside_winners_train_alike_but_for_what_the_recipe_says(
    monkeypatch, tmp_path
):
    monkeypatch.setattr(emoji_images, "_EACH", {"train": 30, "test": 4})
    data = emoji_run.Data.load(emoji_images.draw(tmp_path / "shapes"))
    assert len(data.train[0]) == 90 and len(data.test[0]) == 12
    for as_recipe in (False, True):
        row = emoji_run.beside(3000, emoji_run.Arm(0.5, as_recipe), 1e-6, data, seed=0)
        assert row["epochs"] == 1 and 0 <= row["accuracy"] <= 1
        assert abs(row["params"] - 3000) < 1000


def test_a_search_of_the_study_of_searchers_is_as_it_is_by_hand():
    """The area of its front by a sweep over costs, and the best network by all accuracies."""
    from benchmarks.studies.searchers import run as study
    from benchmarks.studies.searchers.problems import ARMS, QUERIES, few

    problem = few()[2]
    truth = problem.truth
    error = dict(zip(truth.archs, 1 - truth.scores_N, strict=True))
    share = dict(zip(truth.archs, truth.costs["macs"] / truth.costs["macs"].max(), strict=True))

    def area(archs):
        total, least = 0.0, 0.2
        ordered = sorted(archs, key=share.__getitem__)
        for arch, following in zip(ordered, [*ordered[1:], None], strict=True):
            least = min(least, error[arch])
            total += (0.2 - least) * (
                (1.0 if following is None else share[following]) - share[arch]
            )
        return total

    told = [truth.archs[i] for i in np.random.default_rng(0).permutation(len(truth))[:50]]
    expected = [area(told[:k]) / area(truth.archs) for k in (10, 50)]
    assert study.fronts(problem, told, (10, 50)) == pytest.approx(expected, abs=1e-5)

    record = study.search(problem, "local", seed=3)
    assert len(record["found"]) == len(record["front"]) == len(QUERIES)
    best = min(error, key=error.__getitem__)
    there = "".join(map(str, best)) == record["found"][-1]
    assert there is (record["optimum_after"] is not None)
    for arm in ARMS.values():
        assert arm.most in QUERIES and any(arm.runs(p, 0) for p in few())


def test_a_table_of_some_networks_is_searched_within_them():
    """The cheaper half of 160 networks of 15,625: all are told, by the trainings of one seed."""
    from benchmarks.studies.searchers import run as study
    from benchmarks.studies.searchers.problems import held_out

    lines = (kept.TRUTHS / "methods_truth.jsonl").read_text().splitlines()
    trained = [row for row in map(json.loads, lines) if row.get("seed") == 1]
    limit = sorted(row["macs"] for row in trained)[len(trained) // 2]
    cheap = [row for row in trained if row["macs"] <= limit]
    record = study.search(held_out()[-1], "predictor, top 10", seed=1)
    assert record["told"] == len(cheap) < len(trained)
    score = {row["arch"].replace("-", ""): row["test_score"] for row in trained}
    assert score[record["found"][-1]] == max(row["test_score"] for row in cheap)


def test_arms_of_the_study_of_methods_are_legal_and_contrasts_name_them():
    from benchmarks.studies.methods.arms import ARMS, CONTRASTS, REFERENCE
    from benchmarks.studies.methods.run import recipe_of

    known = {REFERENCE, *ARMS, *(f"{arm} (before)" for arm in ARMS)}
    assert {arm for pair in CONTRASTS for arm in pair} <= known
    recipes = {arm: recipe_of(arm, seed=3) for arm in ARMS}
    assert all(recipe.seed == 3 and recipe.name == arm for arm, recipe in recipes.items())
    settings = {
        recipe.model_copy(update={"name": ""}).model_dump_json() for recipe in recipes.values()
    }
    assert len(settings) == len(ARMS)  # no two arms are one method
    assert all(recipe.finish == recipes[REFERENCE].finish for recipe in recipes.values())
    for arm in ARMS:
        assert f"`{arm}`" in (BENCHMARKS / "studies" / "methods" / "design.md").read_text()


def _row_of_methods(method, seed, proxy_N, winners_loss):
    return {
        "schema": 1, "method": method, "seed": seed, "images": {"train": 10},
        "weights": {"after": {"loss": proxy_N.tolist(), "accuracy": []}},
        "winners": [{"test_loss": winners_loss}],
        "spent": {"weight_steps": 1, "macs": {"training": 1, "probes": 0}, "seconds": {}},
        "commit": "a", "cpu": "b", "cores": 2, "threads": 1, "torch": "2", "date": "today",
    }  # fmt: skip


def test_the_page_of_methods_has_taus_by_scipy(tmp_path):
    from benchmarks.studies.methods.page import TRUTH, write_page
    from manyshot.rank import load_truth

    truth, rng = load_truth(TRUTH, by="loss"), np.random.default_rng(0)
    loss_N = truth.scores_NR.mean(axis=1)
    rows, taus = [], []
    for method in ("one_shot", "kshot"):
        for seed in range(2):
            proxy_N = loss_N + rng.normal(0, 0.1, len(truth))
            taus.append(stats.kendalltau(proxy_N, loss_N).statistic)
            rows.append(_row_of_methods(method, seed, proxy_N, 0.5 + seed))
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_page(path).read_text()
    assert f"| `one_shot` | one copy, uniform paths | 2 | {np.mean(taus[:2]):.2f} ± " in text
    difference = np.mean(taus[2:]) - np.mean(taus[:2])
    assert f"| `kshot` minus `one_shot` | 2 | {difference:+.3f} (" in text
    assert "**better**" not in text and "**worse**" not in text  # of two seeds nothing is said


def test_what_the_study_of_methods_lacks_counts_among_its_comparisons(tmp_path):
    from benchmarks.studies.methods.arms import ARMS
    from benchmarks.studies.methods.page import TRUTH, write_page
    from manyshot.rank import load_truth

    truth, rng, lost = load_truth(TRUTH, by="loss"), np.random.default_rng(1), {}
    rows = []
    for method, base in (("one_shot", 0.6), ("shiftnas", 0.5)):
        lost[method] = (base + rng.normal(0, 0.02, 5)).tolist()
        for seed, loss in enumerate(lost[method]):
            proxy_N = truth.scores_NR.mean(axis=1) + rng.normal(0, 0.1, len(truth))
            rows.append(_row_of_methods(method, seed, proxy_N, loss))
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = write_page(path).read_text()
    p = (len(ARMS) - 1) * stats.ttest_rel(lost["shiftnas"], lost["one_shot"]).pvalue  # Holm's first
    assert p < 0.05
    [line] = [row for row in text.splitlines() if row.startswith("| `shiftnas` minus `one_shot`")]
    assert f"p {p:.2g}, **better** |" in line
    assert "**The study is not complete.**" in text and "`kshot` (0)" in text
