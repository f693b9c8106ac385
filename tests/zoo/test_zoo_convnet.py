"""`convnet` against what one would write by hand."""

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.zoo import convnet


def by_hand(widths, depths, strides, classes=9):
    """Channels, depths and strides of layers as multiply-adds and parameters, counted by torch."""
    layers, into = [], 3
    for width, depth, stride in zip(widths, depths, strides, strict=True):
        layers += [nn.Conv2d(into, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)]
        for _ in range(depth):
            layers += [nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)]
        into = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes)]
    return nn.Sequential(*layers, *head)


@pytest.mark.parametrize(
    ("choices", "widths", "depths"),
    [
        ((3, 3, 3, 1, 1, 1), (24, 48, 72), (2, 2, 2)),
        ((0, 0, 0, 0, 0, 0), (6, 12, 18), (1, 1, 1)),
        ((1, 2, 3, 1, 0, 1), (12, 36, 72), (2, 1, 2)),
    ],
)
def test_costs_are_those_of_layers_written_by_hand(choices, widths, depths):
    net = ms.Supernet(convnet(classes=9), input_shape=(3, 32, 32))
    assert [d.name for d in net.space.decisions] == [
        *(f"{kind}{stage}" for kind in ("width", "depth") for stage in range(3))
    ]
    plain = by_hand(widths, depths, (1, 2, 2))
    assert int(ms.cost.params(net, [choices])[0]) == sum(p.numel() for p in plain.parameters())
    assert int(ms.cost.macs(net, [choices])[0]) == ms.cost.subnet_macs(plain, (3, 32, 32))


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (8, [8, 4, 2]),
        (28, [28, 14, 7]),
        (32, [32, 16, 8]),
        (64, [32, 16, 8]),
        (100, [25, 13, 7]),
        (224, [28, 14, 7]),
    ],
)
def test_images_are_halved_to_about_32_pixels_then_in_every_stage(size, sides):
    net = ms.Supernet(convnet(width=4, image_size=size), input_shape=(3, size, size))
    subnet, seen = net.extract(net.space.largest, stats=None), []
    for name, module in subnet.named_modules():
        if name.split(".")[0] == "chain" and name.count(".") == 1:
            module.register_forward_hook(lambda m, i, out: seen.append(out.shape[-1]))
    subnet.train()(torch.randn(2, 3, size, size))
    assert sorted(set(seen[:-1]), reverse=True)[-len(sides) :] == sides


def test_the_side_of_the_images_comes_from_the_data(tmp_path):
    from manyshot.pipeline import Workspace
    from manyshot.recipe import Recipe

    asked = ["network.name=convnet", "network.options.width=4", "data.image_size=64"]
    ws = Workspace.build(Recipe.load(None, asked))
    first = ws.net.extract(ws.net.space.largest, stats=None).chain[0][0]
    assert first.stride == (2, 2)  # 64 pixels are halved before the first stage
