"""What a conversion did: what varies, what stayed fixed and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from manyshot.nn.batch_norm import BatchNormStats
from manyshot.shown import Shown

Kind = Literal["width", "heads", "depth", "kernel"]


@dataclasses.dataclass(frozen=True)
class Converted:
    """A decision that a conversion made.

    Attributes:
        name: of the decision.
        kind: what it decides.
        options: what it chooses between: channels, heads, blocks or the side of a kernel.
        modules: the paths of the modules that it changes.
    """

    name: str
    kind: Kind
    options: tuple[int, ...]
    modules: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Kept:
    """Channels, heads or blocks that a conversion left as they are.

    Attributes:
        name: of the first module that has them.
        kind: what they are.
        number: how many.
        reason: why they stay.
        modules: the paths of the modules that have them.
    """

    name: str
    kind: Kind
    number: int
    reason: str
    modules: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Conversion(Shown):
    """What `ms.convert` did to a network; printed, it is a table.

    Attributes:
        decisions: what varies.
        fixed: what stayed as it is.
        attributes: attributes of the user's modules that follow decisions, such as
            `"blocks.0.attn.num_heads"`, and the decisions.
        opaque: modules that could not be looked into, and why.
        stats: the running statistics of the original's batch norms, of the largest architecture:
            `net(images, stats=net.conversion.stats)` is the original in eval mode.
        share: the part of the parameters that is in tensors which vary, between 0 and 1.
        difference: the largest difference of an output of the original and the largest
            architecture on the example inputs, relative to the largest output (1 if that is
            smaller).
        importance: by what channels were ordered.
    """

    decisions: tuple[Converted, ...]
    fixed: tuple[Kept, ...]
    attributes: dict[str, tuple[str, ...]]
    opaque: dict[str, str]
    stats: BatchNormStats
    share: float
    difference: float
    importance: str

    def __str__(self) -> str:
        rows = [(d.name, d.kind, _short(d.options), _listed(d.modules)) for d in self.decisions]
        kept = [(k.name, k.kind, str(k.number), k.reason) for k in self.fixed]
        parts = [_table(("decision", "kind", "options", "modules"), rows)]
        if kept:
            parts.append(_table(("fixed", "kind", "number", "because"), kept))
        if self.attributes:
            bound = [(a, ", ".join(names)) for a, names in self.attributes.items()]
            parts.append(_table(("attribute", "follows"), bound))
        if self.opaque:
            parts.append(_table(("not looked into", "because"), list(self.opaque.items())))
        parts.append(self.summary())
        return "\n\n".join(parts)

    def plain(self) -> dict[str, Any]:
        """What it did, as plain values."""
        return {
            "decisions": [dataclasses.asdict(decision) for decision in self.decisions],
            "fixed": [dataclasses.asdict(kept) for kept in self.fixed],
            "attributes": dict(self.attributes),
            "opaque": dict(self.opaque),
            "summary": self.summary(),
        }

    def summary(self) -> str:
        """One sentence on how much varies."""
        kinds = {kind: sum(d.kind == kind for d in self.decisions) for kind in Kind.__args__}  # type: ignore[attr-defined]
        counts = ", ".join(f"{n} of {kind}" for kind, n in kinds.items() if n)
        number = len(self.decisions)
        said = f"{number} decision{'s' * (number != 1)} ({counts}); "
        said += f"{self.share:.0%} of the parameters are in tensors that vary"
        said += f"; the largest differs from the original by {self.difference:.1e}."
        valued = [path for path in self.opaque if not path.startswith("(")]
        if valued:
            said += (
                f" {_listed(valued)} cannot run without values, so that the multiply-adds of the "
                "network cannot be recorded: search by params, by latency_ms, or by a function of "
                "your own as a cost, or let the forward depend on shapes alone."
            )
        if len(valued) < len(self.opaque):
            said += (
                " The network did not run in train mode, so that what only training runs was not "
                "seen."
            )
        return said


def _short(options: Sequence[int]) -> str:
    """Options as text that says which of them is the original: `8, 16 or 24 of 24`."""
    *fewer, last = map(str, options)
    return f"{', '.join(fewer)} or {last} of {last}" if fewer else last


def _listed(modules: Sequence[str], most: int = 3) -> str:
    more = len(modules) - most
    return ", ".join(modules[:most]) + (f" and {more} more" if more > 0 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], widest: int = 60) -> str:
    cut = [
        [cell if len(cell) <= widest else cell[: widest - 3] + "..." for cell in row]
        for row in rows
    ]
    widths = [max(len(row[i]) for row in (head, *cut)) for i in range(len(head))]
    lines = (head, ["-" * width for width in widths], *cut)
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
