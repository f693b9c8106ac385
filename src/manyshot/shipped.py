"""The recipes that come with manyshot, and what their heads say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from manyshot.plugins import nearest
from manyshot.toml import RecipeError

_PACKAGE = Path(__file__).parent
_SLOTS = ("sharing", "sampler", "search", "shifting")


@dataclass(frozen=True, slots=True)
class ShippedRecipe:
    """A recipe that comes with manyshot.

    Attributes:
        name: that of its file, below the folder of recipes, such as `methods/fair`.
        title: the first sentence of its head.
        method: what the head says of the method, with its paper.
        papers: the arXiv numbers and DOIs in that.
        slots: the plug-in of every slot that it names, such as `sampler fair`.
        time: how long it takes, as the head says.
        path: its file.
    """

    name: str
    title: str
    method: str
    papers: tuple[str, ...]
    slots: tuple[str, ...]
    time: str
    path: Path

    @property
    def group(self) -> str:
        """What it is listed under."""
        if self.name.startswith("methods/"):
            return "One method each"
        if self.name.startswith("imagenet_"):
            return "ImageNet, with the settings of papers"
        return "Whole runs"

    def speaks_of(self, word: str) -> bool:
        """Whether its name, title, method, papers or slots hold a word, in whichever case."""
        said = (self.name, self.title, self.method, *self.papers, *self.slots)
        return word.casefold() in "\n".join(said).casefold()


def recipes_folder() -> Path:
    """Where recipes are: in the installed package, or beside it in a checkout.

    Raises:
        RecipeError: if they are in neither place.
    """
    places = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")
    for place in places:
        if place.is_dir():
            return place
    raise RecipeError(
        f"the recipes that come with manyshot are neither in {places[0]} nor in {places[1]}: "
        "install it again"
    )


def shipped_recipes() -> list[ShippedRecipe]:
    """All recipes that come with manyshot, by name; those of single methods last."""
    folder = recipes_folder()
    paths = sorted(folder.rglob("*.toml"), key=lambda path: (path.parent != folder, path))
    return [_described(path, path.relative_to(folder).with_suffix("").as_posix()) for path in paths]


def shipped(name: str) -> ShippedRecipe:
    """The recipe of a name, such as `fair`, `methods/fair` or `methods/fair.toml`.

    Of two files of one name that outside `methods/` is meant.

    Raises:
        RecipeError: if there is none; it names the nearest.
    """
    plain = name.removesuffix(".toml")
    have = shipped_recipes()
    for recipe in have:
        if plain in (recipe.name, recipe.path.stem):
            return recipe
    near = nearest(plain, [*(r.name for r in have), *(r.path.stem for r in have)])
    raise RecipeError(
        f"there is no recipe {name}, neither a file nor one that comes with manyshot; {near}"
        "`manyshot recipes` lists these"
    )


def located(path: Path) -> Path:
    """The file of a recipe: `path`, or if there is no such file the one that comes with manyshot.

    Raises:
        RecipeError: if there is neither.
    """
    return path if path.exists() or path.is_absolute() else shipped(path.as_posix()).path


def _described(path: Path, name: str) -> ShippedRecipe:
    text = path.read_text(encoding="utf-8")
    head = _head(text.splitlines())
    values = tomllib.loads(text)
    method = head.get("Method", "")
    named = [(slot, values[slot]["name"]) for slot in _SLOTS if "name" in values.get(slot, {})]
    return ShippedRecipe(
        name=name,
        title=head[""],
        method=method,
        papers=tuple(re.findall(r"arXiv:\d{4}\.\d{4,5}|doi:10\.[^\s,;)]+\w", method)),
        slots=tuple(f"{slot} {plugin}" for slot, plugin in named),
        time=re.split(r"\.(?:\s|$)", head.get("Time", ""))[0],
        path=path,
    )


def _head(lines: Iterable[str]) -> dict[str, str]:
    """What the comment at the top of a recipe says, by the words before colons; first the title.

    The title ends at the first line that is empty.
    """
    found, key, titled = {"": ""}, "", False
    for line in lines:
        if not line.startswith("#"):
            break
        said = line[1:].strip()
        titled = titled or not said
        if titled and (match := re.match(r"# ([A-Z][\w' ]*):\s", line)):
            key, said = match[1], line[match.end() :].strip()
        found[key] = f"{found.get(key, '')} {said}".strip()
    return found
