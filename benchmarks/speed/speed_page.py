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
  median over these pairs.
- `bare` is the extracted subnet as anybody would train it, with its own SGD. Its batch norms keep
  running statistics, which the supernet's do not; `bare without running statistics` is the
  stricter comparison. `noise` is bare over a second bare copy: no ratio is known better than that.
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
- MACs and `--help` are seconds, not ratios, and a bar on seconds means little on a shared machine:
  CPU time is given for both, wall time for `--help` as well, because its bar is on wall time.
- Memory is the resident peak of a process of its own, minus what it has after the first step of a
  linear layer. Each process trains the architectures (i, i, ..., i) in turn; the bare side frees
  each before the next. Both build the supernet's modules without weights first, so Python's
  own objects cancel out. Large blocks go back to the system when freed
  (`MALLOC_MMAP_THRESHOLD_=65536`); with glibc's defaults the same peaks vary by tens of MiB.

## Found on 2026-11-22

- `manyshot --help` first missed its bar: 0.41 to 0.71 s of CPU time, more than half of it `numpy`
  and `pydantic`, which `main` loaded with `manyshot.recipe` for the name of one exception. They now
  load only when there is an exception to compare. torch is not imported.
- Evaluation at `macro` came out at 1.043, 1.084 (interval 1.04 to 1.108, which contains the bar)
  and 1.060 in three runs on a busy machine, the last of them with the most rounds. Of that, 2 ms
  in about 90 ms, so 0.02, is known: setting and restoring the mode of every module of the
  supernet, twice (0.7 ms each), 0.1 ms per forward, and the losses. The rest was not found;
  apart, the calibration forwards were at 1.00 and the validation forwards at 1.03 of the bare
  ones, where two bare copies differ by 0.01.
- The optimiser's walk over parameters without a gradient is about 0.1 % of a step.
- The weights and momenta that are off the path account for all of a supernet's extra memory.

## Found on 2026-11-29

Not among the records above: few rounds, on a 2-core Intel Xeon under a load of 8 to 10
([LOG.md](../../LOG.md) has the same figures and the command).

- Python functions called in a forward, of four architectures each, counted as `calls` does, over
  the extracted subnet's: attentivenas 4.45, now 1.16 (3,287 and 2,836); autoformer 5.3, now 1.16;
  bignas 4.4, now 1.13; tiny_cnn 4.3, now 1.19; tiny_vit 6.7, now 1.45 (bar 1.5).
- A training step over the bare subnet's at `tiny_vit`: 1.15 (1.11 to 1.19), now 1.10 (1.06 to 1.19,
  two bare copies differ by as much as 0.06); the bar of 1.03 is missed by 0.07.
- `train()` over a bare loop over the same supernet at `tiny`: 1.44 (1.42 to 1.47), now 1.10 (1.06
  to 1.16); the bar of 1.03 is missed by 0.07.
- `score()` over the forwards alone at `tiny`: 1.45 (1.43 to 1.47), now 1.29 (1.14 to 1.36; no bar
  at this size), with four copies 1.66 (1.65 to 1.67), now 1.42 (1.33 to 1.59).

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
