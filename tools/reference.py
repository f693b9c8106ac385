"""Writes the pages of docs/reference/ from the package itself: `python -m tools.reference`."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import typer

import manyshot as ms
from manyshot.manual.keys import keys, sections
from manyshot.manual.slots import SLOTS
from manyshot.tables.numbers import sentence

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
MORE = {
    "manyshot.progress": ["Bars", "Silent", "Progress"],
    "manyshot.testing": [
        "samplers.SamplerSuite",
        "shrinkers.ShrinkerSuite",
        "searchers.SearcherSuite",
        "sharing.SharingSuite",
    ],
}
"""Public things of modules that have no `__all__`."""


ORDER = (
    *("run", "init", "recipe", "recipes", "options", "space", "train", "search", "transfer"),
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
        "What `options` may hold is said by the plug-in that they are of: [options of "
        "plug-ins](options.md), or `manyshot options SECTION NAME`.",
    ]
    for section, about in sections().items():
        head = ["| key | value | default | meaning |", "|---|---|---|---|"]
        rows = [
            f"| `{key.key}` | {_cell(key.type)} | "
            f"{f'`{_cell(key.default)}`' if key.default else 'not set'} | {_cell(key.words)} |"
            for key in keys()
            if key.section == section
        ]
        parts += [f"## [{section}]" if section else "## At the top", about]
        parts += ["\n".join([*head, *rows])] if rows else []
    return "\n\n".join(parts) + "\n"


def options_page() -> str:
    """The page of all options of the plug-ins that come with manyshot."""
    parts = [
        "# Options of plug-ins",
        "What a section of a recipe may name, and the `options` of each: `--set "
        "sampler.name=sandwich --set sampler.options.random=3`. `manyshot options SECTION NAME` "
        "prints the same, of your own `package.module:attribute` too. An unknown option, or a "
        "value that is not allowed, is an error. What is whose is in [all "
        "methods](../methods.md). Written by `python -m tools.reference` from types and "
        "docstrings.",
    ]
    for slot in SLOTS:
        parts.append(f"## [{slot.section}]")
        for plugin in slot.plugins():
            parts += [f"### {plugin.name}", plugin.summary]
            rows = [
                f"| `{option.name}` | {_cell(option.type)} | "
                f"{f'`{_cell(option.default)}`' if option.default else 'not set'} | "
                f"{_cell(sentence(option.words))} |"
                for option in plugin.options
            ]
            head = ["| option | value | default | meaning |", "|---|---|---|---|"]
            parts.append("\n".join([*head, *rows]) if rows else "It has no options.")
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
    return texts | {
        "recipe.md": recipe_page(),
        "options.md": options_page(),
        "command_line.md": command_line(),
    }


def main() -> None:
    """Writes all pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
