"""Images, networks and comparisons for the tests of scoring together."""

import torch
from torch import nn

import manyshot as ms
from manyshot.evaluate import score
from manyshot.zoo.blocks import pooled_classifier


def batches(seed, sizes, shape=(1, 8, 8)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn((n, *shape), generator=generator),
            torch.randint(10, (n,), generator=generator),
        )
        for n in sizes
    ]


def images(shape=(1, 8, 8)):
    return {"calibration": batches(0, (6, 5), shape), "validation": batches(1, (7, 3), shape)}


LOOK = images()
FORWARDED, BATCHES = 6 + 5 + 7 + 3, 4
CARRIED = FORWARDED * 4 * (4 * 64 + 4 * 64 + 8 * 16 + 8 * 16)
"""Of all 256: after the stem and three layers, 4, 4, 8, 8 channels of 64, 64, 16, 16 pixels."""


def supernet(make, **options) -> ms.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | ms.nn.BatchNorm2d)]
        for module in norms:  # or all would be alike
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        return ms.Supernet(model, **options)


def conv(into, out):
    return nn.Sequential(
        ms.nn.Conv2d(into, out, 3, padding=1, bias=False), ms.nn.BatchNorm2d(out), nn.ReLU()
    )


def assert_scored(population, net, look) -> None:
    found = list(population)
    assert sorted(arch for arch, _ in found) == sorted(population.archs)
    for arch, ours in found:
        assert ours == score(net, arch, **look), arch


def layer(number):
    options = {"conv": nn.Conv2d(4, 4, 1), "wide": nn.Conv2d(4, 4, 3, padding=1)}
    return ms.nn.Choice(options, f"layer{number}")


def chain(*between: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(1, 4, 3), layer(0), *between, layer(1), pooled_classifier(4, 10)]
