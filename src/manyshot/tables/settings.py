"""The table of a recipe's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manyshot.manual.keys import Key, changes
from manyshot.manual.options import Described
from manyshot.recipe import Recipe
from manyshot.shipped import ShippedRecipe
from manyshot.tables.numbers import sentence
from manyshot.tables.table import Table


def keys(keys: Sequence[Key]) -> Table:
    """Keys of one section with their types, defaults and explanations."""
    rows = [
        {"Key": key.key, "Type": key.type, "Default": key.default, "What it does": key.words}
        for key in keys
    ]
    return Table(rows, ("Key", "Type", "Default", "What it does"), ("Key", "Default"))


def slots(names: Mapping[str, Sequence[str]], about: Mapping[str, str]) -> Table:
    """The slots of a recipe, the first sentence about each, and the names of what fills it."""
    rows = [
        {"Slot": slot, "What it is about": about[slot].split(". ")[0], "Names": ", ".join(plugins)}
        for slot, plugins in names.items()
    ]
    return Table(rows, ("Slot", "What it is about", "Names"), ("Slot",))


def plugins(plugins: Sequence[Described]) -> Table:
    """The plug-ins of a slot, with the names of their options."""
    rows = [
        {
            "Name": plugin.name,
            "What it is": plugin.summary,
            "Options": ", ".join(option.name for option in plugin.options),
        }
        for plugin in plugins
    ]
    return Table(rows, ("Name", "What it is", "Options"), ("Name",))


def options(plugin: Described) -> Table:
    """The options of a plug-in with their types, defaults and explanations."""
    rows = [
        {
            "Option": option.name,
            "Type": option.type,
            "Default": option.default,
            "What it does": sentence(option.words) if option.words else "",
        }
        for option in plugin.options
    ]
    return Table(rows, ("Option", "Type", "Default", "What it does"), ("Option", "Default"))


def recipes(recipes: Sequence[ShippedRecipe]) -> Table:
    """Recipes with what their heads say."""
    rows = [
        {
            "Name": recipe.name,
            "What it is": recipe.title,
            "Papers": ", ".join(recipe.papers),
            "Slots": ", ".join(recipe.slots),
            "Time": recipe.time,
        }
        for recipe in recipes
    ]
    return Table(rows, ("Name", "What it is", "Papers", "Slots", "Time"), ("Name",))


def changed(recipe: Recipe) -> Table:
    """What a recipe sets to another value than the default recipe's."""
    rows = [
        {"Key": key.path, "Value": value, "Default": key.default} for key, value in changes(recipe)
    ]
    return Table(rows, ("Key", "Value", "Default"), ("Key", "Value", "Default"))
