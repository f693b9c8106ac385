"""Small networks as people write them, each with something that a converter may stumble over."""

import torch
from torch import nn
from torch.nn import functional as F


class Shared(nn.Module):
    """One module called twice, at two places of one width."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.mix = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.mix(self.stem(x).relu()).relu()
        return self.head(self.mix(x).mean((2, 3)))


class Tied(nn.Module):
    """Tokens whose embedding is the transposed classifier."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 32)
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return self.head(x)


class ConstantView(nn.Module):
    """A number of features that is written into the forward."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.hidden = nn.Linear(64 * 4, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.conv(x), 2)
        return self.head(self.hidden(x.view(-1, 256)).relu())


class AttributeView(nn.Module):
    """The same number, kept in an attribute."""

    def __init__(self):
        super().__init__()
        self.features = 64
        self.conv = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.conv(x), 1).reshape(-1, self.features))


class Branching(nn.Module):
    """A child whose control flow depends on values."""

    class Child(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 1)

        def forward(self, x):
            return self.conv(x) if x.sum().item() > 1e9 else self.conv(-x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.child = self.Child()
        self.body = nn.Conv2d(32, 64, 3)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.body(self.child(self.stem(x))).mean((2, 3)))


class RawParameters(nn.Module):
    """Layer scale, a shift, a weight without a layer, and a buffer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(32, 1, 1))
        self.weight = nn.Parameter(torch.randn(48, 32, 1, 1))
        self.shift = nn.Parameter(torch.randn(48))
        self.register_buffer("table", torch.rand(48))
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        x = self.stem(x) * self.scale
        x = F.conv2d(x, self.weight, self.shift).mean((2, 3))
        return self.head(x * self.table)


class ListInputs(nn.Module):
    """A module that takes a list of tensors, as a neck of a detector."""

    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(c, 24, 1) for c in (16, 32))

        def forward(self, maps):
            return sum(conv(x).mean((2, 3)) for conv, x in zip(self.convs, maps, strict=True))

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)
        self.neck = self.Neck()
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.neck([x, self.second(x.relu())]))


class UNet(nn.Module):
    """Skips that are concatenated, and transposed convolutions."""

    def __init__(self, classes=3):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.fuse = nn.Conv2d(32, 24, 3, padding=1)
        self.out = nn.Conv2d(24, classes, 1)

    def forward(self, x):
        skip = self.down1(x).relu()
        x = self.norm(self.down2(F.max_pool2d(skip, 2))).relu()
        return self.out(self.fuse(torch.cat([self.up(x), skip], 1)).relu())


class Shuffling(nn.Module):
    """Halves of channels, one of which is left as it is, and a shuffle."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.branch = nn.Conv2d(16, 16, 3, padding=1)
        self.body = nn.Conv2d(32, 48, 1)
        self.head = nn.Linear(48, 5)

    def forward(self, x):
        one, two = self.stem(x).chunk(2, 1)
        x = torch.cat([one, self.branch(two)], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return self.head(self.body(x.reshape(batch, channels, height, width)).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped, depthwise, dilated and one-dimensional layers, and norms by groups."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.groups = nn.Conv2d(64, 128, 3, padding=1, groups=8, padding_mode="reflect")
        self.norm = nn.GroupNorm(16, 128)
        self.depthwise = nn.Conv2d(128, 128, 3, padding=2, dilation=2, groups=128)
        self.slopes = nn.PReLU(128)
        self.line = nn.Conv1d(128, 32, 3)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.slopes(self.depthwise(self.norm(self.groups(self.stem(x)))))
        return self.head(self.line(x.flatten(2)).mean(2))


class Attending(nn.Module):
    """An encoder of torch, on tokens with a mask of padding, called by keywords."""

    def __init__(self, batch_first=True, norm_first=True):
        super().__init__()
        self.embed = nn.Embedding(13, 32)
        self.place = nn.Parameter(torch.randn(1, 6, 32))
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=batch_first, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)
        self.batch_first = batch_first

    def forward(self, tokens, padding=None):
        x = self.embed(tokens) + self.place
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.encoder(x, src_key_padding_mask=padding)
        return {"logits": self.head(x.mean(1 if self.batch_first else 0)), "features": x}
