"""ShiftNAS on your own network: train towards budgets, then ask for a network of any cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms


class Block(nn.Module):
    """Attention and an MLP, with heads and hidden width of their own."""

    def __init__(self, width: ms.space.Decision, name: str) -> None:
        super().__init__()
        heads, ratio = ms.choose((1, 2, 4), f"{name}.heads"), ms.choose((1, 2, 4), f"{name}.ratio")
        self.before, self.norm = ms.nn.LayerNorm(width), ms.nn.LayerNorm(width)
        self.attention = ms.nn.SelfAttention(width, heads, head_dim=8)
        hidden = width * ratio
        self.up, self.down = ms.nn.Linear(width, hidden), ms.nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape."""
        x = x + self.attention(self.before(x))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """A small vision transformer on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((16, 24, 32), "width")
        self.patches = ms.nn.Conv2d(1, width, 2, 2)
        self.position = ms.nn.Parameter((1, 16, width), nn.init.normal_)
        self.blocks = ms.nn.Depth([Block(width, f"block{i}") for i in range(3)], (1, 2, 3), "depth")
        self.norm, self.head = ms.nn.LayerNorm(width), ms.nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) to logits (B, 10)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position()
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def main(epochs: int = 60, seed: int = 0) -> list[tuple[float, float, float]]:
    """Trains weights, generator and distribution; returns limit, cost and test accuracy."""
    torch.manual_seed(seed)
    splits = ms.data.load("digits", held_out=0.1, seed=seed)
    net = ms.Supernet(Net(), input_shape=splits.image_shape)
    macs = ms.cost.macs_table(net, splits.image_shape)
    config = ms.train.ShiftNASOptions(period=25, images=128)  # 8 targets where uniform sampling is
    sampler = ms.train.ShiftNAS(net.space, {"macs": macs}, config, seed=seed)
    settings = ms.TrainingSettings(epochs=epochs, optimizer="adamw", lr=2e-3, weight_decay=0.01)
    ms.fit(net, splits, sampler=sampler, settings=settings, seed=seed)
    looks: dict[str, Any] = {"mean": splits.mean, "std": splits.std, "seed": seed}
    test, networks = ms.data.fixed(splits.test, None, 256, **looks), []
    for limit in (100e3, 200e3, 300e3):
        made = sampler.generate(limit)  # no search; `extract` gives plain modules
        accuracy = ms.evaluate.score_module(net.extract(made.arch), test).value
        print(f"limit {limit:,.0f}: {made.cost:,} MACs, test accuracy {accuracy:.1%}")
        networks.append((limit, made.cost, accuracy))
    return networks


if __name__ == "__main__":
    main()
