"""Groups of channels: how many channels each has, and whether full masks can express them."""

from __future__ import annotations

from collections.abc import Iterator

from manyshot.nn.layer import largest, values_of
from manyshot.nn.selection import Selection
from manyshot.space import Concat, Number, Size


def per_group(what: str, channels: int | Size, groups: int | Size) -> int | Size:
    """The channels of one group; of concatenated channels, the number that all groups have.

    Args:
        what: the layer and the name of its channels, for the message.
        channels: how many channels there are.
        groups: how many groups.

    Raises:
        ValueError: if groups do not divide the channels, or would reach across a concatenation.
    """
    if isinstance(groups, int) and groups == 1:
        return channels
    if largest(groups) < 1 or min(values_of(groups)) < 1:
        raise ValueError(f"{what}: groups {groups!r} must be at least 1 in every architecture")
    if isinstance(channels, Concat) or isinstance(groups, Concat):
        counts = set(_counts(channels, groups))
        if len(counts) != 1 or None in counts:
            raise ValueError(
                f"{what}: groups {groups!r} of {channels!r} would reach across concatenated "
                "channels, and meet others in every width: give groups the same parts, as "
                "groups=ms.concat(a, b) for depthwise on ms.concat(a, b), or "
                "ms.concat(a // 8, b // 8), with as many channels per group in all of them"
            )
        return int(counts.pop())  # type: ignore[arg-type]
    if any(values_of(channels - channels // groups * groups)):
        raise ValueError(
            f"{what} {channels!r} are not divided by groups {groups!r} in every architecture; "
            "round the channels to a multiple by ms.round_to(size, multiple)"
        )
    return channels // groups


def _counts(channels: int | Size, groups: int | Size) -> Iterator[Number | None]:
    """The channels per group of every part in every architecture; None where there is no number."""
    if not (isinstance(channels, Concat) and isinstance(groups, Concat)) or (
        len(channels.operands) != len(groups.operands)
    ):
        yield None
        return
    for part, each in zip(channels.operands, groups.operands, strict=True):
        if isinstance(part, Size) or isinstance(each, Size):
            rest = values_of(part - part // each * each)
            yield from values_of(part // each) if not any(rest) else [None]
        else:
            yield part // each if part % each == 0 else None


def check_groups_maskable(
    where: str,
    groups: int | Size,
    channels: tuple[tuple[int | Size, int | Size], ...],
    selection: Selection,
) -> None:
    """Checks that masks leave every group the channels that it has in a slice.

    Args:
        where: the layer and its path, for the message.
        groups: how many groups there are.
        channels: numbers of channels, each with the channels of one group of it.
        selection: what is active.

    Raises:
        ValueError: if channels per group are elastic, so that each width groups other channels.
    """
    extent = selection.extent(groups)
    for whole, each in channels:
        channels_each = selection.extent(each)
        if channels_each != selection.count(each) or (
            channels_each * extent != selection.extent(whole)
        ):
            raise ValueError(
                f"{where}: with {groups!r} groups its channels per group are elastic, so each "
                "width groups other channels, which masks cannot express: keep channels per group "
                "fixed (groups=width // 8), or give masks='active'"
            )
