"""The page that shows the records of `speed.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lib.pages import markdown, page

COMMAND = "python -m benchmarks.speed.speed [steps calls ... memory] [--at macro tiny_vit ...]"

READING = """
## How to read it

- A ratio is the CPU time of manyshot over that of plain PyTorch for the same arithmetic: the same
  architectures, first weights, images, memory format (channels last), SGD (Nesterov momentum and
  decay), one thread. The sides take turns step by step, and which one begins rotates. `n`
  counts pairs of steps (or of evaluations) of one architecture; the interval is a bootstrap of the
  median over these pairs. The process keeps what it frees, as those of commands do
  (`manyshot.allocation`); else each side pays for pages that the other gave back.
- `bare` is the extracted subnet as anybody would train it, with its own SGD. Its batch norms keep
  running statistics, which the supernet's do not; `bare without running statistics` is the
  stricter comparison. `noise` is bare over a second bare copy: no ratio is known better than that.
- `bare with cuts` is the same subnet, each of whose parameters torch alone cuts out of a tensor as
  large as the supernet's, by one operation, and whose SGD moves the whole tensors. What it takes
  more than `bare` is the price of stored tensors that are larger than what a path uses, in
  whichever library: what is used is copied, its gradient is put into zeros for all of it, and all
  of it moves. `supernet ÷ bare with cuts` is what manyshot adds to that.
- `part of the ratio in ...` is supernet minus bare in that part of the step, over the whole bare
  step. The supernet's SGD goes through all its parameters, most of them without a gradient
  (`update`, `clearing`), the bare one only through its own.
- `calls` counts the Python functions that a forward calls, generators among them, which no load of
  the machine changes. What a layer works out once is worked out before.
- The loop is `manyshot.train.train`: sampler, random streams, learning rate, checks of the loss,
  batches and augmentation included, checkpoints not. The bare loops have none but the batches: one
  trains the extracted subnets, the other the supernet itself.
- Evaluation with K copies is over the forwards of the same subnets, whose weights are merged.
- Evaluation is `manyshot.evaluate.score` on 256 calibration and 256 validation images in batches of
  128, over nothing but the forward passes of the extracted subnet (train mode, then eval mode).
- MACs, `--help` and the start are seconds, not ratios, and a bar on seconds means little on a
  shared machine: CPU time is given for all, wall time for `--help` as well, because its bar is on
  wall time. A start is that of a process whose modules are compiled already: torch alone, what runs
  of recipes import beside it, and the first cost table, for which torch imports its compiler.
- Memory is the resident peak of a process of its own, minus what it has after the first step of a
  linear layer. Each process trains the architectures (i, i, ..., i) in turn; the bare side frees
  each before the next. Both build the supernet's modules without weights first, so Python's
  own objects cancel out. Large blocks go back to the system when freed
  (`MALLOC_MMAP_THRESHOLD_=65536`); with glibc's defaults the same peaks vary by tens of MiB.

## Caveats

- The machine is shared and was busy: two cores, other processes on both. CPU time leaves out what
  they ran, not the caches and the clock they took. Do not compare milliseconds across records.
- Images and labels are random; the learning rate is small, so that nothing diverges.
- One CPU, one thread, float32. Nothing here says how a GPU would do, where launches cost more.
- `edited` in a record: the sources had changes after the commit it names.
"""


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    title = "What manyshot adds to the arithmetic"
    return page(path, title, COMMAND, ("Beside the step ratios", _beside), READING)


def _beside(found: Sequence[Mapping[str, Any]]) -> str:
    columns = (
        "at", "bare step, CPU", "path parameters ÷ path MACs", "tensors: supernet", "tensors: path"
    )  # fmt: skip
    rows = [
        [
            r["at"],
            f"{r['bare_ms']:.0f} ms",
            f"{r['path_params_per_path_macs']:.4f}",
            str(r["supernet_tensors"]),
            f"{r['path_tensors']:.0f}",
        ]
        for r in found
        if r["what"] == "step: supernet ÷ bare"
    ]
    return markdown(columns, rows)
