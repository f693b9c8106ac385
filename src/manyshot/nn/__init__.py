"""Layers that read the active selection."""

from manyshot.nn.attention import RelativePosition, SelfAttention
from manyshot.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, BatchNormStats
from manyshot.nn.choice import Choice, Depth
from manyshot.nn.convolution import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
)
from manyshot.nn.drop_path import DropPath
from manyshot.nn.elastic import Embedding, Linear, Parameter, PReLU
from manyshot.nn.group_norm import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from manyshot.nn.layer_norm import LayerNorm, RMSNorm
from manyshot.nn.linear_skip import LinearSkip
from manyshot.nn.placement import LEFT, RIGHT, Placement
from manyshot.nn.resize import Resize
from manyshot.nn.selection import checkpoint, value

__all__ = [
    "LEFT",
    "RIGHT",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "BatchNormStats",
    "Choice",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Depth",
    "DropPath",
    "Embedding",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "Linear",
    "LinearSkip",
    "PReLU",
    "Parameter",
    "Placement",
    "RMSNorm",
    "RelativePosition",
    "Resize",
    "SelfAttention",
    "checkpoint",
    "value",
]
