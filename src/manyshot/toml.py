"""Writing TOML; the standard library only reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that TOML takes without quotes


def dumps(values: Mapping[str, Any], prefix: str = "") -> str:
    """`values` as TOML: plain values first, then tables; keys that are None are left out."""
    lines = [
        f"{key if _BARE.fullmatch(key) else _literal(key)} = {_literal(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = dumps(value, f"{prefix}{key}.")
            has_own = any(v is not None and not isinstance(v, Mapping) for v in value.values())
            header = f"\n[{prefix}{key}]\n" if has_own or not value else ""
            text += header + inner
    return text


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)
