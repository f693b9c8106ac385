"""A self-contained page from sections: nothing is loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from manyshot._version import __version__
from manyshot.report import markup
from manyshot.report.markup import Html, joined, tag
from manyshot.report.script import SCRIPT
from manyshot.report.style import CSS

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
)
"""A browser that reads this makes no request, whatever a record holds."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plotly figure with words.

    Attributes:
        title: above it, a plain string.
        traces: plotly's `data`. Text of records went through `numbers.plain`; a colour may be a
            variable of the page, such as `"--c0"`.
        layout: plotly's `layout` but for fonts and colours, which the page sets.
        caption: below it; plain strings are escaped.
        height: in pixels.
    """

    title: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    caption: str = ""
    height: int = 340


Part: TypeAlias = Html | Figure | Sequence[Figure | Html]
"""What a section is made of; a sequence stands side by side where there is room."""
Parts: TypeAlias = list[Part]


@dataclass(frozen=True, slots=True)
class PageSection:
    """A part of a page.

    Attributes:
        title: its heading, in the table of contents too.
        parts: see `Part`; without any, the section is left out.
    """

    title: str
    parts: Parts


@dataclass(frozen=True, slots=True)
class Page:
    """All that a page holds.

    Attributes:
        kind: of record, a word.
        title: its name.
        lead: what it shows, in a few sentences.
        sections: its parts; those without parts are left out.
        warnings: what a reader must know first.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[PageSection]
    warnings: Sequence[str] = field(default_factory=tuple)

    def render(self) -> str:
        """The whole document."""
        import plotly.offline

        sections = [section for section in self.sections if section.parts]
        drawer = _Drawer()
        body = [
            tag("p", f"manyshot {self.kind}", class_="kind"),
            tag("h1", self.title),
            tag("p", self.lead, class_="lead"),
            *(tag("p", warning, class_="warning") for warning in self.warnings),
            tag("nav", _contents(sections), aria_label="Contents"),
            *(drawer.section(i, section) for i, section in enumerate(sections)),
            tag(
                "footer",
                f"Drawn from records by manyshot {__version__}. Drag in a figure to zoom, double "
                "click to go back.",
            ),
        ]
        scripts: tuple[Html, ...] = ()
        if drawer.figures:
            scripts = (
                tag("noscript", tag("p", "Figures need JavaScript; tables do not.")),
                tag("script", Html(plotly.offline.get_plotlyjs())),
                tag("script", Html(SCRIPT)),
            )
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            tag("title", f"{self.title} · manyshot {self.kind}"),
            tag("style", Html(CSS)),
        )
        page = tag("html", head, tag("body", tag("main", *body), *scripts), lang="en")
        return f"<!doctype html>\n{page}\n"


def _contents(sections: Sequence[PageSection]) -> Html:
    return markup.bullets(
        tag("a", section.title, href=f"#part-{i}") for i, section in enumerate(sections)
    )


class _Drawer:
    """Numbers the figures of a page.

    Attributes:
        figures: how many there are so far.
    """

    def __init__(self) -> None:
        self.figures = 0

    def section(self, number: int, section: PageSection) -> Html:
        """A section with its heading."""
        parts = [self._part(part) for part in section.parts]
        heading = tag("h2", section.title, id=f"part-{number}")
        return tag("section", heading, *parts, aria_labelledby=f"part-{number}")

    def _part(self, part: Part) -> Html:
        if isinstance(part, Figure):
            return self._figure(part)
        if isinstance(part, str):
            return Html(part)
        return tag("div", joined(self._part(own) for own in part), class_="grid")

    def _figure(self, figure: Figure) -> Html:
        self.figures += 1
        name = f"figure-{self.figures}"
        margin = {"l": 8, "r": 12, "t": 12, "b": 8, **figure.layout.get("margin", {})}
        layout = {**figure.layout, "margin": margin}
        content = {"data": list(figure.traces), "layout": layout}
        return tag(
            "figure",
            tag("p", figure.title, id=f"{name}-title", class_="title"),
            tag("div", class_="drawing", id=name, style=f"height:{figure.height}px"),
            tag("figcaption", figure.caption) if figure.caption else "",
            tag("script", markup.data(content), type="application/json", id=f"{name}-data"),
            aria_labelledby=f"{name}-title",
        )
