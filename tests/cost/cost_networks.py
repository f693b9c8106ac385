"""Searchable networks that are hard to count, and the oracle that counts their subnets."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms


def subnet_costs(net: ms.Supernet, arch, input_shape) -> tuple[int, int]:
    """MACs and parameters of an extracted subnet, by torch alone."""
    subnet = net.extract(arch).eval()
    params = sum(p.numel() for p in set(subnet.parameters()))
    subnet.to("meta")  # which unties weights
    for module in list(subnet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):  # no products, and very slow on meta tensors
                setattr(module, name, nn.Identity())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        subnet(torch.empty(1, *input_shape, device="meta"))
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2, params


class MBConv(nn.Module):
    def __init__(self, into, out, kernel, ratio, stride=1):
        super().__init__()
        hidden = into * ratio
        self.body = nn.Sequential(
            ms.nn.Conv2d(into, hidden, 1, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            ms.nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False),
            ms.nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
            ms.nn.Conv2d(hidden, out, 1, bias=False),
            ms.nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and into is out

    def forward(self, x):
        return x + self.body(x) if self.residual else self.body(x)


def pooled(width, classes=10):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ms.nn.Linear(width, classes))


class Elastic(nn.Module):
    """Width, ratio, kernel and depth, in stages of inverted residuals."""

    def __init__(self, stages=2, blocks=2, kernels=(3, 5), ratios=(2, 3)):
        super().__init__()
        width = ms.choose((4, 6), "stem")
        self.stem = ms.nn.Conv2d(3, width, 3, 2, 1)
        parts = []
        for stage in range(stages):
            wider = ms.choose(tuple(6 * (stage + 1) + 2 * i for i in range(2)), f"width{stage}")
            held = []
            for i in range(blocks):
                with ms.scope(f"stage{stage}.block{i}"):
                    ratio, kernel = ms.choose(ratios, "ratio"), ms.choose(kernels, "kernel")
                held.append(MBConv(width, wider, kernel, ratio, 2 if i == 0 and stage else 1))
                width = wider
            depths = tuple(range(max(1, blocks // 2), blocks + 1))
            parts.append(ms.nn.Depth(held, depths, f"depth{stage}"))
        self.body = nn.Sequential(*parts)
        self.head = pooled(width)

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


class Nested(nn.Module):
    """Choices in a choice, an elastic depth in an option, and a choice in its blocks."""

    def __init__(self):
        super().__init__()
        width = ms.choose((4, 8), "width")

        def block(name):
            options = [nn.Identity(), ms.nn.Conv2d(width, width, 3, padding=1, groups=2)]
            return ms.nn.Choice(options, name)

        self.stem = ms.nn.Conv2d(3, width, 1)
        deep = ms.nn.Depth([block("a"), block("b")], (0, 1, 2), "depth")
        inner = ms.nn.Choice({"deep": deep, "conv": ms.nn.Conv2d(width, width, 1)}, "inner")
        self.outer = ms.nn.Choice({"inner": inner, "skip": nn.Identity()}, "outer")
        self.head = pooled(width)

    def forward(self, x):
        return self.head(self.outer(self.stem(x)))


class Groups(nn.Module):
    """Elastic groups, rounding, a tuple kernel, and concatenated elastic branches."""

    def __init__(self):
        super().__init__()
        a, b = ms.choose((8, 16), "a"), ms.choose((8, 24), "b")
        groups, ratio = ms.choose((1, 2, 4), "groups"), ms.choose((0.5, 0.75, 1.0), "ratio")
        mid = ms.round_to((a + b) * ratio, 4)
        self.a, self.b = ms.nn.Conv2d(3, a, (1, 3), padding=(0, 1)), ms.nn.Conv2d(3, b, 1)
        self.mix = ms.nn.Conv2d(ms.round_to(a + b, 8), mid, 1, groups=groups)
        self.own = ms.nn.Conv2d(mid, mid, 3, 2, 1, groups=mid // 4)
        self.head = pooled(mid)

    def forward(self, x):
        return self.head(self.own(self.mix(torch.cat((self.a(x), self.b(x)), 1))))


class Attention(nn.Module):
    """Multi-head attention with free heads and head width, fused or by plain products."""

    def __init__(self, width, fused):
        super().__init__()
        self.heads, self.each = ms.choose((1, 3), "heads"), ms.choose((4, 8), "each")
        inner = self.heads * self.each
        self.qkv = nn.ModuleList(ms.nn.Linear(width, inner) for _ in range(3))
        self.out = ms.nn.Linear(inner, width)
        self.fused = fused

    def forward(self, x):
        heads, each = ms.value(self.heads), ms.value(self.each)
        q, k, v = (f(x).unflatten(-1, (heads, each)).transpose(1, 2) for f in self.qkv)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) * each**-0.5).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Elastic embedding, positions, depth, attention and norms over an image's patches."""

    def __init__(self, fused):
        super().__init__()
        self.width = ms.choose((8, 12), "width")
        self.patches = ms.nn.Conv2d(3, self.width, 4, 4)
        self.position = ms.nn.Parameter((1, 4, self.width))
        with ms.scope("first"):
            first = Attention(self.width, fused)
        with ms.scope("second"):
            second = Attention(self.width, fused)
        self.blocks = ms.nn.Depth([first, second], (1, 2), "depth")
        self.head = ms.nn.Linear(self.width, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position()
        return self.head(F.layer_norm(self.blocks(x), (ms.value(self.width),)).mean(1))


class Shrinking(nn.Module):
    """An elastic depth whose blocks halve the image, so that all later layers depend on it."""

    def __init__(self):
        super().__init__()
        halves = [nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3)]
        self.stem, self.body = nn.Conv2d(3, 4, 1), ms.nn.Depth(halves, (0, 1, 2, 3), "depth")
        self.late = ms.nn.Choice([nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)], "late")
        self.head = pooled(6)

    def forward(self, x):
        return self.head(self.late(self.body(self.stem(x))))


class Resolution(nn.Module):
    """The image is resized by the architecture; a named decision picks the pooling stride."""

    def __init__(self):
        super().__init__()
        self.size, self.pool = ms.choose((8, 12, 16), "size"), ms.choose(("no", "yes"), "pool")
        width = ms.choose((4, 6), "width")
        self.conv, self.last = ms.nn.Conv2d(3, width, 3), ms.nn.Conv2d(width, 5, 1)
        self.head = pooled(5)

    def forward(self, x):
        size = ms.value(self.size)
        x = self.conv(F.interpolate(x, size=(size, size)))
        if ms.value(self.pool) == "yes":
            x = F.max_pool2d(x, 2)
        return self.head(self.last(x))


class Tied(nn.Module):
    """One weight in two elastic layers of which one is optional, and one in two plain layers."""

    def __init__(self):
        super().__init__()
        width = ms.choose((4, 6, 8), "width")
        self.stem = ms.nn.Conv2d(3, width, 3, padding=1)
        again = ms.nn.Conv2d(3, width, 3, padding=1)
        again.weight = self.stem.weight
        narrow = ms.nn.Conv2d(3, ms.choose((4, 8), "narrow"), 3, padding=1)
        narrow.weight = self.stem.weight
        self.side = ms.nn.Choice([again, narrow, nn.Identity()], "side")
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = ms.nn.Linear(width, 6)

    def forward(self, x):
        x = self.stem(x).mean((2, 3)) + self.side(x).mean()
        return self.second(self.first(self.head(x)))


class Twice(nn.Module):
    """One module in two options, one option also run outside, and one that runs twice."""

    def __init__(self):
        super().__init__()
        width = ms.choose((4, 6), "width")
        shared = ms.nn.Conv2d(width, width, 3, padding=1)
        both = nn.Sequential(shared, nn.ReLU(inplace=True), shared)
        self.stem, self.pool = ms.nn.Conv2d(3, width, 1), nn.MaxPool2d(2)
        self.one = ms.nn.Choice({"once": shared, "twice": both, "no": nn.Identity()}, "one")
        self.two = ms.nn.Choice({"no": nn.Identity(), "once": shared}, "two")
        self.again = ms.nn.Conv2d(width, width, 1)
        self.head = pooled(width)

    def forward(self, x):
        x = self.again(self.one(self.again(self.stem(x))))
        return self.head(self.two(self.pool(x)))


class Borrowed(nn.Module):
    """Products of another module's parameter, and a branch on a decision in Python."""

    def __init__(self):
        super().__init__()
        self.width, self.extra = ms.choose((4, 6), "width"), ms.choose((0, 1, 2), "extra")
        self.embed = ms.nn.Parameter((3, self.width), nn.init.normal_)
        self.maybe = ms.nn.Linear(self.width, self.width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(x.mean((2, 3)) @ self.embed())
        for _ in range(ms.value(self.extra)):
            x = self.maybe(x)
        return torch.einsum("bi,ji->bj", x, self.embed())


class Careless(nn.Module):
    """Sizes that hide each other, whole numbers and fractions, and shapes changed in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b = ms.choose((2, 6), "a"), ms.choose((3, 6), "b")
        self.weight, self.last = nn.Parameter(torch.ones(3, 6)), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        wide = x.flatten(2).transpose(1, 2) @ self.weight[:, : max(map(ms.value, (self.a, self.b)))]
        for _ in range(3):
            wide = wide.clone()
            wide.transpose_(1, 2)  # on the same shapes every second time
        counts = torch.ones(3, 3, dtype=torch.int64, device=x.device)
        whole, part = counts**1, counts**1.0
        return self.last(part * whole).sum() + wide[0] @ wide[0].T


NETWORKS = {
    "elastic": (Elastic, (3, 8, 8)),
    "nested": (Nested, (3, 6, 6)),
    "groups": (Groups, (3, 5, 7)),
    "attention_fused": (lambda: Transformer(fused=True), (3, 8, 8)),
    "attention_plain": (lambda: Transformer(fused=False), (3, 8, 8)),
    "shrinking": (Shrinking, (3, 16, 16)),
    "resolution": (Resolution, (3, 16, 16)),
    "tied": (Tied, (3, 6, 6)),
    "twice": (Twice, (3, 6, 6)),
    "borrowed": (Borrowed, (3, 4, 4)),
    "careless": (Careless, (3, 2, 2)),
}
