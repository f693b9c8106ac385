"""A plain network, as people have it: no decisions, batch norms, blocks that repeat."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Plain(nn.Module):
    def __init__(self, channels, classes, width):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.hidden = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def plain(channels=3, classes=3, width=16):
    return Plain(channels, classes, width)


def named_otherwise(in_chans, num_classes=1000):
    return Plain(in_chans, num_classes, 8)


def worn(channels=3, classes=3, width=16):
    """With statistics of its own, as a network has that was trained."""
    model = Plain(channels, classes, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model
