"""manyshot: one-shot neural architecture search. `import manyshot as ms`.

Names are imported when first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyshot._version import __version__

if TYPE_CHECKING:
    from manyshot import (
        cost,
        data,
        evaluate,
        export,
        nn,
        rank,
        search,
        sharing,
        space,
        train,
        transfer,
        zoo,
    )
    from manyshot.nn import value
    from manyshot.recipe import Recipe
    from manyshot.space import Arch, Budget, SearchSpace, choose, round_to, scope
    from manyshot.supernet import Supernet

_MODULES = (
    "cost", "data", "evaluate", "export", "nn", "rank", "search", "sharing", "space", "train",
    "transfer", "zoo"
)  # fmt: skip
_NAMES = {
    "Arch": "manyshot.space",
    "Budget": "manyshot.space",
    "Recipe": "manyshot.recipe",
    "SearchSpace": "manyshot.space",
    "Supernet": "manyshot.supernet",
    "choose": "manyshot.space",
    "round_to": "manyshot.space",
    "scope": "manyshot.space",
    "value": "manyshot.nn",
}

__all__ = [
    "Arch",
    "Budget",
    "Recipe",
    "SearchSpace",
    "Supernet",
    "__version__",
    "choose",
    "cost",
    "data",
    "evaluate",
    "export",
    "nn",
    "rank",
    "round_to",
    "scope",
    "search",
    "sharing",
    "space",
    "train",
    "transfer",
    "value",
    "zoo",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"manyshot.{name}")
    if name in _NAMES:
        found = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'manyshot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
