"""What a plain loop of PyTorch reaches: one small network, AdamW, one cycle, flips and shifts."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
PAD = 3
PEAK = 4e-3


class Plain(NamedTuple):
    """What came of a loop."""

    accuracy: float
    params: int
    epochs: int
    cpu_seconds: float


def network(width: int, classes: int) -> nn.Sequential:
    """Six convolutions of 3x3 with batch norms, in three stages of which two halve the image."""
    layers: list[nn.Module] = []
    channels = 3
    for stage, factor in enumerate((1, 2, 3)):
        for first in (True, False):
            stride = 2 if first and stage else 1
            convolution = nn.Conv2d(channels, factor * width, 3, stride, 1, bias=False)
            channels = factor * width
            layers += [convolution, nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def train(
    net: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int, peak: float = PEAK
) -> float:
    """Trains in place; returns the CPU seconds it took.

    Args:
        net: the network.
        images: normalised, (N, 3, H, W).
        labels: class indices, (N,).
        epochs: how often every image is seen.
        seed: of order, flips and shifts.
        peak: the highest rate of the cycle.
    """
    began = time.process_time()
    net.to(memory_format=torch.channels_last).train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), peak, weight_decay=0.05)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(BATCH):
            if len(rows) < BATCH:
                continue
            loss = F.cross_entropy(net(_moved(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return time.process_time() - began


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """A batch, flipped in half of the cases and shifted by up to `PAD` pixels together."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    down, right = torch.randint(0, 2 * PAD + 1, (2,), generator=generator).tolist()
    size = images.shape[-1]
    padded = F.pad(images, [PAD] * 4)[..., down : down + size, right : right + size]
    return padded.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose class is the likeliest."""
    net.eval()
    right = sum(
        int((net(some).argmax(1) == truth).sum())
        for some, truth in zip(images.split(256), labels.split(256), strict=True)
    )
    return right / len(labels)
