"""Commands about recipes: init, recipe, recipes and options."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from manyshot.cli.shared import (
    USING,
    Json,
    Overrides,
    Quiet,
    check_alone,
    command,
    echo,
    is_terminal,
    loaded,
    progress,
    show,
)


@command(
    "init",
    USING,
    "manyshot init --data photos --out photos.toml",
)
def init_command(
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder with train/CLASS/* (and test/CLASS/* or val/CLASS/*) or train/*.tar, or "
            "a data set; by default digits."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("recipe.toml"),
    quiet: Quiet = False,
) -> None:
    """Write a recipe for your images, with comments that say why it is as it is."""
    check_alone("init")
    from manyshot.pipeline import init

    init(data, out, progress(quiet))
    echo(out)


@command(
    "recipe",
    USING,
    "manyshot recipe --keys train",
)
def recipe_command(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe (TOML), by default that of digits; or with --keys a section."
        ),
    ] = None,
    keys: Annotated[
        bool, typer.Option("--keys", help="What may be set, all of it or in a SECTION.")
    ] = False,
    set_: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print a recipe with every default filled in, or explain all keys."""
    if keys:
        if set_:
            raise typer.BadParameter("--keys explains what may be set: leave --set out")
        from manyshot.manual.keys import keys as keys_in
        from manyshot.show import keys_tables

        some = keys_in(recipe)
        show([asdict(key) for key in some], as_json, lambda: keys_tables(some))
        return
    settings = loaded(None if recipe is None else Path(recipe), set_)
    if as_json:
        echo(settings.model_dump_json(by_alias=True))
    else:
        echo(settings.to_toml().rstrip())


@command(
    "recipes",
    USING,
    "manyshot recipes --find DARTS",
)
def recipes_command(
    name: Annotated[
        str | None, typer.Argument(help="One of them, whose file is printed as it is.")
    ] = None,
    find: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="Only those that name a method, a paper or a slot."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="With papers, slots and times.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the recipes that come with manyshot, or print one; manyshot run NAME runs it."""
    from manyshot.shipped import shipped, shipped_recipes

    if name is None:
        from manyshot.show import recipes_list, recipes_table

        have = [one for one in shipped_recipes() if find is None or one.speaks_of(find)]
        if not have:
            raise typer.BadParameter(
                f"--find {find!r}: no recipe speaks of that; manyshot recipes lists all"
            )
        plain = [asdict(recipe) | {"path": str(recipe.path)} for recipe in have]
        cut = is_terminal()
        show(
            plain,
            as_json,
            lambda: [recipes_table(have)] if details else recipes_list(have, cut=cut),
        )
        return
    if find is not None or details:
        raise typer.BadParameter("--find and --details are for the list: leave the name out")
    recipe = shipped(name)
    if as_json:
        show(asdict(recipe) | {"path": str(recipe.path)}, as_json, list)
    else:
        echo(recipe.path.read_text(encoding="utf-8").rstrip())


@command(
    "options",
    USING,
    "manyshot options search evolution",
)
def options_command(
    slot: Annotated[
        str | None, typer.Argument(help="A section of a recipe, such as sampler or search.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(help="What fills it: one of its names, or package.module:attribute."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what the slots of a recipe may hold, and what options each of these has."""
    from manyshot.manual.slots import SLOTS, slot_of
    from manyshot.show import options_tables, plugins_tables, slots_tables

    if slot is None:
        names = {one.section: list(one.table) for one in SLOTS}
        show(names, as_json, lambda: slots_tables(names))
        return
    chosen = slot_of(slot)
    if name is None:
        have = chosen.plugins()
        plain = [asdict(plugin) for plugin in have]
        show(plain, as_json, lambda: plugins_tables(chosen.section, have))
        return
    plugin = chosen.plugin(name)
    show(asdict(plugin), as_json, lambda: options_tables(chosen.section, plugin))
