"""Ready networks, to be wrapped by `ms.Supernet`."""

from collections.abc import Callable

from torch import nn

from manyshot.zoo.cell import cell
from manyshot.zoo.macro import macro
from manyshot.zoo.shufflenet import shufflenet
from manyshot.zoo.tiny import tiny

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cell": cell,
    "macro": macro,
    "shufflenet": shufflenet,
    "tiny": tiny,
}

__all__ = ["NETWORKS", "cell", "macro", "shufflenet", "tiny"]
