"""The text of a recipe: TOML read, overridden and written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that TOML takes without quotes


class RecipeError(ValueError):
    """A recipe does not fit; the message names the file, the key, and what is allowed."""


def read(path: Path | None) -> dict[str, Any]:
    """The values in the file of a recipe; an empty recipe without a path.

    Raises:
        RecipeError: if the file cannot be read, or is not TOML.
    """
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}") from None
    except OSError as error:
        raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error


def override(values: dict[str, Any], text: str) -> None:
    """Sets one value of a recipe from a text such as `"train.epochs=5"`.

    Raises:
        RecipeError: if the text is of another form, or names something below a value that is no
            section.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r} is not of the form section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {text!r}: {section!r} is a value, not a section")
    values[last] = parsed


def dumps(values: Mapping[str, Any], prefix: str = "") -> str:
    """`values` as TOML, plain values first, then tables; keys that are None are left out."""
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
