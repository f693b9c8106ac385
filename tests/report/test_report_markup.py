import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyshot.report.markup import Html, data, escape, table, tag


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = tag("b", "a < b & c")
    assert tag("p", inner, "<i>") == "<p><b>a &lt; b &amp; c</b>&lt;i&gt;</p>"


def test_attributes_are_escaped_and_named_as_in_html() -> None:
    made = tag("a", "x", href='"><script>', class_="c", aria_label="&", hidden=True, id=None)
    assert made == ('<a href="&quot;&gt;&lt;script&gt;" class="c" aria-label="&amp;" hidden>x</a>')


def test_cells_of_tables_are_text() -> None:
    made = table(("<h>",), [("<c>",), (Html("<i>1</i>"),)], numbers=[0])
    assert "&lt;h&gt;" in made and "&lt;c&gt;" in made and "<i>1</i>" in made
    assert made.count('class="number"') == 3


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_json_in_a_script_is_read_back_and_cannot_end_it(value: object) -> None:
    text = data(value)
    assert json.loads(text) == value
    assert not set("<>&") & set(text)


def test_json_refuses_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        data({"x": float("nan")})


@given(st.text())
def test_what_is_escaped_is_what_a_reader_sees(text: str) -> None:
    assert html.unescape(escape(text)) == text
