"""What each of two processes does in `test_train_shards.py`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from train_nets import CPU, LOOK, Stopped, digits, seeded, weights

import manyshot as ms
from manyshot.recipe import SupernetSettings
from manyshot.train import Plan, Stateless, Trainer, Uniform, engine
from manyshot.train.plan import PlannedPath
from manyshot.train.sharding import part_of

DATA = digits(3 * 32)
ADAM = {"optimizer": "adamw", "lr": 1e-3}
RUNS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "operations": (lambda: ms.zoo.tiny(width=4), ADAM),
    "cnn": (
        lambda: ms.zoo.tiny_cnn(channels=1),
        {"ema": 0.9, "clip_norm": 0.5, "accumulate": 2, "dtype": torch.float64},
    ),
    "vit": (ms.zoo.tiny_vit, {**ADAM, "precision": "bf16", "mixup": 0.2}),
    "paths": (
        lambda: ms.zoo.tiny(width=4),
        {**ADAM, "sampler": "fair", "dtype": torch.float64},
    ),
}
"""Networks, and how they train."""


def trained(
    name: str, shard: bool, folder: Path | None, sampler: Any = None
) -> tuple[ms.Supernet, Trainer]:
    """A network after its training of three steps, and what trained it."""
    make, options = RUNS[name]
    options = {"epochs": 1, "batch_size": 32, "checkpoint_steps": 2, **options}
    dtype = options.pop("dtype", torch.float32)
    net = seeded(lambda: ms.Supernet(make(), input_shape=DATA.image_shape)).to(dtype)
    drawn = ms.train.make_sampler(options.pop("sampler", "uniform"), net.space, {})
    accelerator = engine(CPU, ms.TrainingSettings())
    batches = ms.data.Batches(
        DATA.train,
        32,
        dtype=dtype,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        **LOOK,
    )
    trainer = ms.fit(
        net,
        batches,
        sampler=sampler or drawn,
        settings=SupernetSettings(**options, shard=shard),
        seed=3,
        accelerator=accelerator,
        folder=folder,
        fingerprint="mine",
    )
    return net, trainer


class Stopping(Stateless):
    """Draws uniform paths, and is killed before the third step."""

    def __init__(self, space: ms.SearchSpace) -> None:
        self.uniform = Uniform(space)

    def plan(self, rng, step):
        if step == 2:
            raise Stopped
        return self.uniform.plan(rng, step)


class Apart(Stateless):
    """Draws another path in each process."""

    def plan(self, rng, step):
        return Plan((PlannedPath((engine(CPU, ms.TrainingSettings()).process_index,) * 4),))


def held(trainer: Trainer) -> int:
    """The bytes that this process has of parameters and of what the optimiser keeps."""
    states = trainer.optimisation.weights.state.values()
    kept = [t for state in states for t in state.values() if isinstance(t, torch.Tensor)]
    return sum(part_of(t).nbytes for t in [*trainer.net.parameters(), *kept])


def main(out: Path) -> None:
    results: dict[str, Any] = {}
    for name in RUNS:
        for shard in (False, True):
            folder = out / f"{name}-{shard}" if name == "operations" else None
            net, trainer = trained(name, shard, folder)
            results[name, shard] = {
                "weights": weights(net),
                "held": held(trainer),
                "strides": [p.stride() for p in net.parameters()],
            }
    folder, net = out / "killed", ms.Supernet(ms.zoo.tiny(width=4))
    try:
        trained("operations", True, folder, Stopping(net.space))
    except Stopped:
        results["resumed"] = weights(trained("operations", True, folder)[0])
    try:
        trained("operations", True, out / "apart", Apart())
    except ValueError as error:
        results["apart"] = str(error)
    rank = engine(CPU, ms.TrainingSettings()).process_index
    torch.save(results, out / f"{rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
