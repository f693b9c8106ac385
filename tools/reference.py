"""Writes the pages of docs/reference/ from the package itself: `python -m tools.reference`."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import manyshot as ms
from manyshot.recipe import Recipe, Section, TrainingSettings

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MORE = {
    "manyshot.progress": ["Bars", "Silent", "Progress"],
    "manyshot.testing": [
        "samplers.SamplerSuite",
        "searchers.SearcherSuite",
        "sharing.SharingSuite",
    ],
}
"""Public things of modules that have no `__all__`."""


ORDER = (
    *("run", "space", "train", "search", "transfer"),
    *("export", "predict", "benchmark", "truth", "rank", "compare", "report"),
)
"""Commands as the page has them."""
COMMAND_LINE = """
# Command line

Recipes are TOML ([recipes/](../../recipes/), [all keys](recipe.md)); `--set train.epochs=5` overrides one key, and an unknown key is an error that names the nearest one. Results go to standard output (`--json` for machines), progress to standard error. Exit codes are 0 for done, 1 for failed and 2 for wrong usage. `MANYSHOT_DEBUG=1` shows where in the code an error comes from.

Budgets read `macs<=30M`, `params<=60%` (of the largest), `size<=5MB` (of the weights) or `latency_ms<=2.5` (a table [measured on your machine](../howto/latency.md)), several at once with `and`, or are on a cost of your own: `--set costs.energy=package.module:function`, which takes the extracted `module` or its `choices` and gives a number of at least 0.

A run that was killed goes on by `manyshot run --resume DIR`, to the same result. Exported files that were changed since are written again by it, and `run.winner(budget).file("pt2")` refuses them.

A recipe is code if it names `package.module:attribute`: run recipes of people you trust, as you would their scripts. The folder of a run is data: one that somebody sent you runs no code of its own, unless you say `--trust` (the same holds for one of yours that names code, once it was moved).

Written by `python -m tools.reference` from the commands themselves.
"""  # noqa: E501


def public() -> dict[str, list[str]]:
    """The public names of every public module, in the order of the pages."""
    modules = [n for n in ms.__all__ if inspect.ismodule(getattr(ms, n))]
    packages = ["manyshot", *(f"manyshot.{name}" for name in modules), "manyshot.pipeline"]
    names = {name: list(importlib.import_module(name).__all__) for name in packages}
    names["manyshot"] = [name for name in names["manyshot"] if name not in modules]
    names["manyshot"].remove("__version__")
    return names | MORE


def module_page(module: str, names: list[str]) -> str:
    """The page of one module: what it says of itself, and every public name."""
    says = inspect.getdoc(importlib.import_module(module)) or ""
    listed = "\n".join(f"::: {module}.{name}\n" for name in names)
    return f"# {module}\n\n{says}\n\n{listed}"


def sections(
    model: type[BaseModel] = Recipe, path: str = ""
) -> Iterator[tuple[str, type[Section]]]:
    """Every section of a recipe with its class, as `finish.training`; the recipe itself is ""."""
    yield path, model  # type: ignore[misc]
    for name, field in model.model_fields.items():
        if (inner := _section_of(field.annotation)) is not None:
            yield from sections(inner, f"{path}.{name}".strip("."))


def _section_of(annotation: Any) -> type[Section] | None:
    """The class of a section among what a key may be, if there is one."""
    parts = getattr(annotation, "__args__", (annotation,))
    classes = [part for part in parts if inspect.isclass(part) and issubclass(part, Section)]
    return classes[0] if classes else None


def said(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings behind the keys of a section say, those of its bases too."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, Section) and cls is not Section:
            [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            assert isinstance(body, ast.ClassDef)
            for key, after in zip(body.body, body.body[1:], strict=False):
                match key, after:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found[name] = " ".join(text.split())
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in schema:
        parts = [part for part in schema["anyOf"] if part.get("type") != "null"]
        if any(part.get("type") == "number" for part in parts):
            parts = [part for part in parts if part.get("type") != "integer"]
        bounds = {key: value for key, value in schema.items() if key not in ("anyOf", "type")}
        return " or ".join(_kind({**bounds, **part}) for part in parts)
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        inner = schema.get("items", {})
        return f"list, each {_kind(inner)}" if inner else "list"
    if schema["type"] == "object":
        return "table"
    words = {"integer": "whole number", "number": "number", "boolean": "true or false"}
    least, below = schema.get("minimum", schema.get("ge")), schema.get("exclusiveMaximum")
    above, most = schema.get("exclusiveMinimum", schema.get("gt")), schema.get("maximum")
    limits = [
        *([f"at least {least}"] if least is not None else []),
        *([f"above {above}"] if above is not None else []),
        *([f"below {below}"] if below is not None else []),
        *([f"at most {most}"] if most is not None and most < 10**6 else []),
    ]
    return ", ".join([words.get(schema["type"], "text"), *limits])


def _default(value: Any) -> str:
    """A default as a recipe would say it."""
    if value is None or value is PydanticUndefined:
        return "not set"
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {json.dumps(item)}" for key, item in value.items())
        return f"`{{{inside}}}`" if value else "`{}`"
    return f"`{json.dumps(value)}`"


def rows(model: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    """Of every key that is no section: its name, what it may be, its default, what it means."""
    texts, schema = said(model), model.model_json_schema(by_alias=False)
    for name, field in model.model_fields.items():
        if _section_of(field.annotation) is None:
            shown = field.alias or name
            kind = _kind(schema["properties"][name])
            yield shown, kind, _default(field.default), texts.get(name, "")


def _differs(model: type[BaseModel], path: str) -> str:
    """Which defaults a section of training has of its own, in a sentence."""
    *outer, last = path.split(".")
    owner = dict(sections())[".".join(outer)]
    given = owner.model_fields[last].default
    changed = [f"`{key} = {getattr(given, key)}`" for key in sorted(given.model_fields_set)]
    return (
        "It has the keys of `[train]` but for `teacher`; `epochs` is at least 1. By default "
        f"{' and '.join(changed)}; all others as there."
    )


def recipe_page() -> str:
    """The page of all keys of a recipe."""
    parts = [
        "# Keys of a recipe",
        "Every key of a recipe, with its default. A recipe is TOML; `--set section.key=VALUE` "
        "overrides one key on the command line, `overrides=[...]` in `ms.run`. An unknown key, or "
        "a value that is not allowed, is an error that names the nearest one. Written by `python "
        "-m tools.reference` from the settings themselves. For images in folders without a named "
        "network, and for converted networks, some defaults are others; `recipe.toml` in a run's "
        "folder has all that it took.",
        "What `options` may hold is said by the plug-in that they are of: `EvolutionOptions` and "
        "its neighbours in [manyshot.search](search.md), `ShiftNASOptions` in "
        "[manyshot.train](train.md), `KShot` in [manyshot.sharing](sharing.md).",
    ]
    for path, model in sections():
        parts.append(f"## [{path}]" if path else "## At the top")
        if path:
            field_says = said(dict(sections())[path.rpartition(".")[0]]).get(path.split(".")[-1])
            first = " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
            parts.append(field_says if field_says else first)
        if model is TrainingSettings:
            parts.append(_differs(model, path))
            continue
        table = ["| key | value | default | meaning |", "|---|---|---|---|"]
        table += ["| `{}` | {} | {} | {} |".format(*map(_cell, row)) for row in rows(model)]
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def command_line() -> str:
    """The page of all commands with their arguments and options."""
    app = importlib.import_module("manyshot.cli.main").app

    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    parts = [COMMAND_LINE.strip()]
    for name in sorted(commands, key=ORDER.index):
        parameters = [(parameter, _spelt(parameter)) for parameter in commands[name].params]
        plain = " ".join(spelt for p, spelt in parameters if p.param_type_name == "argument")
        parts += [f"## manyshot {name}", f"```\nmanyshot {name} {plain}\n```"]
        parts.append(inspect.cleandoc(commands[name].help))
        table = ["| argument or option | meaning |", "|---|---|"]
        table += [f"| `{spelt}` | {_cell(p.help)} |" for p, spelt in parameters]
        parts.append("\n".join(table))
    return "\n\n".join(parts) + "\n"


def _spelt(parameter: Any) -> str:
    """An argument or option as it is written on the command line."""
    if parameter.param_type_name == "option":
        return str(parameter.opts[-1])
    name = parameter.name.upper().removesuffix("S") if parameter.nargs < 0 else parameter.name
    name = name.upper() + (" ..." if parameter.nargs < 0 else "")
    return name if parameter.required else f"[{name}]"


def pages() -> dict[str, str]:
    """The text of every page of docs/reference/, by its name."""
    texts = {f"{name.removeprefix('manyshot.')}.md": module_page(name, names)
             for name, names in public().items()}  # fmt: skip
    return texts | {"recipe.md": recipe_page(), "command_line.md": command_line()}


def main() -> None:
    """Writes all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
