"""What every key of a recipe is: its type, its default, and the words that stand below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from manyshot.manual.annotated import bounds_in_words, one_paragraph, type_in_words, words_of
from manyshot.plugins import nearest
from manyshot.recipe import Recipe, RecipeError, Section
from manyshot.recipe.section import section_of
from manyshot.toml import in_one_line


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
    about = {"": one_paragraph(Recipe.__doc__)}
    for name, of, _ in _sections():
        parent, _, key = name.rpartition(".")
        if name:
            # A training that is part of a section is told by what that says of it.
            above = next(kind for section, kind, _ in _sections() if section == parent)
            about[name] = words_of(above, key) or one_paragraph(of.__doc__)
    return about


def _check(section: str) -> None:
    names = [name for name, *_ in _sections() if name]
    if section not in names:
        raise RecipeError(
            f"a recipe has no section {section!r}; {nearest(section, names)}have {', '.join(names)}"
        )


def _sections(
    name: str = "", section: type[Section] = Recipe, values: Section | None = None
) -> Iterator[tuple[str, type[Section], Section]]:
    """Every section: its name, its class, and its values in the default recipe."""
    values = section() if values is None else values
    yield name, section, values
    for field in section.model_fields:
        below = section_of(section, field)
        if below is not None:
            yield from _sections(f"{name}.{field}".lstrip("."), below, getattr(values, field))


def _keys_of(name: str, section: type[Section], values: Section) -> Iterator[Key]:
    for field, info in section.model_fields.items():
        if section_of(section, field) is None:
            default = getattr(values, field)
            yield Key(
                section=name,
                key=info.alias or field,
                type=type_in_words(info.annotation, bounds_in_words(info.metadata)),
                default="" if default is None else in_one_line(default),
                words=words_of(section, field),
            )
