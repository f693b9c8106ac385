"""K-shot sharing on a planted problem: every path has its own weights, mixed from three matrices.

    OMP_NUM_THREADS=1 python -m benchmarks.studies.planted_sharing.run [--seeds 3] [--steps 4000]
        [--variants K=1 K=4]

A path of 4 layers x 3 operations is trained towards the output of a network whose weights are a
path-dependent mixture, which one copy cannot give. The problem is built for the method: it says
whether the mechanism works, nothing of real networks. The parts are the library's; only the loop is
here. Every result is a record, and what is on record is not done again. The page is `page.md`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from benchmarks.lib import kept
from benchmarks.lib.measuring import provenance
from benchmarks.studies.planted_sharing.page import error_of, write_page
from manyshot import records
from manyshot.sharing import Phase
from manyshot.space import Arch

KEPT = kept.of_study(__file__)
LAYERS, OPERATIONS, MATRICES, UNITS = 4, 3, 3, 16
PATHS: list[Arch] = list(itertools.product(range(OPERATIONS), repeat=LAYERS))
RATES = [0.075, 0.15, 0.3, 0.6, 1.2, 2.4]
_PROBLEM, _INPUTS, _PLANS, _TEST = range(4)
"""Named random streams of a seed."""


def stream(seed: int, *names: int) -> torch.Generator:
    """A random stream that is a function of a seed and a name."""
    state = np.random.SeedSequence((seed, *names)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


class Network(nn.Module):
    """x ← x + tanh(W x) in all layers but the last, which is W x; each W a choice of three."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ms.nn.Choice([_matrix() for _ in range(OPERATIONS)], f"layer{i}") for i in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, units) to (B, units)."""
        *hidden, last = self.layers
        for layer in hidden:
            x = x + layer(x).tanh()
        return last(x)


def _matrix() -> nn.Linear:
    linear = nn.Linear(UNITS, UNITS, bias=False)
    nn.init.normal_(linear.weight, std=UNITS**-0.5)
    return linear


class Truth:
    """The planted network: W = Σ_r c_r(path) M_r, with one code c(path) for all its operations.

    c(path) is the softmax of a random linear map of the path's one-hots; where an operation sits
    matters as much as which it is. Targets have variance 1 over all paths together.
    """

    def __init__(self, seed: int) -> None:
        own = stream(seed, _PROBLEM)
        shape = (LAYERS, OPERATIONS, MATRICES, UNITS, UNITS)
        self.matrices = torch.randn(shape, generator=own) * UNITS**-0.5
        self.map = torch.randn((LAYERS, OPERATIONS, MATRICES), generator=own)
        x, self.scale = torch.randn((1024, UNITS), generator=own), 1.0
        self.scale = float(torch.stack([self(x, arch) for arch in PATHS]).std())

    def code(self, arch: Arch) -> Tensor:
        """(matrices,) on the simplex."""
        return self.map[range(LAYERS), list(arch)].sum(0).softmax(0)

    def __call__(self, x: Tensor, arch: Arch) -> Tensor:
        code = self.code(arch)
        *hidden, last = (
            torch.tensordot(code, self.matrices[layer, option], 1).T
            for layer, option in enumerate(arch)
        )
        for weight in hidden:
            x = x + (x @ weight).tanh()
        return x @ last / self.scale


class MeanPooled(nn.Module):
    """A simplex-net that does not see positions: the mean of one MLP over the layers' one-hots."""

    widths = ()

    def __init__(self, copies: int, hidden: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.last = nn.Linear(OPERATIONS, hidden), nn.Linear(hidden, copies)
            nn.init.normal_(self.last.weight, std=0.01)
            nn.init.zeros_(self.last.bias)

    def encode(self, archs: list[Arch]) -> Tensor:
        """One-hots, (B, layers, operations)."""
        return F.one_hot(torch.tensor(archs), OPERATIONS).float()

    def forward(self, encoded: Tensor) -> Tensor:
        """Codes, (B, K)."""
        return self.last(self.first(encoded).relu()).mean(1).softmax(-1)


class Given(nn.Module):
    """The planted codes in place of learnt ones."""

    widths = ()

    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self.truth = truth

    def encode(self, archs: list[Arch]) -> Tensor:
        """The planted codes of `archs`."""
        return torch.stack([self.truth.code(arch) for arch in archs])

    def forward(self, encoded: Tensor) -> Tensor:
        """As they are."""
        return encoded


@dataclasses.dataclass(frozen=True)
class Variant:
    """Options of `KShot`; another simplex-net in its place; how many times the steps."""

    options: Mapping[str, Any]
    encoder: str = ""
    longer: int = 1


IN_TURN = {"optimizer": "sgd", "code_every": 2, "compensate": False}
"""Of every variant, unless it says otherwise."""


def _four(encoder: str = "", **options: Any) -> Variant:
    return Variant({"copies": 4, **options}, encoder)


VARIANTS: dict[str, Variant] = {
    "K=1": Variant({"copies": 1}),
    "K=1, 4 times the steps": Variant({"copies": 1}, longer=4),
    "K=3, the planted codes given": Variant({"copies": 3, "codes": "random"}, "given"),
    "K=2": Variant({"copies": 2}),
    "K=4": _four(),
    "K=8": Variant({"copies": 8}),
    "K=4, a code per layer": _four(code_scope="layer"),
    "K=4, joint": _four(update_mode="joint"),
    "K=4, m=1": _four(m=1),
    "K=4, m=16": _four(m=16),
    "K=4, no warm-up": _four(warm_frac=0.0),
    "K=4, Adam 1e-2 for the simplex-net": _four(optimizer="adam", lr=1e-2),
    "K=4, joint, Adam 1e-2": _four(update_mode="joint", optimizer="adam", lr=1e-2),
    "K=4, mean-pooled simplex-net": _four("mean-pooled"),
    "K=4, mean-pooled, joint": _four("mean-pooled", update_mode="joint"),
    "K=4, fixed uniform codes": _four(codes="uniform"),
    "K=4, frozen random simplex-net": _four(codes="random"),
    "K=3, one-hot codes (few-shot)": Variant({"copies": 3, "codes": "one_hot"}),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of the training: SGD with Nesterov momentum, cosine to 0, for weights and codes."""

    lr: float
    steps: int = 4000
    batch: int = 128
    momentum: float = 0.9


def prepare(variant: Variant, seed: int, truth: Truth) -> ms.Supernet:
    """The supernet of a variant."""
    torch.manual_seed(seed)
    options = {**IN_TURN, **variant.options}
    codes = variant.options.get("codes", "learnt")
    if codes != "learnt" or variant.options.get("update_mode") == "joint":
        del options["code_every"]  # no step is of the codes alone
    if codes != "learnt":
        del options["optimizer"]
    if codes == "one_hot":
        del options["compensate"]  # the square of their norm is 1
    sharing = ms.sharing.KShot(**options, seed=seed)
    net = ms.Supernet(Network(), sharing=sharing)
    if variant.encoder == "mean-pooled":
        sharing.simplex_net = MeanPooled(sharing.copies, 64, seed)  # type: ignore[assignment]
    elif variant.encoder == "given":
        sharing.simplex_net = Given(truth)  # type: ignore[assignment]
    return net


def turns(
    net: ms.Supernet, phase: Phase, x: Tensor, seed: int, step: int
) -> Iterator[tuple[Tensor, Arch]]:
    """A uniform path for the batch, or in a code step one for each chunk of it."""
    if phase != "code":
        yield x, net.space.sample(np.random.default_rng((seed, _PLANS, step)))
        return
    for i, part in enumerate(x.chunk(net.sharing.chunks)):
        yield part, net.space.sample(np.random.default_rng((seed, _PLANS, step, i)))


def fit(net: ms.Supernet, truth: Truth, seed: int, settings: Settings) -> None:
    """Trains by the phases of the scheme, as `manyshot.train.train` does."""
    codes = net.sharing.code_optimizer(settings.lr, settings.momentum)
    groups = [] if codes is None else codes.param_groups
    peaks = [group["lr"] for group in groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    own = [p for p in net.parameters() if id(p) not in held and p.requires_grad]
    weights: torch.optim.Optimizer = torch.optim.SGD(
        own, settings.lr, settings.momentum, nesterov=True
    )
    inputs = stream(seed, _INPUTS)
    for step in range(settings.steps):
        phase = net.sharing.phase(step, settings.steps)
        x = torch.randn((settings.batch, UNITS), generator=inputs)
        for parameter in own:
            parameter.requires_grad_(phase != "code")
        for part, arch in turns(net, phase, x, seed, step):
            loss = F.mse_loss(net(part, arch, phase=phase), truth(part, arch))
            (loss * len(part) / len(x)).backward()
        share = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        moved = [(weights, [settings.lr])] if phase != "code" else []
        moved += [(codes, peaks)] if phase in ("code", "joint") and codes is not None else []
        for optimizer, rates in moved:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for parameter in own:
        parameter.requires_grad_(True)


@torch.no_grad()
def errors(net: ms.Supernet, truth: Truth, seed: int) -> dict[str, float | None]:
    """Mean squared error over all paths on the same inputs, and their codes; None if diverged."""
    x = torch.randn((1024, UNITS), generator=stream(seed, _TEST))
    sharing = net.sharing
    if not isinstance(sharing, ms.sharing.KShot):
        raise TypeError(f"codes are asked of {type(sharing).__name__}, which has none")
    codes = sharing.code(PATHS)
    found = {
        "mse": float(np.mean([float(F.mse_loss(net(x, a), truth(x, a))) for a in PATHS])),
        "spread": ms.sharing.spread(codes),
        "entropy": ms.sharing.entropy(codes),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def measure(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """The record of one variant on the problem of one seed."""
    variant, truth = VARIANTS[name], Truth(seed)
    net = prepare(variant, seed, truth)
    wall, cpu = time.perf_counter(), time.process_time()
    fit(net, truth, seed, dataclasses.replace(settings, steps=settings.steps * variant.longer))
    seconds = {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }
    return {**key(name, seed, settings), **errors(net, truth, seed), **seconds}


def key(name: str, seed: int, settings: Settings) -> dict[str, Any]:
    """What makes two records the same experiment."""
    return {"variant": name, "seed": seed, **dataclasses.asdict(settings)}


class Log:
    """Results on record; what is not is measured and appended."""

    def __init__(self, path: Path) -> None:
        self.path, self.known = path, records.read_lines(path)

    def get(self, name: str, seed: int, settings: Settings) -> dict[str, Any]:
        """The record of one variant, problem and setting."""
        own = key(name, seed, settings)
        for record in self.known:
            if own.items() <= record.items():
                return record
        record = {**measure(name, seed, settings), **provenance()}
        records.append(self.path, record)
        self.known.append(record)
        print(f"{name}, lr {settings.lr}, seed {seed}: mse {record['mse']}", file=sys.stderr)
        return record


def measure_all(log: Log, names: list[str], rates: list[float], seeds: int, steps: int) -> None:
    """Variants at every rate on the problem of seed 0, and at the best on those of later seeds.

    Problem 0 is for choosing the rate and nothing else; a single rate needs no choice.
    """
    best = {name: rates[0] for name in names}
    if len(rates) > 1:
        for name in names:
            tried = [log.get(name, 0, Settings(lr, steps)) for lr in rates]
            best[name] = min(tried, key=error_of)["lr"]
    for seed, name in itertools.product(range(1, seeds + 1), names):
        log.get(name, seed, Settings(best[name], steps))


def main(arguments: list[str] | None = None) -> None:
    """Runs what is not on record, and writes the page anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3, help="problems, beside that for the rates")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    kept.options(parser, Path("runs") / "planted_sharing")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    log = Log(kept.begin(given, KEPT))
    measure_all(log, given.variants, given.rates, given.seeds, given.steps)
    kept.end(given, KEPT, write_page)


if __name__ == "__main__":
    main()
