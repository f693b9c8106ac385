"""A small space and generators for it."""

import torch

import manyshot as ms
from manyshot.train.generator import ArchitectureGenerator

GRID = [2.0, 3.0, 5.0, 5.5]
SMALL = ms.SearchSpace(
    [
        ms.choose((8, 16), "stem"),
        ms.choose((3, 5, 7), "block0.kernel"),
        ms.choose((32,), "block0.width"),
        ms.choose((3, 5, 7), "block1.kernel"),
        ms.choose((3, 5), "block2.kernel"),
        ms.choose((1, 2, 3), "head.depth"),
    ]
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(seed: int = 0, **options: object) -> ArchitectureGenerator:
    return ArchitectureGenerator(SMALL, GRID, generator=seeded(seed), **options)


def lively(seed: int = 0) -> ArchitectureGenerator:
    """With weights so large that decodes differ between targets."""
    generator = small(seed)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.normal_(0, 1, generator=seeded(seed + 1))
    return generator
