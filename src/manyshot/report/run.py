"""The page of a run."""

from __future__ import annotations

from urllib.parse import quote

from manyshot.report import figures as f
from manyshot.report import numbers, searching, training
from manyshot.report.derived import latest, merged
from manyshot.report.markup import Html, joined, table, tag
from manyshot.report.numbers import count, milliseconds, percent, plural
from manyshot.report.page import Figure, Page, PageSection, Parts
from manyshot.report.picture import blocks, picture
from manyshot.report.rank import rank_sections
from manyshot.report.reading import RunRecords
from manyshot.run_folder import CODES, SPACE, WinnerRecord

_STAGES = {
    "train": "training",
    "search": "scoring",
    "shifting": "shifting",
    "order": "watched networks",
    "probe": "probes of the sampler",
}
_FINISHED = {
    "inherit": "with the supernet's weights",
    "finetune": "fine-tuned",
    "scratch": "trained anew",
}


def run_page(run: RunRecords) -> Page:
    """The page of what a run has written so far."""
    sections = [
        PageSection("Winners", _winners(run)),
        PageSection("Search", _search(run)),
        PageSection("Operations", _operations(run)),
        PageSection("Shifting", _shifting(run)),
        *(part for i, ranking in enumerate(run.rankings) for part in rank_sections(ranking, i)),
        PageSection("Training", _training(run)),
        PageSection("Codes of paths", _codes(run)),
        PageSection("Probability shift", _grid(training.shift(run.targets))),
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
    return Page("run", run.name, _lead(run), sections, warnings)


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
    won = [
        f"{numbers.budget(', '.join(budgets))}: {winner.arch} with {percent(winner.test_accuracy)}"
        for budgets, winner in merged(run.winners)
    ]
    if run.result is not None and won:
        how = _FINISHED[run.result.finish]
        words.append(f"The best within each budget, {how}, on test images: {'; '.join(won)}.")
    return " ".join(words) or "Nothing but the beginning of a run is on record."


def _winners(run: RunRecords) -> Parts:
    if not run.winners:
        return []
    head = ("Budget", "Architecture", "MACs", "Parameters", "Latency", "Proxy", "Test", "Files")
    rows = [
        (
            numbers.budget(winner.budget),
            tag("code", winner.arch),
            count(winner.macs),
            count(winner.params),
            milliseconds(winner.latency_ms),
            percent(winner.proxy_accuracy, 2),
            percent(winner.test_accuracy, 2),
            _files(winner),
        )
        for winner in run.winners
    ]
    note = (
        "Proxy: accuracy on validation images with shared weights, by which winners are chosen. "
        f"Test: on test images, once, at the end. Latency: {_clock(run)}."
    )
    pictures = [_picture(run, budgets, winner) for budgets, winner in merged(run.winners)]
    return [table(head, rows, range(2, 7)), tag("p", note, class_="note"), pictures]


def _files(winner: WinnerRecord) -> Html:
    links = (tag("a", kind, href=quote(path)) for kind, path in winner.files.items())
    return tag("span", joined(links, " "), class_="together")


def _clock(run: RunRecords) -> str:
    took = None if run.result is None else next(iter(run.result.latency.values()), None)
    if took is None:
        return "measured directly"
    return (
        f"median of {took.repeats} runs, batch of {took.batch_size}, "
        f"{plural(took.threads, 'thread')}, {took.device}"
    )


def _picture(run: RunRecords, budgets: list[str], winner: WinnerRecord) -> Html:
    names = ", ".join(numbers.budget(budget) for budget in budgets)
    column = blocks(run.space, winner)
    said = ", ".join(f"{b.name} {b.option}" for b in column if b.active)
    drawing = picture(column, f"Architecture {winner.arch}: {said}")
    caption = f"{winner.arch} · {count(winner.macs)} MACs · {percent(winner.test_accuracy)}"
    return tag("figure", tag("p", names, class_="title"), drawing, tag("figcaption", caption))


def _search(run: RunRecords) -> Parts:
    if not run.search:
        return []
    parts: Parts = [searching.trade_off(run)]
    generated = None if run.result is None else run.result.generated
    if generated is None:
        parts.append(searching.progress(run))
        return parts
    rows = [
        (
            numbers.budget(budget),
            str(proposal.decodes),
            "drawn" if proposal.drawn else "likeliest",
            "no winner"
            if proposal.below_budget_share is None
            else percent(proposal.below_budget_share),
        )
        for budget, proposal in generated.items()
    ]
    words = "There was no search: a generator made the architectures, for each budget its own."
    head = ("Budget", "Decoded", "Architecture", "Left of the budget")
    return [*parts, tag("p", words), table(head, rows, (1, 3))]


def _operations(run: RunRecords) -> Parts:
    if not run.search:
        return []
    if run.space is None:
        missing = f"Not shown: the names of options are in {SPACE}, which this folder lacks."
        return [tag("p", missing, class_="note")]
    words = (
        "How often each option was proposed, by decision; of the architectures in which the "
        "decision matters."
    )
    return [tag("p", words), searching.operations(run)]


def _shifting(run: RunRecords) -> Parts:
    parts: Parts = []
    order = {} if run.result is None else run.result.order
    if order:
        head = ("Set", "Networks", "Mean before", "Mean after", "Kendall's τ, before with after")
        rows = [
            (
                name,
                str(watched.architectures),
                percent(watched.mean_accuracy_before),
                percent(watched.mean_accuracy_after),
                numbers.decimal(watched.tau_before_after),
            )
            for name, watched in order.items()
        ]
        words = "The weights moved while the search went on. Networks chosen before were watched:"
        parts += [tag("p", words), table(head, rows, range(1, 5))]
    drawn = [*searching.order(run), *searching.shifting(run.shifting)]
    return [*parts, drawn] if drawn else parts


def _training(run: RunRecords) -> Parts:
    curves = training.curves(run.train)
    return [curves[0], curves[1:]] if curves else []


def _codes(run: RunRecords) -> Parts:
    drawn = training.codes(run.codes)
    if drawn:
        return list(drawn)
    if run.recipe is not None and run.recipe.sharing.name == "k_shot" and run.train:
        missing = f"Not shown: the codes of paths are in {CODES}, which this folder lacks."
        return [tag("p", missing, class_="note")]
    return []


def _grid(drawn: list[Figure]) -> Parts:
    return [drawn[0], drawn[1:]] if drawn else []


def _cost(run: RunRecords) -> Parts:
    forwarded = {} if run.result is None else run.result.images_forwarded
    spent = {_STAGES.get(stage, stage): images for stage, images in forwarded.items() if images}
    if not spent:
        return []
    total = sum(spent.values())
    rows = [(name, numbers.whole(n), percent(n / total)) for name, n in spent.items()]
    rows.append(("all", numbers.whole(total), percent(1.0)))
    names = [numbers.plain(name) for name in spent]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": list(spent.values()),
        "y": names,
        "marker": {"color": [f.colour(i) for i in range(len(names))]},
        "hovertemplate": "%{y}: %{x:,} images<extra></extra>",
    }
    layout = {
        "xaxis": f.axis("images forwarded", tickformat="~s", nticks=6),
        "yaxis": f.rows_axis(names),
        "bargap": 0.3,
    }
    words = "Images that went forward through a network, not counting the finishing of winners."
    drawn = Figure("Images forwarded by stage", [bars], layout, words, height=90 + 34 * len(names))
    return [table(("Stage", "Images", "Share"), rows, (1, 2)), drawn]


def _environment(run: RunRecords) -> Parts:
    if run.environment is None:
        return []
    shown = {key: value for key, value in run.environment.plain().items() if key != "schema"}
    rows = [
        (key, " ".join(map(str, value)) if isinstance(value, list) else str(value))
        for key, value in shown.items()
    ]
    return [table(("What", "Value"), rows)] if rows else []


def _recipe(run: RunRecords) -> Parts:
    if not run.toml:
        return []
    return [tag("details", tag("summary", "The whole recipe, as it was run"), tag("pre", run.toml))]
