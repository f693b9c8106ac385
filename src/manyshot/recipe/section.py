"""What all sections of a recipe are: strict, frozen, and clear about what is wrong."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from manyshot.plugins import nearest_of, shown

Positive = Annotated[int, Field(ge=1, le=10**9)]
NotNegative = Annotated[int, Field(ge=0, le=10**18)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Plain = (
    str
    | bool
    | int
    | float
    | list[int]
    | list[float]
    | list[str]
    | list[list[str]]
    | dict[str, int]
)
Options = dict[str, Plain]


def _from_anywhere(path: str | None) -> str | None:
    """The path made absolute, so that later commands on a run find it from any working folder."""
    return None if path is None else os.path.abspath(os.path.expanduser(path))


AnyPath = Annotated[str | None, AfterValidator(_from_anywhere)]
"""The path of a file or folder, which is made absolute; None if there is none."""


class Section(BaseModel):
    """A part of a recipe: strict, frozen, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


GIVEN = "given"
"""The name of a network, or of data, that was given in Python and is in no file."""


LIBRARIES = ("torchvision", "timm")
"""Where `network.name` may take a network from, as in `torchvision:resnet18`."""


_KIND = re.compile(r"(constrained-)?(str|bool|int|float)|(list|dict|literal)\[.*\]")
"""What pydantic puts behind a key that may hold several kinds of values: which kind it tried."""

_INPUT = "Input should be "

_WRITTEN = {
    "bool_type": ", true or false",
    "list_type": ", in square brackets, with texts in quotes",
}
"""How TOML, and `--set`, write what some problems of pydantic ask for."""


def problems(recipe: type[Section], error: ValidationError) -> list[str]:
    """What is wrong with the values of a recipe, or of a section, each in one line."""
    parts: dict[str, str] = {}  # what each value may be, by what is said before it
    for problem in error.errors():
        where = ".".join(str(key) for key in problem["loc"] if not _KIND.fullmatch(str(key)))
        words = problem["msg"].removeprefix("Value error, ") + _WRITTEN.get(problem["type"], "")
        if problem["type"] == "extra_forbidden":
            parts[f"unknown key {where!r}; {_instead(recipe, problem['loc'])}"] = ""
            continue
        before = f"{where} = {shown(problem['input'])}: " if where else ""
        if before not in parts:
            parts[before] = words
        elif parts[before].startswith(_INPUT) and words.startswith(_INPUT):
            parts[before] += f" or {words.removeprefix(_INPUT)}"
        else:
            parts[before] += f"; {words}"
    return [before + words for before, words in parts.items()]


def explain(recipe: type[Section], error: ValidationError) -> str:
    """What is wrong with the values of a recipe, or of a section, in one line."""
    return "; ".join(problems(recipe, error))


def _instead(recipe: type[Section], location: Sequence[int | str]) -> str:
    """What an unknown key may be meant for, as `--set` takes it, or else which keys there are."""
    *inner, key = map(str, location)
    known = _keys(recipe, inner)
    if near := nearest_of(key, known):
        return f"did you mean {'.'.join((*inner, near))!r}?"
    if elsewhere := [path for path in _paths(recipe) if path.rpartition(".")[2] == key]:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return f"have {', '.join(known)}"


def _paths(section: type[Section], above: str = "") -> list[str]:
    """All keys that hold values, as `--set` takes them; those of inner sections come last."""
    inner = {name: kind for name in section.model_fields if (kind := section_of(section, name))}
    paths = [f"{above}{key}" for key in _keys(section, ()) if key not in inner]
    for name, kind in inner.items():
        paths += _paths(kind, f"{above}{name}.")
    return paths


def _keys(section: type[Section], location: Sequence[int | str]) -> list[str]:
    for part in location:
        inner = section_of(section, str(part))
        assert inner is not None  # what is below a value is not unknown but wrong
        section = inner
    return [field.alias or name for name, field in section.model_fields.items()]


def section_of(section: type[Section], field: str) -> type[Section] | None:
    """The section that a field holds, also one that may be left out; None if it holds a value."""
    annotation = section.model_fields[field].annotation
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
