"""Ready networks, to be wrapped by `ms.Supernet`."""

from collections.abc import Callable

from torch import nn

from manyshot.zoo.macro import macro
from manyshot.zoo.shufflenet import shufflenet
from manyshot.zoo.tiny import tiny

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "macro": macro,
    "shufflenet": shufflenet,
    "tiny": tiny,
}

__all__ = ["NETWORKS", "macro", "shufflenet", "tiny"]
