"""Commands that say how far runs can be trusted: truth, rank, compare, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyshot.cli.shared import (
    RESEARCH,
    USING,
    Count,
    DryRun,
    Json,
    OnRay,
    Overrides,
    Quiet,
    RecipePath,
    RunPath,
    Trust,
    check_alone,
    command,
    echo,
    loaded,
    progress,
    recipe_of,
    show,
    show_told,
    trusted_recipe_of,
    workers_of,
)


@command(
    "truth",
    RESEARCH,
    "manyshot truth recipe.toml --set truth.plan=uniform --set truth.count=50 --workers 2",
)
def truth_command(
    recipe: RecipePath = None,
    set_: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Where trainings are added; by default truth/NAME.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 1,
    ray: OnRay = False,
    of: Annotated[
        list[Path] | None, typer.Option(help="A run, for truth.plan=top or winners; repeatable.")
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="An architecture in place of a plan; repeatable.")
    ] = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train architectures alone: the truth that rankings are compared with.

    What is on record is not trained again; other seeds and architectures may be added later.
    """
    check_alone("truth")
    settings = loaded(recipe, set_)
    for run in of or []:
        recipe_of(run)
    from manyshot.pipeline import preview_truth, truth
    from manyshot.run_folder import TRUTHS, TruthFolder

    folder = out or Path(TRUTHS) / settings.name
    if dry_run:
        runs, texts, bars = of or [], arch or [], progress(quiet)
        told = preview_truth(settings, folder, bars, workers=workers, of=runs, archs=texts)
        show_told(told, as_json=False)
        return
    truth(
        settings,
        folder,
        progress(quiet),
        workers=workers_of(settings, workers, ray),
        of=of or [],
        archs=arch or [],
    )
    echo(TruthFolder(folder).log)


@command(
    "rank",
    RESEARCH,
    "manyshot rank runs/digits --truth truth/digits",
)
def rank_command(
    run: RunPath,
    truth: Annotated[
        str | None,
        typer.Option(
            help="Networks trained alone: a folder of manyshot truth, which has to be made first, "
            "or its name inside truth/; a CSV file; or a published table."
        ),
    ] = None,
    set_: Overrides = None,
    by_loss: Annotated[
        bool, typer.Option("--by-loss", help="Judge by the test losses of the truth.")
    ] = False,
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="A run ranked before, whose scores choose the local set by prediction; of several "
            "each chooses in its turn, but for the run itself. Repeatable."
        ),
    ] = None,
    local: Annotated[float, typer.Option(help="Share of a local set.")] = 0.1,
    uncalibrated: Annotated[
        int,
        typer.Option(
            min=0,
            help="Score without recalibrated batch norms too, if there are no more than so many.",
        ),
    ] = 256,
    zero_cost: Annotated[
        bool,
        typer.Option(
            "--zero-cost",
            help="Score without any training too: synflow, NASWOT and the norm of gradients are "
            "baselines that the supernet has to beat.",
        ),
    ] = False,
    weights: Annotated[
        str,
        typer.Option(
            help="Of a run whose search moved them: after it, before it, or both with what that "
            "changed."
        ),
    ] = "after",
    out: Annotated[
        Path | None,
        typer.Option(help="Where scores and page go, if not into the run, which may be read-only."),
    ] = None,
    workers: Count = 1,
    ray: OnRay = False,
    trust: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how far a run's ranking can be trusted, against stand-alone accuracies."""
    check_alone("rank")
    if not 0 < local <= 1:
        raise typer.BadParameter(f"--local is a share in (0, 1], got {local}")
    if weights not in ("after", "before", "both"):
        raise typer.BadParameter(f"--weights is after, before or both, got {weights!r}")
    settings = loaded(trusted_recipe_of(run, trust), set_)
    from manyshot.run_folder import AFTER, BEFORE, TRUTHS, Moment

    if truth is None:
        raise typer.BadParameter(
            "a ranking needs a truth, networks that were trained alone, by --truth: train some "
            f"with manyshot truth {run}/recipe.toml --set truth.plan=uniform --set truth.count=50, "
            f"then give --truth {TRUTHS}/{settings.name}"
        )
    from manyshot.pipeline import rank_both, rank_run
    from manyshot.pipeline.verbs.rank import RankOptions
    from manyshot.rank import load_truth
    from manyshot.report import write
    from manyshot.show import moved_tables, rank_tables

    place = run if out is None else out
    options: RankOptions = {
        "references": reference or [],
        "share": local,
        "uncalibrated": uncalibrated,
        "zero_cost": zero_cost,
        "out": out,
        "workers": workers_of(settings, workers, ray),
    }
    table = load_truth(truth, by="loss" if by_loss else "score")
    bars = progress(quiet)
    if weights == "both":
        before, after, moved = rank_both(settings, run, table, bars, **options)
        page = write(place)
        told = {"before": before.plain(), "after": after.plain(), "moved": moved.plain()}
        show(told, as_json, lambda: moved_tables(before, after, moved, page))
        return
    moment: Moment = BEFORE if weights == BEFORE else AFTER
    ranking = rank_run(settings, run, table, bars, weights=moment, **options)
    page = write(place)
    show(ranking.plain(), as_json, lambda: rank_tables(ranking, page))


@command(
    "compare",
    RESEARCH,
    "manyshot compare runs/digits runs/digits-2 runs/digits-3 --out compare",
)
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="Where compare.json and report.html go.")] = Path(
        "compare"
    ),
    truth: Annotated[
        str | None,
        typer.Option(help="The truth that the runs are ranked against: its name, or as for rank."),
    ] = None,
    primary: Annotated[
        str | None,
        typer.Option(
            help="The metric that the verdict is by, such as 'tau global', which a study names "
            "before it runs; by default tau global, or without a truth the finished winners of the "
            "first budget."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare methods over seeds: runs whose recipes differ in their seed alone are one method.

    The method of the first run is the one that others are compared with.
    """
    for run in runs:
        recipe_of(run)
    from manyshot.pipeline import compare_runs
    from manyshot.report import write
    from manyshot.show import compare_tables

    comparison = compare_runs(runs, out, truth, primary)
    page = write(out)
    show(comparison.plain(), as_json, lambda: compare_tables(comparison, page))


@command(
    "report",
    USING,
    "manyshot report runs/digits",
)
def report_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, a rank or a compare.")],
    out: Annotated[
        Path | None, typer.Option(help="The page's file, if not report.html in the folder.")
    ] = None,
) -> None:
    """Write report.html: one page that needs nothing else."""
    from manyshot.report import write

    echo(write(folder, out))
