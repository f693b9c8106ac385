"""Networks whose sizes can all be masked, and trainers of them with learnt samplers."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from train_nets import CPU, LOOK, seeded

import manyshot as ms
from manyshot.cost import CostTable, macs_table, params_table
from manyshot.train import (
    Probe,
    Sampler,
    ShiftNAS,
    ShiftNASOptions,
    Trainer,
    TrainingSettings,
    engine,
)

SHAPE = (1, 8, 8)
APART = 60
"""Held-out images; not a whole number of batches of 32."""


class Block(nn.Module):
    """Attention and a hidden layer, each behind a norm and beside a sum."""

    def __init__(self, width: Any, heads: Any, ratio: Any) -> None:
        super().__init__()
        self.norm, self.norm_2 = ms.nn.LayerNorm(width), ms.nn.LayerNorm(width)
        self.attention = ms.nn.SelfAttention(width, heads, 4)
        self.expand = ms.nn.Linear(width, width * ratio)
        self.reduce = ms.nn.Linear(width * ratio, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.reduce(nn.functional.gelu(self.expand(self.norm_2(x))))


class Vit(nn.Module):
    """Width and depth for all blocks, heads and ratio for each; six decisions, no batch norm."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        width = ms.choose((4, 8, 12), "width")
        self.embed = ms.nn.Conv2d(1, width, 4, stride=4)
        self.position = ms.nn.Parameter((1, 4, width), functools.partial(nn.init.normal_, std=0.1))
        blocks = [
            Block(width, ms.choose((1, 2, 3), f"heads{i}"), ms.choose((1, 2), f"ratio{i}"))
            for i in range(2)
        ]
        self.blocks = ms.nn.Depth(blocks, (1, 2), "depth")
        self.dropout, self.norm = nn.Dropout(dropout), ms.nn.LayerNorm(width)
        self.head = ms.nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position()
        return self.head(self.norm(self.dropout(self.blocks(x))).mean(1))


class Conv(nn.Module):
    """Batch norms, an elastic width and kernel, and a choice."""

    def __init__(self) -> None:
        super().__init__()
        width, kernel = ms.choose((4, 8), "width"), ms.choose((1, 3), "kernel")
        self.stem = nn.Sequential(
            ms.nn.Conv2d(1, width, kernel, stride=2, padding=kernel // 2, bias=False),
            ms.nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        options = {"skip": nn.Identity(), "conv": ms.nn.Conv2d(width, width, 1)}
        self.op = ms.nn.Choice(options, "op")
        self.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 10))
        self.mix = ms.nn.Linear(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.op(self.stem(x)).mean((2, 3))))


@functools.cache
def splits() -> ms.data.Splits:
    return ms.data.load("digits", train_size=128, held_out=APART)


def supernet(make: Any = Vit, sharing: Any = None) -> ms.Supernet:
    return seeded(lambda: ms.Supernet(make(), sharing=sharing))


def k_shot(**options: Any) -> ms.sharing.KShot:
    usual = {"warm_frac": 0.25, "last_std": 0.1, "seed": 1}
    if options.get("update_mode") != "joint":
        usual |= {"m": 2, "code_every": 2}
    return ms.sharing.KShot(2, **{**usual, **options})


def costs(net: ms.Supernet) -> dict[str, CostTable]:
    return {"macs": macs_table(net, SHAPE), "params": params_table(net)}


@functools.cache
def known_costs(make: Any) -> dict[str, CostTable]:
    """Tables go by position, so those of one network serve all of its kind."""
    return costs(supernet(make))


def held_out(images: int, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    own = splits().held_out
    count = images if images < len(own) else None
    return ms.data.fixed(own, count, 32, dtype=dtype, **{**LOOK, "seed": seed})


PAPER = {
    "rule": "paper",
    "kept": "weights",
    "images": 2048,
    "dead_zone": 0.0,
    "entropy_weight": 0.0,
    "mix_uniform": 0.0,
    "policy_share": 1.0,
    "policy_every": 1,
}
"""Masks on the whole batch in every step, a copy of the weights for probes, nothing of ours."""


def shift(net: ms.Supernet, make: Any = Vit, **options: Any) -> ShiftNAS:
    """An eager sampler as in the paper: a warm-up of a fifth, an update every third step."""
    eager = {
        **PAPER,
        "warmup": 0.2,
        "period": 3,
        "lr": 3e-2,
        "bins": 4,
        "hidden": 16,
        **({"draws": 4} if options.get("estimator") == "pathwise" else {}),
    }
    return ShiftNAS(net.space, known_costs(make), ShiftNASOptions(**{**eager, **options}), seed=2)


def shifting(
    sampler: Sampler | None = None,
    net: ms.Supernet | None = None,
    folder: Path | None = None,
    *,
    make: Any = Vit,
    sharing: Any = None,
    dtype: torch.dtype = torch.float32,
    shifts: dict[str, Any] | None = None,
    probes: bool = True,
    macs_of: Any = None,
    **settings: Any,
) -> Trainer:
    """A trainer of 20 steps, four to an epoch, by `shift` unless another sampler is given."""
    defaults = {"epochs": 5, "batch_size": 32, "checkpoint_steps": 4, "log_steps": 5, "lr": 3e-3}
    training = TrainingSettings(**{**defaults, "optimizer": "adamw", **settings})
    net = net or supernet(make, sharing).to(dtype)
    accelerator = engine(CPU, training)
    rank, world = accelerator.process_index, accelerator.num_processes
    return Trainer(
        net=net,
        sampler=sampler or shift(net, make, **(shifts or {})),
        batches=ms.data.Batches(
            splits().train, training.batch_size, dtype=dtype, rank=rank, world=world, **LOOK
        ),
        settings=training,
        seed=5,
        largest=net.space.largest,
        accelerator=accelerator,
        folder=folder,
        fingerprint="mine",
        held_out=functools.partial(held_out, dtype=dtype) if probes else None,
        macs_of=macs_of,
    )


def policy_of(net: ms.Supernet, arch: ms.Arch, dtype: torch.dtype = torch.float32) -> Any:
    """Exact one-hots with a gradient, as a generator would make."""
    pairs = zip(net.space.decisions, arch, strict=True)
    return {
        d: nn.functional.one_hot(torch.tensor(i), len(d.options)).to(dtype).requires_grad_()
        for d, i in pairs
    }


def probes_of(run: Trainer) -> Iterator[tuple[int, Probe]]:
    """The probes that a run's sampler asks for, by weight step, without training."""
    for step in range(1, run.weight_steps + 1):
        run.weight_step = run.step = step
        probe = run.probe()
        if probe is not None:
            yield step, probe
