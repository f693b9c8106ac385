"""Parts by name: from a visible table, or anybody's by `package.module:attribute`."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def look_up(kind: str, name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The callable that a name stands for.

    Args:
        kind: what is looked up, such as "sampler", for messages.
        name: a key of `table`, or `package.module:attribute`.
        table: the callables that come with manyshot, by name.

    Raises:
        ValueError: for an unknown name (the message lists what exists, the nearest first), or one
            that cannot be imported or called.
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
        part = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not callable(part):
        raise ValueError(f"{kind} {name!r} is {part!r}, not a function that makes a {kind}")
    return part  # type: ignore[no-any-return]


def check_options(kind: str, name: str, options: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuses options that a part does not take.

    Args:
        kind: what the part is, such as "sampler", for messages.
        name: the name of the part.
        options: the names of the options that somebody gave.
        allowed: the names of the options that the part takes.

    Raises:
        ValueError: for any other option; the message has the nearest that is allowed.
    """
    allowed = list(allowed)
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{kind} {name!r} has no option {option!r}; {nearest(option, allowed)}"
                f"it has {', '.join(allowed) or 'none'}"
            )


def nearest(name: str, names: Iterable[str]) -> str:
    """The words `did you mean 'uniform'? `, or nothing if none of `names` is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
