"""What annotations and docstrings say of a value: its type in words, and what it does."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from manyshot.toml import in_one_line

_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_NO_BOUND = 10**9
"""Bounds from here on only say that a number is not absurd."""
_MODULE = re.compile(r"(?:\w+\.)+(?=\w)")
"""What stands before the name of a type, such as `collections.abc.`"""
_ENTRY = re.compile(r"\*{0,2}(\w+)(?: \([^)]*\))?: +(.*)")
"""A line of a docstring that begins to describe an argument, such as `paths: how many.`"""


def type_in_words(annotation: Any, bounds: str = "") -> str:
    """What a value may be, such as `whole number >= 1`. That it may be None is left out.

    Args:
        annotation: the type, or its name where that cannot be looked up.
        bounds: what `bounds_in_words` says of the value.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(parts[0], bounds_in_words(parts[1:]))
    if origin is Literal:
        return ", ".join(in_one_line(value) for value in parts)
    if origin in (Union, types.UnionType):
        some = [type_in_words(part) for part in parts if part is not type(None)]
        return f"{' or '.join(some)} {bounds}".strip()
    if origin in (list, Sequence):
        return f"list of {_plural(type_in_words(parts[0]))}" if parts else "list"
    if origin in (dict, Mapping):
        return "table"
    if origin is Callable:
        return "function"
    if annotation in (Any, inspect.Parameter.empty):
        return ""
    if isinstance(annotation, str):
        return annotation
    word = _WORDS.get(annotation) or _MODULE.sub("", inspect.formatannotation(annotation))
    return f"{word} {bounds}".strip()


def bounds_in_words(metadata: Any) -> str:
    """What numbers are allowed, such as `>= 0 and < 1`, by the metadata of a field or a type."""
    # Limits in a type such as `Positive` come as those of a field, others one by one.
    limits = [
        limit
        for item in metadata
        for limit in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    bounds = {
        sign: value
        for name, sign in _SIGNS.items()
        for value in (getattr(limit, name, None) for limit in limits)
        if value is not None and abs(value) < _NO_BOUND
    }
    if ">=" in bounds and bounds[">="] == bounds.get("<="):
        return f"= {bounds['>=']:g}"
    return " and ".join(f"{sign} {value:g}" for sign, value in bounds.items())


def _plural(kind: str) -> str:
    for singular in ("list", "whole number", "number", "text"):
        if kind.startswith(singular):
            return kind.replace(singular, f"{singular}s", 1)
    return kind


def words_of(section: type, field: str) -> str:
    """What stands below a field, in its class or the nearest that this extends; else empty."""
    said = (_below_fields(cls.__module__).get(cls.__name__, {}) for cls in section.__mro__)
    return next((fields[field] for fields in said if fields.get(field)), "")


@functools.cache
def _below_fields(module: str) -> dict[str, dict[str, str]]:
    """What a module says below every attribute of its classes, by class and attribute.

    Python keeps no docstrings of attributes, so that they are read from the source. A module
    without source says nothing.
    """
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return {}
    by_class: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        said = by_class.setdefault(node.name, {})
        for line, below in zip(node.body, node.body[1:], strict=False):
            is_said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and is_said:
                said[line.target.id] = one_paragraph(below.value.value)  # type: ignore[attr-defined]
    return by_class


def entries(docstring: str, *titles: str) -> dict[str, str]:
    """What a docstring of Google's style says of each name below titles such as `Args`."""
    said: dict[str, list[str]] = {}
    name, inside, depth = "", False, 0
    for line in inspect.cleandoc(docstring).splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and not indent:
            name, inside, depth = "", text.removesuffix(":") in titles and text.endswith(":"), 0
        elif inside and text:
            depth = depth or indent  # that of the first entry
            entry = _ENTRY.fullmatch(text) if indent == depth else None
            if entry:
                name = entry[1]
            said.setdefault(name, []).append(entry[2] if entry else text)
    return {name: " ".join(lines) for name, lines in said.items() if name}


def summary(docstring: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return one_paragraph((docstring or "").strip().partition("\n\n")[0])


def one_paragraph(text: str | None) -> str:
    """A text in one line, with single spaces; None is empty."""
    return " ".join((text or "").split())
