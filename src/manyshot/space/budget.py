"""Budgets: `"macs<=30M"`, `"params<=60%"`, `"latency_ms<=2.5"`, `"macs<=30M and params<=1M"`."""

from __future__ import annotations

import re
from dataclasses import dataclass

METRICS = ("macs", "params", "latency_ms")
_SUFFIX = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}
_JOINED = re.compile(r"\s+and\s+|\s*[,&]\s*")
_MOST = 1e18
_FORM = re.compile(r"(?P<metric>\w+)\s*<=\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMG%]?)")


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit on one cost of an architecture.

    Attributes:
        text: the budget as it is written everywhere, without spaces and needless zeros.
        metric: `macs`, `params` or `latency_ms`.
        limit: in the metric's unit, or a fraction of the largest architecture's if `relative`.
        relative: whether `limit` is such a fraction.
    """

    text: str
    metric: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads `"macs<=30M"` (suffixes K, M, G) or `"params<=60%"` (of the largest architecture).

        Raises:
            ValueError: if the text is of another form; the message names the allowed ones.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None or match["metric"] not in METRICS:
            raise ValueError(
                f"budget {text[:60]!r} is not understood; write such as 'macs<=30M', 'params<=60%' "
                f"or 'latency_ms<=2.5' (metrics: {', '.join(METRICS)}; suffixes K, M, G or %)"
            )
        number, unit = float(match["number"]), match["unit"]
        if not 0 < number < _MOST:
            raise ValueError(f"budget {text[:60]!r} must be above zero, and below {_MOST:g}")
        plain = match["number"].lstrip("0")
        plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
        plain = f"0{plain}" if plain.startswith(".") else plain
        name = f"{match['metric']}<={plain}{unit}"
        if unit == "%":
            return cls(name, match["metric"], number / 100, relative=True)
        return cls(name, match["metric"], number * _SUFFIX[unit], relative=False)

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

    def absolute(self, largest: float) -> float:
        """The limit in the metric's unit, given the cost of the largest architecture."""
        return self.limit * largest if self.relative else self.limit
