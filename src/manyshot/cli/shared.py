"""What commands share: the app, options, reading recipes, printing."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from manyshot.pipeline.workers import Workers
    from manyshot.recipe import Recipe

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One-shot neural architecture search: one supernet, every budget.",
)

USING, RESEARCH = "Using", "Research"
"""The panels of the help: what everybody needs, and what shows how far results can be trusted."""
_VERBS = (
    *("run", "init", "recipe", "recipes", "options", "space"),
    *("export", "predict", "benchmark", "report"),
    *("train", "search", "transfer", "truth", "rank", "compare"),
)
"""In the order of the help."""
_Command = TypeVar("_Command", bound=Callable[..., None])


def command(verb: str, panel: str, example: str) -> Callable[[_Command], _Command]:
    """Makes a function a command of the app.

    Args:
        verb: its name, one of `_VERBS`.
        panel: where the help lists it, `USING` or `RESEARCH`.
        example: of its use, which its own help ends with.
    """

    def add(function: _Command) -> _Command:
        app.command(verb, rich_help_panel=panel, epilog=f"Example: {example}")(function)
        app.registered_commands.sort(key=lambda one: _VERBS.index(str(one.name)))
        return function

    return add


RecipePath = Annotated[
    Path | None,
    typer.Argument(
        help="A recipe (TOML), or the name of one in `manyshot recipes`. Without one: "
        "scikit-learn's digits, offline."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override, such as train.epochs=5; KEY= drops what the recipe says.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="The run's folder; by default a new one, runs/NAME.")
]
Resume = Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and do not do it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run code that the recipe of somebody's run names.")
]
RunPath = Annotated[Path, typer.Argument(help="The folder of a run.")]
Count = Annotated[
    int,
    typer.Option("--workers", min=1, help="Processes that score, and finish, networks at once."),
]
OnRay = Annotated[bool, typer.Option("--ray", help="Through Ray: on many machines.")]


def loaded(path: Path | None, overrides: list[str] | None) -> Recipe:
    """The recipe at a path, or the default one, with overrides."""
    from manyshot.recipe import Recipe

    return Recipe.load(path, overrides or [])


def settings_of(
    recipe: Path | None,
    overrides: list[str] | None,
    out: Path | None,
    resume: Path | None,
    trust: bool = False,
) -> tuple[Recipe, Path]:
    """The recipe and the folder of a run that begins or goes on."""
    if resume is None:
        settings = loaded(recipe, overrides)
        return settings, folder_of(settings.name, out)
    if recipe is not None or overrides or out is not None:
        raise typer.BadParameter(
            "--resume goes on with a run as it is: give no recipe, --set, --out"
        )
    return loaded(trusted_recipe_of(resume, trust), None), resume


def folder_of(name: str, out: Path | None) -> Path:
    """Where a run goes: as asked for, or a new folder by its name."""
    if out is not None:
        return out
    from manyshot.writing import new_folder

    return new_folder(name)


def show_preview(
    recipe: Path | None,
    overrides: list[str] | None,
    out: Path | None,
    resume: Path | None,
    *,
    as_json: bool,
    bars: Any,
    whole: bool,
    workers: int = 1,
) -> None:
    """Prints what a run would do; a usage error if it would fail before it trains.

    Args:
        recipe: the file of a recipe; None is the default one.
        overrides: of the recipe.
        out: the folder, if it is given.
        resume: must be None.
        as_json: whether to print plain values.
        bars: shows how far the look at the images is.
        whole: whether a search follows the training.
        workers: how many are to score its candidates, and finish its networks.
    """
    check_alone("run --dry-run")
    if resume is not None:
        raise typer.BadParameter("--dry-run is for a run that is to begin: leave --resume out")
    settings = loaded(recipe, overrides)
    from manyshot.pipeline import preview
    from manyshot.writing import next_folder

    folder = next_folder(settings.name) if out is None else out
    show_told(preview(settings, folder, bars, whole=whole, workers=workers), as_json)


def show_told(told: dict[str, Any], as_json: bool) -> None:
    """Prints what something would do; an error if it would fail before it trains.

    Args:
        told: what `preview` or `preview_truth` gives.
        as_json: whether to print these plain values.
    """
    from manyshot.recipe import RecipeError
    from manyshot.show import preview_tables

    show(told, as_json, lambda: preview_tables(told))
    if told["problems"]:
        raise RecipeError("; ".join(told["problems"]))


def recipe_of(run: Path) -> Path:
    """The recipe of a run; a usage error if it is none."""
    from manyshot.run_folder import RunFolder, why_no_run

    path = RunFolder(run).recipe_file
    if not path.exists():
        raise typer.BadParameter(why_no_run(run))
    return path


def trusted_recipe_of(run: Path, trust: bool) -> Path:
    """The recipe of a run whose network is to be built, which may be code that somebody names."""
    path = recipe_of(run)
    from manyshot.run_folder import RunFolder
    from manyshot.trust import check_trusted

    check_trusted(RunFolder(run), trust=trust)
    return path


def speaks() -> bool:
    """Whether this process prints: of several, only the main one does."""
    from manyshot.writing import is_main_process

    return is_main_process()


def check_alone(command: str) -> None:
    """Refuses to be one of several processes, which would all do the same."""
    from manyshot.writing import processes

    if processes() > 1:
        raise typer.BadParameter(f"manyshot {command} is one process: start it without torchrun")


def workers_of(settings: Recipe, count: int, ray: bool) -> Workers:
    """What works in other processes: of Ray each has the cores and the GPU that a recipe needs."""
    from manyshot.pipeline.devices import pick_device
    from manyshot.pipeline.workers import Processes, Ray

    if not ray:
        return Processes(count)
    threads = settings.threads if isinstance(settings.threads, int) else os.cpu_count() or 1
    return Ray(count, threads, int(pick_device(settings.device).type == "cuda"))


def progress(quiet: bool) -> Any:
    """Bars, or nothing."""
    from manyshot.progress import Bars, Silent

    return Silent() if quiet or not speaks() else Bars()


def echo(line: object) -> None:
    """Prints a line, if this process prints."""
    if speaks():
        typer.echo(line)


def echo_columns(*columns: str) -> None:
    """Prints columns with tabs between; one that would end its column or line is in JSON.

    So does the script that is exported beside an ONNX file.
    """
    fields = [text if _is_plain(text) else json.dumps(text) for text in columns]
    echo("\t".join(fields).encode(errors="surrogateescape"))


def _is_plain(text: str) -> bool:
    return text.splitlines() == [text] and "\t" not in text and not text.startswith('"')


def is_terminal() -> bool:
    """Whether somebody sees what is printed, and not a file or another program."""
    return sys.stdout.isatty()


def print_tables(*tables: Any) -> None:
    """Prints tables as wide as the terminal, if this process prints; elsewhere no line is cut."""
    if not speaks():
        return
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack a letter of a docstring
    console = Console(width=None if is_terminal() else 120)
    for table in tables:
        console.print(table, crop=is_terminal())


def show(content: Any, as_json: bool, tables: Callable[[], Iterable[Any]]) -> None:
    """Prints a result, as JSON or as tables.

    Args:
        content: plain values.
        as_json: whether to print these.
        tables: makes the tables to print otherwise.
    """
    if as_json:
        echo(json.dumps(content))
    else:
        print_tables(*tables())
