"""What the options of a plug-in are, ours or anybody's, by its types and its docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from manyshot.manual.annotated import entries, one_paragraph, summary, type_in_words, words_of
from manyshot.plugins import UNEVALUATED, dataclass_of_options, option_fields, parameters_of
from manyshot.toml import in_one_line

NEEDED = "needed"
"""The default of an option that has none."""
_LISTS = ("Args:", "Attributes:", "Raises:", "Returns:")
"""What begins a paragraph of a docstring that is a list."""
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""Parameters that are no single option."""


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of an option of a plug-in.

    Attributes:
        name: its key below `options`.
        type: what it may be, in words; empty if no annotation says so.
        default: as TOML; empty if it is not set, and `needed` if it must be.
        words: what it does; empty if no docstring says so.
    """

    name: str
    type: str
    default: str
    words: str


@dataclass(frozen=True, slots=True)
class Described:
    """What is known of a plug-in.

    Attributes:
        name: what a recipe calls it.
        summary: what it is: the first paragraph of its docstring.
        about: all paragraphs of its docstring but lists, such as that of arguments.
        options: its options, in the order of its parameters or fields.
    """

    name: str
    summary: str
    about: str
    options: tuple[Option, ...]


def described(name: str, plugin: Callable[..., Any], offered: Collection[str]) -> Described:
    """What a plug-in says of itself.

    Args:
        name: what a recipe calls it.
        plugin: the class, or the function that makes it.
        offered: parameters that plug-ins of its kind are given by name, which are no options.
    """
    text = inspect.getdoc(plugin) or ""
    paragraphs = (part for part in text.split("\n\n") if not part.startswith(_LISTS))
    about = "\n\n".join(one_paragraph(part) for part in paragraphs)
    return Described(name, summary(text), about, tuple(_options(plugin, offered)))


def _options(plugin: Callable[..., Any], offered: Collection[str]) -> Iterator[Option]:
    """Its options: the fields of their dataclass if it has one, or else its parameters."""
    fields = dataclass_of_options(plugin)
    if fields is not None:
        yield from _fields(fields)
        return
    if _is_made_of_fields(plugin):
        yield from (option for option in _fields(plugin) if option.name not in offered)
        return
    said = entries(inspect.getdoc(plugin) or "", "Args", "Attributes")
    if inspect.isclass(plugin):
        said |= entries(inspect.getdoc(plugin.__init__) or "", "Args")
    for name, parameter in parameters_of(plugin).items():
        if name in offered or parameter.kind in _ANY:
            continue
        default = NEEDED if parameter.default is parameter.empty else _as_toml(parameter.default)
        yield Option(name, type_in_words(parameter.annotation), default, said.get(name, ""))


def _is_made_of_fields(plugin: Callable[..., Any]) -> TypeGuard[type[Any]]:
    """Whether a plug-in is a dataclass, whose parameters are its fields."""
    if not (inspect.isclass(plugin) and dataclasses.is_dataclass(plugin)):
        return False
    return {field.name for field in dataclasses.fields(plugin)} >= {*parameters_of(plugin)}


def _fields(options: type[Any]) -> Iterator[Option]:
    """What is known of the fields of a dataclass."""
    try:
        types = typing.get_type_hints(options, include_extras=True)
    except UNEVALUATED:
        types = inspect.get_annotations(options)
    said = entries(inspect.getdoc(options) or "", "Args", "Attributes")
    for field in (one for one in option_fields(options) if one.init):
        if field.default_factory is not dataclasses.MISSING:
            default = _as_toml(field.default_factory())
        else:
            default = NEEDED if field.default is dataclasses.MISSING else _as_toml(field.default)
        words = words_of(options, field.name) or said.get(field.name, "")
        yield Option(field.name, type_in_words(types[field.name]), default, words)


def _as_toml(value: Any) -> str:
    """A default as in a recipe; None is empty, and what no recipe can hold is Python's `repr`."""
    try:
        return "" if value is None else in_one_line(value)
    except TypeError:
        return repr(value)
