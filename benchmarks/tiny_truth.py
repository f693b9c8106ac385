"""Stand-alone accuracy of all 256 networks of `tiny` on digits, several seeds each.

    OMP_NUM_THREADS=1 python benchmarks/tiny_truth.py [--seeds 0 1 2 3 4] [--share 0/1]

One fixed recipe for all: 30 epochs over the training images of `recipes/digits.toml`, rates as
there. A seed decides the weights, the split and the order of the images; the test images are
always the same 449. Every finished training is a line of `tiny_truth.jsonl`; what is on record is
not trained again. `--share 0/2` and `--share 1/2` split the work between two processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from alone import alone
from measuring import provenance

from manyshot import records
from manyshot.pipeline.workspace import Workspace, build_network
from manyshot.progress import Bars
from manyshot.recipe import Recipe
from manyshot.supernet import Supernet
from manyshot.train import Training

HERE = Path(__file__).parent
TRUTH = HERE / "tiny_truth.jsonl"
SETTINGS = Training(epochs=30, batch_size=64, lr=0.1)


def main() -> None:
    """Trains what is not on record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--share", default="0/1", help="the how-manieth of how many parts")
    parser.add_argument("--records", type=Path, default=TRUTH)
    arguments = parser.parse_args()
    part, parts = map(int, arguments.share.split("/"))
    torch.set_num_threads(1)
    rows = records.read_lines(arguments.records)
    done = {(row["arch"], row["seed"]) for row in rows if "arch" in row}
    for seed in arguments.seeds:
        ws = Workspace.build(Recipe.load(None, [f"seed={seed}"]))
        source = Supernet(build_network(ws.recipe, ws.splits))
        archs = list(ws.net.space.enumerate())[part::parts]
        with Bars().stage(f"seed {seed}", len(archs)) as advance:
            for i, arch in enumerate(archs):
                key = {"arch": ws.net.space.to_text(arch), "seed": seed}
                if (key["arch"], seed) in done:
                    continue
                score = alone(ws, source.extract(arch), SETTINGS, seed)
                record = {**key, "test_accuracy": score.accuracy, "test_loss": score.loss}
                records.append(arguments.records, record)
                advance(i + 1, f"{record['test_accuracy']:.3f}")
    about = {"seeds": arguments.seeds, "share": arguments.share, **provenance()}
    records.append(arguments.records, {"about": about})


if __name__ == "__main__":
    main()
