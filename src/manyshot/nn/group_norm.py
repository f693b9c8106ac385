"""Normalisation of every image by itself, over groups of channels or over single ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, final

from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.nn.groups import check_groups_maskable, per_group
from manyshot.nn.layer import Channels, Norm, Tie, channels, elastic
from manyshot.nn.selection import Selection, active, current
from manyshot.space import Number, Size


@final
class GroupNorm(Norm):
    """Normalisation over groups of channels, of which numbers of both may be sizes.

    `GroupNorm(width // 8, width)` keeps groups of 8 channels. With elastic channels and a *fixed*
    number of groups every width groups other channels, as the extracted layer does. Of concatenated
    channels groups are those of the parts: `GroupNorm(ms.concat(a // 8, b // 8), ms.concat(a, b))`.
    """

    _size_name = "num_channels"

    def __init__(
        self,
        num_groups: Channels,
        num_channels: Channels,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        """Makes a norm as `torch.nn.GroupNorm` is made.

        Args:
            num_groups: the number of groups, which may be a size.
            num_channels: the number of channels, which may be a size.
            eps: what is added to the variance.
            affine: whether there are a scale and a shift.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`), channels that groups do not divide, or
                groups across concatenated channels.
        """
        super().__init__()
        self.num_groups: int | Size = channels(num_groups, "GroupNorm: num_groups")
        self.num_channels: int | Size = channels(num_channels, "GroupNorm: num_channels")
        self.eps = eps
        what = "GroupNorm: num_channels"
        self._grouped = (self.num_channels, per_group(what, self.num_channels, self.num_groups))
        self._make_parameters(affine, affine)
        self._elastic = elastic(self.num_groups, self.num_channels)

    def sizes(self) -> Iterator[tuple[str, Number | Size]]:
        """The numbers of groups and of channels."""
        yield "num_groups", self.num_groups
        yield from super().sizes()

    def numbers(self, selection: Selection) -> int:
        """The number of groups."""
        return selection.extent(self.num_groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) normalised by image and group."""
        if not self._elastic:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)  # type: ignore[arg-type]
        selection = current() or active(self)
        used = self.used(selection)
        weight, bias = self.tensors(used, selection)
        if selection.policies is not None:
            where = f"GroupNorm {self.path!r}"
            check_groups_maskable(where, self.num_groups, (self._grouped,), selection)
        return F.group_norm(x, used.numbers, weight, bias, self.eps)

    def plain(self, selection: Selection, tie: Tie) -> nn.GroupNorm:
        """A `torch.nn.GroupNorm`."""
        groups, features = selection.count(self.num_groups), selection.count(self.num_channels)
        norm = nn.GroupNorm(groups, features, self.eps, self.has("weight"), device="meta")
        self._give_parameters(norm, tie)
        return norm

    def extra_repr(self) -> str:
        """The numbers of groups and channels, for people."""
        return f"{self.num_groups!r}, {super().extra_repr()}"


class InstanceNorm(Norm):
    """Normalisation of every channel of every image by itself; their number may be a size."""

    _size_name = "num_features"
    dimensions: ClassVar[int]
    _plain: ClassVar[type[nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d]]

    def __init__(
        self,
        num_features: Channels,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        """Makes a norm as `torch.nn.InstanceNorm2d` is made.

        Args:
            num_features: the number of channels, which may be a size.
            eps: what is added to the variance.
            momentum: matters nowhere without running statistics.
            affine: whether there are a scale and a shift.
            track_running_stats: must be False.

        Raises:
            ValueError: for a sum of sizes (see `ms.concat`), or for running statistics.
        """
        super().__init__()
        kind = type(self).__name__
        if track_running_stats:
            raise ValueError(
                f"{kind}: track_running_stats=True keeps running statistics, which a supernet "
                "cannot share between paths; leave it out, or use ms.nn.BatchNorm1d/2d/3d"
            )
        self.num_features: int | Size = channels(num_features, f"{kind}: num_features")
        self.eps, self.momentum = eps, momentum
        self._make_parameters(affine, affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) normalised by image and channel; without images (C, ...) by channel."""
        weight: Tensor | None = self.weight
        bias: Tensor | None = self.bias
        if self._elastic:
            selection = current() or active(self)
            weight, bias = self.tensors(self.used(selection), selection)
        single = x.dim() == self.dimensions + 1
        batch = x.unsqueeze(0) if single else x
        out = F.instance_norm(batch, None, None, weight, bias, True, 0.0, self.eps)
        return out.squeeze(0) if single else out

    def plain(self, selection: Selection, tie: Tie) -> nn.Module:
        """The `torch.nn` namesake."""
        features, affine = selection.count(self.num_features), self.has("weight")
        norm = self._plain(features, self.eps, self.momentum, affine, device="meta")  # type: ignore[arg-type]
        self._give_parameters(norm, tie)
        return norm


@final
class InstanceNorm1d(InstanceNorm):
    """The elastic counterpart of `torch.nn.InstanceNorm1d`, for (B, C, L)."""

    dimensions = 1
    _plain = nn.InstanceNorm1d


@final
class InstanceNorm2d(InstanceNorm):
    """The elastic counterpart of `torch.nn.InstanceNorm2d`, for (B, C, H, W)."""

    dimensions = 2
    _plain = nn.InstanceNorm2d


@final
class InstanceNorm3d(InstanceNorm):
    """The elastic counterpart of `torch.nn.InstanceNorm3d`, for (B, C, D, H, W)."""

    dimensions = 3
    _plain = nn.InstanceNorm3d
