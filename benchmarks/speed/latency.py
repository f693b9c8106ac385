"""How well a latency table predicts directly measured architectures.

    python -m benchmarks.speed.latency [--repeats 60] [--threads 1] [--checked 30]
        [--runtime onnxruntime] [--json]

Error is the median of |table - direct| / direct, tau is Kendall's tau-b; both over random
architectures that the table was not made from, measured in the same rounds as the table.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

import torch
from torch import nn

import manyshot as ms
from manyshot import cost, zoo

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "macro(width=8), 1x28x28": (lambda: zoo.macro(width=8, channels=1), (1, 28, 28)),
    "tiny, 1x8x8": (zoo.tiny, (1, 8, 8)),
    "shufflenet(stem_stride=1), 3x32x32": (lambda: zoo.shufflenet(stem_stride=1), (3, 32, 32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--checked", type=int, default=30)
    parser.add_argument("--runtime", choices=("torch", "onnxruntime"), default="torch")
    parser.add_argument("--json", action="store_true", help="the whole table, one JSON row each")
    options = parser.parse_args()
    for name, (make, shape) in NETWORKS.items():
        torch.manual_seed(0)
        start = time.monotonic()
        table = cost.latency_table(
            ms.Supernet(make()),
            shape,
            batch_size=options.batch_size,
            threads=options.threads,
            repeats=options.repeats,
            checked=options.checked,
            runtime=options.runtime,
        )
        took, check, (low, high) = time.monotonic() - start, table.check, table.range()
        if options.json:
            print(json.dumps({"network": name, "load": os.getloadavg()[0], **table.to_dict()}))
            continue
        error = "-" if check.median_error is None else f"{check.median_error:.1%}"
        tau = "-" if check.kendall_tau is None else f"{check.kendall_tau:.2f}"
        print(
            f"{name}: error {error}, tau {tau} on {len(check.archs)} architectures; "
            f"{table.cells} cells in {took:.0f} s, spread {table.spread:.0%}, "
            f"{low:.2f} to {high:.2f} ms of which {table.table.constant:.2f} fixed\n"
            f"    {table.device}, {table.clock} time, {table.threads} thread, "
            f"batch {table.batch_size}, {table.runtime} {table.runtime_version}, "
            f"load {os.getloadavg()[0]:.1f}"
        )


if __name__ == "__main__":
    main()
