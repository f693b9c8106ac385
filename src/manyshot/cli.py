"""The command line. Thin: parse, call the library, print what came out."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from manyshot.recipe import Recipe

_USAGE: Any = typer.BadParameter.__base__  # of all usage errors; typer does not export it
_INTERRUPTED = 130  # what typer returns after Ctrl-C

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One-shot neural architecture search: one supernet, every budget.",
)

RecipePath = Annotated[
    Path | None,
    typer.Argument(help="A recipe (TOML). Without one: scikit-learn's digits, offline."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override, such as train.epochs=5."),
]
Out = Annotated[
    Path | None, typer.Option(help="The run's folder; by default a new one, runs/NAME.")
]
Resume = Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress on standard error.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@app.command("run")
def run_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, search, finish and export: the whole way."""
    settings, folder = _settings(recipe, set_, out, resume)
    from manyshot.pipeline import run  # torch loads here, not for --help

    _show(run(settings, folder, _progress(quiet)), folder, as_json)


@app.command("train")
def train_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    quiet: Quiet = False,
) -> None:
    """Train the supernet only."""
    settings, folder = _settings(recipe, set_, out, resume)
    from manyshot.pipeline import train_only

    train_only(settings, folder, _progress(quiet))
    _echo(folder / "supernet.safetensors")


@app.command("search")
def search_command(
    run: RunFolder,
    set_: Overrides = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a trained run, finish its winners and export them.

    With `--set` and `--out`, the same supernet is searched again under other settings.
    """
    if set_ and out is None:
        raise typer.BadParameter("other settings need another folder: give --out too")
    settings = _loaded(_recipe_of(run), set_)
    from manyshot.pipeline import run as run_all

    folder = out or run
    _show(run_all(settings, folder, _progress(quiet), trained=run), folder, as_json)


@app.command("transfer")
def transfer_command(
    run: RunFolder,
    recipe: RecipePath = None,
    data: Annotated[str | None, typer.Option(help="The target data set's name.")] = None,
    set_: Overrides = None,
    out: Out = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Move a trained run's supernet to other images, and search it there while it shifts.

    Without a recipe, settings are the run's; `--set data.root=PATH` says where the images are.
    """
    _recipe_of(run)
    from manyshot.pipeline import run as run_all
    from manyshot.pipeline import transfer_recipe

    settings = transfer_recipe(run, recipe, data, set_ or [])
    folder = _folder(settings.name, out)
    _show(run_all(settings, folder, _progress(quiet), source=run), folder, as_json)


@app.command("truth")
def truth_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Where trainings are added; by default truth/NAME.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="Through Ray: on many machines.")] = False,
    of: Annotated[
        list[Path] | None, typer.Option(help="A run, for truth.plan=top or winners; repeatable.")
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="An architecture in place of a plan; repeatable.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train architectures alone: the truth that rankings are compared with.

    What is on record is not trained again; other seeds and architectures may be added later.
    """
    settings = _loaded(recipe, set_)
    for run in of or []:
        _recipe_of(run)
    from manyshot.pipeline import truth
    from manyshot.pipeline.workers import InProcess, Processes, Ray

    threads = settings.threads if isinstance(settings.threads, int) else os.cpu_count() or 1
    alone = InProcess() if workers == 1 else Processes(workers)
    folder = out or Path("truth") / settings.name
    truth(
        settings,
        folder,
        _progress(quiet),
        workers=Ray(workers, threads) if ray else alone,
        of=of or [],
        archs=arch or [],
    )
    _echo(folder / "truth.jsonl")


@app.command("space")
def space_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="Uniform random architectures.")] = 20_000,
    as_json: Json = False,
) -> None:
    """Show decisions, size, reachable costs, and how uniform sampling spreads over them."""
    settings = _loaded(recipe, set_)
    from manyshot.pipeline import survey

    found = survey(settings, samples)
    if as_json:
        _echo(json.dumps(found))
    else:
        from manyshot.show import survey_tables

        _print(*survey_tables(found))


@app.command("export")
def export_command(
    run: RunFolder,
    arch: Annotated[str, typer.Option(help="An architecture, such as 0-2-1.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pt2, onnx, json; repeatable.")
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Score it on the test set too.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Finish any architecture of a trained run as its recipe says, and export it."""
    overrides = None if formats is None else [f"export.formats={json.dumps(formats)}"]
    settings = _loaded(_recipe_of(run), overrides)
    from manyshot.pipeline import export_architecture

    record = export_architecture(settings, run, arch, _progress(quiet), test=test)
    if as_json:
        _echo(json.dumps(record))
    else:
        for path in record["files"].values():
            _echo(run / path)


def _loaded(path: Path | None, overrides: list[str] | None) -> Recipe:
    from manyshot.recipe import Recipe

    return Recipe.load(path, overrides or [])


def _settings(
    recipe: Path | None, overrides: list[str] | None, out: Path | None, resume: Path | None
) -> tuple[Recipe, Path]:
    if resume is None:
        settings = _loaded(recipe, overrides)
        return settings, _folder(settings.name, out)
    if recipe is not None or overrides or out is not None:
        raise typer.BadParameter(
            "--resume goes on with a run as it is: give no recipe, --set, --out"
        )
    return _loaded(_recipe_of(resume), None), resume


def _folder(name: str, out: Path | None) -> Path:
    if out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("several processes need one folder: give --out, or --resume")
    return out or _free(Path("runs") / name)


def _recipe_of(run: Path) -> Path:
    path = run / "recipe.toml"
    if not path.exists():
        raise typer.BadParameter(f"{run} is not a run: it has no recipe.toml")
    return path


def _free(folder: Path) -> Path:
    """`folder`, or the first of folder-2, folder-3, ... that does not exist."""
    number, free = 2, folder
    while free.exists():
        free, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return free


def _speaks() -> bool:
    """Whether this process prints: of several, only the main one does."""
    return os.environ.get("RANK", "0") == "0"


def _progress(quiet: bool) -> Any:
    from manyshot.progress import Bars, Silent

    return Silent() if quiet or not _speaks() else Bars()


def _echo(line: object) -> None:
    if _speaks():
        typer.echo(line)


def _show(result: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        _echo(json.dumps(result))
        return
    from manyshot.show import shift_tables, winners_table

    _print(winners_table(result, folder))
    if result["shift"] != "none" or result["order"]:
        _print(*shift_tables(result))


def _print(*tables: Any) -> None:
    if not _speaks():
        return
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in tables:
        console.print(table)


def _fail(message: object, code: int) -> NoReturn:
    if str(message):  # without arguments there is only the help
        typer.echo(f"error: {message}", err=True)
    sys.exit(code)


def _place(error: BaseException) -> str:
    """Where in somebody else's code an error comes from, such as a network's own forward."""
    while error.__cause__ is not None:
        error = error.__cause__
    elsewhere = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(Path(__file__).parent):
            return ""
        if not frame.filename.startswith(elsewhere):
            name = type(error).__name__
            return f" ({name} in {frame.filename}, line {frame.lineno}, {frame.name})"
    return ""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs the command line: exit 0 done, 1 failed, 2 usage."""
    if "" not in sys.path:
        sys.path.insert(0, "")  # package.module:attribute may be in the working directory
    try:
        code = app(args=arguments, standalone_mode=False)
    except _USAGE as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except (ValueError, OSError, RuntimeError, LookupError, ImportError) as error:
        from manyshot.recipe import RecipeError  # slow to import, so not for --help

        _fail(f"{error}{_place(error)}", 2 if isinstance(error, RecipeError) else 1)
    if code == _INTERRUPTED:
        _fail("interrupted; go on with --resume", 1)
    sys.exit(code or 0)
