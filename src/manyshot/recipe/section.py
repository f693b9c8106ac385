"""What all sections of a recipe are: strict, frozen, and clear about what is wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from manyshot.plugins import nearest, shown

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


def explain(recipe: type[BaseModel], error: ValidationError) -> str:
    """What is wrong with the values of a recipe, or of a section, in one line."""
    parts = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _keys(recipe, problem["loc"][:-1])
            hint = nearest(str(problem["loc"][-1]), known).strip()
            hint = hint or _elsewhere(recipe, problem["loc"]) or f"have {', '.join(known)}"
            parts.append(f"unknown key {where!r}; {hint}")
        elif where:
            words = problem["msg"].removeprefix("Value error, ")
            parts.append(f"{where} = {shown(problem['input'])}: {words}")
        else:
            parts.append(problem["msg"].removeprefix("Value error, "))
    return "; ".join(parts)


def _elsewhere(recipe: type[BaseModel], location: Sequence[int | str]) -> str:
    """The sections that have a key which stands outside all, such as `budgets`; else nothing."""
    key, *inner = map(str, location)
    sections = [] if inner else [n for n in recipe.model_fields if key in _keys_below(recipe, n)]
    return f"did you mean {' or '.join(repr(f'{n}.{key}') for n in sections)}?" if sections else ""


def _keys_below(recipe: type[BaseModel], name: str) -> list[str]:
    """The keys of a section of the recipe; none of a plain value."""
    try:
        return _keys(recipe, (name,))
    except StopIteration:
        return []


def _keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        kinds = (annotation, *get_args(annotation))  # a section that may be left out is a union
        model = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]
