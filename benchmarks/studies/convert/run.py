"""Converting a trained network, against pruning it and against training a smaller one.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.convert.run [--root FOLDER] [--seeds 0 1 2]

A ResNet of torchvision, made small, is trained once on Fashion-MNIST. Every method then makes
networks of a half and a quarter of its multiply-adds out of it, which train for equally many
epochs:

- original: the original itself trains as long, for comparison;
- convert, untrained: `ms.convert`, no training of the supernet, search, extract;
- convert, trained: the same, and the supernet trains before the search;
- torch-pruning, global: the channels of least L1 norms by groups, over all layers;
- torch-pruning, layerwise: the same share of every layer;
- torch-pruning, longer: layerwise, finished for three times as many epochs;
- convert, longer: as the first, finished for three times as many epochs;
- scaled: fewer channels everywhere, trained from scratch for the epochs of all trainings together;
- scaled, short: the same, trained only for the epochs of finishing;
- FastNAS: that of nvidia-modelopt.

torch-pruning 1.6.1 and nvidia-modelopt 0.47.0 are no requirements of manyshot: put them into
folders of their own, `pip install --no-deps --target FOLDER`, and name these in PYTHONPATH. What
is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import inspect
import io
import textwrap
import time
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import alternate, provenance
from benchmarks.studies.convert import network as common
from benchmarks.studies.convert.network import SHAPE, SHARES, SmallResNet, Task
from benchmarks.studies.convert.page import write_page
from manyshot import evaluate, records
from manyshot.data import Batch
from manyshot.seeding import seeded

KEPT = kept.of_study(__file__)
ROUNDS = 100
"""Of timing a network and the original in turn."""
SILENT = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
"""Tokens that are no code."""
Row = dict[str, Any]


class Arm(NamedTuple):
    """A method, the functions that a user of it writes, and how its networks are finished."""

    module: str
    functions: tuple[str, ...]
    settings: ms.TrainingSettings = common.FINISHING


ARMS = {
    "original": Arm("run", ("itself",)),
    "convert, untrained": Arm("ours", ("untrained", "searched")),
    "convert, trained": Arm("ours", ("trained", "searched")),
    "torch-pruning, global": Arm("pruning", ("globally", "pruned")),
    "torch-pruning, layerwise": Arm("pruning", ("layerwise", "pruned")),
    "scaled": Arm("scaled", ("scaled",), common.SCRATCH),
    "scaled, short": Arm("scaled", ("scaled",), common.SHORT),
    "FastNAS": Arm("fastnas", ("pruned",)),
    "torch-pruning, longer": Arm("pruning", ("layerwise", "pruned"), common.LONGER),
    "convert, longer": Arm("ours", ("untrained", "searched"), common.LONGER),
}
"""Arms by name; the first function is the method."""


def itself(model: nn.Module, task: Task) -> dict[float, nn.Module]:
    """The original, which only trains on."""
    return {1.0: copy.deepcopy(model)}


def lines(functions: Sequence[Callable[..., Any]]) -> int:
    """Lines of code in functions: without comments, docstrings and blank lines."""
    return sum(_lines(textwrap.dedent(inspect.getsource(function))) for function in functions)


def _lines(source: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = [(t.start[0], t.end[0]) for t in tokens if t.type not in SILENT]
    says = {number for first, last in spans for number in range(first, last + 1)}
    [function] = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    if ast.get_docstring(function) is not None:
        said = function.body[0]
        says -= set(range(said.lineno, (said.end_lineno or said.lineno) + 1))
    return len(says)


class Stopwatch:
    """Seconds since it was made, of the clock and of this process."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self, of: str) -> Row:
        """Both, as keys of a record."""
        wall, cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        return {f"{of}_seconds": round(wall, 1), f"{of}_cpu_seconds": round(cpu, 1)}


def pretrained(splits: ms.data.Splits, test: list[Batch], work: Path, path: Path) -> nn.Module:
    """The original, trained once; its accuracy becomes a record.

    Raises:
        RecordError: if it is trained again, for want of its weights, and is not what the record
            says, so that what is on record came from another.
    """
    weights = work / "original.safetensors"
    with seeded(0, "weights"):
        model = SmallResNet()
    if weights.exists():
        model.load_state_dict(load_file(weights))
        return model.eval()
    watch = Stopwatch()
    ms.fit(model, splits, settings=common.PRETRAINING, augment=common.AUGMENT)
    row = {"measure": "original", **watch.read("train"), **described(model)}
    row |= {"accuracy": evaluate.score_module(model, test).value}
    known = [row for row in records.read_lines(path) if row["measure"] == "original"]
    if not known:
        records.append(path, {**row, **provenance()})
    elif known[0]["accuracy"] != row["accuracy"]:
        raise records.RecordError(
            f"the original, trained again, is right on {row['accuracy']:.2%} of the test images, "
            f"but {path} says {known[0]['accuracy']:.2%}, so its records are of other weights: "
            "give the --work that has original.safetensors, or begin again with --fresh"
        )
    with records.atomic(weights) as temporary:
        save_file({n: t.contiguous() for n, t in model.state_dict().items()}, temporary)
    return model.eval()


def described(model: nn.Module) -> Row:
    """Costs of a network, and the channels of its convolutions."""
    convolutions = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    return {
        "macs": ms.cost.subnet_macs(model, SHAPE),
        "params": sum(p.numel() for p in model.parameters()),
        "channels": convolutions,
    }


def latencies(model: nn.Module, original: nn.Module, rounds: int) -> Row:
    """Median milliseconds of a network and of the original, timed in turn, for 1 and 64 images."""
    row: Row = {}
    for batch in (1, 64):
        images = torch.zeros(batch, *SHAPE).to(memory_format=torch.channels_last)

        def timed(side: nn.Module, images: torch.Tensor = images) -> Callable[[], list[float]]:
            run = copy.deepcopy(side).eval().to(memory_format=torch.channels_last)

            def once() -> list[float]:
                began = time.thread_time()
                run(images)
                return [1000 * (time.thread_time() - began)]

            return once

        with torch.inference_mode():
            found = alternate({"": [timed(model)], "original_": [timed(original)]}, rounds)
        for side, milliseconds in found.items():
            row[f"{side}ms_{batch}"] = round(float(np.median(milliseconds)), 4)
    return row


def measured(
    name: str, original: nn.Module, task: Task, test: list[Batch], rounds: int
) -> Iterator[Row]:
    """Makes the networks of an arm, finishes and tests them; a record of each."""
    arm = ARMS[name]
    module = importlib.import_module(f"benchmarks.studies.convert.{arm.module}")
    functions = [getattr(module, function) for function in arm.functions]
    watch = Stopwatch()
    networks = functions[0](copy.deepcopy(original), task)
    made = watch.read("method")
    validation = task.validation()
    for share, network in networks.items():
        before = evaluate.score_module(network, validation).value
        watch = Stopwatch()
        ms.fit(network, task.splits, settings=arm.settings, seed=task.seed, augment=common.AUGMENT)
        yield {
            "share": share,
            "epochs": arm.settings.epochs,
            "lines": lines(functions),
            **made,
            **watch.read("finish"),
            **described(network),
            **latencies(network, original, rounds),
            "validation_before": before,
            "validation": evaluate.score_module(network, validation).value,
            "accuracy": evaluate.score_module(network, test).value,
        }


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, help="the folder of Fashion-MNIST's four IDX files")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of timing each network")
    kept.options(parser, Path("runs") / "convert")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = kept.begin(arguments, KEPT)
    splits = ms.data.load(
        "fashion_mnist",
        root=arguments.root,
        train_size=common.TRAIN,
        validation=common.VALIDATION,
    )
    test = list(ms.data.fixed(splits.test, None, 256, mean=splits.mean, std=splits.std, seed=0))
    original = pretrained(splits, test, arguments.work, path)
    macs = ms.cost.subnet_macs(original, SHAPE)
    for seed in arguments.seeds:
        for name in arguments.arms:
            rows = records.read_lines(path)
            done = {(row["arm"], row["seed"]) for row in rows if row["measure"] == "arm"}
            if (name, seed) not in done:
                task = Task(splits, {s: int(s * macs) for s in SHARES}, seed, arguments.work)
                found = list(measured(name, original, task, test, arguments.rounds))
                for row in found:
                    row = {"measure": "arm", "arm": name, "seed": seed, **row, **provenance()}
                    records.append(path, row)
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
