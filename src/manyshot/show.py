"""Tables for the terminal, from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from manyshot.manual.keys import Key, sections
from manyshot.manual.options import Described
from manyshot.run_folder import SUBNETS, Comparison, MovedRanking, Ranking, Result, SecondsRecord
from manyshot.shipped import ShippedRecipe
from manyshot.tables import compare, files, numbers, preview, rank, run, settings, space
from manyshot.tables.table import Cell, Table

_ASCII = {
    **str.maketrans("\N{NO-BREAK SPACE}−–≈▲▼", " --=+-", "\N{NARROW NO-BREAK SPACE}"),
    ord("τ"): "tau",
    ord("ρ"): "rho",
}
"""What every terminal and log can show, and a recipe can hold."""


def _text(cell: Cell) -> Text:
    words = cell if isinstance(cell, str) else ", ".join(cell)
    return Text(words.replace(numbers.AT_MOST, "<=").translate(_ASCII))


def _drawn(table: Table, title: str, *captions: str) -> RichTable:
    """A table as rich prints it, with its note and `captions` below."""
    below = "\n".join(filter(None, (table.note, *captions)))
    drawn = RichTable(title=_text(title), caption=_text(below) if below else None)
    drawn.title_justify = drawn.caption_justify = "left"
    for name in table.head:
        justify: Literal["left", "right"] = "left" if name in table.words else "right"
        is_one_line = justify == "right" and not any("[" in row[name] for row in table.cells())
        drawn.add_column(_text(name), justify=justify, overflow="fold", no_wrap=is_one_line)
    for row in table.cells():
        drawn.add_row(*map(_text, row.values()))
    return drawn


def winners_table(result: Result, page: Path) -> RichTable:
    """The winners of a run: one row per budget."""
    title = (
        f"{result.name}: {result.searched:,} of {result.space.size:,} architectures scored, "
        f"winners: {result.finish}"
    )
    where = f"Files are in {page.parent / SUBNETS}, the report is {page}"
    return _drawn(run.winners(result).without("Files"), title, where)


def verdict_words(result: Result) -> Text | None:
    """What a run says of its own result; None of a run that says nothing."""
    if result.verdict is None:
        return None
    style = {"good": "green", "doubtful": "yellow", "nothing": "red"}.get(result.verdict.worth, "")
    first, *rest = (sentence.translate(_ASCII) for sentence in result.verdict.words)
    words = Text(f"Verdict: {first}", style=f"bold {style}".strip())
    for sentence in rest:
        words.append(f"\n{sentence}", style="default")
    return words


def took_words(seconds: SecondsRecord | None) -> Text | None:
    """How long the parts of a run took; None if that is not on record."""
    return None if seconds is None else _text(run.took(seconds))


def shift_tables(result: Result) -> list[RichTable]:
    """What a search that moved the weights forwarded, and how the order of networks changed."""
    spent = run.images(result.images_forwarded)
    dose = "" if result.dose is None else run.dose(result.dose)
    tables = [_drawn(spent, f"Images forwarded, shifting: {result.shifting}", dose)]
    if result.order:
        tables.append(_drawn(run.watched(result), "Watched networks, before and after"))
    return tables


def survey_tables(survey: dict[str, Any]) -> list[RichTable]:
    """What `manyshot space` prints: decisions, what a conversion did, costs, histograms."""
    title = f"{survey['name']}: {survey['size']:,} encodings"
    histograms = [
        _drawn(
            space.histogram(cost),
            f"{metric} of {sum(cost['histogram']):,} uniform random architectures",
        )
        for metric, cost in survey["costs"].items()
        if cost["histogram"]
    ]
    conversion = survey["conversion"]
    converted = [] if conversion is None else space.converted(conversion)
    return [
        _drawn(space.decisions(survey["decisions"]), title),
        *(_drawn(table, words) for words, table in converted),
        _drawn(space.costs(survey["costs"]), "Reachable costs"),
        *histograms,
    ]


def parameters_table(survey: dict[str, Any]) -> RichTable:
    """What `manyshot space --parameters` prints: a row per parameter of the network."""
    return _drawn(space.parameters(survey["parameters"]), f"{survey['name']}: parameters")


def latency_table(timings: Sequence[Mapping[str, Any]]) -> RichTable:
    """What `manyshot benchmark` prints."""
    return _drawn(files.latencies(timings), "Latency of exported files")


def preview_tables(told: dict[str, Any]) -> list[RichTable | Text]:
    """What `--dry-run` prints: what a run or a truth would do, write and take."""
    data, network = told["data"], told["network"]
    shape = "x".join(map(str, data["shape"]))
    shown: list[RichTable | Text] = [
        Text("\n".join(f"{i}. {step}" for i, step in enumerate(told["steps"], 1))),
        _drawn(preview.images(data), f"{data['name']}{f', {shape} in a batch' if shape else ''}"),
        _drawn(preview.network(network), network["name"]),
    ]
    if told["budgets"]:
        shown.append(_drawn(preview.budgets(told["budgets"]), "Budgets"))
    shown.append(_drawn(preview.files(told["files"]), f"To be written to {told['folder']}"))
    if told["seconds"]:
        took = ", ".join(f"{what} {numbers.seconds(s)}" for what, s in told["seconds"].items())
        whole = numbers.seconds(sum(told["seconds"].values()))
        shown.append(_text(f"It takes about {whole} ({took}); {told['beside']}."))
    shown += [_text(numbers.sentence(note)) for note in told["notes"]]
    return [*shown, Text("Nothing was written.")]


def keys_tables(keys: Sequence[Key]) -> list[RichTable]:
    """What `manyshot recipe --keys` prints: a table per section of a recipe."""
    about = sections()
    return [
        _drawn(settings.keys([*some]), f"[{name}] {about[name]}" if name else about[name])
        for name, some in groupby(keys, lambda key: key.section)
    ]


def slots_tables(names: Mapping[str, Sequence[str]]) -> list[RichTable | Text]:
    """What `manyshot options` prints: the slots of a recipe and the names of what fills them."""
    return [
        _drawn(settings.slots(names, sections()), "What fills the slots of a recipe"),
        Text(
            "manyshot options SLOT says what these are, manyshot options SLOT NAME what options "
            "one has; NAME may be package.module:attribute of your own, as in a recipe. All else "
            "that a recipe may set, such as [train], is in manyshot recipe --keys."
        ),
    ]


def plugins_tables(slot: str, plugins: Sequence[Described]) -> list[RichTable | Text]:
    """What `manyshot options SLOT` prints: a row per plug-in that comes with manyshot."""
    return [
        _drawn(settings.plugins(plugins), f"[{slot}] may have these names"),
        Text(f"manyshot options {slot} NAME explains the options of one."),
    ]


def options_tables(slot: str, plugin: Described) -> list[RichTable | Text]:
    """What `manyshot options SLOT NAME` prints: what a plug-in is, and a row per option."""
    shown: list[RichTable | Text] = [_text(f"{plugin.about}\n")]
    chosen = f"--set {slot}.name={plugin.name}"
    if not plugin.options:
        return [*shown, Text(f"It has no options. A run takes it by {chosen}")]
    first = plugin.options[0]
    return [
        *shown,
        _drawn(settings.options(plugin), f"Options of {slot} {plugin.name}"),
        Text(
            f"A run takes it by {chosen} and, for example, "
            f"--set {slot}.options.{first.name}={first.default or 'VALUE'}"
        ),
    ]


def recipes_list(recipes: Sequence[ShippedRecipe], *, cut: bool) -> list[Group | Text]:
    """What `manyshot recipes` prints: by groups a line per recipe.

    Args:
        recipes: which.
        cut: whether a line ends where the screen does.
    """
    overflow: Literal["ellipsis", "ignore"] = "ellipsis" if cut else "ignore"
    wide = max(len(recipe.name) for recipe in recipes)
    lines = []
    for group in dict.fromkeys(recipe.group for recipe in recipes):
        lines.append(Text(f"{group}:", style="bold"))
        for recipe in recipes:
            if recipe.group == group:
                line = f"  {recipe.name:<{wide}}  {recipe.title}"
                lines.append(Text(line, no_wrap=True, overflow=overflow))
        lines.append(Text())
    return [
        Group(*lines),  # so that each keeps to its line
        Text(
            "manyshot run NAME runs one, manyshot recipes NAME prints it. --find WORD lists those "
            "that speak of a method, a paper or a slot; --details has papers, slots and times."
        ),
    ]


def recipes_table(recipes: Sequence[ShippedRecipe]) -> RichTable:
    """What `manyshot recipes --details` prints: a row per recipe with all that its head says."""
    return _drawn(settings.recipes(recipes), "Recipes that come with manyshot: manyshot run NAME")


def rank_tables(ranking: Ranking, page: Path) -> list[RichTable | Text]:
    """What `manyshot rank` prints: a table per set, with what may be said of it."""
    return [*_ranked(ranking), *_absent(ranking), _page(page)]


def moved_tables(
    before: Ranking, after: Ranking, moved: MovedRanking, page: Path
) -> list[RichTable | Text]:
    """What `manyshot rank --weights both` prints: both rankings, and what lies between."""
    title = "What moving the weights did, on sets that neither chose"
    between = _drawn(rank.moved(moved), title)
    tables = [*_ranked(before), *_ranked(after), between]
    return [*tables, *_absent(moved), _page(page)]


def _ranked(ranking: Ranking) -> list[RichTable]:
    columns = ("Predictor", rank.TAU, rank.RHO, rank.LIKE_COST, "Regret")
    when = f" ({rank.moment(ranking)})" if ranking.moment else ""
    tables = []
    for ranked in ranking.sets:
        table = rank.statistics(ranked, ranking)
        shown = table.only(*(title for title in columns if title in table.head))
        judges = ", ".join(ranked.judged_by)
        tables.append(_drawn(shown, f"{ranked.name}{when}: {ranked.why}; judged by {judges}"))
    return tables


def _absent(ranking: Ranking | MovedRanking) -> list[Text]:
    absent = [Text(f"There is no set {s}: it needs {why}.") for s, why in ranking.absent.items()]
    left_out = ranking.left_out if isinstance(ranking, Ranking) else {}
    return [*absent, *(Text(f"There is no {name}: {why}.") for name, why in left_out.items())]


def compare_tables(comparison: Comparison, page: Path) -> list[RichTable | Text]:
    """What `manyshot compare` prints: means by kind of metric, then what can be told apart."""
    shown: list[RichTable | Text] = []
    for kind, words in KINDS.items():
        metrics = [m for m in compare.metrics_of(comparison) if m.startswith(f"{kind} ")]
        if metrics:
            shown.append(_drawn(compare.methods(comparison, metrics), words))
    shown += [_text(said) for said in (*comparison.notes, *compare.gates(comparison))]
    decided = [pair for pair in comparison.pairs if pair.verdict in ("better", "worse")]
    if decided:
        shown.append(_drawn(compare.pairs(decided, comparison), "Pairs of methods"))
    rest = len(comparison.pairs) - len(decided)
    if rest:
        pairs = numbers.plural(rest, "comparison is", "comparisons are")
        words = "not distinguishable, or cannot be told apart (two methods by one metric)."
        shown.append(Text(f"{pairs} {words}"))
    shown += [_text(said) for said in compare.primary(comparison)]
    spent = compare.spent(comparison)
    if spent.rows:
        columns = ("Method", "Weight steps", "Images", *SPENT, "MACs")
        shown.append(_drawn(spent.only(*columns), "What methods spent"))
    shown += [_text(said) for said in compare.budgets(comparison)]
    return [*shown, _page(page)]


def _page(page: Path) -> Text:
    return Text(f"The report is {page}")


SPENT = ("MACs of training", "MACs of probes", "MACs of search")
"""The columns of multiply-adds that methods spent for which the terminal has room."""
KINDS = {
    "tau": "Kendall's τ of the proxy with truth",
    "regret": "What the first pick loses",
    "winner": "Winners trained alone, as far as the truth has them",
    "finished": "Winners on test images, finished as the recipe says",
}
"""How the names of metrics begin, and what they are."""
