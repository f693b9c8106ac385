"""The text of a recipe: TOML read, overridden and written."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w


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

    With nothing behind the sign, as in `"search.options="`, the recipe is as if it did not have
    that key, or section.

    Raises:
        RecipeError: if the text is of another form, names something below a value that is no
            section, or drops what there is not.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r} is not of the form section.key=value")
    try:
        whole = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        whole = {"value": value.strip()}  # a bare word is a string
    if whole.keys() != {"value"}:
        raise RecipeError(f"--set {text!r} has more than one line: give each its own --set")
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {text!r}: {section!r} is a value, not a section")
    if value.strip():
        values[last] = whole["value"]
    elif values.pop(last, None) is None:
        raise RecipeError(
            f"--set {text!r} drops a key that the recipe does not set: leave it out, or give a "
            'value, such as "" for an empty text'
        )


def dumps(values: Mapping[str, Any]) -> str:
    """`values` as TOML, plain values first, then tables; keys that are None are left out.

    Raises:
        RecipeError: if a text cannot be written as UTF-8, as a path of other bytes cannot.
    """
    text = tomli_w.dumps(_without_none(values))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.split("\n")[text[: error.start].count("\n")]
        raise RecipeError(
            f"a recipe is UTF-8 text and cannot hold {ascii(line)}: give another name to the "
            "file or folder"
        ) from error
    return text


def in_one_line(value: Any) -> str:
    """A value as TOML, such as `[1, 2]` or `{width = 3}`; raises what `dumps` does."""
    if isinstance(value, Mapping):
        pairs = (f"{key} = {in_one_line(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_one_line, value))}]"
    return dumps({"value": value}).partition("=")[2].strip()


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }
