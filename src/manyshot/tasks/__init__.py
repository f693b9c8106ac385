"""Tasks: what networks are to learn, and how well they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manyshot.plugins import build
from manyshot.tasks.classes import Classification, Dense
from manyshot.tasks.labels import MultiLabel
from manyshot.tasks.task import (
    Guesses,
    Loss,
    Metric,
    MixesTargets,
    OneLoss,
    Smooths,
    Softens,
    Task,
    Votes,
    WithLoss,
)
from manyshot.tasks.values import Regression

TASKS: dict[str, Callable[..., Task]] = {
    "classification": Classification,
    "dense": Dense,
    "multi_label": MultiLabel,
    "regression": Regression,
}
"""The tasks that come with manyshot."""

DEFAULT: Task = Classification()
"""What is trained and scored where nobody says otherwise."""

__all__ = [
    "DEFAULT",
    "TASKS",
    "Classification",
    "Dense",
    "Guesses",
    "Loss",
    "Metric",
    "MixesTargets",
    "MultiLabel",
    "OneLoss",
    "Regression",
    "Smooths",
    "Softens",
    "Task",
    "Votes",
    "WithLoss",
    "as_task",
    "make_task",
]


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Makes a task by name.

    Args:
        name: a key of `TASKS`, or `package.module:attribute`.
        options: the task's options by name.

    Raises:
        ValueError: what `manyshot.plugins.build` says.
    """
    return build("task", name, options or {}, table=TASKS, contract=Task, context={})


def as_task(task: Task | str) -> Task:
    """A task that is made already, or by its name.

    Raises:
        ValueError: as `make_task`, or for something that is no task.
    """
    if isinstance(task, str):
        return make_task(task)
    if isinstance(task, type) or not isinstance(task, Task):
        what = f"the class {task.__name__}" if isinstance(task, type) else repr(task)
        raise ValueError(
            f"task is {what}: give an object that is a task, such as ms.tasks.Dense(), or the name "
            f"of one ({', '.join(TASKS)}, or 'package.module:attribute')"
        )
    return task
