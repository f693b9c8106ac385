"""A page as a browser reads it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Parsed(HTMLParser):
    """What a browser reads of a page: its text, elements, and the figures by their titles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self._open: list[str] = []
        self._title: str | None = None
        self._json = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.elements.append((tag, own))
        self._open.append(tag)
        self._json = own.get("type") == "application/json"
        if (own.get("class") or "") == "title":
            self._title = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        self._json = False

    def handle_data(self, data: str) -> None:
        if self._json:
            self.figures[self._title or ""] = json.loads(data)
        elif not {"script", "style"} & set(self._open):
            self.text.append(data)
            if self._title == "":
                self._title = data

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            name == tag and all(own.get(k.rstrip("_")) == v for k, v in attributes.items())
            for name, own in self.elements
        )

    @property
    def words(self) -> str:
        return " ".join(self.text)
