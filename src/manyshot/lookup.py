"""Parts by name: from a visible table, or anybody's by `package.module:attribute`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def look_up(kind: str, name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The callable of that name in `table`, or what `package.module:attribute` names.

    Raises:
        ValueError: for an unknown name (listing the known ones, the nearest first), or one that
            cannot be imported or called.
    """
    if name in table:
        return table[name]
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(
            f"unknown {kind} {name!r}; {nearest(name, table)}have {', '.join(sorted(table))}, or "
            "give package.module:attribute"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} is {found!r}, not a function that makes a {kind}")
    return found  # type: ignore[no-any-return]


def check_options(kind: str, name: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError for an option that `name` does not take, with the nearest that it does."""
    known = list(known)
    for option in options:
        if option not in known:
            raise ValueError(
                f"{kind} {name!r} has no option {option!r}; {nearest(option, known)}"
                f"it has {', '.join(known) or 'none'}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'uniform'? "`, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
