"""Moving a trained supernet to other images: its recipe, its weights, its new classifier."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file

from manyshot import records, transfer
from manyshot.pipeline.opening import SOURCE, WEIGHTS
from manyshot.pipeline.workspace import Workspace
from manyshot.progress import Progress
from manyshot.recipe import Optimising, Recipe, RecipeError, Sampling, Shifting
from manyshot.toml import override, read
from manyshot.train import CheckpointError, digest, load_weights
from manyshot.train.shifting import Shifter

_HEAD = 0x4EAD
"""Names a random stream of a run's seed."""
HEAD_RATE = 10
"""Of the classifier's rate to that of all else while the search runs, unless the recipe says."""
_KEPT = ("validation", "pad", "flip", "workers", "image_size")
"""Of a run's `[data]`, what goes on to its target; and if that is in files:"""
_KEPT_OF_FILES = ("crop_scale", "jitter")


def transfer_recipe(run: Path, path: Path | None, data: str | None, overrides: list[str]) -> Recipe:
    """What to do on the target: the recipe at `path`, or that of the run itself.

    Network and sharing are those of the run. Where the recipe does not say, the supernet shifts on
    the population, its classifier at `HEAD_RATE` times the rate of all else.

    Args:
        run: the folder of the run whose supernet is taken.
        path: a recipe; without one, the run's, but for images and sampler.
        data: name of the target data set; by default the recipe's.
        overrides: such as `data.root=PATH`.

    Raises:
        RecordError: if the run has no supernet.
        RecipeError: for what `Recipe.load` finds, another network or sharing than the run's, or if
            no target is given.
    """
    weights, own = run / WEIGHTS, read(run / "recipe.toml")
    if not weights.exists():
        raise records.RecordError(f"{run} has no {WEIGHTS}: train it first with manyshot train")
    values, source = read(path), str(run if path is None else path)
    if path is None:
        about_images = ("data", "sampler", "name")
        values = {key: value for key, value in own.items() if key not in about_images}
        values["shift"] = {k: v for k, v in own["shift"].items() if (k, v) != ("name", "none")}
    for part in ("network", "sharing"):
        values.setdefault(part, own[part])
    target = [] if data is None else [f"data.name={data!r}"]
    for text in [*overrides, *target, f"transfer.source={_digest(weights)!r}"]:
        override(values, text)
    for section, given in (("data", {}), ("shift", {"name": "population"})):
        if isinstance(values.setdefault(section, {}), dict):  # else a recipe refuses it
            values[section] = given | values[section]
    if path is None and isinstance(values["data"], dict):
        name = values["data"].get("name")
        kept = (*_KEPT, *(_KEPT_OF_FILES if name == "folder" else ()))
        look = {key: value for key, value in own["data"].items() if key in kept}
        values = {"name": f"{own['name']}-{name}", **values, "data": look | values["data"]}
    asked = Recipe.build(values, (), source)
    if "name" not in asked.data.model_fields_set:
        raise RecipeError("give the target: --data NAME, or a recipe with data.name")
    if asked.sampler != Sampling():
        raise RecipeError(
            f"{source}: [sampler] says which paths train a supernet, and a transfer takes one that "
            "is trained: leave it out"
        )
    if "head_lr" not in asked.shift.model_fields_set:
        faster = asked.shift.model_copy(update={"head_lr": HEAD_RATE * asked.shift.lr})
        asked = asked.model_copy(update={"shift": faster})
    trained = Recipe.load(run / "recipe.toml")
    for part in ("network", "sharing"):
        if getattr(asked, part) != getattr(trained, part):
            raise RecipeError(
                f"{source}: {part} is not that of the supernet in {run}: leave it out, the run's "
                "is taken"
            )
    return asked


def _digest(weights: Path) -> str:
    try:
        return digest(load_file(weights))
    except Exception as error:  # safetensors raises its own type, which is not exported for typing
        raise CheckpointError(
            f"weights {weights} cannot be read ({error}); if they are of a transfer, delete them "
            "and transfer again, else resume that run to make them again"
        ) from error


def take_source(folder: Path, run: Path) -> None:
    """Copies the supernet of `run`, to be moved, to `folder`."""
    with records.atomic(folder / SOURCE) as temporary:
        shutil.copyfile(run / WEIGHTS, temporary)


def adopt_source(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Loads the weights of the source run, and trains a new classifier for the target.

    All else keeps the weights it was trained to. While the classifier learns, on uniform paths, it
    alone moves; if killed, it begins anew.

    Raises:
        RecordError: if the source's weights are not in `folder`, or are others than the recipe's.
        CheckpointError: if they do not fit the network.
    """
    path, recipe = folder / SOURCE, ws.recipe
    if not path.exists():
        raise records.RecordError(
            f"{folder} has no {SOURCE}: the recipe is of a transfer, start it with "
            "manyshot transfer RUN"
        )
    if _digest(path) != recipe.transfer.source:
        raise records.RecordError(
            f"{path} is not what the recipe was made for ({recipe.transfer.source}): transfer the "
            "run again to another --out folder"
        )
    load_source(ws, path)
    _train_head(ws, accelerator, folder, progress)


def load_source(ws: Workspace, weights: Path) -> None:
    """Loads weights of whatever classes; the classifier is new, all else as on file.

    Raises:
        CheckpointError: if they do not fit the network.
    """
    name = ws.recipe.transfer.classifier
    head, _ = transfer.classifier(ws.net, name)
    transfer.new_head(ws.net, _classes(weights, f"model.{head}.weight"), name=name)
    load_weights(weights, ws.net)
    transfer.new_head(ws.net, ws.splits.classes, name=name, seed=ws.recipe.seed)


def _classes(path: Path, weight: str) -> int:
    with safe_open(path, "pt") as file:
        if weight not in file.keys():  # noqa: SIM118
            raise CheckpointError(
                f"weights {path} have no {weight!r}, the classifier: they are of another network"
            )
        return int(file.get_slice(weight).get_shape()[-2])


def _train_head(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    train = ws.recipe.train
    kept = train.model_dump(include=set(Optimising.model_fields))
    settings = Shifting(**kept | {"lr": ws.recipe.transfer.head_lr, "freeze_body": True})
    batches = ws.batches(settings, accelerator.process_index, accelerator.num_processes)
    shifter = Shifter(
        net=ws.net,
        batches=batches,
        settings=settings,
        seed=ws.recipe.seed,
        accelerator=accelerator,
        head=transfer.head_parameters(ws.net, ws.recipe.transfer.classifier),
        remedy="lower transfer.head_lr, or set train.clip_norm",
    )
    rng = np.random.default_rng((ws.recipe.seed, _HEAD))
    epochs = ws.recipe.transfer.head_epochs
    log = folder / "train.jsonl"
    if accelerator.is_main_process:
        records.keep_lines(log, lambda row: False)
    with progress.stage("head", epochs * len(batches)) as advance:
        for epoch in range(epochs):
            paths = [[ws.net.space.sample(rng)] for _ in range(len(batches))]
            loss = shifter.shift(paths)
            images = shifter.drawn * settings.batch_size
            record = {"step": shifter.step, "epoch": epoch + 1, "images": images}
            if accelerator.is_main_process:
                records.append(log, {**record, "lr": settings.lr, "loss": loss})
            advance(shifter.step, f"loss {loss:.3f}")
