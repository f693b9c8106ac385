"""Whole runs on a network whose plain layers torch cannot train in channels last on x86."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from manyshot import records
from pipeline_runs import lines

NETWORK = """
import manyshot as ms
from torch import nn


class Narrow(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        width = ms.choose((3, 6), "width")
        self.stem = ms.nn.Conv2d(channels, width, 3, padding=1)
        self.norm = ms.nn.BatchNorm2d(width)
        self.down = ms.nn.Conv2d(width, 5, 1, 2)
        self.op = ms.nn.Choice({
            "one": nn.Sequential(nn.ReLU(), nn.Conv2d(5, 16, 1, 2)),
            "three": nn.Sequential(nn.ReLU(), nn.Conv2d(5, 16, 3, 2, 1)),
        }, "op")
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.op(self.down(self.norm(self.stem(x)))).mean((2, 3)))
"""
RECIPE = """
schema = 1
name = "narrow"
threads = {threads}
[network]
name = "narrow:Narrow"
[data]
validation = 64
train_size = 192
image_size = 64
[train]
epochs = 1
[evaluate]
calibration_images = 64
batch_size = 64
[search]
budgets = ["macs<=100%", "macs<=60%"]
candidates = 4
generation = 2
name = "random"
[shifting]
name = "population"
steps = 1
rescored = 2
[finish.training]
epochs = 1
[latency]
warmup = 0
repeats = 1
[export]
formats = ["json"]
[truth]
seeds = [0]
training = {{ epochs = 1 }}
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_and_its_truth_under_avx2(tmp_path: Path, threads: int) -> None:
    """Train, shift, finish, truth: every gradient of such a layer is taken where it is safe."""
    (tmp_path / "narrow.py").write_text(textwrap.dedent(NETWORK))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(threads=threads))
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": str(threads)}
    for command in ("run recipe.toml --out run", "truth recipe.toml --out truth"):
        subprocess.run(
            [sys.executable, "-m", "manyshot", *command.split()],
            cwd=tmp_path, env=environment, check=True, timeout=120, capture_output=True,
        )  # fmt: skip
    used = records.read_json(tmp_path / "run" / "environment.json")["memory_format"]
    assert used["name"] == "contiguous" and "'model.op.options.one.1'" in used["why"]
    finished = {
        line["arch"]: line["memory_format"] for line in lines(tmp_path / "run", "finish.jsonl")
    }
    for arch, kept in finished.items():
        unsafe = 2 if arch.endswith("-0") else 1  # the elastic layer is a plain one now
        assert kept["name"] == "contiguous" and kept["why"].startswith(f"{unsafe} strided 1x1")
    truth = lines(tmp_path / "truth", "truth.jsonl")
    assert len(truth) == 4 and all(row["test_score"] > 0 for row in truth if "arch" in row)
