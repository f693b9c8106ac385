"""What each of two processes does in `test_train_ddp.py`; also run as a single process."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from shift_nets import k_shot, shifting
from torch import Tensor, nn
from train_nets import LOOK, Dropping, seeded, trainer, weights

import manyshot as ms
from manyshot.cost import CostTable
from manyshot.recipe import ShiftingSettings
from manyshot.train import (
    Angle,
    Plan,
    PlannedPath,
    Probed,
    Relaxed,
    RelaxedOptions,
    Shrinking,
    Stateless,
    Trainer,
    train,
)
from manyshot.train.exchange import average_gradients
from manyshot.train.shifting import Shifter, schedule

STEPS = 5


class Some(Stateless):
    """Two paths per step that leave out the options "4" and "b" (6 and a alternate)."""

    def plan(self, rng, step):
        return Plan((PlannedPath((1, 0)), PlannedPath((2, 0), weight=0.5)))


def watched(run: Trainer) -> tuple[list, list]:
    """The plans and, for each step, the names of parameters without gradient."""
    plans, absent = [], []
    plan, step, code_step = run.plan, run.optimisation.weights.step, None
    if run.optimisation.codes is not None:
        code_step = run.optimisation.codes.step

    def planning(*chunk: int) -> Plan:
        plans.append([path.arch for path in plan(*chunk).paths])
        return plan(*chunk)

    def noting(step):
        def stepping() -> None:
            absent.append([n for n, p in run.net.named_parameters() if p.grad is None])
            step()

        return stepping

    run.plan, run.optimisation.weights.step = planning, noting(step)
    if run.optimisation.codes is not None:
        run.optimisation.codes.step = noting(code_step)
    return plans, absent


K_SHOT = {
    "codes": {},
    "joint": {"update_mode": "joint"},
    "chunks": {"m": 2},
    "widths": {"beta": 5.0},
    "both": {"beta": 5.0, "update_mode": "joint"},
}
"""Options of K-shot runs; with one chunk, two processes train on what one would."""


class Wide(nn.Module):
    """A width, so that codes have a regulariser, and an option without weights."""

    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((2, 4, 8), "width")
        self.one = ms.nn.Choice([nn.Identity(), nn.Linear(64, 64)], "one")
        self.two, self.head = ms.nn.Linear(64, width), ms.nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(self.one(images.flatten(1)))))


RELAXED = {
    "softmax": {"estimator": "softmax", "cost_weight": 0.2},
    "beside": {"estimator": "hard", "others": True, "tau": 5.0},
    "one level": {"estimator": "gumbel", "schedule": "one_level", "entropy_weight": 0.1},
}
"""Options of runs whose sampler mixes options."""


def with_weights_of_options(kind: str, folder: Path | None = None) -> dict[str, object]:
    """Four steps in float64 on a network without batch norm or dropout."""
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0))).double()
    counts = net.space.counts.tolist()
    tables = {(i,): torch.arange(n).numpy() + 1 for i, n in enumerate(counts)}
    costs = {"macs": CostTable.of("macs", tuple(counts), tables.items())}
    options = RelaxedOptions(lr=0.1, period=2, **RELAXED[kind])

    def held_out(images: int, seed: int) -> Iterable[tuple[Tensor, Tensor]]:
        part = ms.data.load("digits", train_size=160, held_out=32).held_out
        return ms.data.fixed(part, images, 32, dtype=torch.float64, **{**LOOK, "seed": seed})

    run = trainer(
        net,
        folder,
        dtype=torch.float64,
        epochs=1,
        factories={"held_out": held_out},
        own=Relaxed(net.space, costs, options, seed=1),
    )
    train(run)
    return {"weights": weights(net), "logits": run.sampler.logits.detach()}


def without_norms(sampler: str, folder: Path | None = None) -> dict[str, object]:
    """Five steps in float64 on a network without batch norm or dropout."""
    sharing = None
    if sampler in K_SHOT:
        options = {"warm_frac": 0.2, "last_std": 1.0, **K_SHOT[sampler]}
        in_turn = {} if "update_mode" in options else {"m": 1, "code_every": 2}
        sharing = ms.sharing.KShot(2, **{**in_turn, **options})
    mixing = {"mixup": 0.4, "cutmix": 1.0, "accumulate": 2} if sampler == "mixed" else {}
    make = Wide if sampler in ("widths", "both") else lambda: Dropping(dropout=0.0)
    net = seeded(lambda: ms.Supernet(make(), sharing=sharing)).double()
    name = "uniform" if sampler in ("some", "mixed", *K_SHOT) else sampler
    factories = {}
    if sampler == "shrinks":
        name = "sandwich"
        factories = {"shrinking": Shrinking(Angle(samples=4), [0.4, 0.8], seed=1)}
    settings = {"images": 32 * STEPS, "dtype": torch.float64, "epochs": 1, "clip_norm": 2.0}
    settings |= {**mixing, "factories": factories}
    run = trainer(net, folder, name, **settings)
    if sampler == "some":
        run.sampler = Some()
    plans, absent = watched(run)
    train(run)
    norms = run.sampler.state_dict().get("norms", [])
    return {"weights": weights(net), "plans": plans, "absent": absent, "norms": norms}


SHIFTS = {
    "enumerated": {},
    "pathwise": {"shifts": {"estimator": "pathwise"}},
    "k-shot": {"sharing": lambda: k_shot(m=1)},
}
"""Options of runs with a learnt sampler; with one chunk, two processes train on what one would."""


def with_shift(kind: str, folder: Path | None = None) -> dict[str, object]:
    """Twelve steps in float64 on a network without batch norm or dropout."""
    options = {"shifts": {}, **SHIFTS[kind]}
    sharing = options.pop("sharing", lambda: None)()
    run = shifting(None, None, folder, sharing=sharing, dtype=torch.float64, epochs=3, **options)
    plans, _ = watched(run)
    answers, feedback = [], run.sampler.feedback

    def feeding(plan: Plan, losses: list[Tensor], probed: Probed | None = None) -> None:
        feedback(plan, losses, probed)
        if probed is not None and probed.before is not None:
            found = torch.cat(
                [g for path in probed.gradients for g in path.values()] or [torch.empty(0)]
            )
            answers.append({"now": probed.losses, "then": probed.before, "gradients": found})

    run.sampler.feedback = feeding
    train(run)
    return {
        "weights": weights(run.net),
        "saved": {name: tensor.clone() for name, tensor in run.prober.saved.items()},
        "generator": run.sampler.state_dict()["generator"],
        "logits": run.sampler.distribution.logits,
        "plans": plans,
        "answers": answers,
        "probed_images": run.prober.images,
    }


MODES = {
    "per_step": {},
    "per_candidate": {"update": "per_candidate"},
    "per_generation": {"update": "per_generation", "clip_norm": 0.5},
    "head": {"freeze_body": True},
    "codes": {"update": "per_generation"},
}
"""How a supernet shifts on the same two visits; `codes` are those of K-shot sharing."""


def shifted(mode: str) -> dict[str, Tensor]:
    """Two visits of two mini-batches, in float64, on a network without batch norm or dropout."""
    sharing = ms.sharing.KShot(2, last_std=1.0, code_every=2) if mode == "codes" else None
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0), sharing=sharing)).double()
    settings = ShiftingSettings(steps=2, batch_size=32, lr=0.1, **MODES[mode])
    base = trainer(net, images=128, dtype=torch.float64)
    head = [p for name, p in net.named_parameters() if name.startswith("model.head")]
    shifter = Shifter(
        net=net,
        batches=base.batches,
        settings=settings,
        seed=0,
        accelerator=base.optimisation.accelerator,
        head=head,
    )
    loss = shifter.shift(schedule(settings.update, [((1, 0),) * 2, ((2, 1),) * 2]))
    return {**weights(net), "loss": torch.tensor(loss, dtype=torch.float64)}


def with_norms(folder: Path) -> dict[str, Tensor]:
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)))
    run = trainer(net, folder, sampler="fair", epochs=1, log_steps=2)
    train(run)
    return weights(net)


class Empty(nn.Module):
    """Its only buffers are those of batch norms without scale: empty ones."""

    def __init__(self) -> None:
        super().__init__()
        options = {name: nn.BatchNorm1d(64, affine=False) for name in "ab"}
        self.choice, self.head = ms.nn.Choice(options, "norm"), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.choice(images.flatten(1)))


def with_empty_buffers() -> dict[str, Tensor]:
    run = trainer(seeded(lambda: ms.Supernet(Empty())), epochs=1)
    train(run)
    return weights(run.net)


def exchanged(accelerator: Accelerator) -> dict[str, Tensor | None]:
    """Gradients after they are averaged, of parameters that some processes have used."""
    rank, values = accelerator.process_index, torch.arange(48.0).view(2, 2, 3, 4)
    grads = {
        "both": values * (1 + rank),
        "last": values.to(memory_format=torch.channels_last) * (1 + rank),
        "first": values if rank == 0 else None,
        "none": None,
        "complex": torch.tensor([1 + 2j, 3j]) * (1 + rank),
        "double": torch.tensor(rank, dtype=torch.float64),
    }
    like = {"complex": torch.zeros(2) + 0j, "double": torch.zeros((), dtype=torch.float64)}
    parameters = {name: nn.Parameter(like.get(name, torch.zeros(2, 2, 3, 4))) for name in grads}
    for name, grad in grads.items():
        parameters[name].grad = grad
    average_gradients([*parameters.values(), parameters["both"]], accelerator)
    return {name: parameter.grad for name, parameter in parameters.items()}


def from_first(accelerator: Accelerator) -> Tensor:
    """A weight and a buffer, a step of rate 0 after they were made different in every process."""
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    net = ms.train.Standalone(own)
    run = trainer(net)
    with torch.no_grad():
        own[1].bias.fill_(accelerator.process_index)
        own[2].num_batches_tracked.fill_(10 * accelerator.process_index)
    turn = next(iter(run.turns("weights", *next(run.batches.from_step(0)))))
    run.optimisation.step(0, [turn], "weights", 0.0)
    return torch.stack([own[1].bias[0].detach().long(), own[2].num_batches_tracked])


def main(out: Path) -> None:
    run = trainer()
    accelerator = run.optimisation.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    results: dict[str, object] = {"world": world, "exchanged": exchanged(accelerator)}
    results["from_first"] = from_first(accelerator)
    for sampler in ("uniform", "fair", "sandwich", "some", "mixed", "shrinks", "pada", *K_SHOT):
        results[sampler] = without_norms(sampler, out / f"{sampler}-{world}")
    for kind in RELAXED:
        results[kind] = with_weights_of_options(kind, out / f"{kind}-{world}")
    for kind in SHIFTS:
        results[kind] = with_shift(kind, out / f"{kind}-{world}")
    results["shifted"] = {mode: shifted(mode) for mode in MODES}
    results["empty"] = with_empty_buffers()
    results["norms"] = with_norms(out / f"run-{world}")
    torch.save(results, out / f"{rank}-of-{world}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
