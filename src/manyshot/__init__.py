"""manyshot: one-shot neural architecture search. `import manyshot as ms`."""

from manyshot import nn, sharing
from manyshot._version import __version__
from manyshot.nn import value
from manyshot.space import Arch, Budget, SearchSpace, choose, round_to, scope
from manyshot.supernet import Supernet

__all__ = [
    "Arch",
    "Budget",
    "SearchSpace",
    "Supernet",
    "__version__",
    "choose",
    "nn",
    "round_to",
    "scope",
    "sharing",
    "value",
]
