"""Elastic linear layers, embeddings, slopes and free tensors: slices of the largest tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.layer import (
    Channels,
    Layer,
    Shape,
    Tie,
    channels,
    elastic,
    largest,
    leading,
    mask_dimension,
    to_be_given,
)
from manyshot.nn.selection import Index, Selection, active, current
from manyshot.space import Number, Size


@final
class Linear(Layer):
    """A linear layer whose features may be sizes; the first rows and columns are used."""

    def __init__(self, in_features: Channels, out_features: Channels, bias: bool = True) -> None:
        """Makes a linear layer.

        Args:
            in_features: features of the input, which may be a size.
            out_features: features of the output, which may be a size.
            bias: whether there is one.

        Raises:
            ValueError: for a sum of sizes as features (see `ms.concat`).
        """
        super().__init__()
        self.in_features: int | Size = channels(in_features, "Linear: in_features")
        self.out_features: int | Size = channels(out_features, "Linear: out_features")
        self._elastic = elastic(self.in_features, self.out_features)
        self._stored = (largest(self.out_features), largest(self.in_features))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.bias = nn.Parameter(torch.empty(self._stored[0])) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as `torch.nn.Linear` does, with the fan of the largest weight."""
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        if self.bias is not None:
            bound = self.weight.shape[1] ** -0.5 if self.weight.shape[1] else 0.0
            nn.init.uniform_(self.bias, -bound, bound)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """Features in and out."""
        yield "in_features", self.in_features
        yield "out_features", self.out_features

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Weight and bias."""
        yield "weight", (self.out_features, self.in_features)
        if self.has("bias"):
            yield "bias", (self.out_features,)

    def part(self, name: str, selection: Selection) -> Index:
        """The first rows and columns."""
        sizes = (self.out_features, self.in_features)[: 1 if name == "bias" else 2]
        return leading(selection, self._stored, *sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        if not self._elastic:
            return F.linear(x, self.weight, self.bias)
        selection = current() or active(self)
        weight, bias = self.tensors(self.used(selection), selection)
        assert weight is not None
        if selection.policies is not None:
            weight = mask_dimension(weight, 1, selection.mixing(self.in_features))
        return F.linear(x, weight, bias)

    def plain(self, selection: Selection, tie: Tie) -> nn.Linear:
        """The layer as a `torch.nn.Linear`."""
        linear: nn.Linear = to_be_given(
            nn.Linear,
            selection.count(self.in_features),
            selection.count(self.out_features),
            bias=self.has("bias"),
        )
        linear.weight = tie("weight")
        if self.has("bias"):
            linear.bias = tie("bias")
        return linear

    def extra_repr(self) -> str:
        """The sizes, for people."""
        return f"{self.in_features!r}, {self.out_features!r}, bias={self.has('bias')}"


@final
class Embedding(Layer):
    """A table of vectors whose length may be a size; the first entries of each are used."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: Channels,
        padding_idx: int | None = None,
        max_norm: None = None,
    ) -> None:
        """Makes a table; vectors are drawn as `torch.nn.Embedding` draws them.

        Args:
            num_embeddings: how many vectors there are.
            embedding_dim: the length of a vector, which may be a size.
            padding_idx: the index of a vector that is zero and gets no gradient, if there is one.
            max_norm: must be None.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`), an index of padding outside the table,
                or a largest norm, to which torch would shorten stored vectors in a forward.
        """
        super().__init__()
        if max_norm is not None:
            raise ValueError(
                f"Embedding: max_norm={max_norm!r} changes stored vectors in every forward, by the "
                "norm that they have in one architecture alone: leave it out, and bound norms by "
                "weight decay or an ms.nn.LayerNorm behind the embedding"
            )
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"Embedding: padding_idx {padding_idx} must be within the {num_embeddings} "
                "embeddings"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim: int | Size = channels(embedding_dim, "Embedding: embedding_dim")
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self._elastic = elastic(self.embedding_dim)
        self._stored = (num_embeddings, largest(self.embedding_dim))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws vectors from a normal distribution; that of the padding is zero."""
        nn.init.normal_(self.weight)
        if self.padding_idx is not None:
            with torch.no_grad():
                self.weight[self.padding_idx].zero_()

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The length of a vector."""
        yield "embedding_dim", self.embedding_dim

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """The table, which is its only parameter."""
        yield "weight", (self.num_embeddings, self.embedding_dim)

    def part(self, name: str, selection: Selection) -> Index:
        """The first entries of every vector."""
        return leading(selection, self._stored, self.num_embeddings, self.embedding_dim)

    def forward(self, indices: Tensor) -> Tensor:
        """Maps whole numbers (...) to vectors (..., embedding_dim)."""
        weight: Tensor | None = (
            self.weight if not self._elastic else self.cut("weight", active(self))
        )
        assert weight is not None
        return F.embedding(indices, weight, self.padding_idx)

    def plain(self, selection: Selection, tie: Tie) -> nn.Embedding:
        """The table as a `torch.nn.Embedding`."""
        shape = (self.num_embeddings, selection.count(self.embedding_dim))
        table = nn.Embedding(*shape, padding_idx=self.padding_idx, device="meta")
        table.weight = tie("weight")
        return table

    def extra_repr(self) -> str:
        """The sizes, for people."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim!r}{padding}"


@final
class PReLU(Layer):
    """Where the input is below zero, it times a learnt slope: one, or one for each channel."""

    def __init__(self, num_parameters: Channels = 1, init: float = 0.25) -> None:
        """Makes the slopes.

        Args:
            num_parameters: 1, or the number of channels, which may be a size.
            init: the value that slopes start from.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__()
        self.num_parameters: int | Size = channels(num_parameters, "PReLU: num_parameters")
        self.init = init
        self._elastic = elastic(self.num_parameters)
        self._stored = (largest(self.num_parameters),)
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets all slopes to their first value."""
        nn.init.constant_(self.weight, self.init)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The number of slopes."""
        yield "num_parameters", self.num_parameters

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """The slopes, which are its only parameter."""
        yield "weight", (self.num_parameters,)

    def part(self, name: str, selection: Selection) -> Index:
        """The slopes of the first channels."""
        return leading(selection, self._stored, self.num_parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, ...) to the same shape."""
        weight: Tensor | None = (
            self.weight if not self._elastic else self.cut("weight", active(self))
        )
        assert weight is not None
        return F.prelu(x, weight)

    def plain(self, selection: Selection, tie: Tie) -> nn.PReLU:
        """The slopes as a `torch.nn.PReLU`."""
        slopes = nn.PReLU(selection.count(self.num_parameters), self.init, device="meta")
        slopes.weight = tie("weight")
        return slopes

    def extra_repr(self) -> str:
        """The number of slopes, for people."""
        return f"num_parameters={self.num_parameters!r}"


class PlainParameter(nn.Module):
    """What `ms.nn.Parameter` becomes in an extracted network: `forward()` returns the tensor."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self) -> Tensor:
        """The tensor."""
        return self.weight


@final
class Parameter(Layer):
    """A free elastic tensor (positions, scales): call it to get the active slice.

    `self.position = ms.nn.Parameter((1, 64, width))`, then `x + self.position()` in a `forward`.
    """

    def __init__(
        self,
        shape: Sequence[Channels],
        init: Callable[[Tensor], object] = nn.init.zeros_,
    ) -> None:
        """Makes a tensor of the largest `shape`, filled in place by `init` (default zeros).

        Raises:
            ValueError: for a sum of sizes in the shape (see `ms.concat`).
        """
        super().__init__()
        self.shape: tuple[int | Size, ...] = tuple(
            channels(size, f"Parameter: shape[{i}]") for i, size in enumerate(shape)
        )
        self._elastic = elastic(*self.shape)
        self._init = init
        self._stored = tuple(map(largest, self.shape))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the tensor by `init`."""
        with torch.no_grad():
            self._init(self.weight)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The sizes of the shape, by dimension."""
        for i, size in enumerate(self.shape):
            yield f"shape_{i}", size

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """The tensor, which is its only parameter."""
        yield "weight", self.shape

    def part(self, name: str, selection: Selection) -> Index:
        """The leading entries of every dimension."""
        return leading(selection, self._stored, *self.shape)

    def forward(self) -> Tensor:
        """The active slice, of the active shape."""
        if not self._elastic:
            return self.weight
        active_slice = self.cut("weight", active(self))
        assert active_slice is not None
        return active_slice

    def plain(self, selection: Selection, tie: Tie) -> PlainParameter:
        """A small module whose `forward()` returns the tensor."""
        return PlainParameter(tie("weight"))

    def extra_repr(self) -> str:
        """The shape, for people."""
        return ", ".join(map(repr, self.shape))
