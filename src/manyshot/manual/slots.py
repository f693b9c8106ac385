"""The slots of a recipe that plug-ins fill, and what each plug-in says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from manyshot.manual.options import Described, described
from manyshot.plugins import SECTIONS, look_up, nearest
from manyshot.search.table import SEARCHERS, make_searcher
from manyshot.sharing import SHARINGS, make_sharing
from manyshot.tasks import TASKS, make_task
from manyshot.toml import RecipeError
from manyshot.train.distilling import DISTILLERS, make_distiller
from manyshot.train.samplers import SAMPLERS, make_sampler
from manyshot.train.shrinkers import SHRINKERS, make_shrinker
from manyshot.zoo import NETWORKS


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot of a recipe.

    Attributes:
        kind: what its plug-ins are, such as `searcher`.
        table: the plug-ins that come with manyshot, by name.
        offered: the parameters that plug-ins are given by name, which are no options.
    """

    kind: str
    table: Mapping[str, Callable[..., Any]]
    offered: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """The section of a recipe whose `name` and `options` fill it, such as `search`."""
        return SECTIONS[self.kind]

    def plugins(self) -> list[Described]:
        """What each of its plug-ins that come with manyshot says of itself."""
        return [described(name, plugin, self.offered) for name, plugin in self.table.items()]

    def plugin(self, name: str) -> Described:
        """What one plug-in says of itself.

        Args:
            name: a key of the table, or `package.module:attribute`, which is imported.

        Raises:
            RecipeError: for an unknown name, or one that cannot be imported or called.
        """
        try:
            return described(name, look_up(self.kind, name, self.table), self.offered)
        except ValueError as error:
            raise RecipeError(str(error)) from error


def _filled(kind: str, table: Mapping[str, Callable[..., Any]], make: Callable[..., Any]) -> Slot:
    """A slot whose plug-ins are offered all parameters of `make` but their name and options."""
    takes = (name for name in inspect.signature(make).parameters if name not in ("name", "options"))
    return Slot(kind, table, tuple(takes))


SLOTS = (
    Slot("network", NETWORKS),
    _filled("task", TASKS, make_task),
    _filled("sharing", SHARINGS, make_sharing),
    _filled("sampler", SAMPLERS, make_sampler),
    _filled("shrinker", SHRINKERS, make_shrinker),
    _filled("searcher", SEARCHERS, make_searcher),
    _filled("distiller", DISTILLERS, make_distiller),
)
"""All slots, in the order of a recipe."""


def slot_of(name: str) -> Slot:
    """The slot of a section such as `search`, or of a kind such as `searcher`.

    Raises:
        RecipeError: if there is none; it lists those there are.
    """
    for slot in SLOTS:
        if name in (slot.section, slot.kind):
            return slot
    sections = [slot.section for slot in SLOTS]
    raise RecipeError(
        f"no plug-in fills {name!r}; {nearest(name, sections)}have {', '.join(sections)}. What "
        "other sections of a recipe take is said by manyshot recipe --keys SECTION"
    )
