"""What a run on a folder of colour images reaches, beside a plain loop at the same size and time.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.emoji.run [--images shapes emoji] [--keep]

`manyshot run` serves three budgets with `recipes/folder.toml`, without controls, which are evidence
and no product; at the end the same supernet is searched with them. Beside each winner stands a
network of six plain convolutions of about as many parameters (`plain.py`), which trains for as much
CPU time as the run took, and for a third of that, its share of three budgets. The loop is as one
writes it, and once more with the recipe's optimiser, precision and changes of images. What is on
record is not done again.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import alternate, provenance
from benchmarks.studies.emoji import images, plain
from benchmarks.studies.emoji.page import write_page
from manyshot import records
from manyshot.recipe import Recipe

KEPT = kept.of_study(__file__)
RECIPE = kept.RECIPES / "folder.toml"
SIDE = 32
ROUNDS = 200
"""Of timing each network."""
UNCONTROLLED = ("controls.largest=false", "controls.random=0")
CONTROLLED = ("controls.largest=true", "controls.random=1")


class Arm(NamedTuple):
    """A plain network beside a winner.

    Attributes:
        share: of the run's CPU time, for which it trains.
        as_recipe: whether optimiser, precision and changes of images are those of the recipe.
    """

    share: float
    as_recipe: bool


ARMS = (Arm(1 / 3, False), Arm(1 / 3, True), Arm(1.0, False))
"""The shortest first."""


class Data(NamedTuple):
    """Images as plain networks train on them: all but the test images, and these.

    Attributes:
        splits: of which the train part holds the validation images too.
        train: normalised images and labels.
        test: likewise.
    """

    splits: ms.data.Splits
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def load(cls, folder: Path) -> Data:
        """The images of a folder."""
        splits = ms.data.load("folder", root=folder, image_size=SIDE, validation=0)
        look: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": 0}
        parts = []
        for part in (splits.train, splits.test):
            inputs, targets = zip(*ms.data.fixed(part, None, 256, **look), strict=True)
            parts.append((torch.cat(inputs), torch.cat(targets)))
        return cls(splits, *parts)


def commanded(*words: object) -> float:
    """The CPU seconds that a command of manyshot takes."""
    began = _cpu_seconds_of_children()
    command = [sys.executable, "-m", "manyshot", *map(str, words), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return _cpu_seconds_of_children() - began


def _cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def searched(work: Path, data: Path, seed: int, *, controls: bool) -> dict[str, Any]:
    """A record of a whole run without controls, or of a search of its supernet with them.

    Args:
        work: the folder of the run.
        data: the images.
        seed: of everything.
        controls: whether there are to be some.
    """
    folder = work.with_name(f"{work.name}-controls") if controls else work
    settings = CONTROLLED if controls else UNCONTROLLED
    sets = [word for text in settings for word in ("--set", text)]
    if controls:
        seconds = commanded("search", work, *sets, "--out", folder)
    else:
        for text in (f"seed={seed}", f"data.root={data}", f"data.image_size={SIDE}"):
            sets += ["--set", text]
        seconds = commanded("run", RECIPE, *sets, "--out", folder)
    result = records.read_json(folder / "result.json")
    row: dict[str, Any] = {"cpu_seconds": round(seconds, 1)}
    for kind in ("winners", "controls") if controls else ("winners",):
        wanted = ("budget", "kind", "arch", "macs", "params", "test_score")
        row[kind] = [{k: n[k] for k in wanted if k in n} for n in result[kind]]
    if controls:
        row["worth"] = result["verdict"]["worth"]
    return row


def width_for(params: int, classes: int) -> int:
    """The width of the plain network whose number of parameters is the nearest."""
    counts = {
        width: sum(p.numel() for p in plain.network(width, classes).parameters())
        for width in range(2, 65)
    }
    return min(counts, key=lambda width: abs(counts[width] - params))


def beside(params: int, arm: Arm, seconds: float, data: Data, seed: int) -> dict[str, Any]:
    """A plain network of about as many parameters, trained for a share of the run's time."""
    width = width_for(params, data.splits.classes)

    def trained(epochs: int) -> tuple[nn.Module, float]:
        torch.manual_seed(seed)  # noqa: TID251 (a plain loop, as its user would write it)
        net = plain.network(width, data.splits.classes)
        if not arm.as_recipe:
            return net, plain.train(net, *data.train, epochs, seed)
        began = time.process_time()
        as_recipe(net, data.splits, epochs, seed)
        return net, time.process_time() - began

    trained(1)  # so that the next is not the first of its kind
    _, two = trained(2)
    epochs = max(1, round(arm.share * seconds / (two / 2)))
    net, took = trained(epochs)
    return {
        "params": sum(p.numel() for p in net.parameters()),
        "macs": ms.cost.subnet_macs(net, data.splits.image_shape),
        "width": width,
        "epochs": epochs,
        "cpu_seconds": round(took, 1),
        "accuracy": plain.accuracy(net, *data.test),
    }


def as_recipe(net: nn.Module, splits: ms.data.Splits, epochs: int, seed: int) -> None:
    """Trains a network as winners are finished, from new weights."""
    recipe = Recipe.load(RECIPE, ["data.root=anywhere"])
    of_epochs = {"epochs": epochs, "least_images": None}
    settings = recipe.finish.training.model_copy(update=of_epochs)
    of = recipe.data
    augment = ms.data.Augment(
        pad=of.pad, padding_mode=of.padding_mode, flip=of.flip, jitter=of.jitter
    )
    net.to(memory_format=torch.channels_last)
    ms.fit(net, splits, settings=settings, augment=augment, seed=seed)


def latencies(run: dict[str, Any], plains: list[dict[str, Any]]) -> dict[str, Any]:
    """Median milliseconds of winners and of plain networks for one image, timed in turn.

    Args:
        run: the record of a run.
        plains: of plain networks, in the order of its winners.
    """
    classes = len(images.SHAPES if run["images"] == "shapes" else images.CATEGORIES)
    net = ms.Supernet(ms.zoo.convnet(classes=classes), input_shape=(3, SIDE, SIDE))
    networks = {
        f"winner {w['budget']}": net.extract(net.space.from_text(w["arch"])) for w in run["winners"]
    }
    networks |= {f"plain {p['budget']}": plain.network(p["width"], classes) for p in plains}
    image = torch.zeros(1, 3, SIDE, SIDE).to(memory_format=torch.channels_last)

    def timed(network: nn.Module) -> Callable[[], list[float]]:
        network.eval().to(memory_format=torch.channels_last)

        def once() -> list[float]:
            began = time.thread_time()
            network(image)
            return [1000 * (time.thread_time() - began)]

        return once

    with torch.inference_mode():
        sides = {name: [timed(network)] for name, network in networks.items()}
        milliseconds = alternate(sides, ROUNDS)
    return {name: round(float(np.median(each)), 4) for name, each in milliseconds.items()}


def main() -> None:
    """Does what is not on record, then writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", nargs="+", choices=images.MAKERS, default=list(images.MAKERS))
    parser.add_argument("--archives", type=Path, help="a folder that has npm's packages, or will")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    kept.options(parser, Path("runs") / "emoji")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    log = kept.begin(arguments, KEPT)

    def on_record(measure: str, **values: Any) -> list[dict[str, Any]]:
        wanted = {"measure": measure, **values}.items()
        return [row for row in records.read_lines(log) if wanted <= row.items()]

    def put(row: dict[str, Any]) -> None:
        records.append(log, {**row, **provenance()})

    for name in arguments.images:
        folder = images.MAKERS[name](arguments.work / name, arguments.archives)
        for seed in arguments.seeds:
            key, work = {"images": name, "seed": seed}, arguments.work / f"{name}-{seed}"
            if not on_record("run", **key):
                put({"measure": "run", **key, **searched(work, folder, seed, controls=False)})
            [run] = on_record("run", **key)
            data = Data.load(folder)
            for arm in ARMS:
                for winner in run["winners"]:
                    at = {**key, **arm._asdict(), "budget": winner["budget"]}
                    if not on_record("plain", **at):
                        row = beside(winner["params"], arm, run["cpu_seconds"], data, seed)
                        put({"measure": "plain", **at, **row})
            if not on_record("latency", **key):
                plains = on_record("plain", **key, **ARMS[0]._asdict())
                put({"measure": "latency", **key, "ms": latencies(run, plains)})
            if not on_record("controls", **key):
                put({"measure": "controls", **key, **searched(work, folder, seed, controls=True)})
    kept.end(arguments, KEPT, write_page)


if __name__ == "__main__":
    main()
