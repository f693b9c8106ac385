"""How notebooks draw runs, winners, spaces, conversions, images, searches and recipes."""

from __future__ import annotations

import functools

from manyshot.data import Splits
from manyshot.finding import SearchResult
from manyshot.nn.converted import Conversion
from manyshot.recipe import Recipe
from manyshot.report import html_of
from manyshot.report.page import Code, Folded, Heading, Part
from manyshot.runs import Run, RunWinner
from manyshot.space import SearchSpace
from manyshot.tables import finding, preview, run, settings, space


@functools.singledispatch
def html(thing: object) -> str:
    """The HTML of something that is `manyshot.shown.Shown`.

    Raises:
        TypeError: for what is not known here.
    """
    raise TypeError(f"no table is known of a {type(thing).__name__}: register one here")


def _joined(*parts: Part) -> str:
    return "".join(html_of(part) for part in parts)


@html.register
def _(searched: SearchResult) -> str:
    rows = [(w.budget, "-".join(map(str, w.arch)), w.costs, w.score) for w in searched.winners]
    return _joined(finding.winners(rows, len(searched.history)))


@html.register
def _(own: SearchSpace) -> str:
    decided = [{"name": d.name, "options": list(d.options)} for d in own.decisions]
    return _joined(repr(own), space.decisions(decided))


@html.register
def _(done: Conversion) -> str:
    tables = [part for words, table in space.converted(done.plain()) for part in (words, table)]
    return _joined(
        *(Heading(part) if isinstance(part, str) else part for part in tables),
        *(() if done.decisions else (done.summary(),)),
    )


@html.register
def _(splits: Splits) -> str:
    told = splits.plain()
    shape = "x".join(map(str, told["shape"]))
    words = f"{told['name']}{f': {shape} in a batch' if shape else ''}"
    return _joined(words, preview.images(told))


@html.register
def _(recipe: Recipe) -> str:
    whole = Folded("The recipe with every default", Code(recipe.to_toml()))
    changed = settings.changed(recipe)
    return html_of(changed or "The default recipe.") + html_of(whole)


@html.register
def _(opened: Run) -> str:
    if not opened.files.result_file.exists():
        return _joined(repr(opened))
    result = opened.result
    words = () if result.verdict is None else result.verdict.words
    return _joined(*words, run.winners(result).without("Files"))


@html.register
def _(winner: RunWinner) -> str:
    return _joined(run.winners(winner.beside).without("Files"))
