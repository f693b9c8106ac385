"""What notebooks draw as tables.

How is said by `manyshot.notebook`, which knows all of it, and is imported when something is shown:
what is shown knows nothing of tables and pages.
"""

from __future__ import annotations

import importlib


class Shown:
    """Something that a notebook shows as HTML where it is the value of a cell."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Its tables, for notebooks."""
        html: str = importlib.import_module("manyshot.notebook").html(self)
        return html
