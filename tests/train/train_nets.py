"""A trainer of a few steps, and what tests ask of it."""

import random  # noqa: TID251 (only to see that nobody uses it)
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import manyshot as ms
from manyshot.train import Sampler, Standalone, Trainer, TrainingSettings, engine, make_sampler

CPU = torch.device("cpu")
LOOK = {"mean": [0.3], "std": [0.4], "seed": 0}


def digits(n: int = 128) -> ms.data.Splits:
    return ms.data.load("digits", train_size=n)


def seeded(make: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Dropping(nn.Module):
    """A choice, dropout, and no batch norm."""

    def __init__(self, dropout: float = 0.3, width: int = 8) -> None:
        super().__init__()
        options = {f"{n}": nn.Sequential(nn.Linear(64, n), nn.Linear(n, width)) for n in (4, 6, 8)}
        self.one = ms.nn.Choice(options, "one")
        self.two = ms.nn.Choice({"a": nn.Linear(width, width), "b": nn.Tanh()}, "two")
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(self.two(torch.relu(self.one(images.flatten(1))))))


def trainer(
    net: nn.Module | None = None,
    folder: Path | None = None,
    sampler: str = "uniform",
    images: int = 128,
    dtype: torch.dtype = torch.float32,
    seed: int = 5,
    fingerprint: str = "mine",
    factories: dict[str, Any] | None = None,
    device: torch.device = CPU,
    batches: ms.data.Batches | None = None,
    own: Sampler | None = None,
    **settings: Any,
) -> Trainer:
    defaults = {"epochs": 2, "batch_size": 32, "checkpoint_steps": 3, "log_steps": 2}
    training = TrainingSettings(**{**defaults, **settings})
    net = net or seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)))
    net.to(device)
    accelerator = engine(device, training)
    rank, world = accelerator.process_index, accelerator.num_processes
    space = ms.SearchSpace([]) if isinstance(net, Standalone) else net.space
    return Trainer(
        net=net,
        sampler=own or make_sampler(sampler, space, {}),
        batches=batches
        or ms.data.Batches(
            digits(images).train,
            training.batch_size,
            dtype=dtype,
            rank=rank,
            world=world,
            device=device,
            **LOOK,
        ),
        settings=training,
        seed=seed,
        largest=space.largest,
        accelerator=accelerator,
        folder=folder,
        fingerprint=fingerprint,
        **(factories or {}),
    )


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def random_states() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), rest


class Stopped(BaseException):
    """A kill, as far as Python can play one."""
