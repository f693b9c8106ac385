"""Commands that make and use runs, from `run` to `predict` and `benchmark`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from manyshot.cli.shared import (
    RESEARCH,
    USING,
    Count,
    DryRun,
    Json,
    OnRay,
    Out,
    Overrides,
    Quiet,
    RecipePath,
    Resume,
    RunPath,
    Trust,
    check_alone,
    command,
    echo,
    echo_columns,
    folder_of,
    loaded,
    progress,
    settings_of,
    show,
    show_preview,
    speaks,
    trusted_recipe_of,
    workers_of,
)

if TYPE_CHECKING:
    from manyshot.cost.runtimes import RuntimeName
    from manyshot.recipe import Recipe
    from manyshot.runs import Run


@command(
    "run",
    USING,
    "manyshot run recipe.toml --set train.epochs=20",
)
def run_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    workers: Count = 1,
    ray: OnRay = False,
    trust: Trust = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, search, finish and export: the whole way."""
    if dry_run:
        bars = progress(quiet)
        show_preview(
            recipe, set_, out, resume, as_json=as_json, bars=bars, whole=True, workers=workers
        )
        return
    settings, folder = settings_of(recipe, set_, out, resume, trust)
    crew = workers_of(settings, workers, ray)
    _perform_and_show(settings, folder, as_json, progress(quiet), workers=crew)


@command(
    "train",
    RESEARCH,
    "manyshot train recipe.toml --out runs/supernet",
)
def train_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Out = None,
    resume: Resume = None,
    trust: Trust = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train the supernet only."""
    if dry_run:
        bars = progress(quiet)
        show_preview(recipe, set_, out, resume, as_json=False, bars=bars, whole=False)
        return
    settings, folder = settings_of(recipe, set_, out, resume, trust)
    from manyshot.pipeline import train_only
    from manyshot.run_folder import RunFolder

    train_only(settings, folder, progress(quiet))
    echo(RunFolder(folder).weights)


@command(
    "search",
    RESEARCH,
    "manyshot search runs/supernet --set search.candidates=500 --out runs/longer",
)
def search_command(
    run: RunPath,
    set_: Overrides = None,
    out: Out = None,
    workers: Count = 1,
    ray: OnRay = False,
    trust: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search a trained run, finish its winners and export them.

    With `--set` and `--out`, the same supernet is searched again under other settings.
    """
    if set_ and out is None:
        raise typer.BadParameter("other settings need another folder: give --out too")
    settings = loaded(trusted_recipe_of(run, trust), set_)
    crew = workers_of(settings, workers, ray)
    _perform_and_show(settings, out or run, as_json, progress(quiet), trained=run, workers=crew)


@command(
    "transfer",
    RESEARCH,
    "manyshot transfer runs/digits --data folder --set data.root=photos",
)
def transfer_command(
    run: RunPath,
    recipe: RecipePath = None,
    data: Annotated[str | None, typer.Option(help="The target data set's name.")] = None,
    set_: Overrides = None,
    out: Out = None,
    workers: Count = 1,
    ray: OnRay = False,
    trust: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Move a trained run's supernet to other images, and search it there while it shifts.

    Without a recipe, settings are the run's; `--set data.root=PATH` says where the images are. They
    must have as many channels as those of the run.
    """
    trusted_recipe_of(run, trust)
    from manyshot.pipeline import transfer_recipe

    settings = transfer_recipe(run, recipe, data, set_ or [])
    folder = folder_of(settings.name, out)
    crew = workers_of(settings, workers, ray)
    _perform_and_show(settings, folder, as_json, progress(quiet), source=run, workers=crew)


@command(
    "space",
    USING,
    "manyshot space recipe.toml --set network.options.width=16",
)
def space_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    samples: Annotated[int, typer.Option(min=1, help="Uniform random architectures.")] = 20_000,
    parameters: Annotated[
        bool,
        typer.Option("--parameters", help="Only all parameters, by the names of train.rates."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show decisions, size, reachable costs, and how uniform sampling spreads over them."""
    settings = loaded(recipe, set_)
    from manyshot.pipeline import survey
    from manyshot.show import parameters_table, survey_tables

    surveyed = survey(settings, samples)

    def tables() -> list[Any]:
        return [parameters_table(surveyed)] if parameters else survey_tables(surveyed)

    show(surveyed, as_json, tables)


@command(
    "export",
    USING,
    "manyshot export runs/digits --arch 0-2-1-3 --format onnx",
)
def export_command(
    run: RunPath,
    arch: Annotated[str, typer.Option(help="An architecture, such as 0-2-1.")],
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="pt2, onnx, int8, json; repeatable.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as export.normalise=false."),
    ] = None,
    test: Annotated[bool, typer.Option("--test", help="Score it on the test set too.")] = False,
    trust: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Finish any architecture of a trained run as its recipe says, and export it.

    Settings of `[export]` may be others than the run's; all files of the architecture follow.
    """
    other = [text for text in set_ or [] if not text.strip().startswith(("export.", "export="))]
    if other:
        raise typer.BadParameter(
            f"--set {other[0]}: an export is of a run as it is, and only export.... may be set"
        )
    overrides = [f"export.formats={json.dumps(formats)}"] if formats is not None else []
    settings = loaded(trusted_recipe_of(run, trust), [*(set_ or []), *overrides])
    from manyshot.pipeline import export_architecture

    line = export_architecture(settings, run, arch, progress(quiet), test=test)
    if as_json:
        echo(json.dumps(line.plain()))
    else:
        for path in line.files.values():
            echo(run / path)
        for name, value in (line.test_metrics or {}).items() if test else ():
            echo(f"test {name} {value:.4f}")


@command(
    "predict",
    USING,
    "manyshot predict runs/digits photo.png --top 3",
)
def predict_command(
    run: RunPath,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    budget: Annotated[
        str | None, typer.Option(help="The budget of a winner; needed if there are several.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="A winner, or an architecture that was exported.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="So many classes of each image.")] = 1,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Say what images show, by a finished network of a run: path, class and probability."""
    trusted_recipe_of(run, trust)
    if budget is not None and arch is not None:
        raise typer.BadParameter("--budget and --arch both say which network: give one")
    from manyshot.runs import Run

    opened = Run(run, trust=trust)
    described = opened.files.space()
    chosen = None if arch is None or described is None else described.search_space().from_text(arch)
    said = opened.predict([*images], budget=budget, arch=chosen, top=top)
    if as_json:
        rows = [
            {"image": str(image), "classes": [asdict(one) for one in classes]}
            for image, classes in zip(images, said, strict=True)
        ]
        echo(json.dumps(rows))
        return
    for image, classes in zip(images, said, strict=True):
        for one in classes:
            echo_columns(str(image), one.name, f"{one.probability:.4f}")


@command(
    "benchmark",
    USING,
    "manyshot benchmark small.onnx --against large.onnx --threads 2",
)
def benchmark_command(
    file: Annotated[Path, typer.Argument(help="An exported file: .pt2 or .onnx.")],
    against: Annotated[
        list[Path] | None, typer.Option(help="Another file, timed in the same rounds; repeatable.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="torch (.pt2) or onnxruntime (.onnx); by the file's ending.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at once.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of the runtime.")] = 1,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed runs.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 30,
    as_json: Json = False,
) -> None:
    """Time exported files on the CPU: median, spread and throughput."""
    check_alone("benchmark")
    if runtime not in (None, "torch", "onnxruntime"):
        raise typer.BadParameter(f"--runtime is torch or onnxruntime, got {runtime!r}")
    from manyshot.cost import measure_files
    from manyshot.show import latency_table

    timings = [
        asdict(timing)
        for timing in measure_files(
            [file, *(against or [])],
            runtime=cast("RuntimeName | None", runtime),
            batch_size=batch,
            threads=threads,
            warmup=warmup,
            repeats=repeats,
        )
    ]
    show(timings, as_json, lambda: [latency_table(timings)])


def _perform_and_show(
    settings: Recipe, folder: Path, as_json: bool, bars: Any, **options: Any
) -> None:
    """Does a run and prints its winners, also those there are where something is missing."""
    from manyshot.pipeline.stages.exports import ExportFailed  # slow to import, so not for --help
    from manyshot.run_folder import RunFolder
    from manyshot.runs import Run, perform
    from manyshot.search import Infeasible

    try:
        perform(settings, folder, bars, **options)
    except (ExportFailed, Infeasible):
        if RunFolder(folder).result_file.exists():
            _show(Run(folder), as_json)
        raise
    _show(Run(folder), as_json)


def _show(run: Run, as_json: bool) -> None:
    """Prints the winners of a finished run."""
    if not speaks():
        return
    from manyshot.show import shift_tables, took_words, verdict_words, winners_table

    result, page = run.result, run.files.report
    moved = result.shifting != "none" or result.order
    show(
        result.plain(),
        as_json,
        lambda: [
            *filter(None, [verdict_words(result)]),
            winners_table(result, page),
            *(shift_tables(result) if moved else ()),
            *filter(None, [took_words(run.files.seconds())]),
        ],
    )
