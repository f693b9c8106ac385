"""The table of a recipe's keys."""

from __future__ import annotations

from collections.abc import Sequence

from manyshot.recipe import Recipe
from manyshot.recipe_keys import Key, changes
from manyshot.shipped import ShippedRecipe
from manyshot.tables.table import Table


def keys(keys: Sequence[Key]) -> Table:
    """Keys of one section with their types, defaults and explanations."""
    rows = [
        {"Key": key.key, "Type": key.type, "Default": key.default, "What it does": key.words}
        for key in keys
    ]
    return Table(rows, ("Key", "Type", "Default", "What it does"), ("Key", "Default"))


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
