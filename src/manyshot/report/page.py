"""A self-contained page from sections: nothing is loaded from anywhere.

`templates/page.html` is the page, and `templates/parts.html` draws each kind of part. Both escape
whatever they are given: no text of a record is ever markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jinja2

from manyshot._version import __version__
from manyshot.report import plotly_js
from manyshot.report.picture import Picture
from manyshot.tables.numbers import count, percent, shortened
from manyshot.tables.table import Table


@dataclass(frozen=True, slots=True)
class View:
    """One of several ways to draw a figure, which a button chooses.

    Attributes:
        name: what the button says.
        traces: for each trace of the figure what differs.
        layout: its layout.
    """

    name: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A plotly figure with words.

    Attributes:
        title: the line above it.
        traces: what plotly calls data. Text of records went through `figures.plain`; a colour may
            be a variable of the page, such as `"--c0"`.
        layout: what plotly calls layout; fonts, margins, legend and colours are set by the page.
        caption: the words below it.
        height: how high it is, in pixels.
        views: other ways to draw it, of which the first is how it is drawn first; or none.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    caption: str = ""
    height: int = 340
    views: Sequence[View] = ()

    @property
    def drawn(self) -> dict[str, Any]:
        """What the script of a page draws."""
        views = [{"traces": view.traces, "layout": view.layout} for view in self.views]
        return {
            "data": self.traces,
            "layout": self.layout,
            **({"views": views} if views else {}),
        }


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    words: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True, slots=True)
class Code:
    """The text of a file."""

    text: str


@dataclass(frozen=True, slots=True)
class Folded:
    """A part that is shown when a reader asks for it."""

    summary: str
    part: Bullets | Code


@dataclass(frozen=True, slots=True)
class Example:
    """An image with words.

    Attributes:
        image: its address, which holds all of it.
        words: what it is taken for.
        label: what it is, where that is something else.
        file: where it is from.
    """

    image: str
    words: str
    label: str
    file: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Images side by side.

    Attributes:
        title: the line above them.
        examples: the images.
    """

    title: str
    examples: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run says of its own result.

    Attributes:
        worth: `good`, `doubtful`, `nothing` or `unknown`; it decides the colour.
        sentences: the most important first.
    """

    worth: str
    sentences: Sequence[str]


Part: TypeAlias = str | Heading | Bullets | Code | Folded | Table | Figure | Picture | Examples
Parts: TypeAlias = Sequence[Part | list[Figure] | list[Picture]]
"""What a section shows: a string is a paragraph, and a list stands side by side where it can."""


@dataclass(frozen=True, slots=True)
class PageSection:
    """A part of a page.

    Attributes:
        title: the heading, which the table of contents shows too.
        parts: what it shows. Empty ones are left out, and so is a section without any.
    """

    title: str
    parts: Parts


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page holds.

    Attributes:
        kind: the word for what it is about, such as `"run"`.
        title: the name of that.
        lead: what the page shows, in a few sentences.
        sections: what it consists of.
        warnings: what a reader must know first.
        verdict: what the result is worth, above all else.
        answers: what came out, in sentences, right below.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[PageSection]
    warnings: Sequence[str] = ()
    verdict: Verdict | None = None
    answers: Sequence[str] = ()

    def render(self) -> str:
        """The whole document."""
        sections = [
            PageSection(section.title, parts)
            for section in self.sections
            if (parts := [part for part in section.parts if part])
        ]
        has_figures = any(_has_figures(section.parts) for section in sections)
        return _TEMPLATES.get_template("page.html").render(
            page=self,
            sections=sections,
            plotly=plotly_js if has_figures else None,
            version=__version__,
        )


def _has_figures(parts: Sequence[Any]) -> bool:
    return any(
        _has_figures(part) if isinstance(part, list) else isinstance(part, Figure) for part in parts
    )


def html_of(part: Part | list[Figure] | list[Picture]) -> str:
    """One part of a page as HTML: the macro in `parts.html` that is called as its class is."""
    macros = _TEMPLATES.get_template("parts.html").module
    html: str = getattr(macros, type(part).__name__)(part)
    return html


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("manyshot.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"html": html_of}
_TEMPLATES.filters |= {"count": count, "percent": percent, "shortened": shortened}
_TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
