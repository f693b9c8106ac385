"""Layers that read the active selection."""

from manyshot.nn.attention import RelativePosition, SelfAttention
from manyshot.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormStats
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.elastic import Conv2d, Linear, Parameter
from manyshot.nn.layer_norm import LayerNorm
from manyshot.nn.resize import Resize
from manyshot.nn.selection import checkpoint, value

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormStats",
    "Choice",
    "Conv2d",
    "Depth",
    "LayerNorm",
    "Linear",
    "Parameter",
    "RelativePosition",
    "Resize",
    "SelfAttention",
    "checkpoint",
    "value",
]
