"""The page that shows the records of `kshot_speed.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lib.pages import markdown, page

COMMAND = "python -m benchmarks.speed.kshot_speed [steps codes evaluation memory] [--at macro]"

READING = """
## How to read it

- A ratio is the CPU time of a supernet with K copies over that of one with K = 1 for the same
  architectures, images, memory format (channels last), SGD (Nesterov momentum and decay), one
  thread. K = 1 is K-shot sharing with one slice, and makes a code that it does not need; one-shot
  is the library's plain sharing. The sides take turns step by step, and which one begins rotates.
  `n` counts pairs; the interval is a bootstrap of the median over them. `noise` is K = 1 over a
  second K = 1: no ratio is known better than that.
- A weights step is one random path on the whole batch. `part of K=8 in ...` is K = 8 minus K = 1 in
  that part of the step, over the whole step with K = 1. Mixing adds to forward and backward; the
  update has K times the weights and momenta of the path to go through. Both grow with the path's
  parameters, and the rest of the step with its MACs and the batch; so their quotient is given.
- A joint step moves weights and codes on one path. A code step moves only codes: four chunks of the
  batch, a path each, weights frozen. It stands over the mean of the K = 1 weights steps on these
  four paths in the same round. `weights, K=1, in chunks` is a weights step with one copy, in the
  same four chunks: what it costs more than 1 is the price of small batches, not of codes.
- K = 1 has no code steps, so that a run in alternation takes, per step after the warm-up, the mean
  of the two ratios.
- Evaluation is `manyshot.evaluate.score`, which merges a path's weights once: macro on 512
  calibration and 2,048 validation images in batches of 128, shufflenet on 128 and 512 in batches
  of 64.
- Memory is the resident peak of a process of its own, as in `speed.py`: weights steps on the
  architectures (i, i, ..., i) in turn. Below each difference stands what the weights and momenta
  of the further slices take; the rest is mostly their gradients.

## Caveats

- The machine is shared and was not idle. CPU time leaves out what others ran, not the caches and
  the clock they took. Do not compare milliseconds across records.
- Two shapes; path parameters ÷ path MACs of the published, wider networks are other ones, and so
  are batches. One CPU, one thread, float32: nothing here says how a GPU would do.
- `edited` in a record: the sources had changes after the commit it names.
"""


def write_page(path: Path) -> Path:
    """Writes the page beside the records; returns it."""
    title, beside = "What K copies of the weights cost", ("Beside the ratios", _beside)
    return page(path, title, COMMAND, beside, READING)


def _beside(found: Sequence[Mapping[str, Any]]) -> str:
    columns = ("at", "step with K = 1, CPU", "path parameters", "path parameters ÷ path MACs")
    rows = [
        [
            r["at"],
            f"{r['one_ms']:.0f} ms",
            f"{r['path_params']:,.0f}",
            f"{r['path_params_per_path_macs']:.4f}",
        ]
        for r in found
        if r["what"] == "weights step: K=8 ÷ K=1"
    ]
    return markdown(columns, rows)
