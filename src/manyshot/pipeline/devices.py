"""Where a run computes: the device, its threads, its processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, PartialState

from manyshot.cost.timing import on_threads
from manyshot.recipe import Recipe, RecipeError
from manyshot.train import engine

Stage = TypeVar("Stage", bound=Callable[..., Any])


def on_its_threads(stage: Stage) -> Stage:
    """`stage(recipe, ...)` run on the recipe's number of threads, restored afterwards."""

    @functools.wraps(stage)
    def run(recipe: Recipe, *args: Any, **kwargs: Any) -> Any:
        own = torch.get_num_threads() if recipe.threads == "default" else recipe.threads
        with on_threads(own):
            return stage(recipe, *args, **kwargs)

    return cast(Stage, run)


def pick_device(name: str) -> torch.device:
    """The device of a recipe: `auto` is the current accelerator, if there is one.

    Raises:
        RecipeError: for a device that torch does not know or have, or a numbered GPU.
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            raise RecipeError(
                f"device = {name!r}: Accelerate places models itself; set device = 'cuda' and "
                f"choose the GPU by the environment: CUDA_VISIBLE_DEVICES={device.index}"
            )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device = {name!r}: {error}") from error
    return device


def processes(recipe: Recipe) -> int:
    """How many processes were started together; each takes its own GPU, if it uses one."""
    on_cpu = pick_device(recipe.device).type == "cpu"
    return int(PartialState(cpu=on_cpu).num_processes)


def start_engine(recipe: Recipe, device: torch.device, folder: Path) -> Accelerator:
    """The accelerator of all stages, with a tracker if any of them has one."""
    tracked = recipe.train if recipe.train.tracker else recipe.finish.training
    return engine(device, tracked, folder)


def stop(accelerator: Accelerator) -> None:
    """Closes trackers; other processes stay connected, for runs to come."""
    for tracker in accelerator.trackers:
        tracker.finish()
