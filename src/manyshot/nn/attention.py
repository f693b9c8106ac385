"""Multi-head self-attention with elastic width and heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.elastic import Linear
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
)
from manyshot.nn.selection import Index, Selection, active, current
from manyshot.space import Number, Size


@final
class QueryKeyValue(Layer):
    """The projection of tokens to queries, keys and values, three linear layers in one product.

    The weight is stored at its largest, (3, heads * head_dim, width); an architecture uses the
    first rows and columns of each of the three.
    """

    def __init__(self, width: Channels, features: Channels, bias: bool = True) -> None:
        """Makes a projection.

        Args:
            width: features of a token.
            features: heads * head_dim, for each of queries, keys and values.
            bias: whether there is one.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`).
        """
        super().__init__()
        self.width: int | Size = channels(width, "QueryKeyValue: width")
        self.features: int | Size = channels(features, "QueryKeyValue: features")
        self._elastic = elastic(self.width, self.features)
        self._stored = (3, largest(self.features), largest(self.width))
        self.weight = nn.Parameter(torch.empty(self._stored))
        self.bias = nn.Parameter(torch.empty(self._stored[:2])) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises as `torch.nn.Linear` does, with the fan of the largest weight."""
        nn.init.kaiming_uniform_(self.weight.view(-1, self._stored[-1]), a=5**0.5)
        if self.bias is not None:
            bound = self._stored[-1] ** -0.5
            nn.init.uniform_(self.bias, -bound, bound)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The width and the features."""
        yield "width", self.width
        yield "features", self.features

    def shapes(self) -> Iterator[tuple[str, Shape]]:
        """Weight and bias."""
        yield "weight", (3, self.features, self.width)
        if self.has("bias"):
            yield "bias", (3, self.features)

    def part(self, name: str, selection: Selection) -> Index:
        """The first rows and columns of each of the three."""
        sizes = (self.features, self.width)[: 1 if name == "bias" else 2]
        return leading(selection, self._stored, 3, *sizes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, N, width) to (B, N, 3, features)."""
        if not self._elastic:
            return _project(x, self.weight, self.bias)
        selection = current() or active(self)
        weight, bias = self.tensors(self.used(selection), selection)
        assert weight is not None
        if selection.policies is not None:
            weight = mask_dimension(weight, 2, selection.mask(self.width))
        return _project(x, weight, bias)

    def plain(self, selection: Selection, tie: Tie) -> PlainQueryKeyValue:
        """A small plain module with the same products."""
        return PlainQueryKeyValue(tie("weight"), tie("bias") if self.has("bias") else None)

    def extra_repr(self) -> str:
        """The sizes, for people."""
        return f"{self.width!r}, {self.features!r}, bias={self.has('bias')}"


class PlainQueryKeyValue(nn.Module):
    """What `QueryKeyValue` becomes in an extracted network."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, N, width) to (B, N, 3, features)."""
        return _project(x, self.weight, self.bias)


def _project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = F.linear(x, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return out.view(*x.shape[:-1], *weight.shape[:2])


class RelativePosition(nn.Module):
    """Learnt relative positions on a grid of patches, for keys and values (AutoFormer).

    As in the public code of AutoFormer (microsoft/Cream), there is a vector per row distance and
    one per column distance, clipped to `max_distance`, and the two are added; entry 0 is for tokens
    that are on no grid. All heads share them. Distances index products of queries with the tables,
    so that no tensor of (N, N, head_dim) is made.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        head_dim: int,
        max_distance: int = 14,
        extra_tokens: int = 1,
    ) -> None:
        """Makes tables for `extra_tokens` tokens followed by rows * columns patches, row by row.

        Args:
            grid: rows and columns of patches.
            head_dim: features of a head.
            max_distance: the largest distance that has a vector of its own.
            extra_tokens: tokens before the patches, such as a class token.

        Raises:
            ValueError: if a number is below 1 (`extra_tokens` below 0).
        """
        super().__init__()
        if min(*grid, head_dim, max_distance, extra_tokens + 1) < 1:
            raise ValueError(
                f"RelativePosition: grid {grid}, head_dim {head_dim} and max_distance "
                f"{max_distance} must be at least 1, extra_tokens {extra_tokens} at least 0"
            )
        self.grid, self.max_distance, self.extra_tokens = grid, max_distance, extra_tokens
        shape = (2 * max_distance + 2, head_dim)
        self.key_rows = nn.Parameter(torch.empty(shape))
        self.key_columns = nn.Parameter(torch.empty(shape))
        self.value_rows = nn.Parameter(torch.empty(shape))
        self.value_columns = nn.Parameter(torch.empty(shape))
        rows, columns = grid
        place = torch.arange(rows * columns)
        self.register_buffer("rows", self._distances(place // columns), persistent=False)
        self.register_buffer("columns", self._distances(place % columns), persistent=False)
        self.rows: Tensor
        self.columns: Tensor
        self.reset_parameters()

    def no_weight_decay(self) -> set[str]:
        """What does not decay: all tables."""
        return {name for name, _ in self.named_parameters()}

    def reset_parameters(self) -> None:
        """Draws the tables from a truncated normal of standard deviation 0.02."""
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=0.02)

    def _distances(self, place: Tensor) -> Tensor:
        """For tokens i and j the entry of their distance along one axis, (N, N)."""
        far = self.max_distance
        entries = (place[None] - place[:, None]).clamp(-far, far) + far + 1
        extra = self.extra_tokens
        return F.pad(entries, (extra, 0, extra, 0))

    def scores(self, queries: Tensor) -> Tensor:
        """The products of queries with the positions of keys.

        (B, heads, N, head_dim) becomes (B, heads, N, N).
        """
        shape = (*queries.shape[:-1], queries.shape[-2])
        by_row = (queries @ self.key_rows.T).gather(-1, self.rows.expand(shape))
        return by_row + (queries @ self.key_columns.T).gather(-1, self.columns.expand(shape))

    def values(self, attention: Tensor) -> Tensor:
        """The positions of values, weighted by the attention.

        (B, heads, N, N) becomes (B, heads, N, head_dim).
        """
        by_row = attention.new_zeros(*attention.shape[:-1], len(self.value_rows))
        by_column = by_row.scatter_add(-1, self.columns.expand(attention.shape), attention)
        by_row = by_row.scatter_add(-1, self.rows.expand(attention.shape), attention)
        return by_row @ self.value_rows + by_column @ self.value_columns

    def extra_repr(self) -> str:
        """Grid and reach, for people."""
        return f"grid={self.grid}, max_distance={self.max_distance}"


class SelfAttention(nn.Module):
    """Multi-head self-attention whose width and number of heads may be sizes.

    The dimension of a head is fixed, so that heads are whole groups of features: an architecture
    uses the first heads.
    """

    def __init__(
        self,
        width: Channels,
        heads: int | Size,
        head_dim: int,
        *,
        bias: bool = True,
        relative: RelativePosition | None = None,
    ) -> None:
        """Makes self-attention.

        Args:
            width: features of a token.
            heads: number of heads.
            head_dim: features of a head.
            bias: whether queries, keys and values have one; the output projection always has.
            relative: learnt relative positions, if there are any.

        Raises:
            ValueError: if `head_dim` is below 1, or for a width that is a sum of sizes (see
                `ms.concat`).
        """
        super().__init__()
        if head_dim < 1:
            raise ValueError(f"SelfAttention: head_dim must be at least 1, got {head_dim}")
        self.head_dim = head_dim
        self.qkv = QueryKeyValue(width, heads * head_dim, bias)
        self.project = Linear(heads * head_dim, width)
        self.relative = relative

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, N, width) to the same shape."""
        batch, tokens, _ = x.shape
        split = self.qkv(x).view(batch, tokens, 3, -1, self.head_dim)
        queries, keys, values = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.relative is None:
            out = F.scaled_dot_product_attention(queries, keys, values)
        else:
            queries = queries * self.head_dim**-0.5
            scores = queries @ keys.transpose(-2, -1) + self.relative.scores(queries)
            attention = scores.softmax(-1)
            out = attention @ values + self.relative.values(attention)
        return self.project(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
