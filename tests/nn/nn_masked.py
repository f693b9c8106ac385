"""Networks whose sizes can all be masked, and policies for them."""

import itertools
from collections.abc import Iterable
from typing import Any

import nn_nets
import torch
from nn_nets import Nasty
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.space import Decision
from manyshot.zoo import macro, tiny

HEAD_DIM = 4


class Encoder(nn.Module):
    """A transformer block: attention and a hidden layer, each behind a norm and beside a sum."""

    def __init__(self, width: Any, heads: Any, ratio: Any) -> None:
        super().__init__()
        hidden = ms.round_to(width * ratio, 1)
        relative = ms.nn.RelativePosition((2, 2), HEAD_DIM, max_distance=1)
        self.norm = ms.nn.LayerNorm(width)
        self.attention = ms.nn.SelfAttention(width, heads, HEAD_DIM, relative=relative)
        self.norm_2 = ms.nn.LayerNorm(width)
        self.expand, self.reduce = ms.nn.Linear(width, hidden), ms.nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.reduce(nn.functional.gelu(self.expand(self.norm_2(x))))


class Tokens(nn.Module):
    """A vision transformer on 8x8 images: width and depth global, heads and ratio per block."""

    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((6, 8, 12), "width")
        self.embed = ms.nn.Conv2d(3, width, 4, stride=4)
        self.token = ms.nn.Parameter((1, 1, width), nn.init.normal_)
        self.position = ms.nn.Parameter((1, 5, width), nn.init.normal_)
        blocks = [
            Encoder(width, ms.choose((1, 2, 3), f"heads_{i}"), ms.choose((1.5, 2), f"ratio_{i}"))
            for i in range(3)
        ]
        self.blocks = ms.nn.Depth(blocks, (1, 2, 3), "depth")
        self.norm = ms.nn.LayerNorm(width)
        self.head = ms.nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        token = self.token().expand(len(x), -1, -1)
        x = torch.cat([token, x], 1) + self.position()
        return self.head(self.norm(self.blocks(x))[:, 0])


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: Any) -> None:
        super().__init__()
        hidden = ms.round_to(width // 4, 2)
        self.reduce, self.expand = ms.nn.Conv2d(width, hidden, 1), ms.nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(pooled))))


class Inverted(nn.Module):
    """Expand, depthwise, squeeze, project; a residual if the widths are one."""

    def __init__(self, into: Any, out: Any, ratio: Any, kernel: Any) -> None:
        super().__init__()
        hidden = into * ratio
        self.body = nn.Sequential(
            ms.nn.Conv2d(into, hidden, 1, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            ms.nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.SiLU(inplace=True),
            Squeeze(hidden),
            ms.nn.Conv2d(hidden, out, 1, bias=False),
            ms.nn.BatchNorm2d(out),
        )
        self.residual = into is out

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        if self.residual:
            out += x
        return out


class Convolutions(nn.Module):
    """A mobile network: resolution, widths, ratio, depth, a kernel per block, and an operator."""

    def __init__(self) -> None:
        super().__init__()
        stem, width = ms.choose((4, 6), "stem"), ms.choose((4, 8), "width")
        ratio = ms.choose((1, 2), "ratio")
        kernels = [ms.choose((1, 3, 5), f"kernel_{i}") for i in range(3)]
        self.stem = nn.Sequential(
            ms.nn.Resize(ms.choose((6, 8), "resolution"), "bilinear"),
            ms.nn.Conv2d(3, stem, 3, padding=1, bias=False),
            ms.nn.BatchNorm2d(stem),
            nn.SiLU(inplace=True),
        )
        blocks = [
            Inverted(stem if i == 0 else width, width, ratio, k) for i, k in enumerate(kernels)
        ]
        self.blocks = ms.nn.Depth(blocks, (1, 2, 3), "depth")
        options = {
            "skip": nn.Identity(),
            "plain": ms.nn.Conv2d(width, width, 1),
            "grouped": ms.nn.Conv2d(width, width, 3, padding=1, groups=width // 4),
        }
        self.op = ms.nn.Choice(options, "op")
        self.head = ms.nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        y = self.op(x)
        y += x
        return self.head(y.mean((2, 3)))


class Maskable(Nasty):
    """`Nasty` without groups whose size is elastic."""

    def __init__(self) -> None:
        super().__init__()
        self.four_groups = ms.nn.Conv2d(self.width, self.width, 3, padding=1)
        self.order[3] = self.four_groups


NETWORKS = {
    "tokens": Tokens,
    "convolutions": Convolutions,
    "nasty": Maskable,
    "macro": lambda: macro(width=2),
    "tiny": lambda: tiny(width=4, channels=3),
}


def fresh(name: str, seed: int = 0, **options: Any) -> ms.Supernet:
    """A network in float64, as initialised."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ms.Supernet(NETWORKS[name](), **options).double()


def filled(name: str, seed: int = 0, **options: Any) -> ms.Supernet:
    """A network without zeros and ones, which hide mistakes."""
    net = fresh(name, seed, **options)
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3, generator=generator)
    return net


def images(batch: int = 4, seed: int = 0) -> Tensor:
    return nn_nets.images(batch, seed, torch.float64)


def policies(
    net: ms.Supernet, arch: ms.Arch, only: Iterable[Decision] | None = None
) -> dict[Decision, Tensor]:
    """One-hot vectors with gradients, of all decisions or only some."""
    given = {}
    kept = net.space.decisions if only is None else tuple(only)
    for decision, option in zip(net.space.decisions, arch, strict=True):
        if decision in kept:
            given[decision] = torch.eye(len(decision.options), dtype=torch.float64)[option]
            given[decision].requires_grad_()
    return given


# -- Two of them written out by hand, with masks for any numbers p ------------------------------


def prefix(sizes, p):
    return sum(q * (torch.arange(int(max(sizes))) < int(n)) for n, q in zip(sizes, p, strict=True))


def product(one, p, other, q):
    sizes = [i * j for i in one for j in other]
    return prefix(sizes, [a * b for a in p for b in q])


def layer_norm(x, m, norm):
    mean = (x * m).sum(-1, keepdim=True) / m.sum()
    variance = (((x - mean) ** 2) * m).sum(-1, keepdim=True) / m.sum()
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def attend(x, me, mh, attention):
    """Attention whose relative positions are tensors (N, N, head_dim), for one token and 2x2."""
    batch, tokens, _ = x.shape
    weight = attention.qkv.weight * me
    parts = [x @ w.T + b for w, b in zip(weight, attention.qkv.bias, strict=True)]
    q, k, v = (t.view(batch, tokens, -1, HEAD_DIM).transpose(1, 2) for t in parts)
    place = {"rows": [0, 0, 1, 1], "columns": [0, 1, 0, 1]}
    keys, values = 0, 0
    for axis, at in place.items():
        entries = torch.zeros(tokens, tokens, dtype=torch.long)
        for i, j in itertools.product(range(4), repeat=2):
            entries[1 + i, 1 + j] = at[j] - at[i] + 2
        keys = keys + getattr(attention.relative, f"key_{axis}")[entries]
        values = values + getattr(attention.relative, f"value_{axis}")[entries]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhid,ijd->bhij", q, keys)
    weights = (scores / HEAD_DIM**0.5).softmax(-1)
    out = weights @ v + torch.einsum("bhij,ijd->bhid", weights, values)
    out = out.transpose(1, 2).reshape(batch, tokens, -1)
    return out @ (attention.project.weight * mh).T + attention.project.bias


def tokens_by_hand(model, x, p):
    widths = (6, 8, 12)
    me = prefix(widths, p["width"])
    x = F.conv2d(x, model.embed.weight, model.embed.bias, stride=4).flatten(2).transpose(1, 2)
    x = torch.cat([model.token.weight.expand(len(x), -1, -1), x], 1) + model.position.weight
    for i, block in enumerate(model.blocks.blocks):
        mh = prefix([HEAD_DIM * h for h in (1, 2, 3)], p[f"heads_{i}"])
        mm = product(widths, p["width"], (1.5, 2), p[f"ratio_{i}"])
        y = x + attend(layer_norm(x, me, block.norm), me, mh, block.attention)
        z = layer_norm(y, me, block.norm_2) @ (block.expand.weight * me).T + block.expand.bias
        y = y + F.gelu(z) @ (block.reduce.weight * mm).T + block.reduce.bias
        runs = prefix((1, 2, 3), p["depth"])[i] if i > 0 else 1
        x = x + runs * (y - x)
    return layer_norm(x, me, model.norm)[:, 0] @ (model.head.weight * me).T + model.head.bias


def normalised(x, norm):
    return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def inverted_by_hand(x, block, m_in, mh, m_squeeze, mk, residual):
    expand, norm, _, depthwise, norm_2, _, squeeze, project, last = block.body
    y = F.silu(normalised(F.conv2d(x, expand.weight * m_in[:, None, None]), norm))
    kernel = depthwise.weight * mk
    y = F.silu(normalised(F.conv2d(y, kernel, padding=2, groups=len(kernel)), norm_2))
    s = y.mean((2, 3), keepdim=True)
    s = F.conv2d(s, squeeze.reduce.weight * mh[:, None, None], squeeze.reduce.bias).relu()
    s = F.conv2d(s, squeeze.expand.weight * m_squeeze[:, None, None], squeeze.expand.bias)
    y = F.conv2d(y * s.sigmoid(), project.weight * mh[:, None, None])
    return normalised(y, last) + (x if residual else 0)


def convolutions_by_hand(model, x, p):
    stems, widths, ratios = (4, 6), (4, 8), (1, 2)
    m_stem, m_width = prefix(stems, p["stem"]), prefix(widths, p["width"])
    side = 6 if p["resolution"][0] > 0.5 else 8
    if side == 6:
        x = F.interpolate(x, (6, 6), mode="bilinear", antialias=True)
    x = x * p["resolution"][0 if side == 6 else 1]
    x = F.silu(normalised(F.conv2d(x, model.stem[1].weight, padding=1), model.stem[2]))
    squares = [F.pad(torch.ones(k, k, dtype=x.dtype), ((5 - k) // 2,) * 4) for k in (1, 3, 5)]
    for i, block in enumerate(model.blocks.blocks):
        into, m_in, own = (stems, m_stem, "stem") if i == 0 else (widths, m_width, "width")
        squeezed = [ms.round_to(a * b // 4, 2) for a in into for b in ratios]
        pairs = [a * b for a in p[own] for b in p["ratio"]]
        mh, m_squeeze = product(into, p[own], ratios, p["ratio"]), prefix(squeezed, pairs)
        mk = sum(q * square for q, square in zip(p[f"kernel_{i}"], squares, strict=True))
        y = inverted_by_hand(x, block, m_in, mh, m_squeeze, mk, i > 0)
        x = y if i == 0 else x + prefix((1, 2, 3), p["depth"])[i] * (y - x)
    plain, grouped = model.op.options["plain"], model.op.options["grouped"]
    outputs = (
        x,
        F.conv2d(x, plain.weight * m_width[:, None, None], plain.bias),
        F.conv2d(x, grouped.weight, grouped.bias, padding=1, groups=2),
    )
    x = x + sum(q * out for q, out in zip(p["op"], outputs, strict=True))
    return x.mean((2, 3)) @ (model.head.weight * m_width).T + model.head.bias


BY_HAND = {"tokens": tokens_by_hand, "convolutions": convolutions_by_hand}
