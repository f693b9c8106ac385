"""Networks that hold sizes and modules in every way an ordinary module may."""

import copy
import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, nn

import manyshot as ms
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.zoo import macro, tiny

INPUT = (3, 8, 8)


class Inverted(nn.Module):
    def __init__(self, width: Any, hidden: Any, kernel: Any) -> None:
        super().__init__()
        self.expand = ms.nn.Conv2d(width, hidden, 1, bias=False)
        self.norm = ms.nn.BatchNorm2d(hidden)
        self.depthwise = ms.nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.project = ms.nn.Conv2d(hidden, width, 1)
        self.last = ms.nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.expand(x)))
        return x + self.last(self.project(torch.relu(self.depthwise(y))))


class Block(nn.Module):
    def __init__(self, width: Any) -> None:
        super().__init__()
        self.conv = ms.nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = ms.nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Tied(nn.Module):
    """Two elastic layers with one weight, in two directions."""

    def __init__(self, width: Any) -> None:
        super().__init__()
        self.one = ms.nn.Linear(width, width)
        self.two = ms.nn.Linear(width, width, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    width: Any
    hidden: Any


class Nasty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width, ratio = ms.choose((8, 12, 16), "width"), ms.choose((2, 3), "ratio")
        kernel = ms.choose((3, 5), "kernel")
        self.width, self._half = width, width // 2
        self.sizes = [width, (width * ratio, {"kernel": kernel})]
        self.config = Config(width, width * ratio)
        self.stem = nn.Sequential(
            ms.nn.Conv2d(3, width, 3, padding=1), ms.nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        nested = ms.nn.Choice([Block(width), nn.Sequential(Block(width), nn.ReLU())], "nested")
        options = {
            "skip": nn.Identity(),
            "inverted": Inverted(width, width * ratio, kernel),
            "nested": nested,
        }
        self.op = ms.nn.Choice(options, "op")
        self.tail = ms.nn.Depth([Block(width) for _ in range(3)], (0, 1, 3), "depth")
        self.four_groups = ms.nn.Conv2d(width, width, 3, padding=1, groups=4)
        self.groups_of_4 = ms.nn.Conv2d(width, width, 3, padding="same", groups=width // 4)
        self.position = ms.nn.Parameter((1, width, 1, 1), nn.init.normal_)
        self.shared = Block(width)
        self.again = self.shared
        self.tied = Tied(width)
        self.embed = nn.Linear(10, 10, bias=False)
        self.project = ms.nn.Linear(width, 10)
        self.post = nn.BatchNorm1d(10)
        self.post_again = self.post
        self.decode = nn.Linear(10, 10, bias=False)
        self.decode.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor([1.5]))
        # Held without being registered: siblings, options that are not chosen, the parent.
        self.order = [self.stem, self.op, self.tail, self.four_groups, self.groups_of_4]
        self.alternatives = {"all": list(self.op.options.values()), "norms": [self.post]}
        self.op.options["inverted"].parent = [self]

    def forward(self, x: Tensor) -> Tensor:
        x = self.order[0](x) + self.position()
        for stage in self.order[1:]:
            x = stage(x)
        x = self.again(self.shared(x)) * self.scale
        assert x.shape[1] == ms.value(self.width) == 2 * ms.value(self._half)
        assert ms.value(self.config.hidden) == ms.value(self.sizes[1][0])
        x = self.project(self.tied(x.mean((2, 3))))
        x = self.post(self.embed(x))
        return self.decode(self.post_again(x))


NETWORKS = {
    "macro": lambda: macro(width=2),
    "tiny": lambda: tiny(width=4, channels=3),
    "nasty": Nasty,
}


@functools.cache
def prototype(name: str, seed: int) -> ms.Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ms.Supernet(NETWORKS[name](), input_shape=INPUT)
        for parameter in net.parameters():  # no zeros and ones, which hide mistakes
            nn.init.normal_(parameter, 0.1, 0.3)
    return net


def make(name: str, seed: int = 0) -> ms.Supernet:
    """A network of `NETWORKS`: a copy, because making one takes longer."""
    return copy.deepcopy(prototype(name, seed))


def images(batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *INPUT, generator=generator, dtype=dtype)


def calibrated(net: ms.Supernet, arch: ms.Arch, *batches: Tensor) -> BatchNormStats:
    collector = Collector()
    with torch.no_grad():
        for batch in batches:
            net(batch, arch, stats=collector)
    return collector.stats(arch)


def archs(net: ms.Supernet, count: int) -> list[ms.Arch]:
    """The ends, and others in which every option of every decision occurs."""
    space = net.space
    drawn = [space.smallest, space.largest]
    drawn += [tuple((i + k) % int(n) for k, n in enumerate(space.counts)) for i in range(count)]
    return list(dict.fromkeys(drawn))


def snapshot(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, bool]]:
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    modes = {name: module.training for name, module in net.named_modules()}
    return {name: t.detach().clone() for name, t in tensors.items()}, modes


def same_snapshot(a: Any, b: Any) -> bool:
    (tensors, modes), (others, other_modes) = a, b
    return (
        modes == other_modes
        and tensors.keys() == others.keys()
        and all(torch.equal(tensors[name], others[name]) for name in tensors)
    )


def hand(net: ms.Supernet, **values: int) -> ms.Arch:
    """The architecture of `Nasty` with these values of sizes and indices of options."""
    by_index = {"op", "nested"}
    return tuple(
        values[d.name] if d.name in by_index else d.options.index(values[d.name])
        for d in net.space.decisions
    )
