"""HTML from nested calls. What is not `Html` is text, and is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, final

_VOID = {"meta", "br", "hr", "line", "rect", "path"}


@final
class Html(str):
    """Markup. Any other string given to the functions of this module is text."""

    __slots__ = ()


def escape(text: str) -> Html:
    """`text` as markup that shows it; markup stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def tag(name: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """An element.

    Args:
        name: of the element.
        *children: what is inside; plain strings are escaped.
        **attributes: `class_` is `class`, an underscore inside is a hyphen; None and False leave
            one out, True has no value.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(parts)}>"
    if name in _VOID and not children:
        return Html(start if name in ("meta", "br", "hr") else start[:-1] + "/>")
    return Html(f"{start}{joined(children)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Html:
    """Parts one after the other, plain strings escaped."""
    return Html(escape(between).join(escape(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> Html:
    """A table that scrolls inside its own box.

    Args:
        head: titles of the columns.
        rows: cells; plain strings are escaped.
        numbers: which columns hold numbers.
    """
    right = set(numbers)

    def row(kind: str, cells: Sequence[str]) -> Html:
        scope = "col" if kind == "th" else None
        return tag(
            "tr",
            *(
                tag(kind, cell, class_="number" if i in right else None, scope=scope)
                for i, cell in enumerate(cells)
            ),
        )

    body = tag("tbody", *(row("td", cells) for cells in rows))
    return tag(
        "div", tag("table", tag("thead", row("th", head)), body), class_="scroll", tabindex=0
    )


def data(value: Any) -> Html:
    """`value` as JSON that nothing inside can end the surrounding script element.

    Raises:
        ValueError: for numbers that are not finite; JSON has none.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def bullets(items: Iterable[str]) -> Html:
    """An unordered list."""
    return tag("ul", *(tag("li", item) for item in items))
