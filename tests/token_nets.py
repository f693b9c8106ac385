"""A small transformer on two inputs by name, tokens and which of them are there; its costs."""

import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms

VOCABULARY, LENGTH, CLASSES = 11, 6, 3


class Tokens(nn.Module):
    """Elastic width, heads and depth; logits and, if asked for, an auxiliary head's in a dict."""

    def __init__(self, channels=0, classes=CLASSES, heads_out=False):
        super().__init__()
        self.width = ms.choose((8, 16), "width")
        self.heads, self.each = ms.choose((1, 2), "heads"), 4
        inner = self.heads * self.each
        self.embed = ms.nn.Embedding(VOCABULARY, self.width)
        self.position = ms.nn.Parameter((LENGTH, self.width), nn.init.normal_)
        self.q, self.k, self.v = (ms.nn.Linear(self.width, inner) for _ in range(3))
        self.out = ms.nn.Linear(inner, self.width)
        blocks = [Feeding(self.width) for _ in range(2)]
        self.body = ms.nn.Depth(blocks, (1, 2), "depth")
        self.head = ms.nn.Linear(self.width, classes)
        self.side = ms.nn.Linear(self.width, classes) if heads_out else None

    def forward(self, tokens, mask):
        x = self.embed(tokens) + self.position()
        split = (ms.value(self.heads), self.each)
        q, k, v = (f(x).unflatten(-1, split).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        early = _pooled(x, mask)
        late = _pooled(self.body(x, mask[..., None]), mask)
        if self.side is None:
            return self.head(late)
        return {"logits": self.head(late), "auxiliary": self.side(early)}


class Feeding(nn.Module):
    """A residual block that leaves what is not there as it is."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.act = ms.nn.LayerNorm(width), nn.GELU()
        self.up, self.down = ms.nn.Linear(width, 2 * width), ms.nn.Linear(2 * width, width)

    def forward(self, x, there):
        return x + self.down(self.act(self.up(self.norm(x)))) * there


def _pooled(x, mask):
    there = mask[..., None].to(x.dtype)
    return (x * there).sum(1) / there.sum(1)


def batch(count, seed=0):
    """Tokens (B, 6) and a mask of which at least the first is there; labels by the first token."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (count,), generator=generator)
    mask = torch.arange(LENGTH)[None] < lengths[:, None]
    return {"tokens": tokens, "mask": mask}, tokens[:, 0] % CLASSES


def costs(net, arch, side=False):
    """Multiply-adds and parameters of one sample by hand."""
    chosen = net.space.choices(arch)
    width, inner, depth = int(chosen["width"]), 4 * int(chosen["heads"]), int(chosen["depth"])
    heads = 1 + side
    macs = LENGTH * (4 * width * inner + depth * 4 * width * width) + heads * width * CLASSES
    macs += 2 * LENGTH * LENGTH * inner
    params = VOCABULARY * width + LENGTH * width + 3 * (width + 1) * inner + (inner + 1) * width
    params += depth * (2 * width + (width + 1) * 2 * width + (2 * width + 1) * width)
    return macs, params + heads * (width + 1) * CLASSES
