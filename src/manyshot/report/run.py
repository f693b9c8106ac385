"""The page of a run."""

from __future__ import annotations

from manyshot.report import figures as f
from manyshot.report import relaxation, searching, trade_off, training
from manyshot.report.answers import answers
from manyshot.report.derived import latest, merged
from manyshot.report.page import Code, Figure, Folded, Page, PageSection, Parts, Verdict
from manyshot.report.picture import Picture, blocks
from manyshot.report.predictions import predictions
from manyshot.report.rank import moved_sections, rank_sections
from manyshot.report.reading import RunRecords
from manyshot.report.usage import usage
from manyshot.run_folder import CODES, SPACE
from manyshot.tables import numbers
from manyshot.tables import run as tables

_FINISHED = {
    "inherit": "taken with the supernet's weights",
    "finetune": "fine-tuned",
    "scratch": "trained anew",
}

BY_WEIGHTS = (
    "There was no search, and scores compared nothing: for each budget, of every decision the "
    "option of the largest weight was taken. Where these cost more than the budget, it was the "
    "network of the greatest product of weights within it; among more networks than can be listed, "
    "decisions were changed one by one, each time the one that gives up least weight for what it "
    "saves."
)
BY_GENERATOR = (
    "There was no search, and scores compared nothing: for each budget a generator, trained with "
    "the supernet, was given it as the target, and of every decision its likeliest option was "
    "taken; where these cost more than the budget, again for a lower target."
)


def run_page(run: RunRecords) -> Page:
    """The page of what a run has written so far."""
    sections = [
        PageSection("Winners", _winners(run)),
        PageSection("Use", usage(run)),
        PageSection("Predictions", predictions(run)),
        PageSection("Trust", _trust(run)),
        PageSection("Search", _search(run)),
        PageSection("Operations", _operations(run)),
        PageSection("Shifting", _shifting(run)),
        *(part for i, ranking in enumerate(run.rankings) for part in rank_sections(ranking, i)),
        *(part for moved in run.moved for part in moved_sections(moved)),
        PageSection("Views of the space", _views(run)),
        PageSection("Training", _grid(training.curves(run.train))),
        PageSection("Codes of paths", _codes(run)),
        PageSection("Probability shift", _grid(training.shift(run.targets, run.train))),
        PageSection("Weights of options", _options(run)),
        PageSection("Cost", _cost(run)),
        PageSection("Environment", _environment(run)),
        PageSection("Recipe", _recipe(run)),
    ]
    warnings = []
    if run.result is None:
        warnings.append("This run is not finished. The page shows what is on record so far.")
    missing = set(run.budgets) - {winner.budget for winner in run.winners}
    if run.result is not None and missing:
        names = numbers.listed([numbers.budget(b) for b in run.budgets if b in missing])
        warnings.append(f"No scored network is within {names}.")
    return Page("run", run.name, _lead(run), sections, warnings, _verdict(run), answers(run))


def _lead(run: RunRecords) -> str:
    recipe, words = run.recipe, []
    if recipe is not None:
        words.append(
            f"One supernet of {recipe.network.name} was trained on {recipe.data.name} (sharing: "
            f"{recipe.sharing.name}, sampler: {recipe.sampler.name})."
        )
    scored = latest(run.search)
    size = 0 if run.space is None else run.space.size
    size = size if run.result is None else run.result.space.size
    if scored:
        of = f" of {size:,}" if size else ""
        words.append(f"{len(scored):,}{of} architectures were scored with its weights.")
    if run.winners and run.result is not None:
        how = _FINISHED[run.result.finish]
        words.append(f"The best within each budget was then {how} and tested once.")
    if any(winner.test_interval for winner in run.winners):
        words.append("Brackets hold 95 % intervals by the test images alone.")
    return " ".join(words) or "Nothing but the beginning of a run is on record."


def _verdict(run: RunRecords) -> Verdict | None:
    """What the run says of its own result."""
    verdict = None if run.result is None else run.result.verdict
    return None if verdict is None else Verdict(verdict.worth, verdict.words)


def _trust(run: RunRecords) -> Parts:
    """What the verdict rests on."""
    if run.result is None or run.result.verdict is None:
        return []
    words = "What the verdict above rests on, all of it measured in this run."
    return [words, tables.measures(run.result.verdict, run.result.task)]


def _winners(run: RunRecords) -> Parts:
    if run.result is None:
        return []
    pictures = [
        Picture(
            ", ".join(map(numbers.budget, budgets)),
            winner,
            blocks(run.space, winner),
            numbers.score(winner.test_score, run.result.task.metric.share),
        )
        for budgets, winner in merged(run.winners)
    ]
    drawn = trade_off.tested(run, run.result.task)
    return [tables.winners(run.result), *drawn, pictures]


def _search(run: RunRecords) -> Parts:
    if not run.search:
        return []
    if run.task is None:
        return [f"What scores are is in {SPACE}, which this folder lacks."]
    drawn: Parts = [trade_off.trade_off(run, run.task)]
    generated = None if run.result is None else run.result.generated
    if generated is None:
        return [*drawn, searching.progress(run, run.task)]
    if run.options or run.mixed is not None:
        return [*drawn, BY_WEIGHTS, relaxation.selected(run, generated)]
    return [*drawn, BY_GENERATOR, tables.generated(generated)]


def _operations(run: RunRecords) -> Parts:
    if not run.search:
        return []
    if run.space is None:
        return [f"Not shown: the names of options are in {SPACE}, which this folder lacks."]
    words = (
        "How often each option was proposed, by decision; of the architectures in which the "
        "decision matters."
    )
    return [words, searching.operations(run)]


def _shifting(run: RunRecords) -> Parts:
    result = run.result
    words = "The weights moved while the search went on. Networks chosen before were watched:"
    drawn = [*searching.order(run), *searching.shifting(run.shifting)]
    if result is None:
        return [drawn]
    dose = [f"{tables.dose(result.dose)}."] if result.dose is not None else []
    if not result.order:
        return [*dose, drawn]
    return [*dose, words, tables.watched(result), drawn]


def _views(run: RunRecords) -> Parts:
    if not run.views:
        return []
    words = (
        f"The search space changed while the supernet trained, by {run.views[0].shrinker}; the "
        "search looked for networks of the last view."
    )
    return [words, tables.views(run.views)]


def _codes(run: RunRecords) -> Parts:
    is_k_shot = run.recipe is not None and run.recipe.sharing.name == "k_shot"
    if is_k_shot and run.train and not run.codes:
        return [f"Not shown: the codes of paths are in {CODES}, which this folder lacks."]
    return training.codes(run.codes)


def _options(run: RunRecords) -> Parts:
    """How the weights of options moved, and what choosing one of each costs."""
    if not run.options:
        return []
    gap = relaxation.gap(run.mixed, run.winners, run.task)
    return [gap, *_grid(relaxation.options(run.options, run.space))]


def _grid(drawn: list[Figure]) -> Parts:
    """The first figure, and the others side by side."""
    return [*drawn[:1], drawn[1:]]


def _cost(run: RunRecords) -> Parts:
    forwarded = {} if run.result is None else run.result.images_forwarded
    spent = tables.images_by_stage(forwarded)
    took = _took(run)
    if not spent:
        return [took]
    names = [f.plain(name) for name in spent]
    bars = f.bars(
        list(spent.values()),
        names,
        [f.colour(i) for i in range(len(names))],
        orientation="h",
        hovertemplate="%{y}: %{x:,} images<extra></extra>",
    )
    forward = f.axis("images forwarded", tickformat="~s", nticks=6)
    layout = f.layout(forward, f.rows_axis(names), bargap=0.3)
    words = "Images that went forward through a network, not counting the finishing of winners."
    drawn = Figure("Images forwarded by stage", [bars], layout, words, height=90 + 34 * len(names))
    return [took, tables.images(forwarded), drawn]


def _took(run: RunRecords) -> str:
    """How long the parts of the run took; empty if no record says."""
    if run.seconds is None:
        return ""
    counted = "All commands that worked on this run count."
    return f"{tables.took(run.seconds)} {counted}"


def _environment(run: RunRecords) -> Parts:
    return [] if run.environment is None else [tables.environment(run.environment)]


def _recipe(run: RunRecords) -> Parts:
    return [Folded("The whole recipe, as it was run", Code(run.toml))] if run.toml else []
