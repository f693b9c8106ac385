"""Training a network by itself, for the truth that supernets are compared with."""

from __future__ import annotations

import torch
from torch import nn

from manyshot import evaluate
from manyshot.pipeline import Workspace
from manyshot.train import Only, Standalone, Trainer, Training, engine, train


def alone(ws: Workspace, subnet: nn.Module, settings: Training, seed: int) -> evaluate.Score:
    """Trains a network by itself, as `settings` say, and scores it on the test images."""
    subnet = subnet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Trainer(
        net=Standalone(subnet),
        sampler=Only(()),
        batches=ws.batches(settings),
        settings=settings,
        seed=seed,
        largest=(),
        accelerator=engine(ws.device, settings),
    )
    train(run)
    return evaluate.accuracy(subnet.eval(), ws.fixed("test", None))
