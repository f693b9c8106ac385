"""Timing exported files."""

import json
import time

import pytest
import torch
from torch import nn

from manyshot import cli
from manyshot.cost import measure_files
from manyshot.export import to_onnx, to_pt2
from manyshot.tables.files import latencies


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small and a large network, as files of both kinds."""
    folder, written = tmp_path_factory.mktemp("files"), {}
    for name, width in (("small", 4), ("large", 192)):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten()
        )
        for write, ending in ((to_pt2, "pt2"), (to_onnx, "onnx")):
            path = folder / f"{name}.{ending}"
            written[f"{name}.{ending}"] = write(module, torch.rand(2, 3, 20, 20), path)
    return written


@pytest.fixture
def call(capsys):
    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(list(map(str, arguments)))
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


@pytest.mark.parametrize("ending", ["pt2", "onnx"])
def test_files_are_really_run(files, ending):
    """A thousand times the work takes longer."""
    before = torch.get_num_threads()
    small, large = measure_files([files[f"small.{ending}"], files[f"large.{ending}"]], repeats=9)
    assert large.median_ms > 1.5 * small.median_ms > 0
    assert small.per_second == pytest.approx(1000 / small.median_ms)
    assert small.runtime == {"pt2": "torch", "onnx": "onnxruntime"}[ending]
    assert (small.threads, small.batch_size, small.repeats, small.clock) == (1, 1, 9, "thread")
    assert torch.get_num_threads() == before


def test_statistics_are_of_the_repeats(files):
    """A stopwatch that says 100, 101, ... for the first file and ten times that for the second."""
    ticks = iter(range(100, 400))

    def stopwatch(module, calls):
        [(args, kwargs)] = calls
        [images] = [*args, *kwargs.values()]
        assert images.shape == (7, 3, 20, 20) and images.min() >= 0 and images.max() <= 1
        return float(next(ticks))

    one, two = measure_files(
        [files["small.pt2"], files["small.onnx"]], batch_size=7, warmup=2, repeats=5,
        stopwatch=stopwatch,
    )  # fmt: skip
    assert (one.median_ms, one.iqr_ms) == (108, 4)  # 104, 106, ..., 112
    assert (two.median_ms, two.iqr_ms) == (109, 4)
    assert one.per_second == pytest.approx(7 / 0.108) and one.clock == "given"
    table = latencies([{**vars(one)}, {**vars(two)}])
    assert [row["Time by the first's"] for row in table.rows] == ["1.00", "1.01"]


def test_a_wall_clock_sees_several_threads(files):
    start = time.perf_counter()
    [timing] = measure_files([files["large.onnx"]], threads=2, repeats=5, warmup=0)
    assert timing.clock == "wall"
    assert 0 < timing.median_ms < 1000 * (time.perf_counter() - start)


def test_the_command(files, call):
    code, out, err = call(
        "benchmark", files["small.onnx"], "--against", files["small.pt2"], "--repeats", 3,
        "--batch", 2, "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [(row["runtime"], row["batch_size"], row["repeats"]) for row in rows] == [
        ("onnxruntime", 2, 3), ("torch", 2, 3),
    ]  # fmt: skip
    code, out, _ = call("benchmark", files["small.onnx"], "--repeats", 2)
    assert code == 0 and "small.onnx" in out and "batch of 1" in out


def test_what_cannot_be_timed(files, call, tmp_path):
    text, fixed = tmp_path / "a.txt", tmp_path / "fixed.pt2"
    text.write_text("")
    one = torch.export.export(nn.Linear(3, 2), (torch.zeros(4, 3),))
    torch.export.save(one, fixed)
    for arguments, words, code in (
        ((text,), "cannot be timed: files that end with .pt2 or .onnx can", 1),
        ((tmp_path / "b.pt2",), "b.pt2 is not there", 1),
        ((files["small.pt2"], "--runtime", "onnxruntime"), "is run by torch, and not by", 1),
        ((files["small.pt2"], "--runtime", "tflite"), "--runtime is torch or onnxruntime", 2),
        ((fixed,), "does not run on a batch of 1", 1),
    ):
        found, _, err = call("benchmark", *arguments)
        assert found == code and words in err, err
