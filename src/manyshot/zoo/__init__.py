"""Ready networks, to be wrapped by `ms.Supernet`."""

from manyshot.zoo.macro import macro
from manyshot.zoo.shufflenet import shufflenet
from manyshot.zoo.tiny import tiny

NETWORKS = {"macro": macro, "shufflenet": shufflenet, "tiny": tiny}

__all__ = ["NETWORKS", "macro", "shufflenet", "tiny"]
