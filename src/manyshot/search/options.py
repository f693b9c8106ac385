"""Reading and checking the options of searchers."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

from manyshot.lookup import check_options

Config = TypeVar("Config")


def configured(config: type[Config], options: Mapping[str, Any]) -> Config:
    """Makes a config dataclass from options by name.

    Raises:
        ValueError: for an option that it does not have, with the nearest name that it has.
    """
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    check_options("searcher", config.__name__.removesuffix("Config"), options, known)
    return config(**options)


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Checks that a value is an integer in `low..high`.

    Args:
        name: what the value is called.
        value: the value.
        low: the least that is allowed.
        high: the most that is allowed; None for no limit.

    Raises:
        ValueError: if it is not.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"in {low}..{high}"
        raise ValueError(f"{name} must be a whole number {allowed}, got {value!r}")


def check_fraction(name: str, value: Any) -> None:
    """Checks that a value is a number in [0, 1].

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_switch(name: str, value: object) -> None:
    """Checks that a value is true or false.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
