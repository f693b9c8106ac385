"""The table of a recipe's keys."""

from __future__ import annotations

from collections.abc import Sequence

from manyshot.recipe_keys import Key
from manyshot.tables.table import Table


def keys(keys: Sequence[Key]) -> Table:
    """Keys of one section with their types, defaults and explanations."""
    rows = [
        {"Key": key.key, "Type": key.type, "Default": key.default, "What it does": key.words}
        for key in keys
    ]
    return Table(rows, ("Key", "Type", "Default", "What it does"), ("Key", "Default"))
