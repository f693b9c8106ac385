"""manyshot: one-shot neural architecture search. `import manyshot as ms`.

Names are imported when first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyshot._version import __version__

if TYPE_CHECKING:
    from manyshot import (
        conversion,
        cost,
        data,
        evaluate,
        export,
        nn,
        rank,
        search,
        sharing,
        space,
        tasks,
        train,
        transfer,
        zoo,
    )
    from manyshot.conversion import convert
    from manyshot.finding import find
    from manyshot.fitting import fit
    from manyshot.nn import value
    from manyshot.recipe import Recipe, TrainingSettings
    from manyshot.runs import Run, run
    from manyshot.space import (
        Arch,
        Budget,
        Decision,
        SearchSpace,
        Size,
        choose,
        concat,
        round_to,
        scope,
    )
    from manyshot.supernet import Supernet

_MODULES = (
    "conversion", "cost", "data", "evaluate", "export", "nn", "rank", "search", "sharing", "space",
    "tasks", "train", "transfer", "zoo"
)  # fmt: skip
_NAMES = {
    "Arch": "manyshot.space",
    "Budget": "manyshot.space",
    "Decision": "manyshot.space",
    "Recipe": "manyshot.recipe",
    "Run": "manyshot.runs",
    "SearchSpace": "manyshot.space",
    "Size": "manyshot.space",
    "Supernet": "manyshot.supernet",
    "TrainingSettings": "manyshot.recipe",
    "choose": "manyshot.space",
    "concat": "manyshot.space",
    "convert": "manyshot.conversion",
    "find": "manyshot.finding",
    "fit": "manyshot.fitting",
    "round_to": "manyshot.space",
    "run": "manyshot.runs",
    "scope": "manyshot.space",
    "value": "manyshot.nn",
}

__all__ = [
    "Arch",
    "Budget",
    "Decision",
    "Recipe",
    "Run",
    "SearchSpace",
    "Size",
    "Supernet",
    "TrainingSettings",
    "__version__",
    "choose",
    "concat",
    "conversion",
    "convert",
    "cost",
    "data",
    "evaluate",
    "export",
    "find",
    "fit",
    "nn",
    "rank",
    "round_to",
    "run",
    "scope",
    "search",
    "sharing",
    "space",
    "tasks",
    "train",
    "transfer",
    "value",
    "zoo",
]

if not TYPE_CHECKING:  # a type checker must see names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(f"manyshot.{name}")
        if name in _NAMES:
            attribute = getattr(importlib.import_module(_NAMES[name]), name)
            globals()[name] = attribute
            return attribute
        raise AttributeError(f"module 'manyshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
