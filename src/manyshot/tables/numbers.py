"""Numbers and names as people read them. What is None is "undefined", never 0."""

from __future__ import annotations

from manyshot.run_folder import Statistic

UNDEFINED = "undefined"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"
_NO_BREAK = "\N{NO-BREAK SPACE}"
AT_MOST = f"{_NO_BREAK}≤{_NO_BREAK}"
"""What people read for the `<=` of a budget."""


def count(number: float | None) -> str:
    """A count with three digits: `29.7 K`, `1.91 M`."""
    if number is None:
        return UNDEFINED
    for suffix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(number) >= 0.9995 * unit:
            return f"{_signed(f'{number / unit:#.3g}'.rstrip('.'))}{_THIN}{suffix}"
    return _signed(f"{number:.4g}")


def whole(number: float | None) -> str:
    """A whole number with its thousands: `20,480`."""
    return UNDEFINED if number is None else _signed(f"{number:,.0f}")


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in percent: `12.3 %`."""
    return UNDEFINED if share is None else f"{_signed(f'{100 * share:.{digits}f}')}{_THIN}%"


def decimal(number: float | None, digits: int = 3) -> str:
    """A number with so many decimals: `0.463`."""
    return UNDEFINED if number is None else _signed(f"{number:.{digits}f}")


def score(value: float | None, is_share: bool, digits: int = 1) -> str:
    """The value of a metric, in percent if that is a share: `12.3 %`, `0.04567`.

    Args:
        value: the value.
        is_share: whether the metric is one.
        digits: decimals of percents.
    """
    if is_share or value is None:
        return percent(value, digits)
    return _signed(f"{value:.4g}")


def difference(value: float | None, is_share: bool) -> str:
    """A difference of two values of a metric: of shares in points, `−1.19 points`, `0.04567`."""
    if value is None or not is_share:
        return score(value, is_share)
    return f"{_signed(f'{100 * value:.2f}')}{_NO_BREAK}points"


def bounds(interval: tuple[float, float] | None, is_share: bool) -> str:
    """The bounds of an interval, in percent of a share: `91.2–95.0`, `−2.1 to 0.3`."""
    if interval is None:
        return UNDEFINED
    ends = [f"{100 * end:.1f}" if is_share else f"{end:.4g}" for end in interval]
    between = " to " if any("-" in end for end in ends) else "–"
    return _signed(between.join(ends))


def milliseconds(number: float | None) -> str:
    """A latency: `0.394 ms`."""
    return UNDEFINED if number is None else f"{number:.3g}{_THIN}ms"


def seconds(number: float | None) -> str:
    """A duration: `3.1 s`, `4 min 5 s`, `2 h 3 min`."""
    if number is None:
        return UNDEFINED
    if number < 60:
        return f"{number:.3g}{_THIN}s"
    minutes, rest = divmod(round(number), 60)
    if minutes < 60:
        return f"{minutes}{_THIN}min {rest}{_THIN}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_THIN}h {minutes}{_THIN}min"


def statistic(estimate: Statistic) -> str:
    """A value with its interval: `0.463 [0.41, 0.52]`; without one if it has none."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None or low is None or high is None:
        return decimal(value)
    return f"{decimal(value)} [{decimal(low, 2)}, {decimal(high, 2)}]"


def share_statistic(estimate: Statistic, digits: int = 0) -> str:
    """A share with its interval, in percent: `40 % [20, 60]`."""
    value, low, high = estimate.value, estimate.low, estimate.high
    if value is None or low is None or high is None:
        return percent(value, digits)
    ends = (decimal(100 * end, digits) for end in (low, high))
    return f"{percent(value, digits)} [{', '.join(ends)}]"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 image`, `2 images`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_METRICS = {
    "macs": "MACs",
    "params": "parameters",
    "size": "size (bytes)",
    "latency_ms": "latency (ms)",
}


def metric(name: str) -> str:
    """The name of a cost for people."""
    return _METRICS.get(name, name)


def budget(text: str) -> str:
    """A budget as people write it: `macs ≤ 15%`."""
    return AT_MOST.join(part.strip() for part in text.split("<="))


def limit_of(text: str) -> str:
    """The limit of a budget alone: `≤ 15%`."""
    return "≤" + budget(text).partition("≤")[2] if "<=" in text else text


def together(text: str) -> str:
    """The same words, which stay on one line."""
    return text.replace(" ", _NO_BREAK)


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters: of a longer one its end, which tells more."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def sentence(words: str) -> str:
    """Words with a capital and a full stop."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _signed(text: str) -> str:
    return text.replace("-", _MINUS)
