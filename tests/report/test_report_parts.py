"""Parts of a page: text of records is shown as it is, and is never markup."""

import html
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_folders import EVIL
from report_parsed import Parsed

from manyshot.report import html_of, training
from manyshot.report.page import Bullets, Code, Figure, Folded, Heading, Page, PageSection
from manyshot.report.picture import Picture, PictureBlock
from manyshot.run_folder import TargetsLine, TrainLine, WinnerRecord
from manyshot.tables.table import Table

WINNER = WinnerRecord(
    budget="macs<=5%",
    arch="0-1",
    choices={},
    macs=1,
    params=1,
    latency_ms=1.0,
    proxy_score=0.5,
    proxy_loss=1.0,
    test_score=0.5,
    test_loss=1.0,
    test_metrics={},
    files={},
)


@pytest.mark.parametrize(
    "part",
    [
        EVIL,
        Heading(EVIL),
        Bullets([EVIL]),
        Folded(EVIL, Code(EVIL)),
        Table([{EVIL: EVIL}], [EVIL]),
        Table([{EVIL: EVIL}], (), [EVIL], note=EVIL),
        Table([{"files": {EVIL: "a.json"}}], ["files"]),
        [Figure(EVIL, [], {}, EVIL)],
        [Picture(EVIL, WINNER, [PictureBlock(EVIL, EVIL, 0, 1.0)], EVIL)],
    ],
)
def test_every_part_escapes_its_text(part: Any) -> None:
    drawn = html_of(part)
    assert EVIL not in drawn and "&lt;script&gt;" in drawn


def test_links_and_attributes_are_escaped() -> None:
    hostile = '"><script>'
    drawn = html_of(Table([{"files": {"pt2": hostile}}], ["files"]))
    assert 'href="%22%3E%3Cscript%3E"' in drawn
    [(tag, attributes), *_] = Parsed(html_of(Figure(hostile, [], {}))).elements
    assert (tag, attributes["aria-label"]) == ("figure", hostile)


def test_numbers_stand_right_and_code_is_code() -> None:
    drawn = html_of(Table([{"a": "1", "b": "2", "c": "3"}], ("b", "c"), ("c",)))
    assert drawn.count('class="number"') == 2
    assert (
        '<td class="number" data-title="a">1</td>' in drawn
        and '<td data-title="c"><code>3</code></td>' in drawn
    )


def test_a_table_without_rows_is_not_drawn() -> None:
    assert html_of(Table([], (), note="words")).strip() == ""


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
def test_data_of_a_figure_is_read_back_and_cannot_end_its_script(value: Any) -> None:
    drawn = html_of(Figure("title", [{"x": value}], {}))
    [text] = re.findall('<script type="application/json">(.*)</script>', drawn)
    assert json.loads(text)["data"] == [{"x": value}]
    assert not set("<>&") & set(text)


def test_figures_refuse_what_json_has_not() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        html_of(Figure("title", [{"x": [float("nan")]}], {}))


@given(st.text())
def test_what_is_escaped_is_what_a_reader_sees(text: str) -> None:
    assert html.unescape(html_of(text)) == f"<p>{text}</p>\n"


def test_sections_without_parts_are_left_out() -> None:
    sections = [PageSection("Empty", []), PageSection("Full", ["words"])]
    page = Parsed(Page("run", "title", "lead", sections).render())
    assert "Empty" not in page.words
    assert [own["href"] for tag, own in page.elements if tag == "a"] == ["#part-0"]
    assert page.count("h2", id="part-0") == 1


def test_what_probes_took_is_what_training_recorded():
    targets = TargetsLine(
        step=8,
        kind="target costs",
        metric="macs",
        targets=(1e6, 2e6),
        probabilities=(0.5, 0.5),
        counts=(4, 4),
        error_grid_steps=(0.0, 0.1),
        entropy_nats=(1.0, 1.0),
    )
    trained = TrainLine(step=8, epoch=1, images=256, lr=0.1, macs=4000, probe_macs=1000)
    caption = training.shift([targets], [trained])[0].caption
    assert (
        "multiply-adds of probes on held-out images are 25.0\u202f% of those of training" in caption
    )
    without = trained.model_copy(update={"probe_macs": None})
    assert "probes" not in training.shift([targets], [without])[0].caption
