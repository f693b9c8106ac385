"""Ready networks, to be wrapped by `ms.Supernet`."""

from manyshot.zoo.macro import macro
from manyshot.zoo.tiny import tiny

NETWORKS = {"macro": macro, "tiny": tiny}

__all__ = ["NETWORKS", "macro", "tiny"]
