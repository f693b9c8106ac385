"""Budgets: `"macs<=30M"`, `"params<=60%"`, `"size<=5MB"`, `"macs<=30M and latency_ms<=2.5"`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

METRICS = ("macs", "params", "size", "latency_ms")
"""The costs that manyshot knows; a recipe may define further ones."""
_UNITS = {
    "": 1.0,
    "K": 1e3,
    "M": 1e6,
    "G": 1e9,
    "%": 0.01,
    "B": 1.0,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SPELT = {unit.lower(): unit for unit in _UNITS}
_JOINED = re.compile(r"\s+and\s+|\s*[,&]\s*")
_MOST = 1e18
_FORM = re.compile(
    r"(?P<metric>[A-Za-z]\w*)\s*<=\s*(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    r"\s*(?P<unit>%|[kmg]?(?:i?b)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one cost of an architecture.

    Attributes:
        text: the budget as it is written everywhere, without spaces and needless zeros.
        metric: one of `METRICS`, or a cost that a recipe defines.
        limit: in the metric's unit, or a fraction of the largest architecture's if `relative`.
        relative: whether `limit` is such a fraction.
    """

    text: str
    metric: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads `"macs<=30M"` or `"params<=60%"` (of the largest architecture).

        Suffixes are K, M and G, of the size of weights also B, KB, MB, GB and KiB, MiB, GiB. Lower
        case is the same, and `1.5e6` is `1500000`. That there is such a metric is not looked at.

        Raises:
            ValueError: if the text is of another form; the message names the allowed ones.
        """
        match = _FORM.fullmatch(text.strip())
        unit = None if match is None else _SPELT.get(match["unit"].lower())
        if match is None or unit is None:
            raise ValueError(
                f"budget {text[:60]!r} is not understood; write such as 'macs<=30M', "
                "'params<=60%', 'size<=5MB' or 'latency_ms<=2.5' (suffixes K, M, G or %; of size "
                "also B, KB, MB, GB, KiB, MiB, GiB)"
            )
        metric = match["metric"]
        if unit.endswith("B") and metric != "size":
            raise ValueError(
                f"budget {text[:60]!r} is in bytes, and only size is: write 'size<=5MB', or "
                f"'{metric}<=30M'"
            )
        if not 0 < float(match["number"]) < _MOST:
            raise ValueError(f"budget {text[:60]!r} must be above zero, and below {_MOST:g}")
        plain = format(Decimal(match["number"]).normalize(), "f")
        limit = float(plain) / 100 if unit == "%" else float(plain) * _UNITS[unit]
        return cls(f"{metric}<={plain}{unit}", metric, limit, unit == "%")

    @classmethod
    def parse_all(cls, text: str) -> tuple[Budget, ...]:
        """Reads a budget, or several that must hold at once: `"macs<=30M and params<=1M"`.

        A comma or `&` is the same as `and`. As a text they are joined by `and`.

        Raises:
            ValueError: as `parse`, or for two budgets on one metric.
        """
        parts = tuple(cls.parse(part) for part in _JOINED.split(text))
        if len({part.metric for part in parts}) < len(parts):
            raise ValueError(f"budget {text[:60]!r} limits a metric twice: leave one out")
        return parts

    @classmethod
    def spelt(cls, text: str) -> str:
        """A budget, or several that must hold at once, as it is written everywhere.

        Raises:
            ValueError: as `parse_all`.
        """
        return " and ".join(part.text for part in cls.parse_all(text))

    def absolute(self, largest: float) -> float:
        """The limit in the metric's unit, given the cost of the largest architecture."""
        return self.limit * largest if self.relative else self.limit
