"""What every key of a recipe is: its type, its default, and the words that stand below it.

Docstrings of attributes are not there at run time, so that they are read from the source of
`manyshot.recipe`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from manyshot.plugins import nearest
from manyshot.recipe import Recipe, RecipeError, Section
from manyshot.toml import in_one_line

_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_NO_BOUND = 10**9
"""Bounds from here on only say that a number is not absurd."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a recipe.

    Attributes:
        section: the table that it is in, such as `finish.training`; empty at the top.
        key: its name there.
        type: what it may be, in words.
        default: its value in the default recipe, as TOML; empty if it is not set.
        words: what it does.
    """

    section: str
    key: str
    type: str
    default: str
    words: str

    @property
    def path(self) -> str:
        """The key as `--set` takes it, such as `finish.training.lr`."""
        return f"{self.section}.{self.key}" if self.section else self.key


def keys(section: str | None = None) -> list[Key]:
    """All keys of recipes in the order of their sections, or those of a section and below it.

    Raises:
        RecipeError: for an unknown section, with the nearest name.
    """
    if section is not None:
        _check(section)
    every = [key for name, of, values in _sections() for key in _keys_of(name, of, values)]
    return [
        key
        for key in every
        if section is None or key.section == section or key.section.startswith(f"{section}.")
    ]


def changes(settings: Recipe) -> list[tuple[Key, str]]:
    """The keys that a recipe sets to another value than their default, with it as TOML."""
    changed = []
    for key in keys():
        value: Any = settings.model_dump(by_alias=True)
        for part in key.path.split("."):
            value = None if value is None else value[part]
        text = "" if value is None else in_one_line(value)
        if text != key.default and not (value is None and key.section == "network.convert"):
            changed.append((key, text))
    return changed


def sections() -> dict[str, str]:
    """What every section is about, by its name; of the top the name is empty."""
    about = {"": _plain(Recipe.__doc__)}
    for name, of, _ in _sections():
        parent, _, key = name.rpartition(".")
        if name:
            # A training that is part of a section is told by what that says of it.
            above = next(kind for section, kind, _ in _sections() if section == parent)
            about[name] = _words(above, key) or _plain(of.__doc__)
    return about


def _check(section: str) -> None:
    names = [name for name, *_ in _sections() if name]
    if section not in names:
        raise RecipeError(
            f"a recipe has no section {section!r}; {nearest(section, names)}have {', '.join(names)}"
        )


@functools.cache
def _docstrings(section: type) -> dict[str, str]:
    """What a class says below every attribute, by attribute."""
    (node,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(node, ast.ClassDef)
    said = {}
    for line, below in itertools.pairwise(node.body):
        is_said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and is_said:
            said[line.target.id] = _plain(below.value.value)  # type: ignore[attr-defined]
    return said


def _words(section: type[Section], field: str) -> str:
    """What is said of a field, by the class or else by the nearest one that it extends."""
    sections = (cls for cls in section.__mro__ if issubclass(cls, Section) and cls is not Section)
    said = (_docstrings(cls).get(field) for cls in sections)
    return next(filter(None, said), "")


def _plain(text: str | None) -> str:
    """A docstring as one paragraph."""
    return " ".join((text or "").split())


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds, also one that may be left out; None if it holds a value."""
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)


def _sections(
    name: str = "", section: type[Section] = Recipe, values: Section | None = None
) -> Iterator[tuple[str, type[Section], Section]]:
    """Every section: its name, its class, and its values in the default recipe."""
    values = section() if values is None else values
    yield name, section, values
    for field, info in section.model_fields.items():
        below = _section_in(info.annotation)
        if below is not None:
            yield from _sections(f"{name}.{field}".lstrip("."), below, getattr(values, field))


def _keys_of(name: str, section: type[Section], values: Section) -> Iterator[Key]:
    for field, info in section.model_fields.items():
        if _section_in(info.annotation) is None:
            default = getattr(values, field)
            yield Key(
                section=name,
                key=info.alias or field,
                type=_type(info.annotation, _bounds(info.metadata)),
                default="" if default is None else in_one_line(default),
                words=_words(section, field),
            )


def _bounds(metadata: Any) -> str:
    """What numbers are allowed, as signs and numbers."""
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


def _type(annotation: Any, bounds: str = "") -> str:
    """What a value may be, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0], _bounds(parts[1:]))
    if origin is Literal:
        return ", ".join(in_one_line(value) for value in parts)
    if origin in (Union, types.UnionType):
        some = [_type(part) for part in parts if part is not type(None)]
        return f"{' or '.join(some)} {bounds}".strip()
    if origin is list:
        return f"list of {_plural(_type(parts[0]))}"
    if origin is dict:
        return "table"
    return f"{_NAMES.get(annotation, str(annotation))} {bounds}".strip()


def _plural(kind: str) -> str:
    for singular in ("whole number", "number", "text"):
        if kind.startswith(singular):
            return kind.replace(singular, f"{singular}s", 1)
    return kind
