"""What a run on a folder of colour images reaches, beside a plain loop at the same size and time.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.emoji.run [--work FOLDER] [--recipe RECIPE]

The images are emoji of 32 pixels in nine categories, by three vendors for training and a fourth for
the test (`images.py`; npm fetches 340 MB). `manyshot run` serves three budgets. Beside each winner
stands a network of six plain convolutions of about as many parameters (`plain.py`), which trains
for as much CPU time as the whole run took, and for a third of that, its share of three budgets.
What is on record in the working folder is not done again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import manyshot as ms
from benchmarks.lib.kept import RECIPES
from benchmarks.lib.measuring import provenance
from benchmarks.studies.emoji import images, plain
from manyshot import records

SIDE = 32
SHARES = (1.0, 1 / 3)
"""Of the run's CPU time, for which a plain network trains."""
LOOK = ("train", "validation", "test")


def cpu_seconds_of_children() -> float:
    """CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(recipe: Path, data: Path, folder: Path, sets: list[str]) -> float:
    """A whole run by the command line; the CPU seconds it took."""
    began = cpu_seconds_of_children()
    words = ["run", str(recipe), "--out", str(folder), "--quiet"]
    for text in (f"data.root={data}", f"data.image_size={SIDE}", *sets):
        words += ["--set", text]
    subprocess.run([sys.executable, "-m", "manyshot", *words], check=True)
    return cpu_seconds_of_children() - began


def tensors(data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Normalised images and labels: all that a run trains and chooses by, and the test part."""
    splits = ms.data.load("folder", root=data, image_size=SIDE)
    look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": 0}
    parts = {}
    for part in LOOK:
        batches = ms.data.fixed(getattr(splits, part), None, 256, **look)
        inputs, targets = zip(*batches, strict=True)
        parts[part] = torch.cat(inputs), torch.cat(targets)
    train = [torch.cat(both) for both in zip(parts["train"], parts["validation"], strict=True)]
    return {"train": (train[0], train[1]), "test": parts["test"]}


def width_for(params: int, classes: int) -> int:
    """The width of the plain network whose number of parameters is the nearest."""
    counts = {
        width: sum(p.numel() for p in plain.network(width, classes).parameters())
        for width in range(2, 65)
    }
    return min(counts, key=lambda width: abs(counts[width] - params))


def beside(winner: Any, share: float, seconds: float, parts: Any, classes: int, seed: int) -> Any:
    """A plain network of a winner's size, trained for a share of the run's time."""
    width, (pixels, labels) = width_for(winner["params"], classes), parts["train"]
    torch.manual_seed(seed)  # noqa: TID251 (a plain loop, as its user would write it)
    one = plain.train(plain.network(width, classes), pixels, labels, 1, seed)
    epochs = max(1, round(share * seconds / one))
    net = plain.network(width, classes)
    took = plain.train(net, pixels, labels, epochs, seed)
    return {
        "budget": winner["budget"],
        "share": share,
        "params": sum(p.numel() for p in net.parameters()),
        "epochs": epochs,
        "cpu_seconds": round(took, 1),
        "accuracy": plain.accuracy(net, *parts["test"]),
    }


def main() -> None:
    """Does what is not on record, and prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs") / "emoji")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "folder.toml")
    parser.add_argument("--archives", type=Path, help="a folder that has npm's packages, or will")
    parser.add_argument("--set", action="append", default=[], help="a setting of the run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    log = arguments.work / "records.jsonl"
    data = images.make(arguments.work / "data", arguments.archives)
    folder = arguments.work / "run"
    if not any(row["measure"] == "run" for row in records.read_lines(log)):
        sets = [f"seed={arguments.seed}", *arguments.set]
        seconds = run(arguments.recipe, data, folder, sets)
        row = {"measure": "run", "sets": sets, "cpu_seconds": round(seconds, 1)}
        records.append(log, {**row, **provenance()})
    [whole] = [row for row in records.read_lines(log) if row["measure"] == "run"]
    result = records.read_json(folder / "result.json")
    parts, classes = tensors(data), len(images.CATEGORIES)
    for winner in result["winners"]:
        for share in SHARES:
            done = [row for row in records.read_lines(log) if row["measure"] == "plain"]
            if not any((r["budget"], r["share"]) == (winner["budget"], share) for r in done):
                found = beside(winner, share, whole["cpu_seconds"], parts, classes, arguments.seed)
                records.append(log, {"measure": "plain", **found, **provenance()})
    print(f"the run took {whole['cpu_seconds']:.0f} s of CPU time")
    for winner in result["winners"]:
        print(f"{winner['budget']}: {winner['params']:,} parameters, {winner['test_score']:.1%}")
        for row in records.read_lines(log):
            if row["measure"] == "plain" and row["budget"] == winner["budget"]:
                print(
                    f"  plain, {row['share']:.2f} of the time: {row['params']:,} parameters, "
                    f"{row['epochs']} epochs, {row['accuracy']:.1%}"
                )


if __name__ == "__main__":
    main()
