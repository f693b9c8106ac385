"""A small instance of every network of the zoo: fewer stages, of the same blocks and decisions."""

import functools
from unittest.mock import patch

import torch
from torch import nn

import manyshot as ms
from manyshot.zoo import NETWORKS, mobilenet
from manyshot.zoo.autoformer import SCALES, Scale

SHAPE = (3, 16, 16)
"""Of an image for any of them."""

SMALL = {
    "attentivenas": {"resolutions": (16, 24)},
    "autoformer": {"image_size": 16, "patch": 8},
    "bignas": {"resolutions": (16, 24)},
    "cell": {"width": 4, "cells": 1},
    "convnet": {"width": 8, "image_size": 16},
    "darts": {"width": 2, "cells": 3},
    "macro": {"width": 4},
    "mbv2_se": {"widths": (8,), "repeats": (2,), "strides": (2,)},
    "shufflenet": {"widths": (8, 12), "repeats": (2, 2), "strides": (2, 2), "stem": 4, "tail": 16},
    "tiny": {"channels": 3},
    "tiny_cnn": {"resolutions": (16, 24)},
    "tiny_vit": {"image_size": 16, "channels": 3, "relative_position": True},
}


def small(name: str, **options) -> nn.Module:
    """With the first, the fourth and the seventh stage of the mobile networks, and 2 or 3 blocks.

    These stages are with and without elastic kernels, expansions, depths, widths, squeeze and
    excitation, and strides, and their first blocks meet equal and other widths.
    """
    scale = Scale((24, 32), (2, 3), (3, 4), (3.5, 4), head_dim=8)
    with (
        patch.object(mobilenet, "BIGNAS", mobilenet.BIGNAS[::3]),
        patch.object(mobilenet, "ATTENTIVENAS", mobilenet.ATTENTIVENAS[::3]),
        patch.dict(SCALES, tiny=scale),
    ):
        return NETWORKS[name](**{**SMALL[name], **options})


CLASSES = 5


@functools.cache
def supernet(name: str) -> ms.Supernet:
    """One of 5 classes for all tests, to be copied before it is changed: making it takes longer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ms.Supernet(small(name, classes=CLASSES), input_shape=SHAPE)
