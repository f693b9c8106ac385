"""The simplex-net: from an architecture to its code on the simplex."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.nn.initial import initialised
from manyshot.seeding import torch_generator
from manyshot.space import Arch, Decision, SearchSpace

_FACTORS = 4
"""The length of the vector of a channel."""


@final
class SimplexNet(nn.Module):
    """Codes λ(a) ≥ 0 with Σ_k λ_k = 1 of architectures, learnt (K-shot NAS, arXiv:2106.06442).

    That a net gives a code per path, with a further branch for channel widths, is the paper's, of
    which we saw no more than the abstract and summaries. The rest is ours: the one-hots of all
    decisions of the *canonical* architecture are concatenated (encodings of one network get one
    code; position counts) and go through `Linear → ReLU → Linear → softmax(· / tau)`. A channel
    branch (`Linear` without bias over the one-hots of the width decisions) is added before the
    ReLU.

    A code per channel is that of its layer but for a factorised term: the inner product, before the
    softmax, of a learnt vector of the channel with a matrix (factors, K) that the hidden units make
    of the path. That weights of a path may be mixed neuron by neuron is Mixture-of-Supernets'
    (arXiv:2306.04845); this head is ours.
    """

    def __init__(
        self,
        space: SearchSpace,
        copies: int,
        *,
        layers: int | None = None,
        channels: Sequence[int] | None = None,
        widths: Sequence[Decision] = (),
        hidden: int | None = None,
        tau: float = 1.0,
        last_std: float = 0.01,
        seed: int = 0,
    ) -> None:
        """Makes a net, initialised from `seed` alone.

        Args:
            space: the space whose architectures are encoded.
            copies: K.
            layers: gives a code for each of so many layers; by default there is one code.
            channels: gives a code for each of so many channels: the layer of every one.
            widths: the decisions that go through the channel branch.
            hidden: the number of hidden units; by default 64 for up to 64 inputs, else 128.
            tau: the temperature of the softmax.
            last_std: the standard deviation of the last layer's weights; a small one starts all
                codes near uniform.
            seed: the seed of the weights.

        Raises:
            ValueError: if a number is out of range.
        """
        super().__init__()
        if copies < 1 or tau <= 0 or last_std < 0 or (hidden is not None and hidden < 1):
            raise ValueError(
                "SimplexNet: copies and hidden must be at least 1, tau positive and last_std not "
                f"negative, got copies={copies}, hidden={hidden}, tau={tau}, last_std={last_std}"
            )
        self.space, self.copies, self.layers, self.tau = space, copies, layers, tau
        self.widths = tuple(widths)
        ends = np.cumsum(space.counts)
        wide = np.zeros(int(ends[-1]), np.bool_)
        for decision in self.widths:
            end = int(ends[space.index[decision]])
            wide[end - len(decision.options) : end] = True
        self._options = len(wide)
        units = hidden or (64 if len(wide) <= 64 else 128)
        generator = torch_generator(seed, "simplex_net")

        def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
            return initialised(nn.Linear(inputs, outputs, bias, device="meta"), inputs, generator)

        self.operations: nn.Linear | None = None
        self.channels: nn.Linear | None = None
        if not wide.all():
            self.operations = linear(int((~wide).sum()), units)
        if wide.any():
            self.channels = linear(int(wide.sum()), units, bias=False)
        self.last = linear(units, copies * (layers or 1))
        with torch.no_grad():
            self.last.weight.normal_(0, last_std, generator=generator)
            self.last.bias.zero_()
        self.factors: nn.Linear | None = None
        self.vectors: nn.Parameter | None = None
        if channels is not None:
            self.factors = linear(units, _FACTORS * copies)
            drawn = torch.randn((len(channels), _FACTORS), generator=generator)
            self.vectors = nn.Parameter(drawn / _FACTORS**0.5)
            with torch.no_grad():
                self.factors.weight.normal_(0, last_std, generator=generator)
                self.factors.bias.zero_()
        for name, places in (("of_operations", ~wide), ("of_channels", wide)):
            # Indices, not masks, of which a device would have to be asked how many they pick.
            self.register_buffer(name, torch.from_numpy(np.flatnonzero(places)), persistent=False)
        layer_of = torch.tensor(() if channels is None else channels, dtype=torch.long)
        self.register_buffer("layer_of", layer_of, persistent=False)

    def encode(self, archs: Sequence[Arch]) -> Tensor:
        """The one-hots of the canonical architectures, (B, options of all decisions)."""
        rows = [self.space.one_hot(self.space.canonical(arch)) for arch in archs]
        encoded = torch.from_numpy(np.array(rows, np.float32).reshape(len(rows), self._options))
        like = self.last.weight
        return encoded.to(like.dtype).to(like.device, non_blocking=True)

    def forward(self, encoded: Tensor) -> Tensor:
        """Codes (B, K), or (B, rows, K) of layers or channels, of `encode`d architectures.

        They are the same whatever autocast says.
        """
        with torch.autocast(encoded.device.type, enabled=False):
            total: Tensor | None = None
            if self.operations is not None:
                total = self.operations(encoded[:, cast(Tensor, self.of_operations)])
            if self.channels is not None:
                branch: Tensor = self.channels(encoded[:, cast(Tensor, self.of_channels)])
                total = branch if total is None else total + branch
            assert total is not None
            hidden = total.relu()
            logits = self.last(hidden)
            if self.layers is not None:
                logits = logits.view(len(encoded), self.layers, self.copies)
            if self.factors is not None and self.vectors is not None:
                factors = self.factors(hidden).view(len(encoded), _FACTORS, self.copies)
                logits = logits[:, cast(Tensor, self.layer_of)] + self.vectors @ factors
            return torch.softmax(logits / self.tau, dim=-1)
