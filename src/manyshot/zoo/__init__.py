"""Ready networks, to be wrapped by `ms.Supernet`."""

from collections.abc import Callable

from torch import nn

from manyshot.zoo.autoformer import autoformer, tiny_vit
from manyshot.zoo.cell import cell
from manyshot.zoo.convnet import convnet
from manyshot.zoo.darts import darts
from manyshot.zoo.macro import macro
from manyshot.zoo.mbv2_se import mbv2_se
from manyshot.zoo.mobilenet import attentivenas, bignas, tiny_cnn
from manyshot.zoo.shufflenet import shufflenet
from manyshot.zoo.tiny import tiny

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "attentivenas": attentivenas,
    "autoformer": autoformer,
    "bignas": bignas,
    "cell": cell,
    "convnet": convnet,
    "darts": darts,
    "macro": macro,
    "mbv2_se": mbv2_se,
    "shufflenet": shufflenet,
    "tiny": tiny,
    "tiny_cnn": tiny_cnn,
    "tiny_vit": tiny_vit,
}

__all__ = [
    "NETWORKS",
    "attentivenas",
    "autoformer",
    "bignas",
    "cell",
    "convnet",
    "darts",
    "macro",
    "mbv2_se",
    "shufflenet",
    "tiny",
    "tiny_cnn",
    "tiny_vit",
]
