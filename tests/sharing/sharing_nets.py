"""Networks that tests of sharing schemes run on."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import manyshot as ms


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class Gate(nn.Module):
    """Squeeze and excitation of a fixed width, with biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.body(x))


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Mixed(nn.Module):
    """Everything at once: choices, elastic sizes, depth, a free tensor, ties, a parametrisation."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = ms.choose((4, 6, 8), "width"), ms.choose((1, 3, 5), "kernel")
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        tied = nn.Conv2d(8, 8, 1, bias=False)
        twin = nn.Conv2d(8, 8, 1, bias=False)
        twin.weight = tied.weight
        scaled = parametrize.register_parametrization(nn.Conv2d(8, 8, 1), "weight", Doubled())
        self.op = ms.nn.Choice(
            {
                "skip": nn.Identity(),
                "gate": Gate(8),
                "twice": nn.Sequential(tied, nn.BatchNorm2d(8), nn.ReLU(), twin),
                "scaled": scaled,
                "norm": nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)),
            },
            "op",
        )
        self.widen = ms.nn.Conv2d(8, width, kernel, padding=kernel // 2)
        self.norm = ms.nn.BatchNorm2d(width)
        self.shift = ms.nn.Parameter((1, width, 1, 1), nn.init.normal_)
        self.blocks = [ms.nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.tail = ms.nn.Depth(self.blocks, (1, 2, 3), "depth")
        self.head = ms.nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.widen(self.op(self.stem(x)))) + self.shift()
        return self.head(self.tail(x).mean((2, 3)))


class ConvNorm(nn.Module):
    """Two layers of two convolutions with batch norm."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layers = nn.Sequential(*(self._layer(width, f"layer{i}") for i in range(2)))
        self.head = nn.Linear(width, 10)

    @staticmethod
    def _layer(width: int, name: str) -> ms.nn.Choice:
        return ms.nn.Choice(
            [
                nn.Sequential(
                    nn.Conv2d(width, width, k, padding=k // 2, bias=False), nn.BatchNorm2d(width)
                )
                for k in (1, 3)
            ],
            name,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.layers(self.stem(x))).mean((2, 3)))


def k_shot(make, copies=4, **options) -> ms.Supernet:
    options = {"seed": 1, **options}
    return seeded(lambda: ms.Supernet(make(), sharing=ms.sharing.KShot(copies, **options)))


def vary_codes(net: ms.Supernet, std: float = 1.0) -> None:
    """Codes far from uniform, as if learnt."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        net.sharing.simplex_net.last.weight.normal_(0, std, generator=generator)
